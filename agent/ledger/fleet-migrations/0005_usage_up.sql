-- What usage is answered from, beside the slices; tags; who may ask over HTTP; and what cursors are signed with.

-- The states and sizes of the disk that a sandbox has had on a host. Apart, because a policy bills each state by itself,
-- and a free allowance is taken off each size of the disk by itself. Written only by who holds the source's row.
CREATE TABLE usage_kinds (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sandbox_id bigint NOT NULL REFERENCES sandboxes (id),
    state      text COLLATE "C" NOT NULL,
    disk_bytes bigint NOT NULL CHECK (disk_bytes >= 0),
    UNIQUE (sandbox_id, state, disk_bytes)
);

-- Hourly rollups, as running totals: what the slices of a kind amount to from the beginning to a full UTC hour, written
-- in the transaction that stores the slices. Any window is the difference of two. A slice that comes late is added to
-- every later row. Without a foreign key, whose check would be paid for with each row: no kind ever goes. No price, basis or policy is in it: of memory there are the four sums of which every basis is made.
CREATE TABLE usage_hours (
    kind_id           bigint NOT NULL,
    hour_unix_ns      bigint NOT NULL CHECK (hour_unix_ns % 3600000000000 = 0),
    duration_ns       numeric NOT NULL,
    vcpu_milli_ns     numeric NOT NULL,
    base_byte_ns      numeric NOT NULL,
    plugged_byte_ns   numeric NOT NULL,
    requested_byte_ns numeric NOT NULL,
    -- Of the greater of plugged and requested, at each instant.
    greater_byte_ns   numeric NOT NULL,
    PRIMARY KEY (kind_id, hour_unix_ns)
) WITH (fillfactor = 80);

-- For the edges of windows, and for pages of one sandbox's slices.
CREATE INDEX slices_of_sandbox ON slices (sandbox_id, start_unix_ns);
CREATE INDEX sandboxes_of_org ON sandboxes (org, sandbox);

INSERT INTO usage_kinds (sandbox_id, state, disk_bytes)
SELECT DISTINCT sandbox_id, state, disk_bytes FROM slices ORDER BY 1, 2, 3;

INSERT INTO usage_hours
SELECT k.id, s.hour_unix_ns, sum(s.duration_ns) OVER w, sum(s.vcpu_milli_ns) OVER w, sum(s.base_byte_ns) OVER w,
    sum(s.plugged_byte_ns) OVER w, sum(s.requested_byte_ns) OVER w, sum(s.greater_byte_ns) OVER w
FROM (
    SELECT sandbox_id, state, disk_bytes, (start_unix_ns / 3600000000000 + 1) * 3600000000000 AS hour_unix_ns,
        sum(duration_ns::numeric) AS duration_ns,
        sum(duration_ns::numeric * vcpus_milli) AS vcpu_milli_ns,
        sum(duration_ns::numeric * memory_base_bytes) AS base_byte_ns,
        sum(duration_ns::numeric * memory_plugged_bytes) AS plugged_byte_ns,
        sum(duration_ns::numeric * memory_requested_bytes) AS requested_byte_ns,
        sum(duration_ns::numeric * greatest(memory_plugged_bytes, memory_requested_bytes)) AS greater_byte_ns
    FROM slices GROUP BY 1, 2, 3, 4
) s JOIN usage_kinds k USING (sandbox_id, state, disk_bytes)
WINDOW w AS (PARTITION BY k.id ORDER BY s.hour_unix_ns);

-- The fleet's own tags: no event carries those of a host. A sandbox has one set of them, wherever it lives.
CREATE TABLE tags (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org          text COLLATE "C" NOT NULL CHECK (org <> ''),
    sandbox      text COLLATE "C" NOT NULL CHECK (sandbox <> ''),
    key          text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    value        text COLLATE "C" NOT NULL CHECK (length(value) <= 256),
    from_unix_ns bigint NOT NULL,
    to_unix_ns   bigint CHECK (to_unix_ns >= from_unix_ns)
);
CREATE INDEX tags_of_sandbox ON tags (org, sandbox, key, from_unix_ns);
CREATE UNIQUE INDEX tags_now ON tags (org, sandbox, key) WHERE to_unix_ns IS NULL;
CREATE INDEX tags_by_key ON tags (org, key, sandbox, from_unix_ns);

CREATE FUNCTION refuse_change_but_of_an_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.to_unix_ns IS NOT NULL THEN
        RAISE EXCEPTION 'dormouse: what a tag was is never changed';
    END IF;
    OLD.to_unix_ns := NEW.to_unix_ns;
    IF NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'dormouse: of a tag only its end is ever changed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tags_stay BEFORE UPDATE ON tags FOR EACH ROW EXECUTE FUNCTION refuse_change_but_of_an_end();
CREATE TRIGGER tags_remain BEFORE DELETE ON tags FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Bearer tokens, of which only a hash is kept.
CREATE TABLE tokens (
    id              text COLLATE "C" PRIMARY KEY CHECK (length(id) = 16),
    org             text COLLATE "C" NOT NULL CHECK (org <> ''),
    role            text COLLATE "C" NOT NULL CHECK (role IN ('read', 'write')),
    secret_hash     bytea NOT NULL CHECK (length(secret_hash) = 32),
    created_unix_ns bigint NOT NULL,
    revoked_unix_ns bigint
);

CREATE FUNCTION refuse_change_but_of_a_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_unix_ns IS NOT NULL THEN
        RAISE EXCEPTION 'dormouse: a token is revoked once';
    END IF;
    OLD.revoked_unix_ns := NEW.revoked_unix_ns;
    IF NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'dormouse: of a token only its revocation is ever changed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tokens_stay BEFORE UPDATE ON tokens
FOR EACH ROW EXECUTE FUNCTION refuse_change_but_of_a_revocation();
CREATE TRIGGER tokens_remain BEFORE DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What cursors are signed with. Whoever has it could page elsewhere within an org, never into another.
CREATE TABLE cursor_key (
    id  integer PRIMARY KEY CHECK (id = 1),
    key bytea NOT NULL CHECK (length(key) = 32)
);
INSERT INTO cursor_key (id, key)
SELECT 1, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
