-- Which hours of which hosts are complete.

-- "Everything of this host up to this hour has been sent, and host_seq is the number of the last of it."
CREATE TABLE watermarks (
    source_id                integer NOT NULL REFERENCES sources (id),
    complete_through_unix_ns bigint NOT NULL,
    host_seq                 bigint NOT NULL CHECK (host_seq >= 0),
    chain_hash               bytea,
    public_key               bytea,
    signature                bytea,
    PRIMARY KEY (source_id, complete_through_unix_ns)
);
CREATE TRIGGER watermarks_stay BEFORE UPDATE OR DELETE ON watermarks
FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- A claim is believed once every number through it is stored.
CREATE VIEW believed_watermarks AS
SELECT o.source, w.complete_through_unix_ns, w.host_seq,
    w.host_seq = 0 OR o.received @> int8range(1, w.host_seq, '[]') AS believed
FROM watermarks w JOIN sources o ON o.id = w.source_id;

-- The numbers that are missing before the last number that anyone has named.
CREATE VIEW missing_events AS
SELECT o.id AS source_id, o.source, lower(gap) AS first_seq, upper(gap) - 1 AS last_seq
FROM sources o
CROSS JOIN LATERAL (
    SELECT greatest(upper(o.received) - 1, max(w.host_seq)) AS last_seq FROM watermarks w WHERE w.source_id = o.id
) named
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, named.last_seq, '[]')) - o.received) AS gap
WHERE named.last_seq > 0;

-- What hosts were asked to send again. A request is open until all of its numbers are stored.
CREATE TABLE resend_requests (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id    integer NOT NULL REFERENCES sources (id),
    first_seq    bigint NOT NULL CHECK (first_seq > 0),
    last_seq     bigint NOT NULL CHECK (last_seq >= first_seq),
    requested_at timestamptz NOT NULL DEFAULT now()
);

CREATE VIEW open_resend_requests AS
SELECT r.id, o.source, r.first_seq, r.last_seq, r.requested_at
FROM resend_requests r JOIN sources o ON o.id = r.source_id
WHERE NOT o.received @> int8range(r.first_seq, r.last_seq, '[]');
