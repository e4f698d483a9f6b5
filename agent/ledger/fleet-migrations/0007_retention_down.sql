DROP VIEW lost_events;
CREATE OR REPLACE VIEW open_resend_requests AS
SELECT r.id, o.source, r.first_seq, r.last_seq, r.requested_at
FROM resend_requests r JOIN sources o ON o.id = r.source_id
WHERE NOT o.received @> int8range(r.first_seq, r.last_seq, '[]');
CREATE OR REPLACE VIEW missing_events AS
SELECT o.id AS source_id, o.source, lower(gap) AS first_seq, upper(gap) - 1 AS last_seq
FROM sources o
CROSS JOIN LATERAL (
    SELECT greatest(upper(o.received) - 1, max(w.host_seq)) AS last_seq FROM watermarks w WHERE w.source_id = o.id
) named
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, named.last_seq, '[]')) - o.received) AS gap
WHERE named.last_seq > 0;
DROP VIEW absent_events;
DROP TABLE retentions;
