//! A QEMU as the agent sees it: run state, virtio-mem, jobs and migrations, and the facts that were measured.
//!
//! Pure: [`Qemu::take`] carries out one command; what it does by itself later is asked of the world in [`Later`].

use dormouse::process::ProcessIdentity;
use dormouse::sandbox::facts::{Capabilities, Disk, MemoryBackend, MemoryDevice, QemuVersion, Survey};
use dormouse::sandbox::machine::QmpCommand;
use serde_json::{Value, json};

use crate::random::Random;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BASE: u64 = 256 * MIB;
pub(crate) const VCPUS_MILLI: u32 = 2000;
pub(crate) const DISK: u64 = 8 << 30;
pub(crate) const DEVICES_MAX: usize = 3;
const BLOCK: u64 = 2 * MIB;
pub(crate) const MS: u64 = 1_000_000;
/// After so long somebody ends a QEMU that quits and does not go.
const LOOKED_AFTER_NS: u64 = 20_000 * MS;

/// One virtio-mem device, and how its size events are held back.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) id: &'static str,
    pub(crate) size: u64,
    pub(crate) requested: u64,
    /// The least that the guest gives back to.
    pub(crate) stuck: u64,
    /// Whether the next event waits.
    pub(crate) throttled: bool,
    /// The event that waits: its wall stamp, its moment and its size.
    pub(crate) held: Option<(i64, u64, u64)>,
    /// Whether the guest is at work on it.
    pub(crate) moving: bool,
}

/// What QEMU does by itself after a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Later {
    /// The guest plugs or unplugs a piece of this device.
    Plug(usize),
    /// The event of this device that was held back.
    Held(usize),
    /// A save or a load is over.
    Moved,
    /// The second RESET.
    ResetAgain,
    /// The process ends.
    Exit,
}

/// A save or a load.
#[derive(Clone, Debug)]
struct Move {
    id: Option<String>,
    load: bool,
    resumes: bool,
    error: Option<&'static str>,
    over: bool,
}

/// What a command or the passing of time has brought about.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) events: Vec<(&'static str, Value)>,
    /// Sizes that changed, to be told as events of their own.
    pub(crate) sized: Vec<usize>,
    pub(crate) later: Vec<(u64, Later)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    pub(crate) identity: ProcessIdentity,
    /// Like no other's of the history, whatever boot.
    pub(crate) number: u64,
    /// The command by which the agent has started it: in its environment for all to read.
    pub(crate) started_for: Option<String>,
    /// Whether somebody ends it that quits and does not go.
    pub(crate) is_looked_after: bool,
    /// Whether what limits it can be told only by asking: by another's hand, or of one that is new.
    pub(crate) limit_is_news: bool,
    /// The limit of its cgroup, in thousandths of a vCPU.
    pub(crate) limit_milli: Option<u32>,
    pub(crate) status: &'static str,
    pub(crate) memory: Vec<Memory>,
    /// Until when the monitor does not answer.
    pub(crate) hangs_until: u64,
    /// Whether it has been told to go.
    pub(crate) leaving: bool,
    /// The next events that are lost on the way.
    pub(crate) loses: u32,
    /// Who is connected: the agent's life and its connection.
    pub(crate) client: Option<(u64, u64)>,
    /// The sizes that the last save has written.
    pub(crate) saved: Option<Vec<(u64, u64)>>,
    /// What an incoming guest had.
    pub(crate) incoming: Option<Vec<(u64, u64)>>,
    moving: Option<Move>,
}

impl Qemu {
    pub(crate) fn new(identity: ProcessIdentity, status: &'static str, devices: usize, number: u64) -> Self {
        let memory =
            const { ["vm0", "vm1", "vm2"] as [&str; DEVICES_MAX] }.into_iter().take(devices).map(|id| {
                Memory { id, size: 0, requested: 0, stuck: 0, throttled: false, held: None, moving: false }
            });
        Self {
            identity,
            number,
            started_for: None,
            is_looked_after: false,
            limit_is_news: true,
            limit_milli: None,
            status,
            memory: memory.collect(),
            hangs_until: 0,
            leaving: false,
            loses: 0,
            client: None,
            saved: None,
            incoming: None,
            moving: None,
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.status == "running"
    }

    /// The CPU time that it may use, in thousandths of a vCPU.
    pub(crate) fn vcpus_milli(&self) -> u32 {
        self.limit_milli.map_or(VCPUS_MILLI, |limit| limit.min(VCPUS_MILLI))
    }

    /// What each device has plugged.
    pub(crate) fn sizes(&self) -> [u64; DEVICES_MAX] {
        let mut sizes = [0; DEVICES_MAX];
        self.memory.iter().zip(&mut sizes).for_each(|(device, size)| *size = device.size);
        sizes
    }

    pub(crate) fn survey(&self, status: &str, vcpu_limit_milli: Result<Option<u32>, String>) -> Survey {
        let device = |memory: &Memory| MemoryDevice {
            id: memory.id.to_owned(),
            size_bytes: memory.size,
            requested_bytes: memory.requested,
            max_bytes: 1024 * MIB,
            block_bytes: BLOCK,
            address: 0x1_4000_0000,
            node: 0,
        };
        Survey {
            version: QemuVersion { major: 10, minor: 0, micro: 2 },
            pid: self.identity.pid,
            run_state: status.to_owned(),
            vcpus_milli: VCPUS_MILLI,
            vcpu_limit_milli,
            memory_base_bytes: BASE,
            memory_devices: self.memory.iter().map(device).collect(),
            backends: vec![MemoryBackend {
                id: "ram0".into(),
                share: true,
                path: Some("/ram/0".into()),
                size_bytes: BASE,
            }],
            disks: vec![Disk {
                node: "d0".into(),
                format: "qcow2".into(),
                read_only: false,
                size_bytes: DISK,
            }],
            capabilities: Capabilities { snapshot_jobs: true, ignore_shared: true, mapped_ram: true },
            command_line: Ok(crate::places::command_line()),
        }
    }

    /// Carries a command out: what it returns, or QEMU's error.
    pub(crate) fn take(
        &mut self,
        command: &QmpCommand,
        random: &mut Random,
        effects: &mut Effects,
    ) -> Result<Value, &'static str> {
        let arguments = &command.arguments;
        match command.name {
            "query-status" => Ok(json!({"status": self.status})),
            "query-memory-devices" => Ok(self.memory_devices()),
            "query-jobs" => Ok(self.jobs()),
            "query-migrate" => Ok(self.migration()),
            "job-dismiss" => {
                self.moving = None;
                Ok(json!({}))
            }
            "migrate-set-capabilities" | "migrate_cancel" if random.chance(990) => Ok(json!({})),
            "stop" if random.chance(985) => {
                self.stop("paused", effects);
                Ok(json!({}))
            }
            "cont" if random.chance(985) => {
                self.go_on(effects);
                Ok(json!({}))
            }
            "system_reset" if random.chance(980) => {
                self.reset(random, effects);
                Ok(json!({}))
            }
            "quit" => {
                self.leave(950, random, effects);
                Ok(json!({}))
            }
            "qom-set" if random.chance(980) => self.request(arguments, random, effects),
            "snapshot-save" | "snapshot-load" | "migrate" | "migrate-incoming" => {
                self.begin_move(command, random, effects)
            }
            _ => Err("as the simulation wants"),
        }
    }

    fn memory_devices(&self) -> Value {
        let device = |memory: &Memory| {
            json!({"type": "virtio-mem", "data": {"id": memory.id, "size": memory.size,
                "requested-size": memory.requested, "max-size": 1024 * MIB, "block-size": BLOCK,
                "memaddr": 0x1_4000_0000_u64, "node": 0}})
        };
        self.memory.iter().map(device).collect()
    }

    fn jobs(&self) -> Value {
        let Some(Move { id: Some(id), over, error, .. }) = &self.moving else { return json!([]) };
        let mut job = json!({"id": id, "status": if *over { "concluded" } else { "running" }});
        if let Some(error) = error.filter(|_| *over) {
            job["error"] = json!(error);
        }
        json!([job])
    }

    fn migration(&self) -> Value {
        match &self.moving {
            Some(Move { id: None, over: true, error: Some(error), .. }) => {
                json!({"status": "failed", "error-desc": error})
            }
            Some(Move { id: None, over: true, .. }) => json!({"status": "completed"}),
            Some(Move { id: None, .. }) => json!({"status": "active"}),
            _ => json!({}),
        }
    }

    pub(crate) fn stop(&mut self, status: &'static str, effects: &mut Effects) {
        if self.runs() {
            self.status = status;
            effects.events.push(("STOP", json!({})));
        }
    }

    pub(crate) fn go_on(&mut self, effects: &mut Effects) {
        if !self.runs() && !self.leaving {
            self.status = "running";
            effects.events.push(("RESUME", json!({})));
            self.wake_guest(effects);
        }
    }

    /// A guest that runs works on what was asked of it.
    fn wake_guest(&mut self, effects: &mut Effects) {
        for (index, memory) in self.memory.iter_mut().enumerate() {
            if memory.size != memory.requested.max(memory.stuck) && !memory.moving {
                memory.moving = true;
                effects.later.push((30 * MS, Later::Plug(index)));
            }
        }
    }

    pub(crate) fn reset(&mut self, random: &mut Random, effects: &mut Effects) {
        effects.events.push(("RESET", json!({})));
        effects.later.push((40 * MS, Later::ResetAgain));
        for (index, memory) in self.memory.iter_mut().enumerate() {
            memory.stuck = 0;
            if memory.size > 0 {
                memory.size = 0;
                effects.sized.push(index);
            }
            if memory.requested > 0 && !memory.moving {
                memory.moving = true;
                effects.later.push((random.range(500, 2500) * MS, Later::Plug(index)));
            }
        }
    }

    pub(crate) fn leave(&mut self, goes_of: u64, random: &mut Random, effects: &mut Effects) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.status = "shutdown";
        effects.events.push(("SHUTDOWN", json!({})));
        // One that does not go has to be killed.
        if random.chance(goes_of) {
            effects.later.push((random.range(1, 8 * MS), Later::Exit));
        } else if self.is_looked_after {
            effects.later.push((LOOKED_AFTER_NS, Later::Exit));
        }
    }

    fn request(
        &mut self,
        arguments: &Value,
        random: &mut Random,
        effects: &mut Effects,
    ) -> Result<Value, &'static str> {
        let path = arguments["path"].as_str().unwrap_or_default();
        let bytes = arguments["value"].as_u64().unwrap_or_default();
        let moves = self.moving.as_ref().is_some_and(|moving| !moving.over);
        let runs = self.runs();
        let Some(index) = self.memory.iter().position(|memory| path.ends_with(memory.id)) else {
            return Err("no such device");
        };
        let memory = &mut self.memory[index];
        memory.requested = bytes;
        if bytes < memory.size && random.chance(300) {
            memory.stuck = bytes + random.range(0, (memory.size - bytes) / BLOCK + 1) * BLOCK;
        }
        if bytes > memory.size {
            memory.stuck = 0;
        }
        if runs && !moves && !memory.moving {
            memory.moving = true;
            effects.later.push((random.range(5, 150) * MS, Later::Plug(index)));
        }
        Ok(json!({}))
    }

    /// The guest takes a step with a device. False when it has nothing more to do.
    pub(crate) fn plug(&mut self, index: usize, random: &mut Random, effects: &mut Effects) {
        let runs = self.runs();
        let memory = &mut self.memory[index];
        memory.moving = false;
        let target = memory.requested.max(memory.stuck.min(memory.size));
        if !runs || memory.size == target {
            return;
        }
        let away = memory.size.abs_diff(target);
        let piece = if random.chance(600) { away } else { random.range(1, away / BLOCK + 1) * BLOCK };
        memory.size = if memory.size < target { memory.size + piece } else { memory.size - piece };
        effects.sized.push(index);
        if memory.size != target {
            memory.moving = true;
            effects.later.push((random.range(1, 400) * MS, Later::Plug(index)));
        }
    }

    fn begin_move(
        &mut self,
        command: &QmpCommand,
        random: &mut Random,
        effects: &mut Effects,
    ) -> Result<Value, &'static str> {
        if random.chance(20) || self.moving.as_ref().is_some_and(|moving| moving.id.is_some() || !moving.over)
        {
            return Err("cannot begin");
        }
        let load = matches!(command.name, "snapshot-load" | "migrate-incoming");
        let error = random.chance(60).then_some("as the simulation wants");
        let resumes = self.runs() && command.name == "snapshot-save";
        if command.name.starts_with("snapshot") {
            self.stop("save-vm", effects);
        }
        let id = command.arguments["job-id"].as_str().map(str::to_owned);
        self.moving = Some(Move { id, load, resumes, error, over: false });
        effects.later.push((random.range(1, 300) * MS, Later::Moved));
        if load && random.chance(30) {
            // A state that does not fit this QEMU ends it.
            effects.later.push((MS, Later::Exit));
        }
        Ok(json!({}))
    }

    pub(crate) fn moved(&mut self, effects: &mut Effects) {
        let Some(moving) = self.moving.as_mut() else { return };
        moving.over = true;
        let (load, resumes, failed) = (moving.load, moving.resumes, moving.error.is_some());
        if load && !failed {
            let incoming = self.incoming.clone().unwrap_or_default();
            for (memory, (size, requested)) in self.memory.iter_mut().zip(incoming) {
                (memory.size, memory.requested, memory.stuck) = (size, requested, 0);
            }
            self.status = "paused";
        } else if !load && !failed {
            self.saved = Some(self.memory.iter().map(|memory| (memory.size, memory.requested)).collect());
        }
        if resumes {
            self.go_on(effects);
        }
    }
}
