//! Disks: `block_resize`, and only ever larger. What QEMU reports after it is what is billed.
//!
//! ```text
//!   Looking ── still smaller ─▶ Growing ── returned ─▶ Confirming ── more disks ─▶ Growing
//!      │ larger by now             │ unsure                 │ the last one
//!      ▼                           └──────────▶─────────────┤
//!    failed                                                 ▼ reached
//! ```

use std::collections::{BTreeMap, VecDeque};

use dormouse_metering::{Cause, Change, Stamp};
use serde_json::{Value, json};

use super::{Turn, out_of_place};
use crate::sandbox::facts::Disk;
use crate::sandbox::machine::Core;
use crate::sandbox::machine::core::Link;
use crate::sandbox::machine::operations::{Answer, Context, is_unsure};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::size::Size;

/// What the size of a disk is a multiple of.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug)]
pub(super) struct Disks {
    asked: BTreeMap<String, u64>,
    /// Those that are still to be grown.
    ahead: VecDeque<(String, u64)>,
    step: Step,
    reached: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// What is there? Another monitor may have grown a disk, and to make it smaller loses what is on it.
    Looking,
    Growing {
        asked: Stamp,
    },
    /// When QEMU was told, when it had done it, and why that is not sure.
    Confirming {
        asked: Stamp,
        returned: Stamp,
        unsure: Option<Refusal>,
    },
}

impl Disks {
    /// Checks what is known before anything is asked.
    pub(super) fn plan(core: &Core, asked: &BTreeMap<String, u64>) -> Result<Self, Refusal> {
        let known = core.survey.as_ref().map(|survey| survey.disks.as_slice()).unwrap_or_default();
        for (node, bytes) in asked {
            check(known, node, *bytes, core.settings.disk_bytes_max)?;
        }
        core.terms().disks_beyond(asked, known).map_or(Ok(()), Err)?;
        let (ahead, reached) = (VecDeque::new(), Vec::new());
        Ok(Self { asked: asked.clone(), ahead, step: Step::Looking, reached })
    }

    pub(super) fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Turn {
        match (self.step.clone(), answer) {
            (Step::Looking, Answer::Returned(block)) => {
                cx.core.learn_disks(cx.now, &block, cx.actions);
                match self.still_to_grow(cx.core) {
                    Err(refusal) => Turn::Failed(refusal),
                    Ok(ahead) => {
                        self.ahead = ahead;
                        self.grow(cx)
                    }
                }
            }
            (Step::Growing { asked }, Answer::Returned(_)) => self.confirm(cx, asked, None),
            (Step::Growing { asked }, Answer::Failed(refusal)) if is_unsure(&refusal) => {
                self.confirm(cx, asked, Some(refusal))
            }
            (Step::Confirming { asked, returned, unsure }, Answer::Returned(block)) => {
                // Where QEMU did not say when it was done, it was by now.
                let at = if unsure.is_some() { cx.now } else { returned };
                let at = at.uncertain_by(at.boottime_ns.saturating_sub(asked.boottime_ns));
                self.confirmed(cx, at, &block, unsure)
            }
            (Step::Confirming { .. }, Answer::Elapsed) => look(cx),
            (Step::Confirming { .. }, Answer::Failed(refusal)) if is_unsure(&refusal) => {
                cx.wait(cx.core.settings.poll_max_ms);
                Turn::Wait
            }
            (_, Answer::Failed(refusal)) => self.failed(refusal),
            (_, answer) => out_of_place("growing disks", &answer),
        }
    }

    pub(super) fn reconnected(&mut self, cx: &mut Context<'_>) -> Turn {
        if matches!(self.step, Step::Confirming { .. }) { look(cx) } else { Turn::Wait }
    }

    /// Judges by what QEMU has just said.
    fn still_to_grow(&self, core: &Core) -> Result<VecDeque<(String, u64)>, Refusal> {
        let known = core.survey.as_ref().map(|survey| survey.disks.as_slice()).unwrap_or_default();
        let mut ahead = VecDeque::new();
        for (node, bytes) in &self.asked {
            let disk = check(known, node, *bytes, core.settings.disk_bytes_max)?;
            if disk.size_bytes != *bytes {
                ahead.push_back((node.clone(), *bytes));
            }
        }
        // Another monitor may have grown a disk that was not asked for.
        core.terms().disks_beyond(&self.asked, known).map_or(Ok(()), Err)?;
        Ok(ahead)
    }

    fn grow(&mut self, cx: &mut Context<'_>) -> Turn {
        let Some((node, bytes)) = self.ahead.front() else {
            let grown = self.reached.join("; ");
            return if grown.is_empty() { Turn::Passed } else { Turn::Reached(grown) };
        };
        let arguments = json!({"node-name": node, "size": bytes});
        self.step = Step::Growing { asked: cx.now };
        cx.qmp("block_resize", arguments);
        Turn::Wait
    }

    fn confirm(&mut self, cx: &mut Context<'_>, asked: Stamp, unsure: Option<Refusal>) -> Turn {
        self.step = Step::Confirming { asked, returned: cx.now, unsure };
        look(cx)
    }

    fn confirmed(&mut self, cx: &mut Context<'_>, at: Stamp, block: &Value, unsure: Option<Refusal>) -> Turn {
        let Some((node, bytes)) = self.ahead.pop_front() else { return self.grow(cx) };
        let Some(survey) = cx.core.survey.as_mut() else { return Turn::Passed };
        survey.disks = Disk::list(block);
        let has_bytes = survey.disks.iter().find(|disk| disk.node == node).map_or(0, |disk| disk.size_bytes);
        let total = survey.shape().disk_bytes;
        cx.core.disks_known = Some(cx.now);
        cx.observe(at, Change::Disk(total), Cause::Scale);
        if has_bytes < bytes {
            let message = format!("{node} has {} after it was told to have {}", Size(has_bytes), Size(bytes));
            return self.failed(unsure.unwrap_or_else(|| Refusal::new(Reason::QemuFailed, message)));
        }
        self.reached.push(format!("disk {node} has {}", Size(has_bytes)));
        self.grow(cx)
    }

    /// One disk failed: those before it have grown all the same.
    fn failed(&self, refusal: Refusal) -> Turn {
        if self.reached.is_empty() {
            return Turn::Failed(refusal);
        }
        let reason = refusal.reason.as_str();
        Turn::Stopped(format!("{}; then {} [{reason}]", self.reached.join("; "), refusal.message))
    }
}

/// Asks for the disks, or waits until QMP answers again: the beginning of it, too.
pub(super) fn look(cx: &mut Context<'_>) -> Turn {
    if cx.core.link == Link::Up {
        cx.query("query-block");
    }
    Turn::Wait
}

/// The disk, if it may get this size.
fn check<'a>(disks: &'a [Disk], node: &str, bytes: u64, max_bytes: u64) -> Result<&'a Disk, Refusal> {
    let writable = || disks.iter().filter(|disk| !disk.read_only);
    let Some(disk) = writable().find(|disk| disk.node == node) else {
        let names: Vec<&str> = writable().map(|disk| disk.node.as_str()).collect();
        let message = format!("there is no writable disk {node:?}; there are: {}", names.join(", "));
        return Err(Refusal::new(Reason::NoDisk, message).with("disk", node));
    };
    let refuse = |reason, why: String| {
        let message = format!("disk {node} cannot have {}: {why}", Size(bytes));
        let refusal = Refusal::new(reason, message).with("disk", node).with("size_bytes", disk.size_bytes);
        Err(refusal.with("max_bytes", max_bytes).with("block_bytes", SECTOR_BYTES))
    };
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        return refuse(Reason::SizeMisaligned, format!("disks come in sectors of {SECTOR_BYTES} bytes"));
    }
    if bytes < disk.size_bytes {
        let has = Size(disk.size_bytes);
        return refuse(Reason::DiskWouldShrink, format!("it has {has}, and what is beyond would be lost"));
    }
    if bytes > max_bytes {
        return refuse(Reason::SizeOutOfBounds, format!("the largest allowed is {}", Size(max_bytes)));
    }
    Ok(disk)
}

impl Core {
    /// Takes what `query-block` has returned. What differs from what was known changed between, at another's hand.
    fn learn_disks(&mut self, now: Stamp, block: &Value, actions: &mut Vec<crate::sandbox::machine::Action>) {
        let Some(survey) = self.survey.as_mut() else { return };
        survey.disks = Disk::list(block);
        let total = survey.shape().disk_bytes;
        let known = self.disks_known.filter(|known| known.boot == now.boot);
        let unknown_ns = known.map_or(now.boottime_ns, |at| now.boottime_ns.saturating_sub(at.boottime_ns));
        self.disks_known = Some(now);
        self.observe(now.uncertain_by(unknown_ns), Change::Disk(total), (Cause::Resize, None), actions);
    }
}
