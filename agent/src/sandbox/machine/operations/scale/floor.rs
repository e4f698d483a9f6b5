//! Floor: what the guest says that it uses is not taken away from it. Asked through virtio-balloon, where there is such a
//! device, and only where the configuration wants it so.
//!
//! ```text
//!   Finding ─▶ Interval ── nobody polls ─▶ Polling ─▶ Reading ── fresh ─▶ Restoring ─▶ passed, or failed
//!      │ none     └───── somebody does ───────────▶     ↺ not yet
//!      ▼ passed
//! ```

use serde_json::{Value, json};

use super::{Turn, out_of_place};
use crate::sandbox::machine::guest_memory::{Statistics, read};
use crate::sandbox::machine::operations::{Answer, Context, is_unsure};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::size::Size;

/// Where devices with an id are, and those without.
const PLACES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
const INTERVAL: &str = "guest-stats-polling-interval";
const STATISTICS: &str = "guest-stats";

/// How long a guest that polls every second may take to tell.
const TOLD_NS_MAX: u64 = 4_000_000_000;
const POLL_MS: u64 = 100;

#[derive(Debug)]
pub(super) struct Floor {
    asked_bytes: u64,
    reserve_bytes: u64,
    step: Step,
    path: String,
    /// Nobody had asked for statistics: they are switched off again.
    restores: bool,
    /// What is told from this second of the wall clock on is new.
    not_before_s: i64,
    /// When to give up, on the clock of the boot.
    until_ns: u64,
    verdict: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Finding(usize),
    Interval,
    Polling,
    Reading,
    Restoring,
}

impl Floor {
    pub(super) fn new(asked_bytes: u64, reserve_bytes: u64) -> Self {
        Self {
            asked_bytes,
            reserve_bytes,
            step: Step::Finding(0),
            path: String::new(),
            restores: false,
            not_before_s: 0,
            until_ns: 0,
            verdict: None,
        }
    }

    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Turn {
        self.find(cx, 0)
    }

    pub(super) fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Turn {
        match (self.step, answer) {
            (Step::Restoring, Answer::Returned(_) | Answer::Failed(_)) => self.pass(),
            (_, Answer::Failed(refusal)) if is_unsure(&refusal) => Turn::Failed(refusal),
            (_, Answer::Failed(refusal)) => Turn::Failed(unusable(&refusal.message)),
            (Step::Finding(place), Answer::Returned(devices)) => match balloon(&devices) {
                Some(name) => {
                    self.path = format!("{}/{name}", PLACES[place]);
                    self.step = Step::Interval;
                    self.get(cx, INTERVAL)
                }
                None if place + 1 < PLACES.len() => self.find(cx, place + 1),
                None => Turn::Passed,
            },
            (Step::Interval, Answer::Returned(interval)) => self.poll(cx, interval.as_i64().unwrap_or(0)),
            (Step::Polling, Answer::Returned(_)) | (Step::Reading, Answer::Elapsed) => {
                self.step = Step::Reading;
                self.get(cx, STATISTICS)
            }
            (Step::Reading, Answer::Returned(told)) => self.judge(cx, &told),
            (_, answer) => out_of_place("asking what the guest needs", &answer),
        }
    }

    fn find(&mut self, cx: &mut Context<'_>, place: usize) -> Turn {
        self.step = Step::Finding(place);
        cx.qmp("qom-list", json!({"path": PLACES[place]}));
        Turn::Wait
    }

    fn get(&self, cx: &mut Context<'_>, property: &str) -> Turn {
        cx.qmp("qom-get", json!({"path": self.path, "property": property}));
        Turn::Wait
    }

    fn set_interval(&self, cx: &mut Context<'_>, seconds: u64) -> Turn {
        cx.qmp("qom-set", json!({"path": self.path, "property": INTERVAL, "value": seconds}));
        Turn::Wait
    }

    fn poll(&mut self, cx: &mut Context<'_>, interval_s: i64) -> Turn {
        let now_s = cx.now.wall_ns.div_euclid(1_000_000_000);
        self.restores = interval_s <= 0;
        let interval_s = interval_s.max(0);
        // QEMU stamps by whole seconds: what was told in this one may have been told before. Somebody's polling is let
        // alone: what was told within an interval is as new as it gets.
        self.not_before_s = if self.restores { now_s + 1 } else { now_s - interval_s - 1 };
        let a_while_ns = interval_s.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(TOLD_NS_MAX);
        self.until_ns = cx.now.boottime_ns.saturating_add(a_while_ns);
        if self.restores {
            self.step = Step::Polling;
            return self.set_interval(cx, 1);
        }
        self.step = Step::Reading;
        self.get(cx, STATISTICS)
    }

    fn judge(&mut self, cx: &mut Context<'_>, told: &Value) -> Turn {
        let held_bytes = cx.core.shape.memory_base_bytes + cx.core.shape.memory_plugged_bytes;
        self.verdict = match read(told, self.not_before_s, held_bytes) {
            Statistics::NotNew if cx.now.boottime_ns < self.until_ns => {
                cx.wait(POLL_MS);
                return Turn::Wait;
            }
            Statistics::NotNew => Some(unusable("they are older than they should be")),
            Statistics::Nonsense(why) => Some(unusable(&why)),
            Statistics::Used(bytes) => self.refusal(bytes),
        };
        if self.restores {
            self.step = Step::Restoring;
            return self.set_interval(cx, 0);
        }
        self.pass()
    }

    fn refusal(&self, used_bytes: u64) -> Option<Refusal> {
        let floor_bytes = used_bytes.saturating_add(self.reserve_bytes);
        (self.asked_bytes < floor_bytes).then(|| {
            let message = format!(
                "the guest uses {} and is to keep {} beyond that: {} would be too little",
                Size(used_bytes),
                Size(self.reserve_bytes),
                Size(self.asked_bytes)
            );
            let refusal = Refusal::new(Reason::GuestNeedsMemory, message);
            refusal.with("used_bytes", used_bytes).with("min_bytes", floor_bytes)
        })
    }

    fn pass(&mut self) -> Turn {
        self.verdict.take().map_or(Turn::Passed, Turn::Failed)
    }
}

/// The name of a virtio-balloon device among what `qom-list` returned.
fn balloon(devices: &Value) -> Option<&str> {
    let is_balloon = |device: &&Value| {
        device["type"].as_str().is_some_and(|kind| kind.starts_with("child<virtio-balloon"))
    };
    devices.as_array()?.iter().find(is_balloon)?["name"].as_str()
}

fn unusable(why: &str) -> Refusal {
    let message = format!("what the guest says of its memory cannot be relied on: {why}");
    Refusal::new(Reason::GuestStatisticsUnusable, message)
}
