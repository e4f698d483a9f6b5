-- What each memory device of a sandbox had plugged when its memory was observed last, a JSON list of bytes, where it has
-- several: the open slice and what is pending say only what all have together, and one may give back what another gets.
ALTER TABLE attachments ADD COLUMN plugged_by_device TEXT CHECK (json_valid(plugged_by_device));
