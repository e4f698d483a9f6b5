//! What is shown of a sandbox.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use dormouse_metering::{BillingState, Shape};
use serde::Serialize;

use super::command::SandboxKey;
use super::facts::Disk;

/// A sandbox as it is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxView {
    /// Its name.
    pub key: SandboxKey,
    /// Its generation, in nanoseconds since the Unix epoch.
    pub generation: i64,
    /// The plan that it is billed by.
    pub plan: String,
    /// What it is being billed as, but for a suppression; `None` once its life has ended.
    pub state: Option<BillingState>,
    /// Why its time is free, whatever its state; `None` where it is billed.
    pub suppressed: Option<String>,
    /// Whether QMP answers.
    pub connection: ConnectionView,
    /// What it holds.
    pub shape: Shape,
    /// Base memory and the most that can be plugged, in bytes.
    pub memory_max_bytes: u64,
    /// What a change of memory must be a multiple of, in bytes.
    pub memory_block_bytes: u64,
    /// The QMP socket.
    pub qmp_path: String,
    /// QEMU's process id, where there is one.
    pub pid: Option<i32>,
    /// QEMU's version, as its greeting says.
    pub qemu_version: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The operation under way.
    pub operation: Option<OperationView>,
    /// How it was saved, where it is hibernated.
    pub hibernation_method: Option<&'static str>,
    /// Its disks.
    pub disks: Vec<Disk>,
}

impl SandboxView {
    /// Whether it is there to be shown: its life has begun and has not ended.
    pub fn lives(&self) -> bool {
        self.generation != 0 && self.state.is_some()
    }

    /// A sandbox of which nothing is known but its name, or of which nothing is left but that.
    pub fn gone(key: SandboxKey) -> Self {
        Self {
            key,
            generation: 0,
            plan: String::new(),
            state: None,
            suppressed: None,
            connection: ConnectionView::None,
            shape: Shape::default(),
            memory_max_bytes: 0,
            memory_block_bytes: 0,
            qmp_path: String::new(),
            pid: None,
            qemu_version: String::new(),
            tags: BTreeMap::new(),
            operation: None,
            hibernation_method: None,
            disks: Vec::new(),
        }
    }
}

/// A view as it is published: it is looked at, and nobody waits for it to change. Cheap to clone. Locked only to copy it or to
/// put another in its place.
#[derive(Clone, Debug)]
pub struct Shown(Arc<RwLock<SandboxView>>);

impl Shown {
    /// Shows this.
    pub fn new(view: SandboxView) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// What is shown now.
    pub fn get(&self) -> SandboxView {
        self.look().clone()
    }

    /// The same, to be looked at for a moment: it cannot be replaced meanwhile.
    pub fn look(&self) -> RwLockReadGuard<'_, SandboxView> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows another.
    pub(super) fn show(&self, view: SandboxView) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// Whether QMP answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionView {
    /// Commands can be sent.
    Connected,
    /// The agent is trying.
    Connecting,
    /// Another client holds the socket.
    Busy,
    /// There is no QEMU.
    None,
}

impl ConnectionView {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Busy => "busy",
            Self::None => "none",
        }
    }
}

/// A command under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationView {
    /// The command's name.
    pub kind: &'static str,
    /// Its request id.
    pub request_id: String,
    /// What it is doing now.
    pub step: &'static str,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all; 0 where that is not known.
    pub total_bytes: u64,
}

/// Something that changed, for those who watch.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What kind of change.
    pub kind: WatchKind,
    /// Nanoseconds since the Unix epoch.
    pub unix_ns: i64,
    /// The sandbox after it.
    pub sandbox: SandboxView,
    /// The command or cause behind it.
    pub cause: &'static str,
    /// What a person would want to know about it.
    pub message: String,
}

/// The kinds of change that those who watch are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// The sandbox as it was when the watch began.
    Snapshot,
    /// A command is about to change the sandbox.
    Before,
    /// A command has changed it, or failed to.
    After,
    /// It changed by itself or at somebody else's hand.
    Changed,
    /// An operation goes on.
    Progress,
    /// Its life ended.
    Ended,
    /// Events were missed because the watcher was too slow.
    Gap,
}

impl WatchKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Before => "before",
            Self::After => "after",
            Self::Changed => "changed",
            Self::Progress => "progress",
            Self::Ended => "ended",
            Self::Gap => "gap",
        }
    }
}
