//! The script: what the fleet goes through, in order.

use std::time::Duration;

use dormouse_tests::argv::Spec;
use dormouse_tests::guest::Guest;
use dormouse_tests::{accel, wait};
use serde_json::Value;

use super::FleetDemo;
use super::stage::{GUESTS, HOSTS};
use crate::failure::Result;
use crate::life::{CONNECTED, text};

const BASE_MIB: u64 = 256;
/// Until a guest is discovered, or an event has come all the way.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);

impl FleetDemo {
    /// All of it.
    pub(crate) async fn run(&mut self) -> Result<()> {
        self.open().await?;
        self.boot().await?;
        self.arrives("all of it so far").await?;
        self.scale(0, "512MiB").await?;
        self.agent_is_killed().await?;
        self.nats_is_killed().await?;
        self.move_over().await?;
        self.postgres_is_killed().await?;
        self.ingest_is_killed().await?;
        self.end().await?;
        self.check().await?;
        self.compare().await
    }

    async fn open(&mut self) -> Result<()> {
        self.story.tell("Dormouse demo: two hosts, one ledger for both, and each part broken once\n");
        self.story.begin("which accelerator boots a guest here?");
        self.story.done(accel::probed().await?.name());
        self.story.begin("NATS and PostgreSQL");
        self.stage.start_servers().await?;
        self.story.done(format!("serve on this machine alone, {}", self.stage.nats()?.url()));
        self.story.begin("dormouse ledger migrate");
        let migrated = self.stage.ledger(&["migrate", "--json"]).await?.succeeded()?.json()?;
        self.story.done(format!("schema version {}", migrated["to"]));
        self.story.begin("dormouse agent, twice; dormouse ledger ingest");
        self.stage.start_agents().await?;
        self.stage.start_ingest()?;
        self.story.done(HOSTS.join(" and "));
        Ok(())
    }

    async fn boot(&mut self) -> Result<()> {
        self.story.begin("a guest boots on each host");
        let spec = Spec { base_mib: BASE_MIB, ..Spec::default() };
        let places = [0, 1].map(|host| self.stage.guest_folder(host));
        let run_dirs = [self.stage.agent(0)?.run_dir(), self.stage.agent(1)?.run_dir()];
        let (one, other) = tokio::join!(
            Guest::boot(&spec, GUESTS[0], &run_dirs[0], &places[0]),
            Guest::boot(&spec, GUESTS[1], &run_dirs[1], &places[1]),
        );
        self.stage.enter([one?, other?]);
        self.story.done("real Linux, 256 MiB each");
        for host in 0..HOSTS.len() {
            self.story.begin(format!("{} discovers {}", HOSTS[host], GUESTS[host]));
            let found = self.connected(host, GUESTS[host]).await?;
            self.story.done(format!("{}, QEMU {}", text(&found, "state"), text(&found, "qemu_version")));
        }
        Ok(())
    }

    /// Waits until a host's agent speaks with a guest's QEMU.
    pub(super) async fn connected(&mut self, host: usize, guest: &str) -> Result<Value> {
        let agent = self.stage.agent(host)?;
        let found = wait::until("the agent to have the guest", DEADLINE, async || {
            let shown = agent.json(&["show", guest]).await.map_err(|error| error.to_string())?;
            let connected = shown["connection"] == CONNECTED;
            wait::unless(connected, || format!("it is {}", shown["connection"])).map(|()| shown)
        });
        Ok(found.await?)
    }

    /// One command of a host's, which must be done.
    pub(super) async fn command(&mut self, host: usize, arguments: &[&str]) -> Result<Value> {
        let asked = format!("{}: dormouse {}", HOSTS[host], arguments.join(" "));
        self.story.begin(asked.clone());
        let answer = self.stage.agent(host)?.json(arguments).await?;
        self.story.done(text(&answer, "message"));
        self.claims.equal(format!("`{asked}` is done"), &text(&answer, "result"), &"done".to_owned());
        Ok(answer)
    }

    pub(super) async fn scale(&mut self, guest: usize, size: &str) -> Result<()> {
        let host = guest;
        self.command(host, &["scale", GUESTS[guest], "--memory", size]).await.map(drop)
    }

    /// The guest goes on, and another host bills it: from one host's ledger to the other's within one command each.
    async fn move_over(&mut self) -> Result<()> {
        let guest = GUESTS[0];
        let qmp = self.stage.agent(0)?.run_dir().join(format!("{guest}.qmp")).display().to_string();
        let before = self.stage.agent(0)?.json(&["show", guest]).await?;
        self.command(0, &["detach", guest]).await?;
        self.command(1, &["attach", guest, "--qmp", &qmp]).await?;
        let after = self.connected(1, guest).await?;
        let generations = (&before["generation"], &after["generation"]);
        self.claims.judge(
            "On its new host the guest is billed under a new generation",
            generations.0 != generations.1 && !generations.1.is_null(),
            format!("{} on {}, {} on {}", generations.0, HOSTS[0], generations.1, HOSTS[1]),
        );
        let pids = self.stage.guest(0)?.pids().len();
        self.claims.equal("The guest that moved is still one QEMU", &pids, &1);
        self.command(1, &["scale", guest, "--memory", "384MiB"]).await?;
        self.arrives("the move").await
    }

    async fn end(&mut self) -> Result<()> {
        for guest in GUESTS {
            self.command(1, &["destroy", guest]).await?;
        }
        for host in 0..HOSTS.len() {
            let agent = self.stage.agent(host)?;
            wait::until("every slice to be final", DEADLINE, async || {
                let slices = agent.json(&["slices"]).await.map_err(|error| error.to_string())?;
                let open = slices.as_array().into_iter().flatten().find(|slice| slice["final"] != true);
                wait::unless(open.is_none(), || format!("{open:?}"))
            })
            .await?;
        }
        self.arrives("the last event").await
    }
}
