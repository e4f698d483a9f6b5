//! The end: judges what is left to judge, and sums up, for people and for programs.

use std::fmt::Display;

use console::style;
use dormouse::cli::timeline;
use dormouse_ledger::SliceRow;
use dormouse_metering::{GbSeconds, VcpuSeconds};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::ledger::{self, Bill, Bracket};
use crate::life::{Demo, slices_of, text};
use crate::{page, story, verdict};

/// Of the guest's sandbox, which nobody has given another.
const ORG: &str = "default";

/// What was gathered on the way.
#[derive(Default)]
pub(crate) struct Evidence {
    pub(crate) accelerator: &'static str,
    pub(crate) qemu_version: String,
    pub(crate) brackets: Vec<Bracket>,
    base_mib: u64,
    filled_mib: u64,
    sums: Vec<(String, String)>,
    slices: Vec<SliceRow>,
    usage: Value,
    audit: Value,
    serve: Vec<String>,
    token: String,
}

impl Evidence {
    /// Nothing yet, of a guest with so much memory.
    pub(crate) fn new(base_mib: u64) -> Self {
        Self { base_mib, ..Self::default() }
    }

    /// The guest was filled, and this is the sum.
    pub(crate) fn filled(&mut self, filled_mib: u64, sum: String) {
        self.filled_mib = filled_mib;
        self.summed("when it was filled", sum);
    }

    /// The guest has summed up again.
    pub(crate) fn summed(&mut self, when: &str, sum: String) {
        self.sums.push((when.to_owned(), sum));
    }

    /// The sum when the guest was filled.
    pub(crate) fn sum_before(&self) -> &str {
        self.sums.first().map_or("", |(_, sum)| sum)
    }
}

impl Demo {
    /// Asks for the bill while the agent lives and again of the ledger that it left, and judges both.
    pub(crate) async fn take_stock(&mut self) -> Result<()> {
        self.story.begin("dormouse usage");
        let usage = self.stage.agent()?.json(&["usage"]).await?;
        let (memory, vcpu, _) = quantities(&usage["total"]);
        self.story.done(format!("{memory:.3} GB-seconds of memory, {vcpu:.3} vCPU-seconds"));
        self.story.begin("the agent is stopped");
        let stopped = self.stage.agent()?.stop().await?;
        self.story.done(stopped.to_string());
        self.claims.judge("The agent stops when it is told to", stopped.success(), stopped.to_string());
        let ledger = self.stage.ledger().display().to_string();
        let agent = self.stage.agent()?;
        let slices = agent.json(&["slices", "--ledger", &ledger]).await?;
        let usage_left = agent.json(&["usage", "--ledger", &ledger]).await?;
        self.evidence.slices = slices_of(slices)?;
        self.judge_bill(&usage, &usage_left);
        self.evidence.usage = usage_left;
        self.audit(&ledger).await?;
        self.invite(&ledger).await
    }

    /// Makes a token, with which the pages of the ledger that is left behind can be seen.
    async fn invite(&mut self, ledger: &str) -> Result<()> {
        self.evidence.serve = page::command(&self.stage.ledger())?;
        let create = ["token", "create", "--org", ORG, "--role", "write", "--ledger", ledger];
        let created = self.stage.agent()?.json(&create).await?;
        self.evidence.token = text(&created, "token");
        Ok(())
    }

    async fn audit(&mut self, ledger: &str) -> Result<()> {
        self.story.begin("dormouse audit --ledger FILE");
        let audited = self.stage.agent()?.cli(&["audit", "--ledger", ledger, "--json"]).await?;
        let audit = audited.json()?;
        let found = format!(
            "{} slices, {} events, {} violations, exit code {}",
            audit["slices_checked"],
            audit["events_checked"],
            audit["violations"].as_array().map_or(0, Vec::len),
            audited.code
        );
        self.story.done(found.clone());
        let clean = audited.code == 0 && audit["clean"] == true;
        self.claims.judge("The audit finds nothing in the ledger that is left behind", clean, found);
        self.evidence.audit = audit;
        Ok(())
    }

    fn judge_bill(&mut self, usage: &Value, usage_left: &Value) {
        let slices = &self.evidence.slices;
        self.claims.outcome("The slices cover the whole life, once", ledger::tiles(slices));
        for bracket in &self.evidence.brackets {
            let claim =
                format!("The unbilled time of the {} is what the demo's own clock says", bracket.what);
            self.claims.outcome(claim, bracket.judge(slices));
        }
        let total = &usage_left["total"];
        let added_up = Bill::of(slices).compared(|member| text(total, member));
        self.claims.outcome("The bill is what the slices add up to, to the last unit", added_up);
        let same = total == &usage["total"];
        let found = if same { "the same integers" } else { "other integers" };
        self.claims.judge("The ledger says the same as the agent did", same, found);
    }

    /// Tells the end, and whether all of it is so.
    pub(crate) fn report(&mut self, ended: Result<()>) -> Result<bool> {
        if ended.is_err() {
            self.story.failed();
        }
        let holds = ended.is_ok() && self.claims.broken().next().is_none();
        let document = self.document(holds, ended.as_ref().err());
        if ended.is_ok() && !self.json {
            self.tell_evidence();
        }
        verdict::tell(&self.story, &self.claims, &document, self.stage.folder(), self.json)?;
        if ended.is_ok() && !self.json {
            self.story
                .tell(format_args!("\n{}", page::invitation(&self.evidence.serve, &self.evidence.token)));
        }
        ended.map(|()| holds)
    }

    fn tell_evidence(&self) {
        let Evidence { slices, usage, sums, filled_mib, base_mib, .. } = &self.evidence;
        self.story.heading("Timeline");
        self.story.tell(timeline::render(slices, story::columns()).trim_end());
        self.story.heading("Bill, in which 1 GB is 2^30 bytes");
        let (memory, vcpu, disk) = quantities(&usage["total"]);
        let exact = |amount: &dyn Display| style(format!("exactly {amount}")).dim().to_string();
        let (memory_exact, vcpu_exact, disk_exact) = (exact(&memory), exact(&vcpu), exact(&disk));
        self.story.tell(format_args!("memory  {memory:>9.3} GB-seconds    {memory_exact}"));
        self.story.tell(format_args!("vCPU    {vcpu:>9.3} vCPU-seconds  {vcpu_exact}"));
        self.story.tell(format_args!("disk    {disk:>9.3} GB-seconds    {disk_exact}"));
        self.story.heading("Memory");
        self.story
            .tell(format_args!("{filled_mib} MiB of random data in a guest that booted with {base_mib} MiB"));
        for (when, sum) in sums {
            self.story.tell(format_args!("{sum}  {when}"));
        }
    }

    fn document(&self, holds: bool, error: Option<&Failure>) -> Value {
        let Evidence { slices, usage, audit, sums, filled_mib, base_mib, .. } = &self.evidence;
        let sums: Vec<Value> = sums.iter().map(|(when, sum)| json!({ "when": when, "sum": sum })).collect();
        json!({
            "holds": holds,
            "error": error.map(ToString::to_string),
            "accelerator": self.evidence.accelerator,
            "qemu_version": self.evidence.qemu_version,
            "folder": self.stage.folder(),
            "duration_ms": u64::try_from(self.story.elapsed().as_millis()).unwrap_or(u64::MAX),
            "steps": self.story.steps(),
            "claims": self.claims.all(),
            "memory": { "base_mib": base_mib, "filled_mib": filled_mib, "checksums": sums },
            "slices": slices,
            "usage": usage,
            "audit": audit,
            "serve": self.evidence.serve,
            "token": self.evidence.token,
        })
    }
}

/// Memory, vCPU and disk of a line of `dormouse usage --json`.
fn quantities(line: &Value) -> (GbSeconds, VcpuSeconds, GbSeconds) {
    // What is no integer has broken the claim about the bill already.
    let integer = |member: &str| text(line, member).parse::<i128>().unwrap_or_default();
    (
        GbSeconds(integer("memory_byte_nanoseconds")),
        VcpuSeconds(integer("vcpu_milli_nanoseconds")),
        GbSeconds(integer("disk_byte_nanoseconds")),
    )
}
