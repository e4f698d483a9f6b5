//! Capabilities by the schemas of both versions, trimmed to what is asked here.

use crate::support::{replay, transcript};
use dormouse_qmp::Schema;
use serde_json::json;

fn schema(version: &str) -> Schema {
    let heard = replay(&transcript("schema", version));
    Schema::from_reply(heard.reply(1).as_ref().unwrap().clone()).unwrap()
}

#[test]
fn mapped_ram_is_known_to_qemu_10_and_not_to_7_2() {
    assert!(schema("10.0.2").has_migration_capability("mapped-ram"));
    assert!(!schema("7.2.22").has_migration_capability("mapped-ram"));
}

#[test]
fn what_both_versions_have_is_found_in_both() {
    for version in crate::support::BOTH {
        let schema = schema(version);
        assert!(schema.has_migration_capability("x-ignore-shared"), "{version}");
        assert!(schema.has_command("snapshot-save"), "{version}");
        assert!(schema.has_event("MEMORY_DEVICE_SIZE_CHANGE"), "{version}");
        assert!(schema.command_has_arg("snapshot-save", "job-id"), "{version}");
        assert!(schema.command_has_arg("object-add", "reserve"), "in a variant only: {version}");
        assert!(
            schema.argument_enum_has("object-add", &["policy"], "interleave"),
            "through a variant: {version}"
        );
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let schema = schema("10.0.2");
    assert!(!schema.has_command("MIGRATION") && !schema.has_event("migrate"));
    assert!(!schema.has_command("147") && !schema.has_command("no-such-command"));
    assert!(!schema.command_has_arg("snapshot-save", "no-such-argument"));
    assert!(!schema.command_has_arg("no-such-command", "job-id"));
    assert!(!schema.argument_enum_has("migrate-set-capabilities", &["capabilities"], "mapped-ram"));
    assert!(!schema.argument_enum_has("migrate-set-capabilities", &["capabilities", "state"], "mapped-ram"));
}

#[test]
fn a_schema_that_refers_to_itself_is_answered() {
    let schema = Schema::from_reply(json!([
        { "name": "loop", "meta-type": "command", "arg-type": "1", "ret-type": "0" },
        { "name": "1", "meta-type": "object", "members": [], "variants": [{ "case": "a", "type": "1" }] },
        { "name": "array", "meta-type": "command", "arg-type": "[2]", "ret-type": "0" },
        { "name": "[2]", "meta-type": "array", "element-type": "[2]" },
    ]));
    let schema = schema.unwrap();
    assert!(!schema.command_has_arg("loop", "x"));
    assert!(!schema.argument_enum_has("loop", &["x"], "y"));
    assert!(!schema.argument_enum_has("array", &[], "y"));
}
