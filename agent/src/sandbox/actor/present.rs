//! Shows a sandbox to those who list and watch.

use std::collections::BTreeMap;

use dormouse_metering::Stamp;

use super::State;
use crate::sandbox::machine::{Core, Link, Phase};
use crate::sandbox::view::{ConnectionView, OperationView, SandboxView, WatchEvent, WatchKind};

/// What a view shows that the machine does not know.
#[derive(Clone, Debug)]
pub(super) struct Presented {
    plan: String,
    tags: BTreeMap<String, String>,
}

impl Presented {
    pub(super) fn of(view: &SandboxView) -> Self {
        Self { plan: view.plan.clone(), tags: view.tags.clone() }
    }
}

impl State {
    /// Publishes the view, where it differs from the last.
    pub(super) fn present(&self) {
        self.view.show(self.view_now());
    }

    /// Tells those who watch.
    pub(super) fn announce_change(&self, kind: WatchKind, cause: &'static str, message: String, now: Stamp) {
        let event = WatchEvent { kind, unix_ns: now.wall_ns, sandbox: self.view_now(), cause, message };
        // Nobody watches: nobody is told.
        let _ = self.environment.changes.send(event);
    }

    fn view_now(&self) -> SandboxView {
        let core = self.machine.core();
        let survey = core.survey.as_ref();
        let devices = survey.map(|survey| survey.memory_devices.as_slice()).unwrap_or_default();
        let pluggable: u64 = devices.iter().map(|device| device.max_bytes).sum();
        SandboxView {
            key: core.key.clone(),
            generation: core.generation,
            plan: self.presented.plan.clone(),
            state: (core.phase != Phase::Ended).then_some(core.state),
            suppressed: core.suppressed.clone(),
            connection: connection(core),
            shape: core.shape,
            memory_max_bytes: (core.shape.memory_base_bytes.saturating_add(pluggable))
                .min(core.terms().memory_max_bytes.unwrap_or(u64::MAX)),
            memory_block_bytes: devices.iter().map(|device| device.block_bytes).max().unwrap_or(0),
            qmp_path: core.qmp_path.display().to_string(),
            pid: core.process.map(|process| process.pid),
            qemu_version: survey.map(|survey| survey.version.to_string()).unwrap_or_default(),
            tags: self.presented.tags.clone(),
            operation: self.machine.underway().map(|(command, step)| OperationView {
                kind: command.request.kind(),
                request_id: command.request_id.clone(),
                step,
                done_bytes: core.progress.0,
                total_bytes: core.progress.1,
            }),
            hibernation_method: core
                .snapshot
                .as_ref()
                .filter(|_| core.phase == Phase::Hibernated)
                .map(|manifest| manifest.method.as_str()),
            disks: survey.map(|survey| survey.disks.clone()).unwrap_or_default(),
        }
    }
}

fn connection(core: &Core) -> ConnectionView {
    match core.link {
        Link::None => ConnectionView::None,
        Link::Connecting(..) if core.busy => ConnectionView::Busy,
        Link::Connecting(..) => ConnectionView::Connecting,
        Link::Up => ConnectionView::Connected,
    }
}
