-- Rollups end at more than full hours: a sandbox that changes often has one after every so many slices, too, so that
-- what an end of a window reads does not grow with how many slices an hour has.
CREATE TABLE usage_rollups (
    sandbox_pk    INTEGER NOT NULL REFERENCES sandboxes (pk),
    until_unix_ns INTEGER NOT NULL,
    seq           INTEGER NOT NULL CHECK (seq > 0),
    since_unix_ns INTEGER CHECK (since_unix_ns < until_unix_ns),
    totals        BLOB NOT NULL,
    PRIMARY KEY (sandbox_pk, until_unix_ns)
) STRICT, WITHOUT ROWID;

INSERT INTO usage_rollups (sandbox_pk, until_unix_ns, seq, since_unix_ns, totals)
SELECT sandbox_pk, hour_unix_ns, seq, since_unix_ns, totals FROM usage_hours ORDER BY sandbox_pk, hour_unix_ns;
DROP TABLE usage_hours;

CREATE TRIGGER usage_rollups_stay BEFORE UPDATE ON usage_rollups
BEGIN SELECT RAISE(ABORT, 'dormouse: a rollup is never changed'); END;
CREATE TRIGGER usage_rollups_remain BEFORE DELETE ON usage_rollups
BEGIN SELECT RAISE(ABORT, 'dormouse: a rollup is never deleted'); END;
