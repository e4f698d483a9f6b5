-- What hosts no longer keep, by their own signed word: what of it is not stored cannot be had from them any more.

CREATE TABLE retentions (
    source_id     integer NOT NULL REFERENCES sources (id),
    -- The last event that the host no longer keeps, and when it let that one go.
    through_seq   bigint NOT NULL CHECK (through_seq > 0),
    since_unix_ns bigint NOT NULL,
    host_seq      bigint NOT NULL CHECK (host_seq >= through_seq),
    chain_hash    bytea NOT NULL,
    public_key    bytea NOT NULL,
    signature     bytea NOT NULL,
    PRIMARY KEY (source_id, through_seq)
);
CREATE TRIGGER retentions_stay BEFORE UPDATE OR DELETE ON retentions
FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The numbers that are not stored, before the last number that anyone has named; and those that the host has let go.
CREATE VIEW absent_events AS
SELECT o.id AS source_id, o.source, int8multirange(int8range(1, named.last_seq, '[]')) - o.received AS numbers,
    int8multirange(int8range(0, coalesce(
        (SELECT max(r.through_seq) FROM retentions r WHERE r.source_id = o.id), 0), '[]')) AS let_go
FROM sources o
CROSS JOIN LATERAL (
    SELECT greatest(upper(o.received) - 1, max(w.host_seq)) AS last_seq FROM watermarks w WHERE w.source_id = o.id
) named
WHERE named.last_seq > 0;

-- What has not arrived yet, and can be had from the host.
CREATE OR REPLACE VIEW missing_events AS
SELECT a.source_id, a.source, lower(gap) AS first_seq, upper(gap) - 1 AS last_seq
FROM absent_events a CROSS JOIN LATERAL unnest(a.numbers - a.let_go) AS gap;

-- What is lost at its source, at the latest since then.
CREATE VIEW lost_events AS
SELECT a.source_id, a.source, lower(gap) AS first_seq, upper(gap) - 1 AS last_seq,
    (SELECT min(r.since_unix_ns) FROM retentions r
        WHERE r.source_id = a.source_id AND r.through_seq >= upper(gap) - 1) AS since_unix_ns
FROM absent_events a CROSS JOIN LATERAL unnest(a.numbers * a.let_go) AS gap;

-- A request is open until all of its numbers are stored, or lost at their source.
CREATE OR REPLACE VIEW open_resend_requests AS
SELECT r.id, o.source, r.first_seq, r.last_seq, r.requested_at
FROM resend_requests r JOIN sources o ON o.id = r.source_id
WHERE EXISTS (SELECT FROM missing_events m
    WHERE m.source_id = r.source_id AND m.first_seq <= r.last_seq AND m.last_seq >= r.first_seq);
