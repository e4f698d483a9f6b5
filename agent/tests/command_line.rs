//! The program as it is installed: exit codes, and what goes to which stream.

#![allow(clippy::expect_used, reason = "a test may fail; the lint does not see helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use dormouse::config::Config;
use dormouse_ledger::{HostName, Ledger};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn dormouse(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse")).args(arguments).output().expect("the program runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_command_line_is_64_and_says_so_on_standard_error() {
    for arguments in [&["fly"][..], &[], &["scale", "a", "--memory", "2GB"]] {
        let output = dormouse(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    assert!(
        stderr(&dormouse(&["scale", "a", "--memory", "2GB"]))
            .contains("write a number and a unit, such as 512MiB")
    );
}

#[test]
fn help_and_version_are_data() {
    for argument in ["--help", "--version"] {
        let output = dormouse(&[argument]);
        assert_eq!(code(&output), 0);
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn an_agent_that_is_not_there_is_69() {
    let output = dormouse(&["ls", "--socket", "/nowhere/control.sock", "--json"]);
    assert_eq!(code(&output), 69);
    assert!(output.stdout.is_empty());
    let failure: Value = serde_json::from_slice(&output.stderr).expect("JSON on standard error");
    assert!(failure["next"].as_str().is_some_and(|next| next.contains("dormouse agent")));
}

#[test]
fn a_wrong_configuration_is_78_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dormouse.toml");
    fs::write(&path, "[metering]\ntick_sm = 1\n").expect("a file");
    let path = path.to_str().expect("UTF-8");
    for command in ["check-config", "agent"] {
        let output = dormouse(&[command, "--config", path]);
        assert_eq!(code(&output), 78, "{command}");
        let expected =
            format!("{path}:2:1: unknown key `metering.tick_sm`: did you mean `metering.tick_ms`?");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
    assert_eq!(code(&dormouse(&["check-config", "--config", "/nowhere.toml"])), 78);
}

#[test]
fn a_right_configuration_is_shown_as_it_is_in_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dormouse.toml");
    fs::write(&path, "[metering]\ntick_ms = 5000\n").expect("a file");
    let arguments = ["check-config", "--config", path.to_str().expect("UTF-8")];
    let output = dormouse(&arguments);
    assert_eq!(code(&output), 0);
    let shown = Config::parse(&String::from_utf8_lossy(&output.stdout)).expect("a right configuration");
    assert_eq!(shown.metering.tick_ms, 5_000);
    assert!(shown.host.is_some() && shown.hibernation.dir.is_some());
    let output = dormouse(&[&arguments[..], &["--json"]].concat());
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["metering"]["tick_ms"], 5_000);
}

#[test]
fn a_ledger_is_read_without_an_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.sqlite");
    let host = HostName { cell: "cell".to_owned(), host: "host".to_owned() };
    drop(Ledger::open(&path, &host).expect("a ledger"));
    let path = path.to_str().expect("UTF-8");
    let json = |command: &str| -> Value {
        let output = dormouse(&[command, "--ledger", path, "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    assert_eq!(json("slices"), serde_json::json!([]));
    assert_eq!(json("usage")["total"]["memory_byte_nanoseconds"], "0");
    assert_eq!(json("audit")["clean"], true);
    let missing = dormouse(&["audit", "--ledger", "/nowhere/ledger.sqlite"]);
    assert_eq!(code(&missing), 1);
    assert!(stderr(&missing).contains("[LEDGER_MISSING]"));
}

#[test]
fn a_ledger_that_an_agent_holds_is_copied_whole_and_never_over_another_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, copy) = (folder.path().join("ledger.sqlite"), folder.path().join("copy.sqlite"));
    let host = HostName { cell: "cell".to_owned(), host: "host".to_owned() };
    let held = Ledger::open(&path, &host).expect("a ledger");
    let (path, copy) = (path.to_str().expect("UTF-8"), copy.to_str().expect("UTF-8"));
    let back_up = || dormouse(&["backup", copy, "--ledger", path]);
    assert_eq!(code(&back_up()), 0);
    assert_eq!(code(&dormouse(&["audit", "--ledger", copy])), 0);
    let again = back_up();
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("[LEDGER_CONFLICT]"), "{}", stderr(&again));
    drop(held);
}

#[test]
fn man_pages_and_completions_come_from_the_definition() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = dormouse(&["man", folder.path().to_str().expect("UTF-8")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let page = fs::read_to_string(folder.path().join("dormouse-scale.1")).expect("a page");
    assert!(
        page.contains(".TH dormouse-scale 1")
            && page.contains("EXIT STATUS")
            && page.contains("the agent cannot be reached")
    );
    assert!(folder.path().join("dormouse.1").exists());
    assert!(!folder.path().join("dormouse-man.1").exists(), "hidden commands have no page");
    for shell in ["bash", "zsh", "fish"] {
        let output = dormouse(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(String::from_utf8_lossy(&output.stdout).contains("hibernate"));
    }
}

/// Starts an agent with its folders in `folder`, and waits until it answers.
fn start_agent(folder: &Path) -> Child {
    let config = folder.join("dormouse.toml");
    let socket = folder.join("control.sock");
    let (state_dir, run_dir) = (folder.join("state"), folder.join("run"));
    let own = Config { state_dir, run_dir, socket: socket.clone(), ..Config::default() };
    fs::write(&config, own.to_toml()).expect("a file");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["agent", "--config", config.to_str().expect("UTF-8")])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    // Each question is a process of its own: a thousand of them take longer than any start.
    let answers = (0..1_000).any(|_| {
        assert_eq!(agent.try_wait().expect("a child"), None, "the agent ended");
        code(&dormouse(&["ls", "--socket", socket.to_str().expect("UTF-8")])) == 0
    });
    assert!(answers, "the agent does not answer");
    agent
}

#[test]
fn an_agent_serves_alone_until_it_is_told_to_stop_and_leaves_a_sound_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut agent = start_agent(folder.path());
    let config = folder.path().join("dormouse.toml");
    let second = dormouse(&["agent", "--config", config.to_str().expect("UTF-8")]);
    assert_eq!(code(&second), 1);
    assert!(stderr(&second).contains("[LEDGER_LOCKED]"), "{}", stderr(&second));
    let socket = folder.path().join("control.sock");
    let list = dormouse(&["ls", "--json", "--socket", socket.to_str().expect("UTF-8")]);
    assert_eq!(String::from_utf8_lossy(&list.stdout), "[]\n");
    let pid = Pid::from_raw(i32::try_from(agent.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("a running agent");
    assert_eq!(agent.wait().expect("a child").code(), Some(0));
    assert!(!socket.exists(), "the socket goes with the agent");
    let ledger = folder.path().join("state/ledger.sqlite");
    let audit = dormouse(&["audit", "--ledger", ledger.to_str().expect("UTF-8")]);
    assert_eq!(code(&audit), 0, "{}", stderr(&audit));
    let mut again = start_agent(folder.path());
    again.kill().expect("a running agent");
    again.wait().expect("a child");
}

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (watched, config) = (folder.path().join("run"), folder.path().join("dormouse.toml"));
    fs::create_dir(&watched).expect("a folder");
    let socket = folder.path().join("control.sock");
    let text = format!(
        "state_dir = {folder:?}\nrun_dir = {watched:?}\nsocket = {socket:?}\n",
        folder = folder.path()
    );
    fs::write(&config, text).expect("a configuration");
    let examine = |mode: u32, arguments: &[&str]| {
        fs::set_permissions(&watched, fs::Permissions::from_mode(mode)).expect("a mode");
        dormouse(&[&["doctor", "--config", config.to_str().expect("a path")], arguments].concat())
    };
    let verdict = |output: &Output, what: &str| {
        let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = findings.as_array().expect("a list").clone();
        let all_say_what_to_do =
            findings.iter().all(|one| (one["verdict"] == "well") != one["next"].is_string());
        assert!(all_say_what_to_do, "{findings:?}");
        let of =
            findings.iter().find(|one| one["what"].as_str().is_some_and(|found| found.starts_with(what)));
        of.unwrap_or_else(|| panic!("{what} was not looked at"))["verdict"].clone()
    };
    let well = examine(0o755, &["--json"]);
    for what in ["pidfd", "timerfd", "watched folder", "state folder"] {
        assert_eq!(verdict(&well, what), "well", "{what}");
    }
    // How these are depends on the machine.
    let of_the_machine = [
        "KVM",
        "qemu-system-x86_64",
        "process_madvise",
        "cgroup v2",
        "PSI",
        "clock",
        "disk of the state folder",
    ];
    for what in of_the_machine {
        verdict(&well, what);
    }
    assert_eq!(verdict(&well, "agent on "), "less");

    let wrong = examine(0o777, &["--json"]);
    assert_eq!((code(&wrong), verdict(&wrong, "watched folder")), (2, "wrong".into()));
    let told = examine(0o777, &[]);
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(code(&told), 2);
    assert!(said.contains("WRONG  watched folder") && said.contains("next: chmod o-w"), "{said}");
}
