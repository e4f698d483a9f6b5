//! What the configuration promises.

use std::path::Path;

use dormouse_metering::{Dimensions, Policy};

use super::*;

fn problems(text: &str) -> Vec<String> {
    let problems = Config::parse(text).expect_err("the text must be refused");
    problems
        .into_iter()
        .map(|p| format!("{}: {}", p.place.map_or_else(String::new, |at| at.to_string()), p.message))
        .collect()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse(""), Ok(Config::default()));
}

#[test]
fn the_example_parses_to_exactly_the_default() {
    assert_eq!(Config::parse(&Config::example()), Ok(Config::default()));
}

#[test]
fn the_example_explains_every_key() {
    let example = Config::example();
    for key in ["host", "socket_mode", "tick_ms", "free_disk_bytes", "dir", "order", "level"] {
        let at = example
            .lines()
            .position(|line| line.trim_start_matches('#').starts_with(&format!("{key} =")))
            .expect(key);
        assert!(example.lines().nth(at - 1).expect("a line before").starts_with("# "), "{key}");
    }
    assert!(example.lines().all(|line| line.len() <= 120));
    assert!(
        example.contains("[billing.policy.lost]\nmemory = false\nvcpu = false\ndisk = false\n"),
        "{example}"
    );
}

#[test]
fn a_rendered_configuration_reads_as_itself() {
    let config = Config {
        host: Some("h1".to_owned()),
        hibernation: Hibernation { dir: Some("/snap".into()), ..Hibernation::default() },
        ..Config::default()
    };
    assert_eq!(Config::parse(&config.to_toml()), Ok(config));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
    assert_eq!(
        problems("cell = \"a\"\n\n[metering]\n  tick = 1\n"),
        ["4:3: unknown key `metering.tick`: did you mean `metering.tick_ms`?"]
    );
    assert_eq!(
        problems("[log]\nxyzzy = 1\n"),
        ["2:1: unknown key `log.xyzzy`; known here are `level`, `format`"]
    );
    assert_eq!(
        problems("[metering]\ntick_sm = 1\nlatness_ms = 2\n"),
        [
            "2:1: unknown key `metering.tick_sm`: did you mean `metering.tick_ms`?",
            "3:1: unknown key `metering.latness_ms`: did you mean `metering.lateness_ms`?",
        ]
    );
    assert_eq!(problems("[meterin]\n"), ["1:2: unknown key `meterin`: did you mean `metering`?"]);
    assert_eq!(problems("tick_ms = 1"), ["1:1: unknown key `tick_ms`: did you mean `metering.tick_ms`?"]);
    assert_eq!(
        problems("[billing.policy.pause]\nmemory = true\n"),
        ["1:17: unknown key `billing.policy.pause`: did you mean `billing.policy.paused`?"]
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_is_allowed() {
    assert_eq!(
        problems("state_dir = \"var\"\n[metering]\ntick_ms = 5\n"),
        [
            "1:13: state_dir is var: it must be an absolute path",
            "3:11: metering.tick_ms is 5: it must be from 1000 to 3600000",
        ]
    );
    for (text, part) in [
        ("cell = \"a/b\"", "1:8: cell is \"a/b\", which has a character"),
        ("socket_mode = \"999\"", "1:15: \"999\" is no file mode"),
        ("socket_mode = 432", "1:15: invalid type: integer"),
        ("cell = 1", "1:8: invalid type"),
        ("[metrics]\nlisten = \"here\"", "2:10: \"here\" is neither an address and port"),
        ("[metrics]\nlisten = \"unix:a.sock\"", "2:10: \"unix:a.sock\" is neither"),
        ("cell", "1:5: "),
        ("[billing]\nbasis = \"both\"", "2:9: unknown variant `both`"),
        ("[billing.policy.paused]\nmemory = true\n", "missing field `vcpu`"),
        ("[hibernation]\norder = []", "2:9: hibernation.order is empty"),
        ("[hibernation]\norder = [\"shared\", \"shared\"]", "names shared twice"),
        ("[log]\nlevel = \"a=b=c\"", "2:9: log.level is"),
        ("[qmp]\nreconnect_min_ms = 6000", "2:20: qmp.reconnect_min_ms is greater"),
        ("[deadlines]\nmax_ms = 20000", ": deadlines.scale_ms is 60000: it must be from 1 to 20000"),
        ("[qmp]\nreply_ms = -1", "2:12: invalid value"),
    ] {
        let problems = problems(text);
        assert!(problems.iter().any(|problem| problem.contains(part)), "{text}: {problems:?}");
    }
}

#[test]
fn grants_are_read_written_and_checked() {
    let text = "[control]\nsocket_role = \"read\"\n\n[control.tls]\nlisten = \"[::]:7443\"\n\
                certificate = \"/etc/a.pem\"\nkey = \"/etc/a.key\"\nclient_ca = \"/etc/ca.pem\"\n\n\
                [[control.grants]]\nuri = \"spiffe://fleet/*\"\nrole = \"operate\"\norg = \"acme\"\n\n\
                [[control.grants]]\ngroup = \"ops\"\nrole = \"admin\"\n";
    let config = Config::parse(text).expect("a right configuration");
    assert_eq!(config.control.grants.len(), 2);
    assert_eq!(config.control.grants[0].org.as_deref(), Some("acme"));
    assert_eq!(Config::parse(&config.to_toml()), Ok(config));
    for (text, part) in [
        (
            "[control.tls]\nlisten = \"[::]:1\"",
            "control.tls needs all of listen, certificate, key and client_ca",
        ),
        ("[control.tls]\nlisten = \"here\"", "2:10: invalid socket address"),
        ("[[control.grants]]\nrole = \"read\"", "does not name one of user, group, uri and common_name"),
        ("[[control.grants]]\nuser = \"a\"\nuri = \"b\"", "does not name one of"),
        ("[[control.grants]]\nuser = \"\"", "empty name"),
        ("[[control.grants]]\nuser = \"a\"\norg = \"a/b\"", "has org \"a/b\""),
        ("[[control.grants]]\nuser = \"a\"\nrole = \"god\"", "3:8: unknown variant `god`"),
        (
            "[[control.grants]]\nusr = \"a\"",
            "2:1: unknown key `control.grants.usr`: did you mean `control.grants.user`?",
        ),
    ] {
        let problems = problems(text);
        assert!(problems.iter().any(|problem| problem.contains(part)), "{text}: {problems:?}");
    }
}

#[test]
fn sinks_are_a_list_whose_keys_and_values_are_checked_and_which_is_written_out_again() {
    let text = "[[sinks]]\nname = \"a\"\nkind = \"redis\"\nurl = \"rediss://redis:6379\"\npassword_env = \"SECRET\"\n";
    let config = Config::parse(text).expect("a right configuration");
    assert_eq!(Config::parse(&config.to_toml()).expect("what is written can be read"), config);
    for (more, part) in [
        ("timeout = 1", "6:1: unknown key `sinks.timeout`: did you mean `sinks.timeout_ms`?"),
        ("[[sinks]]\nname = \"a\"", "sinks names a twice"),
        (
            "[[sinks]]\nname = \"b\"\nurl = \"http://x\"",
            "sinks of b: url is \"http://x\": it must begin with nats://",
        ),
        ("[[sinks]]\nname = \"b\"\nurl = \"nats://u:p@x\"", "sinks of b: url has credentials"),
        (
            "[[sinks]]\nname = \"b\"\ntoken_env = \"T\"\nuser_env = \"U\"",
            "user_env and password_env go together",
        ),
        ("cert_file = \"/c\"", "sinks of a: cert_file and key_file go together"),
        ("batch_events = 0", "sinks of a: batch_events is 0: it must be from 1"),
        ("kind2 = 1", "unknown key `sinks.kind2`"),
        ("form = \"xml\"", "unknown variant `xml`"),
        (
            "vcpu_hour_microcents = 10000000000001",
            "vcpu_hour_microcents is 10000000000001: it must be from 0",
        ),
        ("[[sinks]]\nname = \"b\"\nform = \"flat\"", "sinks of b: form is flat: that is for redis alone"),
    ] {
        let problems = problems(&format!("{text}{more}\n"));
        assert!(problems.iter().any(|problem| problem.contains(part)), "{more}: {problems:?}");
    }
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    let error = Config::load(Path::new("/nowhere/dormouse.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/dormouse.toml cannot be read: "), "{error}");
}

#[test]
fn what_is_not_set_is_filled_in_from_the_machine() {
    let effective = Config::default().effective().expect("this machine has a hostname");
    assert_eq!(effective.hibernation.dir.as_deref(), Some(Path::new("/var/lib/dormouse/snapshots")));
    assert!(effective.host.is_some());
}

#[test]
fn the_default_policy_is_the_one_of_the_meter() {
    assert_eq!(PolicyTable::default().policy(), Policy::default());
}

#[test]
fn a_row_of_the_policy_changes_its_state_alone() {
    let text = "[billing.policy.paused]\nmemory = true\nvcpu = false\ndisk = true\n";
    let policy = Config::parse(text).expect("a right configuration").billing.policy.policy();
    let mut expected = Policy::default();
    expected.set("paused", Dimensions { memory: true, vcpu: false, disk: true }).expect("a state");
    assert_eq!(policy, expected);
}
