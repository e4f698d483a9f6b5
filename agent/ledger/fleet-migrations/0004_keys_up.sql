-- By which keys hosts sign that an hour is complete, and a word to whoever listens when something is kept apart.

-- The first key that a host is seen with is its key; the platform may note it before. Not of `hosts`: a host that was
-- removed and comes back under its name has the key that it had.
CREATE TABLE host_keys (
    source     text COLLATE "C" PRIMARY KEY CHECK (source LIKE '//dormouse/%'),
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    pinned_at  timestamptz NOT NULL DEFAULT now()
);

-- Whoever listens on channel dormouse_quarantine is woken by the id of each message that is new there.
CREATE FUNCTION tell_of_quarantine() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dormouse_quarantine', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER quarantine_tells AFTER INSERT ON quarantine
FOR EACH ROW EXECUTE FUNCTION tell_of_quarantine();
