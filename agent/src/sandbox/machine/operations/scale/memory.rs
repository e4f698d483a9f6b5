//! Memory: bring what is plugged to a size. QEMU's `{}` to the request is acceptance, not the outcome: the outcome is
//! what `size` converges on.
//!
//! ```text
//!   Requesting ── each device asked ─▶ Converging ── size = requested ─▶ reached
//!        │ QEMU refuses one               │ nothing moves for a while, or one was refused
//!        ▼ the first: failed              ▼
//!        └────── a later one ─────────▶ stopped
//! ```
//!
//! The size is asked for again and again, because QEMU holds most size events back. One that comes and tells the size
//! that was requested, stamped after the request, is the answer: of one device alone, for with several it says nothing
//! of the others.

use dormouse_metering::{Cause, Change, Stamp};
use serde_json::{Value, json};

use super::distribution::distribute;
use super::{Turn, out_of_place};
use crate::sandbox::machine::core::Link;
use crate::sandbox::machine::operations::{Answer, Context, is_unsure};
use crate::sandbox::machine::{Core, QemuEvent};
use crate::sandbox::refusal::Refusal;
use crate::size::Size;

#[derive(Debug)]
pub(super) struct Memory {
    asked_bytes: u64,
    /// What is to be plugged: what was asked, or what the devices were asked before one was refused.
    plugged_bytes: u64,
    /// What is still to be asked of devices, the next one last.
    requests: Vec<(String, u64)>,
    /// Whether a device has taken its request.
    accepted: bool,
    refused: Option<Refusal>,
    converging: bool,
    /// When the last device was asked.
    asked: Option<Stamp>,
    /// Whether an event has told since that the guest has what was requested.
    told: bool,
    poll_ms: u64,
    /// The plugged size at the last change, and when that was.
    moved: (u64, u64),
    start_bytes: u64,
}

impl Memory {
    /// Divides the size among the devices, or says why it cannot be.
    pub(super) fn plan(core: &Core, asked_bytes: u64) -> Result<Self, Refusal> {
        let devices = core.survey.as_ref().map(|survey| survey.memory_devices.clone()).unwrap_or_default();
        let (devices, others): (Vec<_>, Vec<_>) =
            devices.into_iter().partition(|device| core.terms().may_scale(device));
        // What the others have stays as it is.
        let others_bytes: u64 = others.iter().map(|device| device.size_bytes).sum();
        let base_bytes = core.shape.memory_base_bytes;
        let mut requests = distribute(asked_bytes, base_bytes + others_bytes, &devices)?;
        requests.reverse();
        Ok(Self {
            asked_bytes,
            plugged_bytes: asked_bytes - base_bytes,
            requests,
            accepted: false,
            refused: None,
            converging: false,
            asked: None,
            told: false,
            poll_ms: core.settings.poll_min_ms,
            moved: (0, 0),
            start_bytes: core.shape.memory_plugged_bytes,
        })
    }

    /// Base and plugged memory together, as asked.
    pub(super) const fn asked_bytes(&self) -> u64 {
        self.asked_bytes
    }

    /// What is to be plugged.
    pub(super) const fn plugged_bytes(&self) -> u64 {
        self.plugged_bytes
    }

    pub(super) const fn words(&self) -> &'static str {
        if self.converging { "waiting for the guest" } else { "requesting" }
    }

    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Turn {
        self.start_bytes = cx.core.shape.memory_plugged_bytes;
        self.moved = (self.start_bytes, cx.now.boottime_ns);
        cx.core.memory_cause = cx.cause(Cause::Scale);
        self.request(cx)
    }

    pub(super) fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Turn {
        match answer {
            Answer::Returned(_) if !self.converging => {
                if let Some((id, bytes)) = self.requests.pop() {
                    self.accepted = true;
                    accept(cx, &id, bytes);
                }
                self.request(cx)
            }
            Answer::Returned(devices) => {
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                self.judge(cx)
            }
            Answer::Elapsed => look(cx),
            Answer::Failed(refusal) if is_unsure(&refusal) => {
                // Whether QEMU took it shows in the devices; asking it again is harmless, so only look.
                self.converging = true;
                self.requests.clear();
                cx.wait(cx.core.settings.poll_max_ms);
                Turn::Wait
            }
            Answer::Failed(refusal) if self.accepted && !self.converging => {
                // The devices before this one go on: what they come to is what was achieved.
                self.plugged_bytes = cx.core.shape.memory_requested_bytes;
                self.refused = Some(refusal);
                self.requests.clear();
                self.request(cx)
            }
            Answer::Failed(refusal) => Turn::Failed(refusal),
            answer => out_of_place(self.words(), &answer),
        }
    }

    pub(super) fn event(&mut self, cx: &Context<'_>, event: &QemuEvent) -> Turn {
        if event.name != "MEMORY_DEVICE_SIZE_CHANGE" {
            return Turn::Wait;
        }
        self.told = self.is_told(cx.core, event);
        if !self.converging {
            return Turn::Wait;
        }
        self.moved = (cx.core.shape.memory_plugged_bytes, cx.now.boottime_ns);
        if self.told { self.arrived(cx) } else { Turn::Wait }
    }

    /// Whether an event says that the one device has come to what was requested, since it was.
    fn is_told(&self, core: &Core, event: &QemuEvent) -> bool {
        let since = |asked: &Stamp| {
            let earliest_ns = event.at.boottime_ns.saturating_sub(event.at.uncertainty_ns);
            asked.boot == event.at.boot && asked.boottime_ns <= earliest_ns
        };
        core.has_one_device()
            && self.asked.as_ref().is_some_and(since)
            && event.detail.get("size").and_then(Value::as_u64) == Some(self.plugged_bytes)
            && core.shape.memory_plugged_bytes == self.plugged_bytes
    }

    pub(super) fn reconnected(&mut self, cx: &mut Context<'_>) -> Turn {
        if self.converging { look(cx) } else { Turn::Wait }
    }

    fn request(&mut self, cx: &mut Context<'_>) -> Turn {
        let Some((id, bytes)) = self.requests.last() else {
            self.converging = true;
            return if self.told { self.arrived(cx) } else { look(cx) };
        };
        self.asked = Some(cx.now);
        let path = format!("/machine/peripheral/{id}");
        cx.qmp("qom-set", json!({"path": path, "property": "requested-size", "value": bytes}));
        Turn::Wait
    }

    fn judge(&mut self, cx: &mut Context<'_>) -> Turn {
        let plugged = cx.core.shape.memory_plugged_bytes;
        if plugged == self.plugged_bytes {
            return self.arrived(cx);
        }
        let now_ns = cx.now.boottime_ns;
        if plugged != self.moved.0 {
            self.moved = (plugged, now_ns);
            self.poll_ms = cx.core.settings.poll_min_ms;
        }
        cx.progress(plugged.abs_diff(self.start_bytes), self.plugged_bytes.abs_diff(self.start_bytes));
        let still_ns = now_ns.saturating_sub(self.moved.1);
        if still_ns / 1_000_000 >= cx.core.settings.scale_stall_ms {
            return Turn::Stopped(format!(
                "the guest went to {} of the {} asked and no further; it may still follow",
                Size(cx.core.shape.memory_base_bytes + plugged),
                Size(self.asked_bytes)
            ));
        }
        self.poll_ms = (self.poll_ms * 2).min(cx.core.settings.poll_max_ms);
        cx.wait(self.poll_ms);
        Turn::Wait
    }

    fn arrived(&self, cx: &Context<'_>) -> Turn {
        let memory = Size(cx.core.shape.memory_base_bytes + self.plugged_bytes);
        match &self.refused {
            None => Turn::Reached(format!("{} has {memory} of memory", cx.core.key)),
            Some(refusal) => {
                let asked = Size(self.asked_bytes);
                let why = format!("{} [{}]", refusal.message, refusal.reason.as_str());
                Turn::Stopped(format!(
                    "it has {memory} of the {asked} asked, because QEMU refused a device: {why}"
                ))
            }
        }
    }
}

/// Asks for the sizes, or waits until QMP answers again.
fn look(cx: &mut Context<'_>) -> Turn {
    if cx.core.link == Link::Up {
        cx.query("query-memory-devices");
    }
    Turn::Wait
}

/// QEMU took the request: from here the sandbox asks for another size than before.
fn accept(cx: &mut Context<'_>, id: &str, bytes: u64) {
    let Some(survey) = cx.core.survey.as_mut() else { return };
    for device in survey.memory_devices.iter_mut().filter(|device| device.id == id) {
        device.requested_bytes = bytes;
    }
    let requested = survey.shape().memory_requested_bytes;
    let at = cx.since_asked();
    cx.observe(at, Change::Requested(requested), Cause::Scale);
}
