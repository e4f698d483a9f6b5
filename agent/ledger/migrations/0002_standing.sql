-- What is final is told by an event, and its hash shows a flipped bit. What is open or pending is told by none: so a
-- hash of it lies beside it. NULL where an older version wrote it last.
ALTER TABLE sandboxes ADD COLUMN standing_hash BLOB CHECK (length(standing_hash) = 32);
