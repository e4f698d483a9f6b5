-- While a sandbox's time is free by command, its open slice is `suppressed`, and this is what it would be otherwise:
-- the state that is billed again once the suppression is taken back. A suppressed life that is lost is `lost` in both.
ALTER TABLE sandboxes ADD COLUMN open_beneath TEXT CHECK (length(open_beneath) > 0);
