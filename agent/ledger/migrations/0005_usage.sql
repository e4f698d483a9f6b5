-- What usage is answered from, beside the slices; who may ask over HTTP; and what cursors are signed with.

-- Hourly rollups, as running totals: what a sandbox's slices amount to from the beginning, or from `since_unix_ns`, to
-- a full UTC hour. Any window is the difference of two. A row is written in the transaction that commits the slice
-- which reaches the hour. `seq` is that slice: none before it lasts past the hour. `totals` holds no price, basis or
-- policy (src/usage/totals.rs).
CREATE TABLE usage_hours (
    sandbox_pk    INTEGER NOT NULL REFERENCES sandboxes (pk),
    hour_unix_ns  INTEGER NOT NULL CHECK (hour_unix_ns % 3600000000000 = 0),
    seq           INTEGER NOT NULL CHECK (seq > 0),
    since_unix_ns INTEGER CHECK (since_unix_ns < hour_unix_ns),
    totals        BLOB NOT NULL,
    PRIMARY KEY (sandbox_pk, hour_unix_ns)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER usage_hours_stay BEFORE UPDATE ON usage_hours
BEGIN SELECT RAISE(ABORT, 'dormouse: a rollup is never changed'); END;
CREATE TRIGGER usage_hours_remain BEFORE DELETE ON usage_hours
BEGIN SELECT RAISE(ABORT, 'dormouse: a rollup is never deleted'); END;

CREATE INDEX tags_by_key ON tags (org, key, sandbox, from_unix_ns);

-- Bearer tokens, of which only a hash is kept.
CREATE TABLE tokens (
    id              TEXT PRIMARY KEY CHECK (length(id) = 16),
    org             TEXT NOT NULL CHECK (length(org) > 0),
    role            TEXT NOT NULL CHECK (role IN ('read', 'write')),
    secret_hash     BLOB NOT NULL CHECK (length(secret_hash) = 32),
    created_unix_ns INTEGER NOT NULL,
    revoked_unix_ns INTEGER
) STRICT;

CREATE TRIGGER tokens_stay BEFORE UPDATE ON tokens
WHEN OLD.revoked_unix_ns IS NOT NULL OR NEW.id <> OLD.id OR NEW.org <> OLD.org OR NEW.role <> OLD.role
    OR NEW.secret_hash <> OLD.secret_hash OR NEW.created_unix_ns <> OLD.created_unix_ns
BEGIN SELECT RAISE(ABORT, 'dormouse: of a token only the revocation changes, and only once'); END;
CREATE TRIGGER tokens_remain BEFORE DELETE ON tokens
BEGIN SELECT RAISE(ABORT, 'dormouse: a token is never deleted'); END;

-- What cursors are signed with. Whoever has it could page elsewhere within an org, never into another.
CREATE TABLE cursor_key (
    id  INTEGER PRIMARY KEY CHECK (id = 1),
    key BLOB NOT NULL CHECK (length(key) = 32)
) STRICT;
INSERT INTO cursor_key (id, key) VALUES (1, randomblob(32));
