//! The command line: its definition, and what it does with a stand-in for the host behind a real socket.

use std::path::Path;

use super::*;
use crate::control::stand_in::Agent;
use crate::sandbox::command::{CommandResult, Method, MethodChoice, Request, Scaling};
use crate::sandbox::refusal::{Reason, Refusal};

/// Does what a line says, at an agent.
async fn at(socket: &Path, line: &str) -> Result<Exit, Failure> {
    let words = ["dormouse"].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).map_err(|error| Failure::usage(error.to_string()))?;
    dispatch(cli.command, Some(socket.to_owned()), cli.json).await
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn every_command_takes_the_socket_and_json() {
    for line in
        ["ls", "agent", "check-config", "pause a", "usage --from -2h", "audit", "slices a --ledger /l"]
    {
        let words = ["dormouse"].into_iter().chain(line.split(' ')).chain(["--socket", "/s", "--json"]);
        let cli = Cli::try_parse_from(words).expect(line);
        assert!(cli.json && cli.socket.is_some(), "{line}");
    }
}

#[test]
fn the_help_ends_with_the_exit_codes() {
    assert!(command().render_help().to_string().trim_end().ends_with("the configuration is wrong"));
}

#[test]
fn what_the_command_line_cannot_mean_is_refused() {
    for line in [
        "",
        "fly",
        "pause",
        "scale a",
        "scale a --memory 2GB",
        "scale a --force",
        "scale a --vcpus 1,5",
        "scale a --disk disk0",
        "attach a",
        "attach a --qmp /q --tag x",
        "hibernate a --method fast",
        "tag a team",
        "tag a team=x --clear",
    ] {
        let words = ["dormouse"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

#[tokio::test]
async fn each_command_asks_for_what_it_says() {
    let agent = Agent::start().await;
    let attach = Request::Attach {
        qmp_path: "/run/a.qmp".into(),
        plan: "free".to_owned(),
        tags: [("team".to_owned(), "blue=green".to_owned())].into(),
        terms: None,
    };
    let several = Request::Scale(Scaling {
        memory_bytes: None,
        vcpus_milli: Some(1500),
        disks: [("a".to_owned(), 2 << 30), ("b".to_owned(), 512)].into(),
        force: true,
    });
    for (line, request) in [
        ("attach sb1 --qmp /run/a.qmp --plan free --tag team=blue=green", attach),
        ("detach sb1", Request::Detach),
        ("scale sb1 --memory 1.5GiB", Request::Scale(Scaling::of_memory(3 << 29))),
        ("scale sb1 --vcpus 1.5 --disk a=2GiB --disk b=512 --force", several),
        ("pause sb1", Request::Pause { reclaim: false }),
        ("pause sb1 --reclaim", Request::Pause { reclaim: true }),
        ("resume sb1", Request::Resume { prefetch: false }),
        ("resume sb1 --prefetch", Request::Resume { prefetch: true }),
        ("hibernate sb1", Request::Hibernate { method: MethodChoice::Auto }),
        (
            "hibernate sb1 --method mapped-ram",
            Request::Hibernate { method: MethodChoice::Named(Method::MappedRam) },
        ),
        ("wake sb1", Request::Wake { cold: false }),
        ("wake sb1 --cold", Request::Wake { cold: true }),
        ("reboot sb1", Request::Reboot),
        ("suppress sb1 --reason moving", Request::Suppress { reason: "moving".to_owned() }),
        ("unsuppress sb1", Request::Unsuppress),
        ("destroy sb1", Request::Destroy { graceful_ms: None }),
        ("destroy sb1 --graceful", Request::Destroy { graceful_ms: Some(30_000) }),
        ("destroy --graceful=2m sb1", Request::Destroy { graceful_ms: Some(120_000) }),
        ("power-cycle sb1", Request::PowerCycle),
    ] {
        agent.host.answers(Ok(CommandResult::Done));
        assert_eq!(at(&agent.socket, line).await.expect(line), Exit::Done);
        assert_eq!(agent.host.last_command().request, request, "{line}");
    }
}

#[tokio::test]
async fn a_command_says_for_whom_and_how_long_it_asks() {
    let agent = Agent::start().await;
    agent.host.answers(Ok(CommandResult::Unchanged));
    at(&agent.socket, "pause sb1 --org acme --request-id mine --deadline 2m --json")
        .await
        .expect("an answer");
    let command = agent.host.last_command();
    assert_eq!(command.key.to_string(), "acme/sb1");
    assert_eq!((command.request_id.as_str(), command.deadline_ms), ("mine", Some(120_000)));
}

#[tokio::test]
async fn a_refusal_fails_with_its_reason_and_the_request_id() {
    let agent = Agent::start().await;
    agent.host.answers(Err(Refusal::new(Reason::OutcomeUnknown, "not known yet")));
    let failure = at(&agent.socket, "pause sb1").await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Failed);
    let request_id = agent.host.last_command().request_id;
    let text = failure.to_string();
    assert!(
        text.contains("[OUTCOME_UNKNOWN]") && text.contains(&request_id) && text.contains("next: "),
        "{text}"
    );
}

#[tokio::test]
async fn questions_are_answered() {
    let agent = Agent::start().await;
    for line in ["ls", "ls --json --org default", "watch-nothing"] {
        let asked = at(&agent.socket, line).await;
        assert_eq!(asked.is_ok(), line.starts_with("ls"), "{line}");
    }
    let missing = at(&agent.socket, "show nobody").await.unwrap_err();
    assert!(missing.to_string().contains("[SANDBOX_NOT_FOUND]"));
    let no_ledger = at(&agent.socket, "audit").await.unwrap_err();
    assert!(no_ledger.to_string().contains("[LEDGER_MISSING]"));
    let twice = at(&agent.socket, "tag sb1 team=a team=b").await.unwrap_err();
    assert_eq!(twice.exit(), Exit::Usage);
    let upside_down = at(&agent.socket, "usage --from now --to -2h").await.unwrap_err();
    assert_eq!(upside_down.exit(), Exit::Usage);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_unreachable() {
    let failure = at(Path::new("/nowhere/control.sock"), "ls").await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    let text = failure.to_string();
    assert!(text.contains("/nowhere/control.sock: No such file") && text.contains("systemctl"), "{text}");
}
