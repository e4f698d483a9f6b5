-- What each closed slice costs SQLite beside the slice.
--
-- `IN` over more than two values makes a table of its own, anew for each statement that checks it: four of them for each
-- slice. So the values are compared one by one. And so that a statement can be undone by itself, SQLite copies every page
-- before it touches it: so what is refused ends the whole transaction, which the writer then tries again without it. That
-- a slice is of a sandbox, for which SQLite would do the same, is looked at by the slice's trigger, and by SQLite itself
-- when the transaction ends.
--
-- The sentences say what they said before, of the same rows: so they are replaced where they are written down, as
-- SQLite's documentation of ALTER TABLE has it for constraints, and no row is written again.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql,
    'CHECK (open_state IN (''running'', ''paused'', ''hibernating'', ''hibernated'',
                                    ''waking'', ''faulted'', ''lost'', ''suppressed''))',
    'CHECK (open_state = ''running'' OR open_state = ''paused'' OR
        open_state = ''hibernating'' OR open_state = ''hibernated'' OR
        open_state = ''waking'' OR open_state = ''faulted'' OR open_state = ''lost'' OR
        open_state = ''suppressed'')'),
    'CHECK (open_fault IN (''io-error'', ''internal-error'', ''guest-panicked'', ''watchdog''))',
    'CHECK (open_fault = ''io-error'' OR open_fault = ''internal-error'' OR
        open_fault = ''guest-panicked'' OR open_fault = ''watchdog'')')
WHERE type = 'table' AND name = 'sandboxes';
UPDATE sqlite_schema SET sql = replace(replace(replace(sql,
    'sandbox_pk             INTEGER NOT NULL REFERENCES sandboxes (pk),',
    'sandbox_pk             INTEGER NOT NULL REFERENCES sandboxes (pk) DEFERRABLE INITIALLY DEFERRED,'),
    'CHECK (state IN (''running'', ''paused'', ''hibernating'', ''hibernated'',
                               ''waking'', ''faulted'', ''lost'', ''suppressed''))',
    'CHECK (state = ''running'' OR state = ''paused'' OR state = ''hibernating'' OR
        state = ''hibernated'' OR state = ''waking'' OR state = ''faulted'' OR
        state = ''lost'' OR state = ''suppressed'')'),
    'CHECK (fault IN (''io-error'', ''internal-error'', ''guest-panicked'', ''watchdog''))',
    'CHECK (fault = ''io-error'' OR fault = ''internal-error'' OR
        fault = ''guest-panicked'' OR fault = ''watchdog'')')
WHERE type = 'table' AND name = 'slices';
UPDATE sqlite_schema SET sql = replace(sql,
    'CHECK (outcome_status IN (''done'', ''partial'', ''failed'', ''refused'', ''unknown''))',
    'CHECK (outcome_status = ''done'' OR outcome_status = ''partial'' OR
        outcome_status = ''failed'' OR outcome_status = ''refused'' OR
        outcome_status = ''unknown'')')
WHERE type = 'table' AND name = 'commands';

-- Reads the tables anew. That other connections do, too, the triggers below see to.
PRAGMA writable_schema = RESET;

-- As before, but only where the end is assigned.
DROP TRIGGER sandboxes_end_once;
CREATE TRIGGER sandboxes_end_once BEFORE UPDATE OF ended_unix_ns ON sandboxes
WHEN OLD.ended_unix_ns IS NOT NULL AND NEW.ended_unix_ns IS NOT OLD.ended_unix_ns
BEGIN SELECT RAISE(ABORT, 'dormouse: a life that has ended stays ended'); END;

-- As before. That there is such a sandbox is found in the same look.
DROP TRIGGER slices_tile;
CREATE TRIGGER slices_tile BEFORE INSERT ON slices
BEGIN
    SELECT RAISE(ROLLBACK, 'dormouse: a slice has the number after its predecessor''s, the first has 1')
    WHERE NEW.seq <> coalesce((SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.sandbox_pk), 0) + 1;
    SELECT CASE
        WHEN p.end_unix_ns <> NEW.start_unix_ns OR p.end_uncertainty_ns <> NEW.start_uncertainty_ns
            THEN RAISE(ROLLBACK, 'dormouse: a slice begins where its predecessor ended')
        WHEN p.closed_by <> NEW.opened_by OR p.closed_command IS NOT NEW.opened_command
            THEN RAISE(ROLLBACK, 'dormouse: a slice is opened by what closed its predecessor')
        END
    FROM slices p WHERE p.sandbox_pk = NEW.sandbox_pk AND p.seq = NEW.seq - 1;
    SELECT CASE (SELECT ended_unix_ns IS NULL FROM sandboxes WHERE pk = NEW.sandbox_pk)
        WHEN 1 THEN NULL
        WHEN 0 THEN RAISE(ROLLBACK, 'dormouse: a life that has ended has no more slices')
        ELSE RAISE(ROLLBACK, 'dormouse: a slice is of a sandbox that is there')
        END;
END;

-- As before, with two looks for slices instead of three: the last closed one is the one before the open one.
DROP TRIGGER sandboxes_open_follows;
CREATE TRIGGER sandboxes_open_follows
AFTER UPDATE OF open_seq, open_start_unix_ns, open_start_uncertainty_ns, open_opened_by, open_opened_command,
    ended_unix_ns ON sandboxes
BEGIN
    SELECT RAISE(ROLLBACK, 'dormouse: the open slice has the number after the last closed one''s')
    WHERE NEW.open_seq <> coalesce((SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.pk), 0) + 1;
    SELECT CASE
        WHEN NEW.open_seq IS NULL AND NEW.ended_unix_ns IS NULL
            THEN RAISE(ROLLBACK, 'dormouse: a life that has begun is open or ended')
        WHEN NEW.open_start_unix_ns <> p.end_unix_ns OR NEW.open_start_uncertainty_ns <> p.end_uncertainty_ns
            THEN RAISE(ROLLBACK, 'dormouse: the open slice begins where the last closed one ended')
        WHEN NEW.open_opened_by <> p.closed_by
            OR (NEW.open_seq IS NOT NULL AND NEW.open_opened_command IS NOT p.closed_command)
            THEN RAISE(ROLLBACK, 'dormouse: the open slice is opened by what closed the last one')
        WHEN NEW.ended_unix_ns <> p.end_unix_ns
            THEN RAISE(ROLLBACK, 'dormouse: a life ends where its last slice does')
        END
    FROM slices p WHERE p.sandbox_pk = NEW.pk
        AND p.seq = coalesce(NEW.open_seq - 1, (SELECT max(seq) FROM slices WHERE sandbox_pk = NEW.pk));
END;

-- As before.
DROP TRIGGER outbox_chains;
CREATE TRIGGER outbox_chains BEFORE INSERT ON outbox
BEGIN
    SELECT RAISE(ROLLBACK, 'dormouse: an event has the number after its predecessor''s')
    WHERE NEW.host_seq <> coalesce((SELECT max(host_seq) FROM outbox), 0) + 1;
    SELECT RAISE(ROLLBACK, 'dormouse: an event carries its predecessor''s hash')
    WHERE NEW.prev_hash
        <> coalesce((SELECT payload_hash FROM outbox WHERE host_seq = NEW.host_seq - 1), zeroblob(32));
END;
