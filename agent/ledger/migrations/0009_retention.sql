-- When the last of the events that are no longer kept was let go; none where that was before this column was there.
ALTER TABLE outbox_start ADD COLUMN moved_unix_ns INTEGER;
