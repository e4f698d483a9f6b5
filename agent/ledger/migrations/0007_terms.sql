-- By which terms a sink that is told prices has been told events, from which number on: so that an event that is sent
-- again is told as it was, whatever is configured by then. Rows outlive their sink, which may come back.
CREATE TABLE sink_terms (
    sink     TEXT NOT NULL CHECK (length(sink) > 0),
    from_seq INTEGER NOT NULL CHECK (from_seq > 0),
    terms    TEXT NOT NULL CHECK (json_valid(terms)),
    PRIMARY KEY (sink, from_seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER sink_terms_stay BEFORE UPDATE ON sink_terms
WHEN NEW.sink <> OLD.sink OR NEW.from_seq <> OLD.from_seq
    OR OLD.from_seq <= (SELECT coalesce(max(host_seq), 0) FROM outbox)
BEGIN SELECT RAISE(ABORT, 'dormouse: terms by which there are events are never changed'); END;
CREATE TRIGGER sink_terms_begin_late BEFORE INSERT ON sink_terms
WHEN EXISTS (SELECT 1 FROM sink_terms t WHERE t.sink = NEW.sink)
    AND NEW.from_seq <= (SELECT coalesce(max(host_seq), 0) FROM outbox)
BEGIN SELECT RAISE(ABORT, 'dormouse: new terms are for events that there are not yet'); END;
CREATE TRIGGER sink_terms_remain BEFORE DELETE ON sink_terms
BEGIN SELECT RAISE(ABORT, 'dormouse: terms are never deleted'); END;
