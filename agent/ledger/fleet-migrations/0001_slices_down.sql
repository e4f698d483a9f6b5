-- The extension stays: others may have come to use it.
DROP VIEW slice_quantities;
DROP TABLE billed_states, quarantine, lifecycle, slices, events, sandboxes, sources, hosts, api_keys;
DROP FUNCTION make_slices_partition, refuse_change, refuse_change_but_of_references;
