-- The ledger of one host. Times are nanoseconds: *_unix_ns since the Unix epoch, *_boottime_ns by CLOCK_BOOTTIME.
-- What the triggers refuse, no version of the program can write by mistake. Their messages begin with 'dormouse: '.

CREATE TABLE host (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    cell TEXT NOT NULL CHECK (length(cell) > 0),
    host TEXT NOT NULL CHECK (length(host) > 0)
) STRICT;

-- Where a boot's CLOCK_BOOTTIME stands in wall time. One row when a boot begins, one for every step of the clock.
CREATE TABLE anchors (
    id          INTEGER PRIMARY KEY,
    boot        BLOB NOT NULL CHECK (length(boot) = 16),
    boottime_ns INTEGER NOT NULL CHECK (boottime_ns >= 0),
    wall_ns     INTEGER NOT NULL,
    stepped_ns  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER anchors_stay BEFORE UPDATE ON anchors
BEGIN SELECT RAISE(ABORT, 'dormouse: an anchor is never changed'); END;
CREATE TRIGGER anchors_remain BEFORE DELETE ON anchors
BEGIN SELECT RAISE(ABORT, 'dormouse: an anchor is never deleted'); END;

CREATE TABLE proof_of_life (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    boot        BLOB NOT NULL CHECK (length(boot) = 16),
    boottime_ns INTEGER NOT NULL CHECK (boottime_ns >= 0),
    wall_ns     INTEGER NOT NULL
) STRICT;

-- One row for each generation of a sandbox. The open slice lives here, because closing it moves it.
CREATE TABLE sandboxes (
    pk                          INTEGER PRIMARY KEY,
    org                         TEXT NOT NULL CHECK (length(org) > 0),
    sandbox                     TEXT NOT NULL CHECK (length(sandbox) > 0),
    generation                  INTEGER NOT NULL CHECK (generation > 0),
    plan                        TEXT NOT NULL,
    lifecycle                   TEXT NOT NULL CHECK (length(lifecycle) BETWEEN 1 AND 64),
    created_unix_ns             INTEGER NOT NULL,
    ended_unix_ns               INTEGER,
    open_seq                    INTEGER CHECK (open_seq > 0),
    open_state                  TEXT CHECK (open_state IN ('running', 'paused', 'hibernating', 'hibernated',
                                    'waking', 'faulted', 'lost', 'suppressed')),
    open_fault                  TEXT CHECK (open_fault IN ('io-error', 'internal-error', 'guest-panicked', 'watchdog')),
    open_vcpus_milli            INTEGER CHECK (open_vcpus_milli BETWEEN 0 AND 4294967295),
    open_memory_base_bytes      INTEGER CHECK (open_memory_base_bytes >= 0),
    open_memory_plugged_bytes   INTEGER CHECK (open_memory_plugged_bytes >= 0),
    open_memory_requested_bytes INTEGER CHECK (open_memory_requested_bytes >= 0),
    open_disk_bytes             INTEGER CHECK (open_disk_bytes >= 0),
    open_start_unix_ns          INTEGER,
    open_start_uncertainty_ns   INTEGER CHECK (open_start_uncertainty_ns >= 0),
    open_opened_by              TEXT CHECK (length(open_opened_by) > 0),
    open_opened_command         TEXT CHECK (length(open_opened_command) > 0),
    open_boot                   BLOB CHECK (length(open_boot) = 16),
    open_start_boottime_ns      INTEGER CHECK (open_start_boottime_ns >= 0),
    UNIQUE (org, sandbox, generation),
    -- Event ids do not name the org: no two orgs on a host share both a sandbox id and a generation.
    UNIQUE (sandbox, generation),
    CHECK (ended_unix_ns IS NULL OR open_seq IS NULL),
    CHECK ((open_state IS NOT NULL AND open_state = 'faulted') = (open_fault IS NOT NULL)),
    CHECK ((open_seq IS NULL) = (open_state IS NULL)
       AND (open_seq IS NULL) = (open_vcpus_milli IS NULL)
       AND (open_seq IS NULL) = (open_memory_base_bytes IS NULL)
       AND (open_seq IS NULL) = (open_memory_plugged_bytes IS NULL)
       AND (open_seq IS NULL) = (open_memory_requested_bytes IS NULL)
       AND (open_seq IS NULL) = (open_disk_bytes IS NULL)
       AND (open_seq IS NULL) = (open_start_unix_ns IS NULL)
       AND (open_seq IS NULL) = (open_start_uncertainty_ns IS NULL)
       AND (open_seq IS NULL) = (open_opened_by IS NULL)
       AND (open_seq IS NULL) = (open_boot IS NULL)
       AND (open_seq IS NULL) = (open_start_boottime_ns IS NULL)
       AND (open_seq IS NOT NULL OR open_opened_command IS NULL))
) STRICT;

CREATE UNIQUE INDEX sandboxes_live ON sandboxes (org, sandbox) WHERE ended_unix_ns IS NULL;

CREATE TRIGGER sandboxes_generations_rise BEFORE INSERT ON sandboxes
WHEN EXISTS (SELECT 1 FROM sandboxes s
             WHERE s.org = NEW.org AND s.sandbox = NEW.sandbox AND s.generation >= NEW.generation)
BEGIN SELECT RAISE(ABORT, 'dormouse: a new generation is later than those before it'); END;

CREATE TRIGGER sandboxes_keep_their_name
BEFORE UPDATE OF pk, org, sandbox, generation, created_unix_ns ON sandboxes
BEGIN SELECT RAISE(ABORT, 'dormouse: a sandbox keeps its org, id, generation and creation'); END;

CREATE TRIGGER sandboxes_end_once BEFORE UPDATE ON sandboxes
WHEN OLD.ended_unix_ns IS NOT NULL AND NEW.ended_unix_ns IS NOT OLD.ended_unix_ns
BEGIN SELECT RAISE(ABORT, 'dormouse: a life that has ended stays ended'); END;

CREATE TRIGGER sandboxes_remain BEFORE DELETE ON sandboxes
BEGIN SELECT RAISE(ABORT, 'dormouse: a sandbox is never deleted'); END;

-- How the agent finds a sandbox's QEMU again. Apart from the row above, which every slice rewrites.
CREATE TABLE attachments (
    sandbox_pk INTEGER PRIMARY KEY REFERENCES sandboxes (pk),
    attachment TEXT NOT NULL CHECK (json_valid(attachment)),
    -- Since when its QEMU is not heard: what has become of it since shows when it is heard again.
    unheard_boot        BLOB CHECK (length(unheard_boot) = 16),
    unheard_boottime_ns INTEGER CHECK (unheard_boottime_ns >= 0),
    unheard_unix_ns     INTEGER,
    CHECK ((unheard_boot IS NULL) = (unheard_boottime_ns IS NULL)
       AND (unheard_boot IS NULL) = (unheard_unix_ns IS NULL))
) STRICT;

CREATE TABLE slices (
    sandbox_pk             INTEGER NOT NULL REFERENCES sandboxes (pk),
    seq                    INTEGER NOT NULL CHECK (seq > 0),
    state                  TEXT NOT NULL CHECK (state IN ('running', 'paused', 'hibernating', 'hibernated',
                               'waking', 'faulted', 'lost', 'suppressed')),
    fault                  TEXT CHECK (fault IN ('io-error', 'internal-error', 'guest-panicked', 'watchdog')),
    vcpus_milli            INTEGER NOT NULL CHECK (vcpus_milli BETWEEN 0 AND 4294967295),
    memory_base_bytes      INTEGER NOT NULL CHECK (memory_base_bytes >= 0),
    memory_plugged_bytes   INTEGER NOT NULL CHECK (memory_plugged_bytes >= 0),
    memory_requested_bytes INTEGER NOT NULL CHECK (memory_requested_bytes >= 0),
    disk_bytes             INTEGER NOT NULL CHECK (disk_bytes >= 0),
    duration_ns            INTEGER NOT NULL CHECK (duration_ns >= 0),
    start_unix_ns          INTEGER NOT NULL,
    start_uncertainty_ns   INTEGER NOT NULL CHECK (start_uncertainty_ns >= 0),
    opened_by              TEXT NOT NULL CHECK (length(opened_by) > 0),
    opened_command         TEXT CHECK (length(opened_command) > 0),
    end_unix_ns            INTEGER NOT NULL,
    end_uncertainty_ns     INTEGER NOT NULL CHECK (end_uncertainty_ns >= 0),
    closed_by              TEXT NOT NULL CHECK (length(closed_by) > 0),
    closed_command         TEXT CHECK (length(closed_command) > 0),
    -- The number of the slice's event in the outbox.
    host_seq               INTEGER NOT NULL CHECK (host_seq > 0),
    PRIMARY KEY (sandbox_pk, seq),
    CHECK (end_unix_ns >= start_unix_ns),
    CHECK ((state = 'faulted') = (fault IS NOT NULL)),
    -- A stepped wall clock makes the two exceptions: wall time that was skipped, and time while it stood still.
    CHECK (duration_ns = end_unix_ns - start_unix_ns OR duration_ns = 0 OR end_unix_ns = start_unix_ns)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER slices_tile BEFORE INSERT ON slices
BEGIN
    SELECT RAISE(ABORT, 'dormouse: a slice has the number after its predecessor''s, the first has 1')
    WHERE NEW.seq <> coalesce((SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.sandbox_pk), 0) + 1;
    SELECT CASE
        WHEN p.end_unix_ns <> NEW.start_unix_ns OR p.end_uncertainty_ns <> NEW.start_uncertainty_ns
            THEN RAISE(ABORT, 'dormouse: a slice begins where its predecessor ended')
        WHEN p.closed_by <> NEW.opened_by OR p.closed_command IS NOT NEW.opened_command
            THEN RAISE(ABORT, 'dormouse: a slice is opened by what closed its predecessor')
        END
    FROM slices p WHERE p.sandbox_pk = NEW.sandbox_pk AND p.seq = NEW.seq - 1;
    SELECT RAISE(ABORT, 'dormouse: a life that has ended has no more slices')
    FROM sandboxes WHERE pk = NEW.sandbox_pk AND ended_unix_ns IS NOT NULL;
END;

CREATE TRIGGER slices_stay BEFORE UPDATE ON slices
BEGIN SELECT RAISE(ABORT, 'dormouse: a slice is never changed'); END;
CREATE TRIGGER slices_remain BEFORE DELETE ON slices
BEGIN SELECT RAISE(ABORT, 'dormouse: a slice is never deleted'); END;

CREATE TRIGGER sandboxes_open_follows
AFTER UPDATE OF open_seq, open_start_unix_ns, open_start_uncertainty_ns, open_opened_by, open_opened_command,
    ended_unix_ns ON sandboxes
BEGIN
    SELECT RAISE(ABORT, 'dormouse: the open slice has the number after the last closed one''s')
    WHERE NEW.open_seq <> coalesce((SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.pk), 0) + 1;
    SELECT CASE
        WHEN NEW.open_seq IS NULL AND NEW.ended_unix_ns IS NULL
            THEN RAISE(ABORT, 'dormouse: a life that has begun is open or ended')
        WHEN NEW.open_start_unix_ns <> p.end_unix_ns OR NEW.open_start_uncertainty_ns <> p.end_uncertainty_ns
            THEN RAISE(ABORT, 'dormouse: the open slice begins where the last closed one ended')
        WHEN NEW.open_opened_by <> p.closed_by
            OR (NEW.open_seq IS NOT NULL AND NEW.open_opened_command IS NOT p.closed_command)
            THEN RAISE(ABORT, 'dormouse: the open slice is opened by what closed the last one')
        WHEN NEW.ended_unix_ns <> p.end_unix_ns
            THEN RAISE(ABORT, 'dormouse: a life ends where its last slice does')
        END
    FROM slices p
    WHERE p.sandbox_pk = NEW.pk AND p.seq = (SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.pk);
END;

-- What was observed and may still be overtaken by a late event. Replaced as a whole.
CREATE TABLE pending (
    sandbox_pk  INTEGER NOT NULL REFERENCES sandboxes (pk),
    ord         INTEGER NOT NULL CHECK (ord >= 0),
    observation TEXT NOT NULL CHECK (json_valid(observation)),
    PRIMARY KEY (sandbox_pk, ord)
) STRICT, WITHOUT ROWID;

CREATE TABLE commands (
    org                 TEXT NOT NULL CHECK (length(org) > 0),
    request_id          TEXT NOT NULL CHECK (length(request_id) > 0),
    sandbox             TEXT NOT NULL CHECK (length(sandbox) > 0),
    generation          INTEGER CHECK (generation > 0),
    kind                TEXT NOT NULL CHECK (length(kind) > 0),
    payload             TEXT NOT NULL CHECK (json_valid(payload)),
    payload_hash        BLOB NOT NULL CHECK (length(payload_hash) = 32),
    asked_by            TEXT NOT NULL,
    deadline_unix_ns    INTEGER,
    intent_boot         BLOB NOT NULL CHECK (length(intent_boot) = 16),
    intent_boottime_ns  INTEGER NOT NULL CHECK (intent_boottime_ns >= 0),
    intent_unix_ns      INTEGER NOT NULL,
    outcome_status      TEXT CHECK (outcome_status IN ('done', 'partial', 'failed', 'refused', 'unknown')),
    outcome_reason      TEXT,
    outcome_detail      TEXT CHECK (json_valid(outcome_detail)),
    outcome_boot        BLOB CHECK (length(outcome_boot) = 16),
    outcome_boottime_ns INTEGER CHECK (outcome_boottime_ns >= 0),
    outcome_unix_ns     INTEGER,
    PRIMARY KEY (org, request_id),
    CHECK ((outcome_status IS NULL) = (outcome_detail IS NULL)
       AND (outcome_status IS NULL) = (outcome_boot IS NULL)
       AND (outcome_status IS NULL) = (outcome_boottime_ns IS NULL)
       AND (outcome_status IS NULL) = (outcome_unix_ns IS NULL)
       AND (outcome_status IS NOT NULL OR outcome_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX commands_unfinished ON commands (intent_unix_ns) WHERE outcome_status IS NULL;

CREATE TRIGGER commands_keep_their_intent
BEFORE UPDATE OF org, request_id, sandbox, generation, kind, payload, payload_hash, asked_by, deadline_unix_ns,
    intent_boot, intent_boottime_ns, intent_unix_ns ON commands
BEGIN SELECT RAISE(ABORT, 'dormouse: an intent is never changed'); END;

-- 'unknown' alone may still become known.
CREATE TRIGGER commands_keep_their_outcome BEFORE UPDATE ON commands
WHEN OLD.outcome_status IS NOT NULL AND OLD.outcome_status <> 'unknown'
BEGIN SELECT RAISE(ABORT, 'dormouse: an outcome is never changed'); END;

CREATE TRIGGER commands_remain BEFORE DELETE ON commands
BEGIN SELECT RAISE(ABORT, 'dormouse: a command is never deleted'); END;

-- A row for every value that a tag ever had, valid in [from, to). A row without an end is the tag as it is now.
CREATE TABLE tags (
    id           INTEGER PRIMARY KEY,
    org          TEXT NOT NULL CHECK (length(org) > 0),
    sandbox      TEXT NOT NULL CHECK (length(sandbox) > 0),
    key          TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    value        TEXT NOT NULL CHECK (length(value) <= 256),
    from_unix_ns INTEGER NOT NULL,
    to_unix_ns   INTEGER CHECK (to_unix_ns >= from_unix_ns)
) STRICT;

CREATE INDEX tags_of_sandbox ON tags (org, sandbox, key, from_unix_ns);
CREATE UNIQUE INDEX tags_now ON tags (org, sandbox, key) WHERE to_unix_ns IS NULL;

CREATE TRIGGER tags_stay BEFORE UPDATE ON tags
WHEN OLD.to_unix_ns IS NOT NULL OR NEW.id <> OLD.id OR NEW.org <> OLD.org OR NEW.sandbox <> OLD.sandbox
    OR NEW.key <> OLD.key OR NEW.value <> OLD.value OR NEW.from_unix_ns <> OLD.from_unix_ns
BEGIN SELECT RAISE(ABORT, 'dormouse: what a tag was is never changed'); END;
CREATE TRIGGER tags_remain BEFORE DELETE ON tags
BEGIN SELECT RAISE(ABORT, 'dormouse: what a tag was is never deleted'); END;

CREATE TABLE snapshots (
    sandbox_pk      INTEGER NOT NULL REFERENCES sandboxes (pk),
    ordinal         INTEGER NOT NULL CHECK (ordinal > 0),
    method          TEXT NOT NULL CHECK (length(method) > 0),
    path            TEXT NOT NULL,
    manifest        TEXT NOT NULL CHECK (json_valid(manifest)),
    state           TEXT NOT NULL CHECK (state IN ('complete', 'consumed', 'failed')),
    created_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (sandbox_pk, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER snapshots_stay BEFORE UPDATE ON snapshots
WHEN NEW.sandbox_pk <> OLD.sandbox_pk OR NEW.ordinal <> OLD.ordinal OR NEW.method <> OLD.method
    OR NEW.path <> OLD.path OR NEW.manifest <> OLD.manifest OR NEW.created_unix_ns <> OLD.created_unix_ns
    OR (OLD.state <> 'complete' AND NEW.state <> OLD.state)
BEGIN SELECT RAISE(ABORT, 'dormouse: of a snapshot only the state changes, and only from complete'); END;
CREATE TRIGGER snapshots_remain BEFORE DELETE ON snapshots
BEGIN SELECT RAISE(ABORT, 'dormouse: a snapshot''s record is never deleted'); END;

-- Events in the order in which they were committed, their bytes frozen.
CREATE TABLE outbox (
    host_seq      INTEGER PRIMARY KEY CHECK (host_seq > 0),
    event_id      TEXT NOT NULL UNIQUE,
    type          TEXT NOT NULL CHECK (length(type) > 0),
    org           TEXT,
    sandbox       TEXT,
    event_unix_ns INTEGER NOT NULL,
    payload       BLOB NOT NULL,
    payload_hash  BLOB NOT NULL CHECK (length(payload_hash) = 32),
    prev_hash     BLOB NOT NULL CHECK (length(prev_hash) = 32),
    CHECK ((org IS NULL) = (sandbox IS NULL))
) STRICT;

CREATE TRIGGER outbox_chains BEFORE INSERT ON outbox
BEGIN
    SELECT RAISE(ABORT, 'dormouse: an event has the number after its predecessor''s')
    WHERE NEW.host_seq <> coalesce((SELECT max(host_seq) FROM outbox), 0) + 1;
    SELECT RAISE(ABORT, 'dormouse: an event carries its predecessor''s hash')
    WHERE NEW.prev_hash
        <> coalesce((SELECT payload_hash FROM outbox WHERE host_seq = NEW.host_seq - 1), zeroblob(32));
END;

CREATE TRIGGER outbox_stays BEFORE UPDATE ON outbox
BEGIN SELECT RAISE(ABORT, 'dormouse: an event is never changed'); END;
CREATE TRIGGER outbox_remains BEFORE DELETE ON outbox
BEGIN SELECT RAISE(ABORT, 'dormouse: an event is never deleted'); END;

-- Written and emptied again to learn whether a disk that failed takes writes.
CREATE TABLE write_probe (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    filler BLOB NOT NULL
) STRICT;
