//! The end: the fleet's ledger is held against the hosts' own, event by event and to the last byte-nanosecond.

use dormouse_tests::wait;

use super::FleetDemo;
use super::life::DEADLINE;
use super::stage::HOSTS;
use crate::failure::Result;
use crate::ledger::{self, Bill};
use crate::life::slices_of;

const STORED: &str = "SELECT coalesce(string_agg(format('%s %s', source, received), ', ' ORDER BY source), '') \
     FROM dormouse.sources";
const SUMS: &str = "SELECT format('%s %s %s', sum(memory_byte_ns), sum(vcpu_milli_ns), sum(disk_byte_ns)) \
     FROM dormouse.slice_quantities";
const LIVES: &str = "SELECT string_agg(format('%s %s %s', source, sandbox, slices), ', ' ORDER BY source, sandbox) \
     FROM (SELECT source, sandbox, count(*) AS slices FROM dormouse.slice_quantities GROUP BY 1, 2) lives";

impl FleetDemo {
    /// Waits until the fleet's ledger has every event of both hosts, and nothing else.
    pub(super) async fn arrives(&mut self, what: &str) -> Result<()> {
        self.story.begin(format!("{what} arrives in PostgreSQL"));
        let mut said = Vec::new();
        for (host, name) in HOSTS.iter().enumerate() {
            // What a host has said by now. It may say more at any time.
            let last =
                self.stage.agent(host)?.json(&["outbox"]).await?["last_seq"].as_u64().unwrap_or_default();
            said.push((format!("//dormouse/demo/{name}"), last));
        }
        let stage = &self.stage;
        wait::until("every event to be in the fleet's ledger", DEADLINE, async || {
            let stored = stage.fleet(STORED).await.map_err(|error| error.to_string())?;
            let is_there = |(source, last): &(String, u64)| {
                stored.split(", ").any(|line| {
                    let received = line.strip_prefix(source).and_then(|line| line.strip_prefix(" {[1,"));
                    let next =
                        received.and_then(|end| end.strip_suffix(")}")).and_then(|end| end.parse().ok());
                    next.is_some_and(|next: u64| next > *last)
                })
            };
            wait::unless(said.iter().all(is_there), || format!("of {said:?} there is {stored}"))
        })
        .await?;
        let counted: Vec<String> = said
            .iter()
            .map(|(source, last)| format!("{last} of {}", source.trim_start_matches('/')))
            .collect();
        self.story.done(format!("events 1 to {}", counted.join(", 1 to ")));
        Ok(())
    }

    /// `dormouse ledger check` is clean through the last full hour, once the hosts have called it complete.
    pub(super) async fn check(&mut self) -> Result<()> {
        self.story.begin("dormouse ledger check");
        let stage = &self.stage;
        let checked = wait::until("the last full hour to be complete", DEADLINE, async || {
            let checked = stage.ledger(&["check", "--json"]).await.map_err(|error| error.to_string())?;
            wait::unless(checked.code == 0, || format!("{}{}", checked.stdout, checked.stderr))
                .map(|()| checked)
        });
        let found = checked.await?.json()?;
        let said = format!("{} hosts, nothing missing, silent or in quarantine", found["hosts"]);
        self.story.done(said.clone());
        self.claims.judge("`dormouse ledger check` is clean", found["hosts"] == 2, said);
        self.check = found;
        Ok(())
    }

    /// Adds the hosts' slices up, and asks the fleet's ledger for the same.
    pub(super) async fn compare(&mut self) -> Result<()> {
        self.story.begin("the sums of both");
        let mut lives = Vec::new();
        for (host, name) in HOSTS.iter().enumerate() {
            let agent = self.stage.agent(host)?;
            let slices = slices_of(agent.json(&["slices"]).await?)?;
            let audited = agent.json(&["audit"]).await?;
            let found =
                format!("{} events, violations: {}", audited["events_checked"], audited["violations"]);
            self.claims.judge(format!("The audit of {name} finds nothing"), audited["clean"] == true, found);
            let mut of_host: Vec<&str> = slices.iter().map(|slice| slice.sandbox.as_str()).collect();
            of_host.sort_unstable();
            of_host.dedup();
            for sandbox in of_host {
                let life: Vec<_> = slices.iter().filter(|slice| slice.sandbox == sandbox).cloned().collect();
                let tiled = ledger::tiles(&life);
                lives.push(format!("//dormouse/demo/{name} {sandbox} {}", life.len()));
                self.claims
                    .outcome(format!("The slices of {sandbox} on {name} cover its life there, once"), tiled);
            }
            self.slices.extend(slices);
        }
        let Bill { memory, vcpu, disk, .. } = Bill::of(&self.slices);
        let (own, fleet) = (format!("{memory} {vcpu} {disk}"), self.stage.fleet(SUMS).await?);
        self.story.done(if own == fleet { "are equal" } else { "differ" });
        let found = if own == fleet {
            format!("{memory} byte-nanoseconds of memory, {vcpu} milli-nanoseconds of vCPU, {disk} of disk")
        } else {
            format!("{fleet}, and not {own}")
        };
        self.claims.judge("The fleet's sums are the hosts' own, to the last unit", own == fleet, found);
        self.claims.equal(
            "Every slice is there, of its host",
            &self.stage.fleet(LIVES).await?,
            &lives.join(", "),
        );
        Ok(())
    }
}
