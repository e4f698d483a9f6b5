DROP VIEW open_resend_requests, missing_events, believed_watermarks;
DROP TABLE resend_requests, watermarks;
