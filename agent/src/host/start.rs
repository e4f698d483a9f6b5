//! Puts the host together from its configuration and its ledger, and takes it apart again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse_ledger::{Class, Ledger, LedgerError, Record, Recovery};
use ractor::{Actor, ActorRef};
use tokio::sync::{Semaphore, broadcast, oneshot, watch as channel};
use tokio::task::JoinHandle;

use super::actor::{HostActor, Message, State};
use super::directory::Directory;
use super::discovery::{self, DiscoveryError, RejectedFiles};
use super::handle::HostHandle;
use super::{orphans, recover, watch};
use crate::clock::{self, Beginning, Clock, ClockError};
use crate::config::{Config, Starter};
use crate::host_memory::{HostMemoryGate, Reserve};
use crate::metering::{self, Metering, MeteringHandle};
use crate::process::{CpuGroups, Ends, Instance};
use crate::sandbox::actor::{Environment, SchemaCache, WatchList};
use crate::sandbox::command::SandboxKey;
use crate::sandbox::launching::{self, Launching};
use crate::sandbox::machine::Settings;
use crate::sandbox::snapshot::{SnapshotStore, StaleDraft};

/// How many changes a slow watcher may fall behind before it misses some.
const CHANGES_WAITING_MAX: usize = 4096;

/// A host at work.
pub struct Running {
    /// For those who send it commands and questions.
    pub handle: HostHandle,
    /// What time it is, by this host's one anchor.
    pub clock: Clock,
    actor: ActorRef<Message>,
    metering: MeteringHandle,
    processes: WatchList,
    tasks: Vec<JoinHandle<()>>,
}

/// Why a host cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The clock cannot be read.
    #[error("the clock cannot be read")]
    Clock(#[from] ClockError),
    /// The watched folder cannot be watched.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The kernel gives nothing to wait with for the ends of processes.
    #[error("the ends of processes cannot be waited for")]
    Ends(#[source] io::Error),
    /// A folder cannot be made.
    #[error("the folder {} cannot be made", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An actor did not start.
    #[error("an actor did not start: {0}")]
    Actor(String),
}

/// Starts the host: takes up what the ledger knows, watches the folder, and answers commands from then on.
pub async fn start(config: &Config, ledger: &Ledger) -> Result<Running, StartError> {
    let reader = ledger.reader()?;
    let recovery = reader.recovery()?;
    let (clock, beginning) = Clock::start(recovery.anchor.map(|row| from_row(&row)))?;
    if beginning == Beginning::NewBoot {
        ledger.writer().write(Class::Fact, vec![Record::Anchor(watch::as_row(&clock.anchor()))])?;
    }
    let settings = settings(config);
    let launching = launching(config);
    let started = orphans::started(&launching.agent);
    let found = reader.at_one_moment(|reader| {
        recover::all(
            reader,
            &recovery,
            &recover::Means { settings: &settings, launching: &launching, started },
        )
    })?;
    let left_out = left_out(&recovery, &found);
    let too_late = recover::too_late(&recovery, clock.now());
    let arguments = metering::actor::Arguments {
        writer: ledger.writer(),
        reader: ledger.reader()?,
        clock: clock.clone(),
        recovery,
        prepaid_plans: config.metering.prepaid_plans.clone(),
        settings: metering::Settings {
            lateness: Duration::from_millis(config.metering.lateness_ms),
            tick: Duration::from_millis(config.metering.tick_ms),
        },
    };
    let (metering, _) = Actor::spawn(None, Metering, arguments).await.map_err(not_started)?;
    for outcome in too_late {
        let message = metering::Message::ConcludeApart(Box::new(outcome), Box::new(drop));
        metering.cast(message).map_err(not_started)?;
    }
    if let Beginning::Stepped(step) = beginning {
        metering.cast(watch::stepped(&step)).map_err(not_started)?;
    }
    let (answers, ready) = channel::channel(false);
    let environment = Arc::new(environment(config, launching, clock.clone(), metering.clone(), ready)?);
    discard_drafts(&environment.snapshots, &found, &left_out);
    let directory = Directory::default();
    let state = State {
        environment: environment.clone(),
        directory: directory.clone(),
        reader: ledger.reader()?,
        settings,
        names: HashMap::new(),
    };
    let (actor, _) = Actor::spawn(None, HostActor, state).await.map_err(not_started)?;
    for sandbox in found {
        actor.cast(Message::Recover(Box::new(sandbox))).map_err(not_started)?;
    }
    // No proof of life may be written before the metering actor has heard who died while nobody looked.
    let (settle, settled) = oneshot::channel();
    actor.cast(Message::Settle(settle)).map_err(not_started)?;
    settled.await.map_err(not_started)?;
    let handle = HostHandle {
        directory,
        actor: actor.clone(),
        changes: environment.changes.clone(),
        reader: Arc::new(Mutex::new(reader)),
        environment: environment.clone(),
        rejected: RejectedFiles::default(),
    };
    let tasks = tasks(config, &clock, &environment, &handle)?;
    answers.send_replace(true);
    Ok(Running { handle, clock, actor, metering, processes: environment.watch_list.clone(), tasks })
}

impl Running {
    /// Lets go of every sandbox and makes durable what is known. No guest is touched.
    pub async fn stop(self) {
        // Read before looking, as every proof is: whoever reads the ledger without an agent knows all until here.
        let now = self.clock.now();
        let proven = self.processes.all_live().then_some(now);
        for task in &self.tasks {
            task.abort();
        }
        // Stopping a supervisor stops the actors that it supervises.
        self.actor.stop(None);
        let (durable, flushed) = oneshot::channel();
        let reply: metering::Reply = Box::new(move |_| {
            // Whoever waited may have given up.
            let _ = durable.send(());
        });
        if self.metering.cast(metering::Message::Flush(proven, reply)).is_ok() {
            // An answer that never comes means that the ledger cannot be written; its lock says so too.
            let _ = tokio::time::timeout(Duration::from_secs(5), flushed).await;
        }
        self.metering.stop(None);
    }
}

fn tasks(
    config: &Config,
    clock: &Clock,
    environment: &Environment,
    handle: &HostHandle,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    make_folder(&config.run_dir)?;
    let discovered = discovery::start(&config.run_dir, handle.rejected())?;
    let every = Duration::from_millis(config.metering.proof_of_life_ms);
    let metering = environment.metering.clone();
    Ok(vec![
        tokio::spawn(environment.ends.clone().run()),
        tokio::spawn(watch::prove_life(
            every,
            clock.clone(),
            environment.watch_list.clone(),
            metering.clone(),
        )),
        tokio::spawn(watch::tell_steps(clock.steps()?, metering)),
        tokio::spawn(watch::attach_discovered(discovered, handle.clone(), config.clone())),
    ])
}

fn environment(
    config: &Config,
    launching: Launching,
    clock: Clock,
    metering: MeteringHandle,
    ready: channel::Receiver<bool>,
) -> Result<Environment, StartError> {
    let snapshots = config.hibernation.dir.clone().unwrap_or_else(|| config.state_dir.join("snapshots"));
    make_folder(&snapshots)?;
    make_folder(&launching.log_dir)?;
    let millis = Duration::from_millis;
    let qmp = dormouse_qmp::Config {
        connect_deadline: millis(config.qmp.connect_ms),
        greeting_deadline: millis(config.qmp.greeting_ms),
        negotiate_deadline: millis(config.qmp.reply_ms),
        write_deadline: millis(config.qmp.write_ms),
        reply_deadline: millis(config.qmp.reply_ms),
        line_limit_bytes: usize::try_from(config.qmp.line_limit_bytes).unwrap_or(usize::MAX),
        ..dormouse_qmp::Config::default()
    };
    Ok(Environment {
        clock,
        metering,
        changes: broadcast::Sender::new(CHANGES_WAITING_MAX),
        ends: Ends::new().map_err(StartError::Ends)?,
        watch_list: WatchList::default(),
        schemas: SchemaCache::default(),
        snapshots: SnapshotStore::new(&snapshots),
        saves: Arc::new(Semaphore::new(usize::try_from(config.hibernation.at_once).unwrap_or(1))),
        cpu_groups: CpuGroups::new(&config.scale.cgroup_dir),
        host_memory: HostMemoryGate::new(Reserve {
            available_bytes_min: config.scale.host_reserve_bytes,
            stalled_centipercent_max: Some(config.scale.host_pressure_percent_max.saturating_mul(100)),
        }),
        qmp,
        ready,
        launching: Arc::new(launching),
        prepaid_plans: config.metering.prepaid_plans.clone().into(),
    })
}

/// The sandboxes that live by the ledger, and that could not be taken up.
fn left_out(recovery: &Recovery, found: &[recover::Found]) -> Vec<SandboxKey> {
    let found: HashSet<&SandboxKey> = found.iter().map(|found| &found.view.key).collect();
    let living = recovery.sandboxes.iter().map(|row| &row.key);
    living
        .map(|key| SandboxKey { org: key.org.clone(), sandbox: key.sandbox.clone() })
        .filter(|key| !found.contains(key))
        .collect()
}

/// Removes what saves have left that an agent before this one, or its QEMU, did not live to complete. Nothing loads it, and
/// nothing is being saved yet: a QEMU that still writes to such a file is told to stop, and the file is gone with it. What
/// the ledger knows as complete stays, though its manifest is away: that may be put back. So does all of a sandbox that lives and
/// was not taken up: nobody knows what of it is complete.
fn discard_drafts(snapshots: &SnapshotStore, found: &[recover::Found], left_out: &[SandboxKey]) {
    let complete = |draft: &&StaleDraft| {
        let ours = found.iter().map(|found| &found.recovered).filter(|ours| ours.core.key == draft.key);
        let mut manifests = ours.flat_map(|ours| ours.core.snapshot.iter().chain(&ours.saved));
        manifests.any(|known| (known.generation, known.ordinal) == (draft.generation, draft.ordinal))
    };
    let discarded = snapshots.stale_drafts().and_then(|drafts| {
        let waste = |draft: &&StaleDraft| !complete(draft) && !left_out.contains(&draft.key);
        drafts.iter().filter(waste).try_for_each(|draft| {
            tracing::info!(sandbox = %draft.key, bytes = draft.bytes, "removing a save that was never completed");
            draft.remove()
        })
    });
    if let Err(error) = discarded {
        tracing::warn!(%error, "a save that was never completed was not removed");
    }
}

fn launching(config: &Config) -> Launching {
    let launch = &config.launch;
    let beside_socket = || config.socket.parent().map_or_else(PathBuf::new, |dir| dir.join("guests"));
    let instance = match launch.by {
        Starter::Session => None,
        Starter::Auto => Instance::reachable(),
        // Where it cannot be asked, it says so itself when it is.
        Starter::Systemd => Some(Instance::System),
        Starter::SystemdUser => Some(Instance::User),
    };
    Launching {
        agent: launching::canonical(&config.state_dir),
        sockets_dir: launch.sockets_dir.clone().unwrap_or_else(beside_socket),
        memory_dir: launch.memory_dir.clone().unwrap_or_else(|| config.state_dir.join("memory")),
        log_dir: config.state_dir.join("logs"),
        qemu: launch.qemu.clone(),
        instance,
    }
}

fn settings(config: &Config) -> Arc<Settings> {
    Arc::new(Settings {
        reconnect_min_ms: config.qmp.reconnect_min_ms,
        reconnect_max_ms: config.qmp.reconnect_max_ms,
        scale_stall_ms: config.scale.stall_ms,
        guest_reserve_bytes: config.scale.guest_reserve_bytes,
        disk_bytes_max: config.scale.disk_bytes_max,
        hibernation_order: config.hibernation.order.clone(),
        ..Settings::default()
    })
}

fn make_folder(path: &std::path::Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path).map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

fn from_row(row: &dormouse_ledger::Anchor) -> clock::Anchor {
    clock::Anchor {
        boot: row.boot,
        boottime_ns: row.boottime_ns,
        wall_ns: row.wall_ns,
        stepped_ns: row.stepped_ns,
    }
}

fn not_started(error: impl std::fmt::Display) -> StartError {
    StartError::Actor(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_sandbox_that_lives_and_was_not_taken_up_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let leaves = |sandbox: &str| {
            let path = folder.path().join("acme").join(sandbox);
            std::fs::create_dir_all(&path).unwrap();
            let files = ["5-1.state", "5-2.state.tmp", "5-2.json.tmp"].map(|name| path.join(name));
            for file in &files {
                std::fs::write(file, "of a save").unwrap();
            }
            files
        };
        let (kept, removed) = (leaves("sb-1"), leaves("sb-2"));
        let left_out = [SandboxKey { org: "acme".to_owned(), sandbox: "sb-1".to_owned() }];
        discard_drafts(&SnapshotStore::new(folder.path()), &[], &left_out);
        assert!(kept.iter().all(|file| file.exists()));
        assert!(!removed.iter().any(|file| file.exists()));
    }
}
