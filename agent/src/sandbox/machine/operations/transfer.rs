//! Moving a guest's state between QEMU and disk, either way: a few commands, then looking on until it is over.
//!
//! ```text
//!   Preparing ── each command returned ─▶ Watching ── completed, concluded ─▶ (Dismissing) ─▶ complete
//!       │ refused                          │ ▲ │ failed
//!       │                       not over   ▼ │ │
//!       │                              Pausing │
//!       ▼                                      ▼
//!                       failed, with QEMU's own words
//! ```
//!
//! A migration is watched by `query-migrate`, a snapshot job by `query-jobs`, because that is where their
//! errors appear; a job's id stays taken until it is dismissed. QEMU's event that it is over only ends the pause
//! before the next look: one that is lost costs a pause and nothing else.

use std::collections::VecDeque;
use std::path::Path;

use serde_json::{Value, json};

use super::{Answer, Context, Flow, is_unsure, out_of_place};
use crate::sandbox::command::Method;
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::{Action, QemuEvent, QmpCommand};
use crate::sandbox::refusal::{Reason, Refusal};

/// The state of one transfer.
#[derive(Debug)]
pub(super) struct Transfer {
    commands: VecDeque<QmpCommand>,
    job: Option<String>,
    stage: Stage,
    /// Whether QEMU has returned every command.
    heard: bool,
    poll_ms: u64,
}

#[derive(Debug)]
enum Stage {
    Preparing,
    /// QEMU is being asked; whether it has said since that it is over.
    Watching(bool),
    /// Until the next look.
    Pausing,
    Dismissing(Option<String>),
}

/// Whether a transfer goes on.
#[derive(Debug)]
pub(super) enum Turn {
    Wait,
    Complete,
    Failed(Refusal),
}

/// The tag of a snapshot inside qcow2, by its ordinal.
pub(in crate::sandbox) fn internal_tag(generation: i64, ordinal: u64) -> String {
    format!("dormouse-{generation}-{ordinal}")
}

impl Transfer {
    /// Writes the state: to `path`, or into the disks under `tag`.
    pub(super) fn save(method: Method, survey: &Survey, path: &Path, tag: &str) -> Self {
        match method {
            Method::Internal => Self::job("snapshot-save", survey, tag),
            method => Self::migration("migrate", method, survey, path),
        }
    }

    /// Reads the state back.
    pub(super) fn load(method: Method, survey: &Survey, path: &Path, tag: &str) -> Self {
        match method {
            Method::Internal => Self::job("snapshot-load", survey, tag),
            method => Self::migration("migrate-incoming", method, survey, path),
        }
    }

    fn job(name: &'static str, survey: &Survey, tag: &str) -> Self {
        let writable: Vec<&str> =
            survey.disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.node.as_str()).collect();
        let job = format!("{name}-{tag}");
        let vmstate = writable.first().copied().unwrap_or_default();
        let arguments = json!({"job-id": job, "tag": tag, "vmstate": vmstate, "devices": writable});
        let commands = vec![capabilities(survey, Method::Internal), QmpCommand { name, arguments }];
        Self::new(commands, Some(job))
    }

    fn migration(name: &'static str, method: Method, survey: &Survey, path: &Path) -> Self {
        let arguments = json!({"uri": format!("file:{}", path.display())});
        Self::new(vec![capabilities(survey, method), QmpCommand { name, arguments }], None)
    }

    fn new(commands: Vec<QmpCommand>, job: Option<String>) -> Self {
        Self { commands: commands.into(), job, stage: Stage::Preparing, heard: true, poll_ms: 0 }
    }

    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Turn {
        self.poll_ms = cx.core.settings.poll_min_ms;
        self.prepare(cx)
    }

    pub(super) fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Turn {
        match (&self.stage, answer) {
            (Stage::Preparing, Answer::Returned(_)) => self.prepare(cx),
            (Stage::Watching(_), Answer::Returned(value)) => self.judge(cx, &value),
            (Stage::Pausing, Answer::Elapsed) => self.look(cx),
            (Stage::Dismissing(error), _) => match error {
                None => Turn::Complete,
                Some(error) => Turn::Failed(Refusal::new(Reason::QemuFailed, error.clone())),
            },
            (Stage::Preparing | Stage::Watching(_), Answer::Failed(refusal)) if is_unsure(&refusal) => {
                // QEMU may be at it all the same: what it says of the job or migration decides.
                self.heard &= matches!(self.stage, Stage::Watching(_));
                self.commands.clear();
                self.pause(cx)
            }
            (_, Answer::Failed(refusal)) => Turn::Failed(refusal),
            (_, answer) => match out_of_place("moving the state", &answer) {
                Flow::Done(Err(refusal)) => Turn::Failed(refusal),
                _ => Turn::Wait,
            },
        }
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Turn {
        let Some(command) = self.commands.pop_front() else { return self.look(cx) };
        cx.ask(|token| Action::Qmp(token, command));
        Turn::Wait
    }

    /// QEMU sent an event.
    pub(super) fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) {
        match self.stage {
            _ if !self.is_over_by(event) => {}
            // The pause goes on for nobody: its end comes with a token that is no longer waited for.
            Stage::Pausing => drop(self.look(cx)),
            Stage::Watching(_) => self.stage = Stage::Watching(true),
            Stage::Preparing | Stage::Dismissing(_) => {}
        }
    }

    fn is_over_by(&self, event: &QemuEvent) -> bool {
        let status = event.detail["status"].as_str().unwrap_or_default();
        match (event.name.as_str(), &self.job) {
            ("MIGRATION", None) => matches!(status, "completed" | "failed" | "cancelled"),
            ("JOB_STATUS_CHANGE", Some(job)) => status == "concluded" && event.detail["id"] == job.as_str(),
            _ => false,
        }
    }

    fn look(&mut self, cx: &mut Context<'_>) -> Turn {
        self.stage = Stage::Watching(false);
        cx.query(if self.job.is_some() { "query-jobs" } else { "query-migrate" });
        Turn::Wait
    }

    fn pause(&mut self, cx: &mut Context<'_>) -> Turn {
        if matches!(self.stage, Stage::Watching(true)) {
            return self.look(cx);
        }
        self.stage = Stage::Pausing;
        self.poll_ms = (self.poll_ms * 2).min(cx.core.settings.poll_max_ms);
        cx.wait(self.poll_ms);
        Turn::Wait
    }

    fn judge(&mut self, cx: &mut Context<'_>, value: &Value) -> Turn {
        let Some(job) = self.job.clone() else { return self.judge_migration(cx, value) };
        let jobs = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(found) = jobs.iter().find(|candidate| candidate["id"] == job.as_str()) else {
            return Turn::Failed(Refusal::new(Reason::QemuFailed, format!("QEMU knows no job {job}")));
        };
        let bytes = |field: &str| found[field].as_u64().unwrap_or(0);
        cx.progress(bytes("current-progress"), bytes("total-progress"));
        if found["status"] != "concluded" {
            return self.pause(cx);
        }
        self.stage = Stage::Dismissing(found["error"].as_str().map(str::to_owned));
        cx.qmp("job-dismiss", json!({"id": job}));
        Turn::Wait
    }

    fn judge_migration(&mut self, cx: &mut Context<'_>, value: &Value) -> Turn {
        let ram = |field: &str| value["ram"][field].as_u64().unwrap_or(0);
        cx.progress(ram("transferred"), ram("total"));
        match value["status"].as_str() {
            Some("completed") => Turn::Complete,
            Some("failed" | "cancelled") => {
                let words = value["error-desc"].as_str().unwrap_or("the migration failed without a word");
                Turn::Failed(Refusal::new(Reason::QemuFailed, words.to_owned()))
            }
            // Told over a connection that was lost, it was never begun.
            None | Some("none") if !self.heard => {
                Turn::Failed(Refusal::new(Reason::QemuFailed, "QEMU knows of no migration".to_owned()))
            }
            _ => self.pause(cx),
        }
    }
}

/// Sets every capability that this QEMU has, on or off. They outlive the migration they were set for, and a
/// snapshot job obeys them too: with `x-ignore-shared` left on it would save a guest without its memory.
fn capabilities(survey: &Survey, method: Method) -> QmpCommand {
    let known = survey.capabilities;
    let capabilities: Vec<Value> = [
        ("events", true, true),
        ("x-ignore-shared", known.ignore_shared, method == Method::Shared),
        ("mapped-ram", known.mapped_ram, method == Method::MappedRam),
    ]
    .into_iter()
    .filter(|(_, known, _)| *known)
    .map(|(capability, _, state)| json!({"capability": capability, "state": state}))
    .collect();
    QmpCommand { name: "migrate-set-capabilities", arguments: json!({"capabilities": capabilities}) }
}
