//! The service, over a real unix socket, with a stand-in for the host.

use dormouse_ledger::{Class, HostName, Ledger, Record, SandboxSeen};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::client;
use super::stand_in::{Agent, NOW_UNIX_NS, change};
use crate::config::Deadlines;
use crate::proto::{self, CommandHeader, PauseRequest, SandboxKey};
use crate::sandbox::command::{CommandResult, Method, MethodChoice, Request, Scaling};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::WatchKind;

fn header(sandbox: &str) -> CommandHeader {
    let key = SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() };
    CommandHeader { key: Some(key), ..CommandHeader::default() }
}

fn pause(header: Option<CommandHeader>) -> PauseRequest {
    PauseRequest { header, reclaim: false }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

#[tokio::test]
async fn a_command_arrives_with_its_asker_its_deadline_and_a_request_id() {
    let agent = Agent::start().await;
    agent.host.answers(Ok(CommandResult::Done));
    let mut client = client(&agent.socket).await.expect("the agent");
    let request = proto::HibernateRequest { header: Some(header("sb1")), method: 1 };
    let reply = client.hibernate(request).await.expect("a reply").into_inner();
    let command = agent.host.last_command();
    assert_eq!(command.key.to_string(), "default/sb1");
    assert_eq!(command.request, Request::Hibernate { method: MethodChoice::Named(Method::Shared) });
    assert_eq!(command.asked_by, format!("uid:{}", nix::unistd::getuid()));
    assert_eq!(command.deadline_ms, Some(Deadlines::default().hibernate_ms));
    assert_eq!(command.request_id.len(), 32);
    assert_eq!(reply.request_id, command.request_id);
    assert_eq!(reply.result(), proto::command_reply::Result::Done);
    let sandbox = reply.sandbox.expect("a sandbox");
    assert_eq!((sandbox.state.as_str(), sandbox.pid), ("running", 4711));
}

#[tokio::test]
async fn what_the_caller_says_is_passed_on() {
    let agent = Agent::start().await;
    agent.host.answers(Ok(CommandResult::Partial { achieved_bytes: 1 }));
    let mut client = client(&agent.socket).await.expect("the agent");
    let header = Some(CommandHeader { request_id: "mine".to_owned(), deadline_ms: 123, ..header("sb1") });
    let request = proto::ScaleRequest { header, memory_bytes: Some(42), ..Default::default() };
    let reply = client.scale(request).await.expect("a reply");
    let command = agent.host.last_command();
    assert_eq!(command.request, Request::Scale(Scaling::of_memory(42)));
    assert_eq!((command.request_id.as_str(), command.deadline_ms), ("mine", Some(123)));
    assert_eq!(reply.into_inner().result(), proto::command_reply::Result::Partial);
}

#[tokio::test]
async fn bad_input_is_refused_before_the_host_hears_of_it() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let slash = client.pause(pause(Some(header("a/b")))).await.unwrap_err();
    assert_eq!((slash.code(), reason(&slash).as_str()), (Code::InvalidArgument, "INVALID_ID"));
    let nothing = client.pause(pause(None)).await.unwrap_err();
    assert_eq!(reason(&nothing), "INVALID_ID");
    let attach = proto::AttachRequest {
        header: Some(header("sb1")),
        qmp_path: "a.qmp".to_owned(),
        ..Default::default()
    };
    assert_eq!(reason(&client.attach(attach).await.unwrap_err()), "INVALID_QMP_PATH");
    let list = client.list(proto::ListRequest { org: "a b".to_owned() }).await.unwrap_err();
    assert_eq!(reason(&list), "INVALID_ID");
    assert!(agent.host.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_host_reaches_the_caller_whole() {
    let agent = Agent::start().await;
    agent.host.answers(Err(Refusal::new(Reason::WrongState, "it is paused").with("state", "paused")));
    let mut client = client(&agent.socket).await.expect("the agent");
    let status = client.pause(pause(Some(header("sb1")))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "it is paused"));
    assert_eq!(status.get_details_error_info().expect("an ErrorInfo").metadata["state"], "paused");
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_goes_on_with_what_changes() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let watch = proto::WatchRequest { org: "default".to_owned(), sandbox: "sb2".to_owned() };
    let mut events = client.watch(watch).await.expect("a stream").into_inner();
    let snapshot = events.message().await.expect("no error").expect("an event");
    assert_eq!((snapshot.kind.as_str(), snapshot.unix_ns), ("snapshot", NOW_UNIX_NS));
    assert_eq!(snapshot.sandbox.and_then(|sandbox| sandbox.key).expect("a key").sandbox, "sb2");
    agent.host.changes.send(change("sb1", WatchKind::After)).expect("a watcher");
    agent.host.changes.send(change("sb2", WatchKind::Progress)).expect("a watcher");
    let progress = events.message().await.expect("no error").expect("an event");
    assert_eq!((progress.kind.as_str(), progress.cause.as_str()), ("progress", "scale"));
}

#[tokio::test]
async fn a_watcher_that_missed_events_is_told_and_shown_what_is() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let mut events = client.watch(proto::WatchRequest::default()).await.expect("a stream").into_inner();
    for _ in 0..2 {
        events.message().await.expect("no error").expect("a snapshot");
    }
    // One thread: the watch does not run before the stand-in has sent more than its channel holds.
    for _ in 0..10 {
        agent.host.changes.send(change("sb1", WatchKind::Changed)).expect("a watcher");
    }
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(events.message().await.expect("no error").expect("an event").kind);
    }
    assert_eq!(kinds, ["gap", "snapshot", "snapshot"]);
}

#[tokio::test]
async fn stopping_ends_the_streams_with_a_reason() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let mut events = client.watch(proto::WatchRequest::default()).await.expect("a stream").into_inner();
    let reader = tokio::spawn(async move {
        loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(reason(&status)),
            }
        }
    });
    agent.stop().await;
    assert_eq!(reader.await.expect("no panic").as_deref(), Some("AGENT_STOPPING"));
}

#[tokio::test]
async fn questions_about_the_past_are_answered_from_the_ledger() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let missing = client.audit(proto::AuditRequest {}).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::Unavailable, "LEDGER_MISSING"));
    let host = HostName { cell: "c".to_owned(), host: "h".to_owned() };
    let _ledger = Ledger::open(&agent.state_dir.join("ledger.sqlite"), &host).expect("a ledger");
    let audit = client.audit(proto::AuditRequest {}).await.expect("a report").into_inner();
    assert_eq!((audit.slices_checked, audit.violations.len()), (0, 0));
    let usage = client.usage(proto::UsageRequest::default()).await.expect("usage").into_inner();
    assert_eq!(usage.total.expect("a total").memory_byte_nanoseconds, "0");
    assert_eq!(usage.to_unix_ns, NOW_UNIX_NS);
    let mut slices = client.slices(proto::SlicesRequest::default()).await.expect("a stream").into_inner();
    assert_eq!(slices.message().await.expect("no error"), None);
}

#[tokio::test]
async fn the_health_service_says_that_the_control_service_serves() {
    let agent = Agent::start().await;
    let channel = super::channel(&agent.socket).await.expect("the agent");
    let request = HealthCheckRequest { service: "dormouse.control.v1.Control".to_owned() };
    let reply = HealthClient::new(channel).check(request).await.expect("a reply").into_inner();
    assert_eq!(reply.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
}

#[tokio::test]
async fn tags_are_replaced_as_a_whole_and_shown_with_the_sandbox() {
    let agent = Agent::start().await;
    let mut client = client(&agent.socket).await.expect("the agent");
    let key = |sandbox: &str| SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() };
    let set = |sandbox: &str, tags: &[(&str, &str)]| proto::SetTagsRequest {
        key: Some(key(sandbox)),
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let host = HostName { cell: "c".to_owned(), host: "h".to_owned() };
    let ledger = Ledger::open(&agent.state_dir.join("ledger.sqlite"), &host).expect("a ledger");
    let unknown = client.set_tags(set("sb1", &[("team", "red")])).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "SANDBOX_NOT_FOUND"));
    let seen = SandboxSeen {
        key: dormouse_ledger::SandboxKey {
            org: "default".to_owned(),
            sandbox: "sb1".to_owned(),
            generation: 1,
        },
        plan: "pro".to_owned(),
        attachment: serde_json::Value::Null,
        lifecycle: "running".to_owned(),
        created_unix_ns: 1,
    };
    ledger.writer().write(Class::Fact, vec![Record::SandboxSeen(seen)]).expect("a ledger");
    assert_eq!(client.get_tags(key("sb1")).await.expect("tags").into_inner(), proto::Tags::default());
    let reserved = client.set_tags(set("sb1", &[("dm:x", "y")])).await.unwrap_err();
    assert_eq!((reserved.code(), reason(&reserved).as_str()), (Code::InvalidArgument, "INVALID_TAG"));
    let told = client.set_tags(set("sb1", &[("team", "red"), ("env", "")])).await.expect("tags").into_inner();
    assert_eq!((told.tags.len(), told.updated_unix_ns), (2, Some(NOW_UNIX_NS)));
    let sandbox = client.get(key("sb1")).await.expect("a sandbox").into_inner();
    assert_eq!(sandbox.tags["team"], "red", "not those that it began with");
    let cleared = client.set_tags(set("sb1", &[])).await.expect("tags").into_inner();
    assert!(cleared.tags.is_empty() && cleared.updated_unix_ns.is_some());
}
