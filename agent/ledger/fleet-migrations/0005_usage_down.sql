DROP TABLE cursor_key, tokens, tags, usage_hours, usage_kinds;
DROP FUNCTION refuse_change_but_of_an_end, refuse_change_but_of_a_revocation;
DROP INDEX slices_of_sandbox, sandboxes_of_org;
