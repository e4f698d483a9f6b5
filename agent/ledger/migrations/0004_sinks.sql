-- Where each sink stands in the outbox, and where the outbox begins.

CREATE TABLE sinks (
    name             TEXT PRIMARY KEY CHECK (length(name) > 0),
    -- Every event through this number is stored by the sink.
    acknowledged_seq INTEGER NOT NULL CHECK (acknowledged_seq >= 0),
    -- When that number last rose, or when the sink was first configured.
    since_unix_ns    INTEGER NOT NULL,
    -- Why the last attempt failed; none once an attempt has succeeded.
    error            TEXT,
    error_unix_ns    INTEGER,
    CHECK ((error IS NULL) = (error_unix_ns IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER sinks_go_forward BEFORE UPDATE ON sinks
WHEN NEW.name <> OLD.name OR NEW.acknowledged_seq < OLD.acknowledged_seq
BEGIN SELECT RAISE(ABORT, 'dormouse: what a sink acknowledged stays acknowledged'); END;

CREATE TRIGGER sinks_acknowledge_what_is BEFORE UPDATE ON sinks
WHEN NEW.acknowledged_seq > (SELECT coalesce(max(host_seq), 0) FROM outbox)
BEGIN SELECT RAISE(ABORT, 'dormouse: a sink acknowledges no event that there is not'); END;

-- The last event that is no longer kept: the retained chain goes on from its hash.
CREATE TABLE outbox_start (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    through_seq INTEGER NOT NULL CHECK (through_seq >= 0),
    hash        BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

INSERT INTO outbox_start (id, through_seq, hash) VALUES (1, 0, zeroblob(32));

CREATE TRIGGER outbox_start_moves BEFORE UPDATE ON outbox_start
BEGIN
    SELECT RAISE(ABORT, 'dormouse: the outbox begins later and later')
    WHERE NEW.id <> OLD.id OR NEW.through_seq <= OLD.through_seq;
    SELECT RAISE(ABORT, 'dormouse: an event is kept until every sink has it')
    WHERE NEW.through_seq > coalesce((SELECT min(acknowledged_seq) FROM sinks), 0);
    SELECT RAISE(ABORT, 'dormouse: the last event is kept')
    WHERE NEW.through_seq >= (SELECT max(host_seq) FROM outbox);
    SELECT RAISE(ABORT, 'dormouse: the outbox begins behind an event that it held')
    WHERE NEW.hash IS NOT (SELECT payload_hash FROM outbox WHERE host_seq = NEW.through_seq);
END;
CREATE TRIGGER outbox_start_remains BEFORE DELETE ON outbox_start
BEGIN SELECT RAISE(ABORT, 'dormouse: where the outbox begins is never forgotten'); END;

DROP TRIGGER outbox_remains;
CREATE TRIGGER outbox_remains BEFORE DELETE ON outbox
WHEN OLD.host_seq > (SELECT through_seq FROM outbox_start)
BEGIN SELECT RAISE(ABORT, 'dormouse: an event is not deleted before every sink has it'); END;

-- Hours of this host of which everything is in the outbox, each with the number of the event that says so.
CREATE TABLE watermarks (
    hour_unix_ns INTEGER PRIMARY KEY,
    host_seq     INTEGER NOT NULL UNIQUE CHECK (host_seq > 0)
) STRICT;

CREATE TRIGGER watermarks_rise BEFORE INSERT ON watermarks
WHEN NEW.hour_unix_ns <= (SELECT max(hour_unix_ns) FROM watermarks)
BEGIN SELECT RAISE(ABORT, 'dormouse: a watermark is later than those before it'); END;
CREATE TRIGGER watermarks_stay BEFORE UPDATE ON watermarks
BEGIN SELECT RAISE(ABORT, 'dormouse: a watermark is never changed'); END;
CREATE TRIGGER watermarks_remain BEFORE DELETE ON watermarks
BEGIN SELECT RAISE(ABORT, 'dormouse: a watermark is never deleted'); END;
