//! The misfortunes: each part is killed without warning while the guests run, and something is billed meanwhile.

use std::time::Duration;

use tokio::time::sleep;

use super::FleetDemo;
use super::stage::{GUESTS, HOSTS};
use crate::failure::Result;

/// How long a part is away.
const ABSENCE: Duration = Duration::from_secs(1);

impl FleetDemo {
    pub(super) async fn agent_is_killed(&mut self) -> Result<()> {
        self.story.begin(format!("kill -9 of the agent of {}", HOSTS[0]));
        self.stage.agent(0)?.kill9().await?;
        sleep(ABSENCE).await;
        self.story.done("is gone; its guest runs on");
        self.story.begin("dormouse agent");
        self.stage.agent(0)?.restart().await?;
        self.connected(0, GUESTS[0]).await?;
        self.story.done("takes the guest up again");
        self.arrives("what it missed").await
    }

    pub(super) async fn nats_is_killed(&mut self) -> Result<()> {
        self.story.begin("kill -9 of NATS");
        self.stage.nats_mut()?.kill9().await?;
        self.story.done("events wait in the hosts' outboxes");
        self.command(1, &["pause", GUESTS[1]]).await?;
        sleep(ABSENCE).await;
        self.command(1, &["resume", GUESTS[1]]).await?;
        self.story.begin("NATS comes back");
        self.stage.nats_mut()?.restart().await?;
        self.story.done("on what it had stored");
        self.arrives("what waited").await
    }

    pub(super) async fn postgres_is_killed(&mut self) -> Result<()> {
        self.story.begin("kill -9 of PostgreSQL");
        self.stage.postgres_mut()?.kill9()?;
        self.story.done("nothing is acknowledged meanwhile");
        self.command(1, &["pause", GUESTS[0]]).await?;
        sleep(ABSENCE).await;
        self.command(1, &["resume", GUESTS[0]]).await?;
        self.story.begin("PostgreSQL comes back");
        self.stage.postgres_mut()?.restart().await?;
        self.story.done("on what it had committed");
        self.arrives("what waited").await
    }

    pub(super) async fn ingest_is_killed(&mut self) -> Result<()> {
        self.story.begin("kill -9 of the ingest");
        self.stage.kill_ingest().await?;
        self.story.done("events wait in NATS");
        self.command(1, &["scale", GUESTS[1], "--memory", "512MiB"]).await?;
        self.story.begin("dormouse ledger ingest");
        self.stage.start_ingest()?;
        self.story.done("goes on where the other was");
        self.arrives("what waited").await
    }
}
