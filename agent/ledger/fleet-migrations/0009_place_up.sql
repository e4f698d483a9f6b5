-- Where a slice lies, as a box: its sandbox across, its time along. Boxes that meet are slices of one sandbox that overlap. It
-- takes the place of a sandbox beside a range, whose cost grew with the slices of a sandbox: GiST divides two columns by the first
-- alone, and a box by either side, so that what is old lies apart from what is being stored.
--
-- Exactly as strong as before, although boxes are of floating point: every side is an integer below 2^53, which floating point
-- holds exactly, and PostgreSQL takes two sides for equal that are less than 0.000001 apart, where these are 1 apart at the
-- least. Time is counted within 1,024 hours, of which no month has as many, and from one such span into the next goes no slice,
-- because none crosses an hour. A box includes all its sides: the last nanosecond of a slice is the last one that is in it.
-- Rewrites no row; makes the constraint anew, one partition after the other.

-- All of it at once, in the order in which whoever stores takes it.
LOCK TABLE slices IN ACCESS EXCLUSIVE MODE;

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'slices'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', part, part || '_no_overlap');
    END LOOP;
END $$;

ALTER TABLE slices DROP COLUMN span;

-- Hosts cut at every full hour, and no event of another slice is believed. What places are exact by is held here as well.
ALTER TABLE slices ADD CONSTRAINT slices_have_a_place CHECK (sandbox_id >= 0 AND sandbox_id < 9007199254740992
    AND start_unix_ns >= 0 AND end_unix_ns - start_unix_ns <= 3600000000000 - start_unix_ns % 3600000000000);

-- Half open: a slice that stands at one wall time has no place, and touches nothing.
CREATE FUNCTION slice_place(sandbox_id bigint, start_unix_ns bigint, end_unix_ns bigint) RETURNS box
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN start_unix_ns < end_unix_ns THEN box(
        point(sandbox_id::float8, (start_unix_ns % 3686400000000000)::float8),
        point(sandbox_id::float8, (start_unix_ns % 3686400000000000 + (end_unix_ns - start_unix_ns) - 1)::float8)) END
$$;

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'slices'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I EXCLUDE USING gist '
            '(slice_place(sandbox_id, start_unix_ns, end_unix_ns) WITH &&)', part, part || '_no_overlap');
    END LOOP;
END $$;

-- As it was, but for the constraint.
CREATE OR REPLACE FUNCTION make_slices_partition(start_unix_ns bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    month timestamp := date_trunc('month', to_timestamp(start_unix_ns / 1000000000) AT TIME ZONE 'UTC');
    name  text := 'slices_' || to_char(month, 'YYYY_MM');
    from_unix_ns bigint := extract(epoch FROM month)::bigint * 1000000000;
    to_unix_ns   bigint := extract(epoch FROM month + interval '1 month')::bigint * 1000000000;
BEGIN
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- In the order in which the deletion of a key or a host takes them: first the referenced, then the slices.
    LOCK TABLE api_keys, hosts IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE slices IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF slices FOR VALUES FROM (%s) TO (%s)',
        name, from_unix_ns, to_unix_ns);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (end_unix_ns <= %s)',
        name, name || '_ends_in_month', to_unix_ns);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I EXCLUDE USING gist '
        '(slice_place(sandbox_id, start_unix_ns, end_unix_ns) WITH &&)', name, name || '_no_overlap');
END $$;
