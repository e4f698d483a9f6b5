//! What every sandbox actor shares with the rest of the agent.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, broadcast, watch};

use crate::clock::Clock;
use crate::host_memory::HostMemoryGate;
use crate::metering::MeteringHandle;
use crate::process::{CpuGroups, Ends, Process, ProcessIdentity};
use crate::sandbox::command::SandboxKey;
use crate::sandbox::facts::Capabilities;
use crate::sandbox::launching::Launching;
use crate::sandbox::snapshot::SnapshotStore;
use crate::sandbox::view::WatchEvent;

/// What every sandbox actor shares with the rest of the agent. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    /// The clock.
    pub clock: Clock,
    /// The metering actor.
    pub metering: MeteringHandle,
    /// Those who watch.
    pub changes: broadcast::Sender<WatchEvent>,
    /// What tells of the ends of processes.
    pub ends: Ends,
    /// The processes whose life is proven every second.
    pub watch_list: WatchList,
    /// What QEMU binaries can do.
    pub schemas: SchemaCache,
    /// Where snapshots are kept.
    pub snapshots: SnapshotStore,
    /// The turns of those that are saved at once.
    pub saves: Arc<Semaphore>,
    /// Where QEMU's CPU time is limited.
    pub cpu_groups: CpuGroups,
    /// What lets sandboxes grow beside each other.
    pub host_memory: HostMemoryGate,
    /// How QMP is spoken.
    pub qmp: dormouse_qmp::Config,
    /// Becomes true when the host answers: no QEMU is connected to before, so that many of them do not delay it.
    pub ready: watch::Receiver<bool>,
    /// Where what the agent starts has its files, and who starts it.
    pub launching: Arc<Launching>,
    /// The plans whose running sandboxes are cut at every tick.
    pub prepaid_plans: Arc<[String]>,
}

/// The processes of all open sandboxes. Locked only to add, remove or list: never across IO.
#[derive(Clone, Debug, Default)]
pub struct WatchList(Arc<Mutex<HashMap<ProcessIdentity, (SandboxKey, Process)>>>);

impl WatchList {
    pub(super) fn add(&self, key: &SandboxKey, process: &Process) {
        self.lock().insert(process.identity(), (key.clone(), process.clone()));
    }

    pub(super) fn remove(&self, identity: ProcessIdentity) {
        self.lock().remove(&identity);
    }

    /// Removes what an actor that failed has left behind, once another has told of it: a dead process on the list
    /// holds up every proof.
    pub(crate) fn remove_dead_of(&self, key: &SandboxKey) {
        self.lock().retain(|_, (of, process)| of != key || process.is_alive());
    }

    /// Removes every process of a sandbox that is no more.
    pub(crate) fn remove_all_of(&self, key: &SandboxKey) {
        self.lock().retain(|_, (of, _)| of != key);
    }

    /// Whether every process on the list lives.
    pub fn all_live(&self) -> bool {
        let processes: Vec<Process> = self.lock().values().map(|(_, process)| process.clone()).collect();
        processes.iter().all(Process::is_alive)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessIdentity, (SandboxKey, Process)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What QEMU binaries can do: a schema is 236 KB, so it is asked for once for each binary.
#[derive(Clone, Debug, Default)]
pub struct SchemaCache(Arc<Mutex<HashMap<(PathBuf, String), Capabilities>>>);

impl SchemaCache {
    pub(super) fn get(&self, binary: &(PathBuf, String)) -> Option<Capabilities> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(binary).copied()
    }

    pub(super) fn put(&self, binary: (PathBuf, String), capabilities: Capabilities) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(binary, capabilities);
    }
}
