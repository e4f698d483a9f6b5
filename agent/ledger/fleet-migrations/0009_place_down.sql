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

ALTER TABLE slices DROP CONSTRAINT slices_have_a_place;
DROP FUNCTION slice_place;
ALTER TABLE slices ADD COLUMN span int8range NOT NULL
    GENERATED ALWAYS AS (int8range(start_unix_ns, end_unix_ns)) STORED;
ALTER TABLE slices ALTER COLUMN span SET STORAGE PLAIN;

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'slices'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I EXCLUDE USING gist (sandbox_id WITH =, span WITH &&)',
            part, part || '_no_overlap');
    END LOOP;
END $$;

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
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I EXCLUDE USING gist (sandbox_id WITH =, span WITH &&)',
        name, name || '_no_overlap');
END $$;
