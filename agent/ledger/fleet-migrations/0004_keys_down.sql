DROP TRIGGER quarantine_tells ON quarantine;
DROP FUNCTION tell_of_quarantine;
DROP TABLE host_keys;
