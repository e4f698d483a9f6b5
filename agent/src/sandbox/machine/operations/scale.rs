//! Scale: bring the plugged memory to a size. QEMU's `{}` to the request is acceptance, not the outcome: the
//! outcome is what `size` converges on.
//!
//! ```text
//!   Requesting ── each device asked ─▶ Converging ── size = requested ─▶ done
//!        │ QEMU refuses                   │ nothing moves for a while
//!        ▼                                ▼
//!     failed                           partial
//! ```

use dormouse_metering::{Cause, Change};
use serde_json::json;

use super::{Answer, Context, Flow, Procedure, done, failed, is_unsure, out_of_place, unchanged};
use crate::sandbox::command::{CommandResult, Outcome};
use crate::sandbox::facts::MemoryDevice;
use crate::sandbox::machine::admission::is_so_already;
use crate::sandbox::machine::core::Link;
use crate::sandbox::machine::{Core, QemuEvent};
use crate::sandbox::refusal::{Reason, Refusal};

#[derive(Debug)]
pub(super) struct Scale {
    memory_bytes: u64,
    /// What is still to be asked of devices, the next one last.
    requests: Vec<(String, u64)>,
    converging: bool,
    poll_ms: u64,
    /// The plugged size at the last change, and when that was.
    moved: (u64, u64),
    start_bytes: u64,
}

impl Scale {
    pub(super) fn new(memory_bytes: u64) -> Self {
        Self {
            memory_bytes,
            requests: Vec::new(),
            converging: false,
            poll_ms: 0,
            moved: (0, 0),
            start_bytes: 0,
        }
    }

    fn request(&mut self, cx: &mut Context<'_>) -> Flow {
        let Some((id, bytes)) = self.requests.last() else {
            self.converging = true;
            return look(cx);
        };
        let path = format!("/machine/peripheral/{id}");
        cx.qmp("qom-set", json!({"path": path, "property": "requested-size", "value": bytes}))
    }

    fn judge(&mut self, cx: &mut Context<'_>) -> Flow {
        let plugged = cx.core.shape.memory_plugged_bytes;
        let memory = cx.core.shape.memory_base_bytes + plugged;
        if memory == self.memory_bytes {
            return done(format!("{} has {} of memory", cx.core.key, crate::size::Size(memory)));
        }
        let now_ns = cx.now.boottime_ns;
        if plugged != self.moved.0 {
            self.moved = (plugged, now_ns);
            self.poll_ms = cx.core.settings.poll_min_ms;
        }
        cx.progress(plugged.abs_diff(self.start_bytes), self.wanted(cx.core).abs_diff(self.start_bytes));
        let still_ns = now_ns.saturating_sub(self.moved.1);
        if still_ns / 1_000_000 >= cx.core.settings.scale_stall_ms {
            return self.partial(cx, memory);
        }
        self.poll_ms = (self.poll_ms * 2).min(cx.core.settings.poll_max_ms);
        cx.wait(self.poll_ms)
    }

    fn partial(&self, cx: &Context<'_>, memory: u64) -> Flow {
        let message = format!(
            "the guest went to {} of the {} asked and no further; it may still follow",
            crate::size::Size(memory),
            crate::size::Size(self.memory_bytes)
        );
        let result = CommandResult::Partial { achieved_bytes: memory };
        tracing::info!(sandbox = %cx.core.key, memory, "scale is partial");
        Flow::Done(Ok(Outcome { result, message }))
    }

    fn wanted(&self, core: &Core) -> u64 {
        self.memory_bytes.saturating_sub(core.shape.memory_base_bytes)
    }
}

/// Asks for the sizes, or waits until QMP answers again.
fn look(cx: &mut Context<'_>) -> Flow {
    if cx.core.link == Link::Up { cx.query("query-memory-devices") } else { Flow::Wait }
}

impl Procedure for Scale {
    fn step(&self) -> &'static str {
        if self.converging { "waiting for the guest" } else { "requesting" }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        let devices = cx.core.survey.as_ref().map(|survey| survey.memory_devices.clone()).unwrap_or_default();
        if is_so_already(cx.core, &cx.command.request) {
            return unchanged(format!("{} has that much already", cx.core.key));
        }
        match distribute(self.memory_bytes, cx.core.shape.memory_base_bytes, &devices) {
            Err(refusal) => failed(refusal),
            Ok(requests) => {
                self.requests = requests;
                self.poll_ms = cx.core.settings.poll_min_ms;
                self.start_bytes = cx.core.shape.memory_plugged_bytes;
                self.moved = (self.start_bytes, cx.now.boottime_ns);
                cx.core.memory_cause = cx.cause(Cause::Scale);
                self.request(cx)
            }
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match answer {
            Answer::Returned(_) if !self.converging => {
                if let Some((id, bytes)) = self.requests.pop() {
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
                cx.wait(cx.core.settings.poll_max_ms)
            }
            Answer::Failed(refusal) => failed(refusal),
            answer => out_of_place(self.step(), &answer),
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        if self.converging && event.name == "MEMORY_DEVICE_SIZE_CHANGE" {
            self.moved = (cx.core.shape.memory_plugged_bytes, cx.now.boottime_ns);
        }
        Flow::Wait
    }

    fn reconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.converging { look(cx) } else { Flow::Wait }
    }
}

/// QEMU took the request: from here the sandbox asks for another size than before.
fn accept(cx: &mut Context<'_>, id: &str, bytes: u64) {
    let Some(survey) = cx.core.survey.as_mut() else { return };
    for device in survey.memory_devices.iter_mut().filter(|device| device.id == id) {
        device.requested_bytes = bytes;
    }
    let requested = survey.shape().memory_requested_bytes;
    cx.observe(cx.now, Change::Requested(requested), Cause::Scale);
}

/// Spreads a size over the devices in their order, filling each before the next, or says why it does not fit.
/// What comes back is in reverse order, and only devices whose request changes.
fn distribute(
    memory_bytes: u64,
    base_bytes: u64,
    devices: &[MemoryDevice],
) -> Result<Vec<(String, u64)>, Refusal> {
    let show = crate::size::Size;
    if devices.is_empty() {
        let message = "the sandbox has no virtio-mem device; start its QEMU with one to scale it";
        return Err(Refusal::new(Reason::NoMemoryDevice, message));
    }
    let max_bytes = devices.iter().fold(base_bytes, |sum, device| sum.saturating_add(device.max_bytes));
    let bounds = |refusal: Refusal| {
        let blocks = devices.iter().map(|device| device.block_bytes).max().unwrap_or(0);
        refusal.with("min_bytes", base_bytes).with("max_bytes", max_bytes).with("block_bytes", blocks)
    };
    if memory_bytes < base_bytes || memory_bytes > max_bytes {
        let message = format!(
            "{} is out of bounds: this sandbox can have from {} to {}",
            show(memory_bytes),
            show(base_bytes),
            show(max_bytes)
        );
        return Err(bounds(Refusal::new(Reason::SizeOutOfBounds, message)));
    }
    let mut left = memory_bytes - base_bytes;
    let mut requests = Vec::new();
    for device in devices {
        let share = left.min(device.max_bytes);
        if share % device.block_bytes != 0 {
            let message = format!(
                "{} does not come out even: above {} memory comes in blocks of {}",
                show(memory_bytes),
                show(base_bytes),
                show(device.block_bytes)
            );
            return Err(bounds(Refusal::new(Reason::SizeMisaligned, message)));
        }
        left -= share;
        if share != device.requested_bytes {
            requests.push((device.id.clone(), share));
        }
    }
    requests.reverse();
    Ok(requests)
}
