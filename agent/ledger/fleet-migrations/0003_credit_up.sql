-- Prepaid credit, debited by what is stored, in the transaction that stores it.

-- The account of an org that prepays. Balance and prices are in one unit of the platform's own, and never rounded.
CREATE TABLE credit_accounts (
    org                text COLLATE "C" PRIMARY KEY CHECK (org <> ''),
    balance            numeric NOT NULL,
    per_memory_byte_ns numeric NOT NULL DEFAULT 0 CHECK (per_memory_byte_ns >= 0),
    per_vcpu_milli_ns  numeric NOT NULL DEFAULT 0 CHECK (per_vcpu_milli_ns >= 0),
    per_disk_byte_ns   numeric NOT NULL DEFAULT 0 CHECK (per_disk_byte_ns >= 0)
);

-- What the fleet ledger has to tell others. Whoever listens on channel dormouse_fleet is woken by the id.
CREATE TABLE fleet_outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type       text NOT NULL,
    org        text COLLATE "C" NOT NULL,
    data       json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION tell_of_fleet_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dormouse_fleet', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER fleet_outbox_tells AFTER INSERT ON fleet_outbox
FOR EACH ROW EXECUTE FUNCTION tell_of_fleet_outbox();
