DROP TABLE fleet_outbox, credit_accounts;
DROP FUNCTION tell_of_fleet_outbox;
