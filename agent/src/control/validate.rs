//! What a request must be before anything is done about it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::config::{Config, Deadlines};
use crate::ids::check_id;
use crate::proto;
use crate::sandbox::command::{Method, MethodChoice, Request, SandboxKey};
use crate::sandbox::launching::SOCKET_PATH_BYTES_MAX;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::spec::{DiskFormat, DiskSpec, SandboxSpec};

const REQUEST_ID_CHARS_MAX: usize = 128;

const SUPPRESSION_CHARS_MAX: usize = 200;

/// The sandbox that a request names.
pub(super) fn key(key: Option<proto::SandboxKey>) -> Result<SandboxKey, Refusal> {
    let proto::SandboxKey { org, sandbox } =
        key.ok_or_else(|| Refusal::new(Reason::InvalidId, "the request names no sandbox: give its key"))?;
    id("org", &org)?;
    id("sandbox", &sandbox)?;
    Ok(SandboxKey { org, sandbox })
}

/// An id by which a question is narrowed; empty means all.
pub(super) fn filter(field: &str, value: String) -> Result<Option<String>, Refusal> {
    if value.is_empty() {
        return Ok(None);
    }
    id(field, &value)?;
    Ok(Some(value))
}

fn id(field: &str, value: &str) -> Result<(), Refusal> {
    check_id(value).map_err(|why| {
        Refusal::new(Reason::InvalidId, format!("the {field} id {value:?} {why}"))
            .with("field", field)
            .with("value", value)
    })
}

/// The request id as the caller chose it; `None` where the agent is to make one up.
pub(super) fn request_id(request_id: String) -> Result<Option<String>, Refusal> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| Err(Refusal::new(Reason::InvalidRequestId, format!("the request id {why}")));
    if request_id.chars().count() > REQUEST_ID_CHARS_MAX {
        return refuse("has more than 128 characters: choose a shorter one");
    }
    if request_id.chars().any(char::is_control) {
        return refuse("has a control character: choose one that can be printed");
    }
    Ok(Some(request_id))
}

/// Why a sandbox is to be suppressed: it goes on every slice.
pub(super) fn suppression(reason: String) -> Result<String, Refusal> {
    let refuse = |why: &str| Err(Refusal::new(Reason::InvalidSuppression, format!("the reason {why}")));
    match reason.chars().count() {
        0 => refuse("is empty: say why its time is free"),
        1..=SUPPRESSION_CHARS_MAX if reason.chars().any(char::is_control) => {
            refuse("has a control character: choose one that can be printed")
        }
        1..=SUPPRESSION_CHARS_MAX => Ok(reason),
        _ => refuse("has more than 200 characters: choose a shorter one"),
    }
}

/// How long the caller waits: what it says, but no longer than the configuration allows, or the configured default
/// of the command.
pub(super) fn deadline_ms(asked_ms: u64, request: &Request, deadlines: &Deadlines) -> u64 {
    let default_ms = match request {
        Request::Attach { .. } => deadlines.attach_ms,
        Request::Detach => deadlines.detach_ms,
        Request::Scale(_) => deadlines.scale_ms,
        Request::Pause { .. } => deadlines.pause_ms,
        Request::Resume { .. } => deadlines.resume_ms,
        Request::Hibernate { .. } => deadlines.hibernate_ms,
        Request::Wake { .. } => deadlines.wake_ms,
        Request::Reboot => deadlines.reboot_ms,
        Request::Suppress { .. } | Request::Unsuppress => deadlines.suppress_ms,
        Request::Destroy { graceful_ms } => {
            deadlines.destroy_ms.saturating_add(graceful_ms.unwrap_or(0)).min(deadlines.max_ms)
        }
        Request::Create { .. } => deadlines.create_ms,
        Request::PowerCycle => deadlines.power_cycle_ms,
    };
    if asked_ms == 0 { default_ms } else { asked_ms.min(deadlines.max_ms) }
}

/// What an attach asks, apart from the sandbox.
pub(super) fn attach(request: proto::AttachRequest, config: &Config) -> Result<Request, Refusal> {
    let proto::AttachRequest { header: _, qmp_path, plan, tags } = request;
    let (plan, tags) = plan_and_tags(plan, tags, config)?;
    Ok(Request::Attach { qmp_path: qmp_socket(&qmp_path)?, plan, tags, terms: None })
}

/// What a create asks, apart from the sandbox.
pub(super) fn create(request: proto::CreateRequest, config: &Config) -> Result<Request, Refusal> {
    let proto::CreateRequest { header: _, spec, plan, tags } = request;
    let (plan, tags) = plan_and_tags(plan, tags, config)?;
    let refuse = |why: String| Refusal::new(Reason::InvalidSpec, why);
    let spec =
        spec.ok_or_else(|| refuse("the request has no spec: say what the sandbox is made of".to_owned()))?;
    let spec = sandbox_spec(spec).map_err(refuse)?;
    spec.check().map_err(refuse)?;
    Ok(Request::Create { spec: Box::new(spec), plan, tags })
}

fn sandbox_spec(spec: proto::SandboxSpec) -> Result<SandboxSpec, String> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let path = |text: String| some(text).map(PathBuf::from);
    let disks = spec.disks.into_iter().map(disk_spec).collect::<Result<_, _>>()?;
    let or = |value: u64, instead: u64| if value == 0 { instead } else { value };
    Ok(SandboxSpec {
        qemu: some(spec.qemu),
        machine: some(spec.machine).unwrap_or_else(|| "q35".to_owned()),
        cpu: some(spec.cpu),
        accel: some(spec.accel),
        memory_bytes: spec.memory_bytes,
        memory_max_bytes: or(spec.memory_max_bytes, spec.memory_bytes),
        memory_shared: spec.memory_shared,
        vcpus: spec.vcpus.max(1),
        disks,
        kernel: path(spec.kernel),
        initrd: path(spec.initrd),
        append: some(spec.append),
        extra_arguments: spec.extra_arguments,
    })
}

fn disk_spec(disk: proto::DiskSpec) -> Result<DiskSpec, String> {
    let proto::DiskSpec { path, format, size_bytes, read_only } = disk;
    let format = if format.is_empty() { Some(DiskFormat::Qcow2) } else { DiskFormat::parse(&format) };
    let format = format.ok_or_else(|| format!("the format of disk {path} is unknown: write qcow2 or raw"))?;
    Ok(DiskSpec { path: path.into(), format, size_bytes: (size_bytes > 0).then_some(size_bytes), read_only })
}

fn plan_and_tags(
    plan: String,
    tags: std::collections::HashMap<String, String>,
    config: &Config,
) -> Result<(String, BTreeMap<String, String>), Refusal> {
    let plan = if plan.is_empty() { config.default_plan.clone() } else { plan };
    check_id(&plan).map_err(|why| {
        Refusal::new(Reason::InvalidId, format!("the plan {plan:?} {why}")).with("field", "plan")
    })?;
    let tags: BTreeMap<String, String> = tags.into_iter().collect();
    dormouse_ledger::validate_tags(&tags)
        .map_err(|error| Refusal::new(Reason::InvalidTag, error.to_string()))?;
    Ok((plan, tags))
}

fn qmp_socket(path: &str) -> Result<PathBuf, Refusal> {
    let refuse = |why: &str| {
        Err(Refusal::new(Reason::InvalidQmpPath, format!("the QMP path {path:?} {why}")).with("path", path))
    };
    let socket = PathBuf::from(path);
    if !socket.is_absolute() {
        return refuse("is not absolute: give the full path of the socket");
    }
    if socket.as_os_str().as_bytes().contains(&0) {
        return refuse("has a NUL character: give the path of a socket");
    }
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return refuse("is longer than the 107 bytes that a socket's path can have: use a shorter one");
    }
    Ok(socket)
}

/// The hibernation method that a request names.
pub(super) fn method(method: i32) -> Result<MethodChoice, Refusal> {
    use proto::HibernationMethod as Wire;
    match Wire::try_from(method) {
        Ok(Wire::Auto) => Ok(MethodChoice::Auto),
        Ok(Wire::Shared) => Ok(MethodChoice::Named(Method::Shared)),
        Ok(Wire::MappedRam) => Ok(MethodChoice::Named(Method::MappedRam)),
        Ok(Wire::Internal) => Ok(MethodChoice::Named(Method::Internal)),
        Err(_) => Err(Refusal::new(
            Reason::MethodUnsuitable,
            format!(
                "this agent knows no hibernation method {method}: use AUTO, SHARED, MAPPED_RAM or INTERNAL"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(org: &str, sandbox: &str) -> proto::SandboxKey {
        proto::SandboxKey { org: org.to_owned(), sandbox: sandbox.to_owned() }
    }

    fn attach_of(qmp_path: &str, plan: &str, tag: &str) -> Result<Request, Refusal> {
        let request = proto::AttachRequest {
            header: None,
            qmp_path: qmp_path.to_owned(),
            plan: plan.to_owned(),
            tags: [(tag.to_owned(), String::new())].into(),
        };
        attach(request, &Config::default())
    }

    #[test]
    fn a_suppression_has_a_reason_that_can_be_printed() {
        assert_eq!(suppression("é".repeat(200)).unwrap(), "é".repeat(200));
        for wrong in [String::new(), "a\nb".to_owned(), "é".repeat(201), "\0".to_owned()] {
            assert_eq!(suppression(wrong).unwrap_err().reason, Reason::InvalidSuppression);
        }
    }

    #[test]
    fn a_sandbox_is_named_by_org_and_id() {
        assert!(key(Some(named("org", "sb"))).is_ok());
        assert_eq!(key(None).unwrap_err().reason, Reason::InvalidId);
        for wrong in [named("", "sb"), named("org", ""), named("org", "a/b"), named("o/rg", "sb")] {
            assert_eq!(key(Some(wrong)).unwrap_err().reason, Reason::InvalidId);
        }
        let refusal = key(Some(named("org", "../x"))).unwrap_err();
        assert_eq!(refusal.metadata["field"], "sandbox");
        assert!(refusal.message.contains("use letters"), "{}", refusal.message);
    }

    #[test]
    fn request_ids_are_short_and_printable() {
        assert_eq!(request_id(String::new()), Ok(None));
        assert_eq!(request_id("ü".repeat(128)), Ok(Some("ü".repeat(128))));
        for wrong in ["x".repeat(129), "a\nb".to_owned()] {
            assert_eq!(request_id(wrong).unwrap_err().reason, Reason::InvalidRequestId);
        }
    }

    #[test]
    fn deadlines_have_a_default_for_each_command_and_a_bound() {
        let deadlines = Deadlines::default();
        assert_eq!(deadline_ms(0, &Request::Pause { reclaim: false }, &deadlines), deadlines.pause_ms);
        assert_eq!(deadline_ms(0, &Request::Wake { cold: false }, &deadlines), deadlines.wake_ms);
        assert_eq!(deadline_ms(7, &Request::Wake { cold: false }, &deadlines), 7);
        assert_eq!(deadline_ms(u64::MAX, &Request::Wake { cold: false }, &deadlines), deadlines.max_ms);
    }

    #[test]
    fn an_attach_names_an_absolute_socket_a_plan_and_lawful_tags() {
        let expected = Request::Attach {
            qmp_path: "/run/a.qmp".into(),
            plan: "default".to_owned(),
            tags: BTreeMap::from([("team".to_owned(), String::new())]),
            terms: None,
        };
        assert_eq!(attach_of("/run/a.qmp", "", "team"), Ok(expected));
        for (path, plan, tag, reason) in [
            ("a.qmp", "", "team", Reason::InvalidQmpPath),
            ("", "", "team", Reason::InvalidQmpPath),
            ("/a\0b", "", "team", Reason::InvalidQmpPath),
            (&format!("/{}", "x".repeat(107)), "", "team", Reason::InvalidQmpPath),
            ("/a", "a plan", "team", Reason::InvalidId),
            ("/a", "", "dm:team", Reason::InvalidTag),
        ] {
            assert_eq!(attach_of(path, plan, tag).unwrap_err().reason, reason, "{path} {plan} {tag}");
        }
    }

    #[test]
    fn methods_are_those_of_the_interface() {
        assert_eq!(method(0), Ok(MethodChoice::Auto));
        assert_eq!(method(2), Ok(MethodChoice::Named(Method::MappedRam)));
        assert!(method(9).is_err());
    }
}
