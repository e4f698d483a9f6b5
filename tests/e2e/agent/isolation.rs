//! A panic in one sandbox's actor restarts that one alone, from the ledger and from QMP.
//!
//! The host runs in this process. What panics is the log, at the first thing that the actor says of a step: inside the
//! actor, in the middle of its work, without a word about it in the agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse::config::Config;
use dormouse::host::{self, HostHandle, Running};
use dormouse::sandbox::command::{Command, CommandResult, Request, SandboxKey};
use dormouse::sandbox::refusal::Reason;
use dormouse::sandbox::view::ConnectionView;
use dormouse_ledger::{HostName, Ledger};
use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::wait;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::scene::DEADLINE;

/// Panics once when it is armed and a step of this sandbox is logged.
struct PanicAtStep {
    sandbox: &'static str,
    armed: Arc<AtomicBool>,
}

struct IsOf<'a>(&'a str, bool);

impl Visit for IsOf<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.1 |= field.name() == "sandbox" && format!("{value:?}") == self.0;
    }
}

impl<S: Subscriber> Layer<S> for PanicAtStep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut of = IsOf(self.sandbox, false);
        event.record(&mut of);
        let is_step = event.metadata().target() == "dormouse::sandbox::actor";
        assert!(!(is_step && of.1 && self.armed.swap(false, Ordering::SeqCst)), "a panic on purpose");
    }
}

struct InProcess {
    running: Running,
    ledger: Ledger,
}

impl InProcess {
    async fn start(folder: &Path) -> Self {
        let (state_dir, run_dir) = (folder.join("state"), folder.join("run"));
        std::fs::create_dir(&state_dir).unwrap();
        let config = Config { state_dir, run_dir, ..Config::default() };
        let name = HostName { cell: "c".to_owned(), host: "h".to_owned() };
        let ledger = Ledger::open(&config.ledger_path(), &name).unwrap();
        Self { running: host::start(&config, &ledger).await.unwrap(), ledger }
    }

    async fn attached(&self, id: &str, folder: &Path) -> Scripted {
        let qemu = Scripted::start(&Options::default(), id, folder, folder).await.unwrap();
        let (qmp_path, plan) = (qemu.qmp().to_owned(), "default".to_owned());
        let attach = Request::Attach { qmp_path, plan, tags: BTreeMap::new(), terms: None };
        self.host().execute(command(id, "attach", attach)).await.unwrap();
        qemu
    }

    fn host(&self) -> &HostHandle {
        &self.running.handle
    }

    async fn until_connected(&self, id: &str) {
        wait::until("the sandbox to be found again", DEADLINE, async || {
            let view = self.host().get(&key(id)).map_err(|refusal| refusal.to_string())?;
            wait::unless(view.connection == ConnectionView::Connected, || format!("{view:?}"))
        })
        .await
        .unwrap();
    }

    async fn audited(self) {
        let reader = self.ledger.reader().unwrap();
        self.running.stop().await;
        let audit = reader.audit().unwrap();
        assert!(audit.violations.is_empty(), "{:?}", audit.violations);
    }
}

fn key(id: &str) -> SandboxKey {
    SandboxKey { org: "default".to_owned(), sandbox: id.to_owned() }
}

fn command(id: &str, what: &str, request: Request) -> Command {
    let request_id = format!("{id}-{what}");
    Command { key: key(id), request_id, deadline_ms: Some(10_000), asked_by: "test".to_owned(), request }
}

fn panics_at_step_of(sandbox: &'static str) -> (Arc<AtomicBool>, tracing::subscriber::DefaultGuard) {
    let armed = Arc::new(AtomicBool::new(false));
    let layer = PanicAtStep { sandbox, armed: Arc::clone(&armed) }.with_filter(LevelFilter::TRACE);
    // For this thread alone, in which the whole host runs.
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    (armed, guard)
}

#[tokio::test]
async fn a_panic_in_one_sandbox_restarts_that_one_alone() {
    let (armed, _guard) = panics_at_step_of("default/sick");
    let folder = tempfile::tempdir().unwrap();
    let host = InProcess::start(folder.path()).await;
    let sick = host.attached("sick", folder.path()).await;
    let well = host.attached("well", folder.path()).await;
    let generation = host.host().get(&key("sick")).unwrap().generation;

    armed.store(true, Ordering::SeqCst);
    let pause = command("sick", "pause", Request::Pause { reclaim: false });
    let refusal = host.host().execute(pause.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Interrupted, "{refusal}");
    host.until_connected("sick").await;
    let paused = host.host().execute(pause).await.unwrap();
    assert_eq!(paused.outcome.result, CommandResult::Done);
    assert_eq!(paused.sandbox.generation, generation, "its life goes on");

    let other =
        host.host().execute(command("well", "pause", Request::Pause { reclaim: false })).await.unwrap();
    assert_eq!(other.outcome.result, CommandResult::Done);
    // Each start of an actor surveys its QEMU once.
    assert_eq!(sick.times_asked("query-block").await.unwrap(), 2);
    assert_eq!(well.times_asked("query-block").await.unwrap(), 1);
    host.audited().await;
}

#[tokio::test]
async fn a_panic_over_a_death_ends_the_sandbox_and_holds_up_no_proof_of_life() {
    let (armed, _guard) = panics_at_step_of("default/sick");
    let folder = tempfile::tempdir().unwrap();
    let host = InProcess::start(folder.path()).await;
    let sick = host.attached("sick", folder.path()).await;
    let _well = host.attached("well", folder.path()).await;
    armed.store(true, Ordering::SeqCst);
    sick.kill9().await.unwrap();
    wait::until("the sandbox to be gone", DEADLINE, async || {
        wait::unless(host.host().get(&key("sick")).is_err(), || "it is there")
    })
    .await
    .unwrap();
    let reader = host.ledger.reader().unwrap();
    let proven = || reader.recovery().unwrap().proof.map(|proof| proof.boottime_ns);
    let before = proven();
    wait::until("the next proof of life", DEADLINE, async || {
        wait::unless(proven() > before, || format!("{before:?} is the last"))
    })
    .await
    .unwrap();
    host.audited().await;
}
