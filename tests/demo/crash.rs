//! Where the agent is killed: once while the guest runs, and once in the middle of a command. Nothing may be lost, and
//! nothing billed twice.

use std::time::Duration;

use dormouse_tests::wait;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::failure::Result;
use crate::ledger;
use crate::life::{CONNECTED, Demo, SCALED_DOWN, SCALED_DOWN_BYTES, memory, text};
use crate::stage::SANDBOX;

/// How long the guest is without an agent.
const ABSENCE: Duration = Duration::from_secs(1);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(30);
const UNDER_WAY_DEADLINE: Duration = Duration::from_secs(10);
const REQUEST: &str = "demo-scale-down";

impl Demo {
    /// SIGKILL while the guest runs and nobody asks for anything.
    pub(crate) async fn crash_while_idle(&mut self) -> Result<()> {
        let (before, asked_at) = (self.slices().await?, Instant::now());
        self.kill().await?;
        self.qemu_says("running").await?;
        sleep(ABSENCE).await;
        let absent = asked_at.elapsed();
        self.start_again().await?;
        let after = self.slices().await?;
        let went_on = ledger::goes_on(&before, &after, absent);
        self.story.done(went_on.clone().unwrap_or_else(|why| why));
        self.claims.outcome("The slice that was open when the agent was killed goes on", went_on);
        Ok(())
    }

    /// SIGKILL in the middle of a scale, and the same request again.
    pub(crate) async fn crash_during_scale(&mut self) -> Result<()> {
        let before = self.slices().await?;
        let asked = ["scale", SANDBOX, "--memory", SCALED_DOWN, "--request-id", REQUEST];
        let title = asked[..4].join(" ");
        self.story.begin(format!("dormouse {title}"));
        let mut command = self.stage.agent()?.command(&asked)?;
        let cut_off = tokio::spawn(async move { command.output().await });
        let agent = self.stage.agent()?;
        let under_way = wait::until("the scale to be under way", UNDER_WAY_DEADLINE, async || {
            let shown = agent.json(&["show", SANDBOX]).await.map_err(|error| error.to_string())?;
            let begun = shown["operation"]["request_id"] == REQUEST;
            let ended = shown["memory_bytes"] == SCALED_DOWN_BYTES;
            wait::unless(begun || ended, || "it has not begun".to_owned()).map(|()| begun)
        })
        .await?;
        self.story.done(if under_way { "is under way" } else { "was done before the agent could be killed" });
        self.kill().await?;
        // What the caller was told is nothing: the agent died under it.
        let _ = cut_off.await;
        sleep(ABSENCE / 2).await;
        self.start_again().await?;
        self.story.done("takes up the guest and the command");
        let outcome = self.ask_again(&asked).await?;
        let told = text(&outcome, "result");
        let ids = self.settle(&outcome).await?;
        let after = self.slices().await?;
        let scaled = ledger::scaled_down(&before, &after, SCALED_DOWN_BYTES, &ids);
        let found = scaled.map(|found| format!("{found}; answered: {told}"));
        self.claims.outcome("The scale in which the agent was killed is answered, and billed once", found);
        Ok(())
    }

    /// The same request with the same id: not begun again, but answered. That it was interrupted is an answer too, where the
    /// agent was killed before it had told QEMU anything.
    async fn ask_again(&mut self, asked: &[&str]) -> Result<Value> {
        self.story.begin("the same request again");
        let output = self.stage.agent()?.cli(&[asked, &["--json"]].concat()).await?;
        let refusal: Option<Value> = serde_json::from_str(&output.stderr).ok();
        if let Some(refusal) = refusal.filter(|refusal| refusal["reason"] == "INTERRUPTED") {
            self.story.done(format!("interrupted, {}", text(&refusal, "message")));
            return Ok(json!({ "result": "interrupted" }));
        }
        let outcome = output.succeeded()?.json()?;
        let told = match outcome["replayed"].as_bool() {
            Some(true) => "from the ledger",
            _ => "joined",
        };
        let (result, message) = (text(&outcome, "result"), text(&outcome, "message"));
        self.story.done(format!("{told}: {result}, {message}"));
        Ok(outcome)
    }

    /// A guest that was in the middle of giving memory back goes on with that, agent or not.
    /// Returns the ids of the commands that it took.
    async fn settle(&mut self, outcome: &Value) -> Result<Vec<String>> {
        let mut ids = vec![REQUEST.to_owned()];
        if outcome["result"] != "done" {
            self.story.begin(format!("dormouse scale {SANDBOX} --memory {SCALED_DOWN}"));
            let reply = self.stage.agent()?.json(&["scale", SANDBOX, "--memory", SCALED_DOWN]).await?;
            self.story.done(format!("{}: {}", text(&reply, "result"), memory(&reply["sandbox"])));
            ids.push(text(&reply, "request_id"));
        }
        self.qemu_has(SCALED_DOWN_BYTES).await?;
        Ok(ids)
    }

    async fn kill(&mut self) -> Result<()> {
        self.story.begin("kill -9 of the agent");
        let agent = self.stage.agent()?;
        let pid = agent.pid().map_or_else(String::new, |pid| format!("pid {pid} "));
        agent.kill9().await?;
        self.story.done(format!("{pid}is gone; the guest runs on"));
        Ok(())
    }

    /// The caller says what came of it.
    async fn start_again(&mut self) -> Result<()> {
        self.story.begin("dormouse agent");
        let agent = self.stage.agent()?;
        agent.restart().await?;
        wait::until("the agent to take the guest up again", RECOVERY_DEADLINE, async || {
            let shown = agent.json(&["show", SANDBOX]).await.map_err(|error| error.to_string())?;
            wait::unless(shown["connection"] == CONNECTED, || format!("it is {}", shown["connection"]))
        })
        .await?;
        Ok(())
    }
}
