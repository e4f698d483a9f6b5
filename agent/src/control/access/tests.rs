use std::collections::BTreeSet;

use prost_types::FileDescriptorSet;
use tonic::codegen::http::Uri;

use super::*;
use crate::proto;

fn grant(change: impl FnOnce(&mut Grant)) -> Grant {
    let mut grant = Grant::default();
    change(&mut grant);
    grant
}

fn access(grants: Vec<Grant>, socket_role: Role) -> Access {
    Access::new(&Control { socket_role, grants, ..Control::default() }).unwrap()
}

fn process(uid: u32, gids: &[u32]) -> Credentials {
    Credentials::Process { uid, gids: gids.to_vec() }
}

fn certificate(uris: &[&str], common_name: &str) -> Credentials {
    let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
    Credentials::Certificate { uris, common_name: Some(common_name.to_owned()) }
}

/// Every method of every service that the agent serves, as its path.
pub(in crate::control) fn methods() -> BTreeSet<String> {
    use prost::Message;
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (package.clone(), service))
    });
    let paths = services.flat_map(|(package, service)| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |method| format!("/{package}.{name}/{}", method.name()))
    });
    paths.collect()
}

#[test]
fn every_method_of_the_interface_has_one_rule_and_no_rule_is_left_over() {
    let rules: Vec<String> = RULES.iter().map(|rule| rule.path.to_owned()).collect();
    assert_eq!(rules.iter().cloned().collect::<BTreeSet<_>>(), methods());
    assert_eq!(rules.len(), methods().len(), "a method has two rules");
    assert!(rules.iter().all(|path| path.parse::<Uri>().is_ok()));
}

#[test]
fn the_first_grant_that_names_the_caller_counts() {
    let access = access(
        vec![
            grant(|grant| (grant.user, grant.role) = (Some("1000".to_owned()), Role::None)),
            grant(|grant| (grant.group, grant.role) = (Some("50".to_owned()), Role::Admin)),
            grant(|grant| {
                grant.uri = Some("spiffe://fleet/scheduler/*".to_owned());
                (grant.role, grant.org) = (Role::Operate, Some("acme".to_owned()));
            }),
            grant(|grant| (grant.common_name, grant.role) = (Some("*.ops".to_owned()), Role::Admin)),
        ],
        Role::Read,
    );
    let caller = |credentials: &Credentials| {
        let caller = access.caller(credentials);
        (caller.who, caller.role, caller.org)
    };
    let acme = Some("acme".to_owned());
    for (credentials, who, role, org) in [
        (process(1000, &[50]), "uid:1000", Some(Role::None), None),
        (process(7, &[1, 50]), "uid:7", Some(Role::Admin), None),
        (process(7, &[1]), "uid:7", Some(Role::Read), None),
        (
            certificate(&["a:b", "spiffe://fleet/scheduler/1"], "x.ops"),
            "uri:spiffe://fleet/scheduler/1",
            Some(Role::Operate),
            acme,
        ),
        (certificate(&["spiffe://fleet/sched"], "x.ops"), "cn:x.ops", Some(Role::Admin), None),
        (certificate(&["spiffe://fleet/sched"], "x"), "uri:spiffe://fleet/sched", Some(Role::None), None),
        (Credentials::Nothing { address: [10, 0, 0, 1].into() }, "ip:10.0.0.1", None, None),
    ] {
        assert_eq!(caller(&credentials), (who.to_owned(), role, org), "{credentials:?}");
    }
}

#[test]
fn a_call_needs_its_role_and_no_org_where_it_is_about_the_host() {
    let caller =
        |role, org: Option<&str>| Caller { who: "uid:7".to_owned(), role, org: org.map(str::to_owned) };
    let reason = |caller: Caller, method: &str| {
        let path = format!("/dormouse.control.v1.Control/{method}");
        caller.may(rule(&path).unwrap()).err().map(|refusal| refusal.reason)
    };
    for (role, org, method, expected) in [
        (None, None, "List", Some(Reason::CallerUnknown)),
        (Some(Role::None), None, "List", Some(Reason::RoleInsufficient)),
        (Some(Role::Read), None, "List", None),
        (Some(Role::Read), None, "Pause", Some(Reason::RoleInsufficient)),
        (Some(Role::Operate), None, "Pause", None),
        (Some(Role::Operate), Some("acme"), "Destroy", None),
        (Some(Role::Operate), None, "Attach", Some(Reason::RoleInsufficient)),
        (Some(Role::Admin), None, "Attach", None),
        (Some(Role::Admin), Some("acme"), "Attach", Some(Reason::OrgBound)),
        (Some(Role::Admin), Some("acme"), "Audit", Some(Reason::OrgBound)),
    ] {
        assert_eq!(reason(caller(role, org), method), expected, "{role:?} {org:?} {method}");
    }
}

#[test]
fn a_star_stands_for_any_characters() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*", "", true),
        ("a*c", "abc", true),
        ("a*a", "a", false),
        ("*b*", "abc", true),
        ("a*b*c", "a-b-c", true),
        ("a*b*c", "a-c", false),
        ("a*b*b", "a-b", false),
        ("*.ops", "x.ops.evil", false),
        ("spiffe://a/*", "spiffe://ab/x", false),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn a_user_who_does_not_exist_is_an_error_that_names_them() {
    let grants = vec![grant(|grant| grant.user = Some("nobody-of-that-name".to_owned()))];
    let error = Access::new(&Control { grants, ..Control::default() }).unwrap_err();
    assert!(error.to_string().contains("\"nobody-of-that-name\""), "{error}");
    let root = vec![grant(|grant| (grant.user, grant.role) = (Some("root".to_owned()), Role::Operate))];
    let caller = access(root, Role::None).caller(&process(0, &[0]));
    assert_eq!(caller.role, Some(Role::Operate));
}
