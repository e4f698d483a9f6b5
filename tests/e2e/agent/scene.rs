//! What the tests here have in common: an agent on folders of its own, sandboxes beside it, and what it says of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse_ledger::Reader;
use dormouse_tests::agent::{Agent, Output};
use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::wait;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes here on a busy machine, and shorter than anybody's patience.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// QEMU is given up sooner than by default, so that tests of hung ones are quick.
const IMPATIENT: &str = "[qmp]\ngreeting_ms = 500\nreply_ms = 1500\nreconnect_max_ms = 200\n";

/// An agent and its folders.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    folder: TempDir,
}

/// All that the agent shows of a sandbox: while nothing happens to it, nothing of this changes.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    view: Value,
    pub(crate) slices: Vec<Value>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// With more lines of configuration.
    pub(crate) async fn with(more: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), more).await
    }

    /// Around an agent that a test has started.
    pub(crate) fn of(agent: Agent, folder: TempDir) -> Self {
        Self { agent, folder }
    }

    /// In a folder that a test has prepared.
    pub(crate) async fn in_folder(folder: TempDir, more: &str) -> Self {
        let agent = Agent::start_with(folder.path(), &format!("{IMPATIENT}{more}")).await.unwrap();
        Self { agent, folder }
    }

    /// The folder for whatever a test needs beside the agent.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A scripted QEMU that the agent has found by its socket and attached.
    pub(crate) async fn sandbox(&self, id: &str, options: &Options) -> Scripted {
        let scripted = self.unattached(id, options, &self.agent.run_dir()).await;
        self.until(id, |view| view["connection"] == "connected").await;
        scripted
    }

    /// A scripted QEMU that nobody has attached.
    pub(crate) async fn unattached(&self, id: &str, options: &Options, run_dir: &Path) -> Scripted {
        Scripted::start(options, id, run_dir, self.folder()).await.unwrap()
    }

    /// What `show` says.
    pub(crate) async fn view(&self, id: &str) -> Value {
        self.agent.json(&["show", id]).await.unwrap()
    }

    /// The slices of a sandbox, in order.
    pub(crate) async fn slices(&self, id: &str) -> Vec<Value> {
        let slices = self.agent.json(&["slices", id]).await.unwrap();
        slices.as_array().cloned().unwrap_or_default()
    }

    /// Waits until `show` says what is wanted, and returns it.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{id} to be as wanted");
        let awaited = wait::until(&what, DEADLINE, async || {
            let view = self.agent.json(&["show", id]).await.map_err(|error| error.to_string())?;
            if wanted(&view) { Ok(view) } else { Err(view.to_string()) }
        });
        awaited.await.unwrap_or_else(|error| panic!("{error}\n{}", self.agent.log()))
    }

    /// Waits until the slices are as wanted, and returns them. What nobody commanded is in the ledger a moment after it is
    /// seen.
    pub(crate) async fn until_slices(&self, id: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let what = format!("the slices of {id} to be as wanted");
        let awaited = wait::until(&what, DEADLINE, async || {
            let slices = self.slices(id).await;
            if wanted(&slices) { Ok(slices) } else { Err(format!("{slices:?}")) }
        });
        awaited.await.unwrap_or_else(|error| panic!("{error}\n{}", self.agent.log()))
    }

    /// Waits until the life of a sandbox has ended, and returns its last slice.
    pub(crate) async fn last_slice(&self, id: &str) -> Value {
        self.until_gone(id).await;
        let ended = |slices: &[Value]| slices.last().is_some_and(|last| !last["closed_by"].is_null());
        self.until_slices(id, ended).await.pop().unwrap()
    }

    /// Waits until a proof of life later than this is in the ledger.
    pub(crate) async fn until_proven_after(&self, unix_ns: i64) {
        let ledger = Reader::open(&self.agent.state_dir().join("ledger.sqlite")).unwrap();
        wait::until("a proof of life", DEADLINE, async || {
            let proof = ledger.recovery().map_err(|error| error.to_string())?.proof;
            let proven = proof.is_some_and(|proof| proof.wall_ns > unix_ns);
            wait::unless(proven, || format!("the last is {proof:?}"))
        })
        .await
        .unwrap();
    }

    /// Waits until the agent knows the sandbox no more.
    pub(crate) async fn until_gone(&self, id: &str) {
        let what = format!("{id} to be gone");
        let awaited = wait::until(&what, DEADLINE, async || {
            let shown = self.agent.cli(&["show", id, "--json"]).await.map_err(|error| error.to_string())?;
            wait::unless(shown.stderr.contains("SANDBOX_NOT_FOUND"), || shown.stdout.clone())
        });
        awaited.await.unwrap_or_else(|error| panic!("{error}\n{}", self.agent.log()));
    }

    /// Everything that a refused command must leave as it was.
    pub(crate) async fn shown(&self, id: &str) -> Shown {
        let mut view = self.view(id).await;
        let mut slices = self.slices(id).await;
        for slice in &mut slices {
            // What is open grows, and what is closed becomes final, by time alone.
            slice["final"] = Value::Null;
            if slice["end_unix_ns"].is_null() {
                slice["duration_ns"] = Value::Null;
            }
        }
        view["slices"] = Value::Null;
        Shown { view, slices }
    }

    /// Runs a command that must succeed, and returns its JSON.
    pub(crate) async fn does(&self, arguments: &[&str]) -> Value {
        let done = self.agent.json(arguments).await;
        done.unwrap_or_else(|error| panic!("{error}\n{}", self.agent.log()))
    }

    /// Runs a command that must be refused for this reason, and returns the JSON of the error.
    pub(crate) async fn refused(&self, arguments: &[&str], reason: &str, code: &str) -> Value {
        let output = self.agent.cli(&[arguments, &["--json"]].concat()).await.unwrap();
        refusal(&output, reason, code)
    }

    /// The audit finds nothing.
    pub(crate) async fn audits_clean(&self) {
        let audit = self.does(&["audit"]).await;
        assert_eq!(audit["clean"], true, "{audit}");
    }
}

/// The wall clock.
pub(crate) fn now_unix_ns() -> i64 {
    let (clock, _) = dormouse::clock::Clock::start(None).unwrap();
    clock.now().wall_ns
}

/// What opened each slice.
pub(crate) fn causes(slices: &[Value]) -> Vec<&str> {
    slices.iter().map(|slice| slice["opened_by"].as_str().unwrap()).collect()
}

/// The JSON of an error that must have this reason and this gRPC code.
pub(crate) fn refusal(output: &Output, reason: &str, code: &str) -> Value {
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    let error: Value = serde_json::from_str(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"));
    let error = error.get("error").cloned().unwrap_or(error);
    assert_eq!((error["reason"].as_str(), error["code"].as_str()), (Some(reason), Some(code)), "{error}");
    for told in ["message", "next"] {
        assert!(error[told].as_str().is_some_and(|text| !text.is_empty()), "{error} has no {told}");
    }
    error
}

/// Every file below a folder, however deep.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files
}
