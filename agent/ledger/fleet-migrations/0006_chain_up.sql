-- The chain that each host's events are: every event carries the hash of the one before it.

-- Where stored runs of numbers end, with the hash that is to be met there: of the last event of a run its own, of the
-- first one that of the event before it. So a link is checked once both of its events are stored, in whatever order
-- they come, and nothing is kept for those that hold.
CREATE TABLE chain_ends (
    source_id integer NOT NULL REFERENCES sources (id),
    host_seq  bigint NOT NULL,
    is_first  boolean NOT NULL,
    hash      bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (source_id, host_seq, is_first)
);

-- Events that do not carry the hash of the event before them.
CREATE TABLE broken_links (
    source_id  integer NOT NULL REFERENCES sources (id),
    host_seq   bigint NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, host_seq)
);
CREATE TRIGGER broken_links_stay BEFORE UPDATE OR DELETE ON broken_links
FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What is stored before has no ends here: its links are checked from the next run of numbers on.
