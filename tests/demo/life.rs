//! The script: what the guest goes through, in order.

use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse::size::Size;
use dormouse_ledger::SliceRow;
use dormouse_tests::argv::Spec;
use dormouse_tests::guest::Guest;
use dormouse_tests::{Error, accel, wait};
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep};

use crate::claims::Claims;
use crate::failure::{Failure, Result};
use crate::ledger::Bracket;
use crate::report::Evidence;
use crate::stage::{SANDBOX, Stage};
use crate::story::{self, Story};

const MIB: u64 = 1 << 20;
const BASE_MIB: u64 = 256;
/// More than the base, so that a checksum over it covers plugged memory whatever the guest's kernel puts where.
const FILLED_MIB: u64 = 384;
const SCALED_UP: &str = "1280MiB";
pub(crate) const SCALED_DOWN: &str = "768MiB";
pub(crate) const SCALED_DOWN_BYTES: u64 = 768 * MIB;
/// Long enough to be seen in the timeline.
const STANDSTILL: Duration = Duration::from_millis(1_500);
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(20);
/// What `--json` says of a sandbox whose QMP answers.
pub(crate) const CONNECTED: &str = "connected";
/// Between looks at how far something is.
const LOOK: Duration = Duration::from_millis(100);

/// A demo, from its beginning to its report.
pub(crate) struct Demo {
    pub(crate) stage: Stage,
    pub(crate) story: Story,
    pub(crate) claims: Claims,
    pub(crate) evidence: Evidence,
    pub(crate) json: bool,
}

/// What a command of `dormouse` answered, and the demo's own clock around it.
pub(crate) struct Answer {
    pub(crate) document: Value,
    pub(crate) asked_at: Instant,
    pub(crate) answered_at: Instant,
}

impl Demo {
    /// A demo in `folder`, in which nothing has happened yet.
    pub(crate) fn new(folder: &Path, json: bool) -> Result<Self> {
        let stage = Stage::new(folder)?;
        let (story, claims, evidence) = (Story::new(json), Claims::default(), Evidence::new(BASE_MIB));
        Ok(Self { stage, story, claims, evidence, json })
    }

    /// The whole life.
    pub(crate) async fn run(&mut self) -> Result<()> {
        self.open().await?;
        self.discover().await?;
        self.scale_up().await?;
        self.fill().await?;
        self.crash_while_idle().await?;
        self.crash_during_scale().await?;
        self.stand_still("pause", "paused", "resume").await?;
        self.hibernate("shared", "auto").await?;
        self.hibernate("internal", "internal").await?;
        self.destroy().await?;
        self.take_stock().await
    }

    async fn open(&mut self) -> Result<()> {
        self.story.tell("Dormouse demo: one real guest through its whole life, and the bill for it\n");
        self.story.begin("which accelerator boots a guest here?");
        let accel = accel::probed().await?;
        self.evidence.accelerator = accel.name();
        self.story.done(match accel {
            accel::Accel::Kvm => "KVM does",
            accel::Accel::Tcg => "TCG, which emulates: KVM boots none here",
        });
        self.story.begin("dormouse agent");
        self.stage.start_agent().await?;
        let agent = self.stage.agent()?;
        let pid = agent.pid().map_or_else(String::new, |pid| format!(", pid {pid}"));
        self.story.done(format!("answers; one SQLite file, one unix socket{pid}"));
        Ok(())
    }

    async fn discover(&mut self) -> Result<()> {
        let run_dir = self.stage.agent()?.run_dir();
        let tags = run_dir.join(format!("{SANDBOX}.toml"));
        std::fs::write(&tags, "tags = { purpose = \"demo\" }\n").map_err(Error::io("writing", &tags))?;
        self.story.begin("guest boots");
        let spec = Spec { base_mib: BASE_MIB, ..Spec::default() };
        let guest = Guest::boot(&spec, SANDBOX, &run_dir, &self.stage.guest_folder()).await?;
        self.stage.enter(guest);
        self.story.done(format!(
            "{} and up to {} more, {} vCPU, QMP socket in the watched folder",
            Size(spec.base_mib * MIB),
            Size(spec.virtio_mem_max_mib * MIB),
            spec.vcpus
        ));
        self.story.begin("dormouse ls");
        let agent = self.stage.agent()?;
        let sandbox = wait::until("the agent to discover the guest", DISCOVERY_DEADLINE, async || {
            let listed = agent.json(&["ls"]).await.map_err(|error| error.to_string())?;
            let first = listed.get(0).filter(|sandbox| sandbox["connection"] == CONNECTED).cloned();
            first.ok_or_else(|| format!("`dormouse ls` shows {listed}"))
        })
        .await?;
        self.evidence.qemu_version = text(&sandbox, "qemu_version");
        self.story.done(format!(
            "{} was discovered: {}, {}, QEMU {}",
            text(&sandbox, "sandbox"),
            text(&sandbox, "state"),
            memory(&sandbox),
            self.evidence.qemu_version
        ));
        self.claims.equal(
            "A discovered guest has the tags beside its socket",
            &tag(&sandbox),
            &"demo".to_owned(),
        );
        Ok(())
    }

    async fn scale_up(&mut self) -> Result<()> {
        let answer = self.command(&["scale", SANDBOX, "--memory", SCALED_UP]).await?;
        self.story.done(format!("{} → {}", Size(BASE_MIB * MIB), memory(&answer.document["sandbox"])));
        self.qemu_has(1280 * MIB).await
    }

    /// Fills the guest's memory, and shows how far it is by how much of the RAM files is in use.
    async fn fill(&mut self) -> Result<()> {
        let bar = self.story.begin(format!("guest fills {}", Size(FILLED_MIB * MIB)));
        let guest = self.stage.guest()?;
        let folder = guest.places().memory.clone();
        let sum = beside(guest.fill(FILLED_MIB), growth(&folder, &bar)).await?;
        self.story.done(format!("random data, more than its base; checksum {sum}"));
        self.evidence.filled(FILLED_MIB, sum);
        Ok(())
    }

    async fn stand_still(&mut self, stop: &str, state: &str, go_on: &str) -> Result<()> {
        let stopped = self.command(&[stop, SANDBOX]).await?;
        self.story.done(format!("the guest is {}", text(&stopped.document["sandbox"], "state")));
        self.qemu_says(state).await?;
        sleep(STANDSTILL).await;
        let gone_on = self.command(&[go_on, SANDBOX]).await?;
        self.story.done(format!("the guest is {}", text(&gone_on.document["sandbox"], "state")));
        self.qemu_says("running").await?;
        self.evidence.brackets.push(bracket(stop, &stopped, &gone_on));
        Ok(())
    }

    async fn hibernate(&mut self, method: &str, choice: &str) -> Result<()> {
        let saved = self.command(&["hibernate", SANDBOX, "--method", choice]).await?;
        let used = text(&saved.document["sandbox"], "hibernation_method");
        self.story.done(text(&saved.document, "message"));
        self.claims.equal(format!("Hibernation by {choice} takes {method}"), &used.as_str(), &method);
        let pids = self.stage.guest()?.pids();
        self.claims.equal("A hibernated guest has no QEMU", &pids.len(), &0);
        sleep(STANDSTILL).await;
        let woken = self.command(&["wake", SANDBOX]).await?;
        self.story.done(format!(
            "{}, {}",
            text(&woken.document, "message"),
            memory(&woken.document["sandbox"])
        ));
        self.qemu_says("running").await?;
        self.qemu_has(SCALED_DOWN_BYTES).await?;
        self.evidence.brackets.push(bracket(&format!("hibernation ({method})"), &saved, &woken));
        self.sum_again(method).await
    }

    async fn sum_again(&mut self, method: &str) -> Result<()> {
        self.story.begin("guest sums its memory up again");
        let sum = self.stage.guest()?.sum().await?;
        let before = self.evidence.sum_before().to_owned();
        self.story.done(if sum == before {
            format!("{sum}, as before")
        } else {
            format!("{sum}, not {before}")
        });
        let found = if sum == before { sum.clone() } else { format!("{sum}, not {before}") };
        self.claims.judge(format!("Memory survived hibernation ({method})"), sum == before, found);
        self.evidence.summed(&format!("after waking ({method})"), sum);
        Ok(())
    }

    async fn destroy(&mut self) -> Result<()> {
        let destroyed = self.command(&["destroy", SANDBOX]).await?;
        self.story.done(text(&destroyed.document, "message"));
        let pids = self.stage.guest()?.pids();
        self.claims.equal("A destroyed guest has no QEMU", &pids.len(), &0);
        let left = self.stage.agent()?.json(&["ls"]).await?;
        self.claims.equal("A destroyed guest is not listed", &left, &serde_json::json!([]));
        Ok(())
    }

    /// Begins the step of a command, and runs it. The caller says what came of it.
    pub(crate) async fn command(&mut self, arguments: &[&str]) -> Result<Answer> {
        let bar = self.story.begin(format!("dormouse {}", arguments.join(" ")));
        let agent = self.stage.agent()?;
        let watch = agent.command(&["watch", SANDBOX, "--json"])?;
        let asked_at = Instant::now();
        let document = beside(agent.json(arguments), operation(watch, &bar)).await?;
        let answer = Answer { document, asked_at, answered_at: Instant::now() };
        let result = text(&answer.document, "result");
        let claim = format!("`dormouse {}` is done", arguments.join(" "));
        self.claims.equal(claim, &result.as_str(), &"done");
        Ok(answer)
    }

    /// The slices of the sandbox, as the command line prints them.
    pub(crate) async fn slices(&mut self) -> Result<Vec<SliceRow>> {
        let document = self.stage.agent()?.json(&["slices", SANDBOX]).await?;
        slices_of(document)
    }

    /// Claims that QEMU itself, asked on another socket, says the guest is in `state`.
    pub(crate) async fn qemu_says(&mut self, state: &str) -> Result<()> {
        let found = self.stage.guest()?.monitor().run_state().await?;
        self.claims.equal(format!("QEMU says that the guest is {state}"), &found.as_str(), &state);
        Ok(())
    }

    /// Claims that the guest has so much memory by QEMU's own answer.
    pub(crate) async fn qemu_has(&mut self, memory_bytes: u64) -> Result<()> {
        let found = self.stage.guest()?.monitor().plugged_bytes().await? + BASE_MIB * MIB;
        let (found, expected) = (Size(found).to_string(), Size(memory_bytes).to_string());
        self.claims.equal(format!("QEMU says that the guest has {expected}"), &found, &expected);
        Ok(())
    }
}

/// The tag that the demo gives.
fn tag(sandbox: &Value) -> String {
    text(&sandbox["tags"], "purpose")
}

/// What the demo's own clock says of the time between two commands.
fn bracket(what: &str, from: &Answer, until: &Answer) -> Bracket {
    Bracket {
        what: what.to_owned(),
        from_id: text(&from.document, "request_id"),
        at_least: until.asked_at - from.answered_at,
        at_most: until.answered_at - from.asked_at,
    }
}

/// The slices in what `dormouse slices --json` printed.
pub(crate) fn slices_of(document: Value) -> Result<Vec<SliceRow>> {
    serde_json::from_value(document)
        .map_err(|_| Failure::Absent { asked: "dormouse slices --json".to_owned(), what: "list of slices" })
}

/// A member that is text; empty where there is none.
pub(crate) fn text(document: &Value, member: &str) -> String {
    document[member].as_str().unwrap_or_default().to_owned()
}

/// How much memory a sandbox has, as `--json` shows the sandbox.
pub(crate) fn memory(sandbox: &Value) -> String {
    Size(sandbox["memory_bytes"].as_u64().unwrap_or_default()).to_string()
}

/// Waits for `call`, and meanwhile does what shows how far it is.
async fn beside<T>(
    call: impl Future<Output = dormouse_tests::Result<T>>,
    show: impl Future<Output = Infallible>,
) -> Result<T> {
    tokio::select! {
        biased;
        answer = call => Ok(answer?),
        never = show => match never {},
    }
}

/// Shows how far an operation is, as the agent tells it. Where nobody sees it, nothing is asked.
async fn operation(mut watch: tokio::process::Command, bar: &ProgressBar) -> Infallible {
    // A watch that fails costs the bar and nothing else.
    let watching =
        if bar.is_hidden() { None } else { watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok() };
    if let Some(mut watching) = watching
        && let Some(stdout) = watching.stdout.take()
    {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let bytes = |member: &str| event["sandbox"]["operation"][member].as_u64();
            if let (Some(done), Some(total)) = (bytes("done_bytes"), bytes("total_bytes")) {
                story::progress(bar, done, total);
            }
        }
    }
    std::future::pending().await
}

/// Shows how far the guest has filled its memory, by what its RAM files have grown.
async fn growth(folder: &Path, bar: &ProgressBar) -> Infallible {
    let before = allocated_bytes(folder);
    while !bar.is_hidden() {
        story::progress(bar, allocated_bytes(folder).saturating_sub(before), FILLED_MIB * MIB);
        sleep(LOOK).await;
    }
    std::future::pending().await
}

fn allocated_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}
