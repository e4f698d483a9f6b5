//! A real `dormouse agent` with a sandbox by a scripted QEMU, whose events go to NATS.

use std::cell::Cell;
use std::process::Stdio;
use std::time::Duration;

use dormouse_ledger::Reader;
use dormouse_tests::agent::Agent;
use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::wait;
use tempfile::TempDir;

/// A command finds a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
const SANDBOX: &str = "sb-1";

pub(crate) struct RealAgent {
    agent: Agent,
    _qemu: Scripted,
    _folder: TempDir,
    commands: Cell<u64>,
}

impl RealAgent {
    /// Starts one that has attached its sandbox.
    pub(crate) async fn start(nats: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let more = format!(
            "cell = \"cell\"\nhost = \"real\"\n[[sinks]]\nname = \"fleet\"\nkind = \"nats\"\nurl = \"{nats}\"\n\
             timeout_ms = 1000\nbackoff_min_ms = 10\nbackoff_max_ms = 200\n"
        );
        let agent = Agent::start_with(folder.path(), &more).await.unwrap();
        let run_dir = agent.run_dir();
        let qemu = Scripted::start(&Options::default(), SANDBOX, &run_dir, folder.path()).await.unwrap();
        let real = Self { agent, _qemu: qemu, _folder: folder, commands: Cell::new(0) };
        real.is_connected().await;
        real
    }

    async fn is_connected(&self) {
        wait::until("the sandbox to be connected", DEADLINE, async || {
            let view = self.agent.json(&["show", SANDBOX]).await.map_err(|error| error.to_string())?;
            wait::unless(view["connection"] == "connected", || view.to_string())
        })
        .await
        .unwrap();
    }

    /// What it is told next: each cuts a slice, where the one before was carried out.
    fn next(&self) -> [&'static str; 2] {
        self.commands.set(self.commands.get() + 1);
        [if self.commands.get().is_multiple_of(2) { "resume" } else { "pause" }, SANDBOX]
    }

    /// Gives it a command. It may be refused: whether the one before was carried out is not known.
    pub(crate) async fn commanded(&self) {
        self.agent.cli(&self.next()).await.unwrap();
    }

    /// Kills it so long after a command has set out, and starts it again.
    pub(crate) async fn is_killed_in_a_command(&mut self, after: Duration) {
        let mut command = self.agent.command(&self.next()).unwrap();
        let mut command = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(after).await;
        self.agent.kill9().await.unwrap();
        command.wait().await.unwrap();
        self.agent.restart().await.unwrap();
        self.is_connected().await;
    }

    /// Its ledger, as of now.
    pub(crate) fn reader(&self) -> Reader {
        Reader::open(&self.agent.state_dir().join("ledger.sqlite")).unwrap()
    }

    /// Ends it, once its sandbox's life has ended and everything of it was sent; what it has recorded holds.
    pub(crate) async fn ends(&mut self) {
        self.agent.cli(&["destroy", SANDBOX]).await.unwrap().succeeded().unwrap();
        wait::until("everything to be sent", DEADLINE, async || {
            let standing = self.reader().outbox_standing().unwrap();
            wait::unless(standing.sinks[0].lag_events == 0, || format!("{standing:?}"))
        })
        .await
        .unwrap();
        self.agent.cli(&["audit"]).await.unwrap().succeeded().unwrap();
        self.agent.stop().await.unwrap();
        let slices = self.reader().audit().unwrap().slices;
        assert!(slices > self.commands.get() / 2, "{slices} slices of {} commands", self.commands.get());
    }
}
