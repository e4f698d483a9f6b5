-- The fleet's slices, and what their hosts are known by.
--
-- Who may write what, without a deadlock: whoever stores events of a source holds that source's row (ordered by id),
-- then the credit accounts (ordered by org). So no two write about one sandbox on one host at a time.

CREATE EXTENSION IF NOT EXISTS btree_gist;

-- The platform's own: rows come and go whenever it likes, and no slice is lost by it.
CREATE TABLE api_keys (
    id  text COLLATE "C" PRIMARY KEY CHECK (id <> ''),
    org text COLLATE "C" NOT NULL
);

CREATE TABLE hosts (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text COLLATE "C" NOT NULL UNIQUE
);

-- Every host that ever sent anything, by the CloudEvents source. Remains when the host's row in `hosts` goes.
CREATE TABLE sources (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source   text COLLATE "C" NOT NULL UNIQUE,
    -- The numbers (hostseq) of all events that are stored.
    received int8multirange NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

CREATE TABLE sandboxes (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer NOT NULL REFERENCES sources (id),
    org       text COLLATE "C" NOT NULL,
    sandbox   text COLLATE "C" NOT NULL,
    UNIQUE (source_id, org, sandbox)
);

-- What makes storing exactly once in effect: the key of every event, with the BLAKE3 of its bytes. Without a foreign
-- key to `sources`: no source ever goes, and its check would be paid for with each slice.
CREATE TABLE events (
    source_id    integer NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    host_seq     bigint NOT NULL CHECK (host_seq > 0),
    payload_hash bytea NOT NULL CHECK (length(payload_hash) = 32),
    PRIMARY KEY (source_id, event_id)
);

-- Slices never cross an hour, so none crosses a month. Partitions are made by make_slices_partition().
CREATE TABLE slices (
    sandbox_id             bigint NOT NULL,
    generation             bigint NOT NULL,
    seq                    bigint NOT NULL CHECK (seq > 0),
    org                    text COLLATE "C" NOT NULL,
    host_id                bigint,
    api_key_id             text COLLATE "C",
    state                  text COLLATE "C" NOT NULL,
    reason                 text,
    start_unix_ns          bigint NOT NULL,
    end_unix_ns            bigint NOT NULL,
    duration_ns            bigint NOT NULL CHECK (duration_ns >= 0),
    memory_base_bytes      bigint NOT NULL CHECK (memory_base_bytes >= 0),
    memory_plugged_bytes   bigint NOT NULL CHECK (memory_plugged_bytes >= 0),
    memory_requested_bytes bigint NOT NULL CHECK (memory_requested_bytes >= 0),
    vcpus_milli            bigint NOT NULL CHECK (vcpus_milli >= 0),
    disk_bytes             bigint NOT NULL CHECK (disk_bytes >= 0),
    opened_by              text NOT NULL,
    closed_by              text NOT NULL,
    command_id             text,
    opened_by_command_id   text,
    -- The sum of two numbers of 64 bits.
    uncertainty_ns         numeric(20) NOT NULL,
    CONSTRAINT slices_in_order CHECK (start_unix_ns <= end_unix_ns),
    CONSTRAINT slices_api_key_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL,
    CONSTRAINT slices_host_fkey FOREIGN KEY (host_id) REFERENCES hosts (id) ON DELETE SET NULL
) PARTITION BY RANGE (start_unix_ns);

-- For the two ON DELETE SET NULL.
CREATE INDEX slices_api_key ON slices (api_key_id) WHERE api_key_id IS NOT NULL;
CREATE INDEX slices_host ON slices (host_id) WHERE host_id IS NOT NULL;
-- For windows of time: slices arrive nearly in their order.
CREATE INDEX slices_start ON slices USING brin (start_unix_ns);

-- Makes the partition of the month (UTC) that a slice starts in, if it is not there yet.
CREATE FUNCTION make_slices_partition(start_unix_ns bigint) RETURNS void
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
    -- Half open: a slice that stands at one wall time is empty, and touches nothing.
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I EXCLUDE USING gist '
        '(sandbox_id WITH =, int8range(start_unix_ns, end_unix_ns) WITH &&)', name, name || '_no_overlap');
END $$;

CREATE TABLE lifecycle (
    source_id  integer NOT NULL,
    event_id   text COLLATE "C" NOT NULL,
    org        text COLLATE "C" NOT NULL,
    sandbox    text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    kind       text NOT NULL,
    unix_ns    bigint NOT NULL,
    data       json NOT NULL,
    PRIMARY KEY (source_id, event_id)
);

-- What was not stored, byte for byte, and why. A host's hour stays open while a number of it is only here.
CREATE TABLE quarantine (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason       text NOT NULL,
    detail       text NOT NULL,
    source       text,
    event_id     text,
    payload      bytea NOT NULL,
    payload_hash bytea NOT NULL CHECK (length(payload_hash) = 32),
    times        bigint NOT NULL DEFAULT 1,
    first_seen   timestamptz NOT NULL DEFAULT now(),
    last_seen    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (payload_hash, reason)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'dormouse: a row of % is never changed or deleted', TG_TABLE_NAME;
END $$;

CREATE FUNCTION refuse_change_but_of_references() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.host_id := OLD.host_id;
    NEW.api_key_id := OLD.api_key_id;
    IF NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'dormouse: of a slice only the references are ever changed';
    END IF;
    RETURN NULL;
END $$;

-- After: what it changes of NEW changes nothing in the row.
CREATE TRIGGER slices_stay AFTER UPDATE ON slices
FOR EACH ROW EXECUTE FUNCTION refuse_change_but_of_references();
CREATE TRIGGER slices_remain BEFORE DELETE ON slices FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER lifecycle_stays BEFORE UPDATE OR DELETE ON lifecycle
FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER sources_remain BEFORE DELETE ON sources FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What is billed in which state: the default of the design. A row changed here changes what views and debits say.
CREATE TABLE billed_states (
    state  text COLLATE "C" PRIMARY KEY,
    memory boolean NOT NULL,
    vcpu   boolean NOT NULL,
    disk   boolean NOT NULL
);
INSERT INTO billed_states (state, memory, vcpu, disk) VALUES
    ('running', true, true, true),
    ('paused', false, false, true),
    ('hibernating', false, false, true),
    ('hibernated', false, false, true),
    ('waking', false, false, true),
    ('faulted', false, false, true),
    ('lost', false, false, false),
    ('suppressed', false, false, true);

-- What slices amount to, exactly: byte-nanoseconds and milli-vCPU-nanoseconds, by plugged memory.
CREATE VIEW slice_quantities AS
SELECT o.source, b.org, b.sandbox, s.generation, s.seq, s.state, s.start_unix_ns, s.end_unix_ns, s.host_id,
    s.api_key_id,
    CASE WHEN p.memory THEN s.duration_ns::numeric * (s.memory_base_bytes::numeric + s.memory_plugged_bytes)
        ELSE 0 END AS memory_byte_ns,
    CASE WHEN p.vcpu THEN s.duration_ns::numeric * s.vcpus_milli ELSE 0 END AS vcpu_milli_ns,
    CASE WHEN p.disk THEN s.duration_ns::numeric * s.disk_bytes ELSE 0 END AS disk_byte_ns
FROM slices s
JOIN sandboxes b ON b.id = s.sandbox_id
JOIN sources o ON o.id = b.source_id
JOIN billed_states p ON p.state = s.state;
