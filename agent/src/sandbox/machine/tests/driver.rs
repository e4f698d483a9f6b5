//! Answers the machine's actions: by a small QEMU of its own, or by what a test wants instead.

use std::collections::VecDeque;
use std::path::PathBuf;

use dormouse_metering::{BootId, Change, Observation, Stamp};
use serde_json::{Value, json};

use crate::process::{CommandLine, ProcessIdentity};
use crate::sandbox::command::{Command, Method, MethodChoice, Outcome, Request, SandboxKey, Scaling};
use crate::sandbox::facts::{Capabilities, Disk, MemoryBackend, MemoryDevice, QemuVersion, Survey};
use crate::sandbox::machine::{
    Action, Announcement, Answer, Core, Input, Phase, QemuEvent, QmpCommand, Sandbox, Settings,
    SnapshotRemoval, Token,
};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::{Draft, DraftSpec, Manifest};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const BASE: u64 = 256 * MIB;
pub(super) const BOOT: BootId = BootId([7; 16]);

pub(super) fn key() -> SandboxKey {
    SandboxKey { org: "acme".to_owned(), sandbox: "sb-1".to_owned() }
}

pub(super) const fn at(boottime_ns: u64) -> Stamp {
    let wall_ns = 1_767_227_400_000_000_000_i64.saturating_add_unsigned(boottime_ns);
    Stamp { boot: BOOT, boottime_ns, wall_ns, uncertainty_ns: 0 }
}

pub(super) fn identity(pid: i32) -> ProcessIdentity {
    ProcessIdentity { boot: BOOT, pid, start_time_ticks: 1 }
}

pub(super) fn command(id: &str, request: Request) -> Command {
    Command { key: key(), request_id: id.to_owned(), deadline_ms: None, asked_by: "test".to_owned(), request }
}

pub(super) fn attach() -> Request {
    Request::Attach {
        qmp_path: "/run/dormouse/sb-1.qmp".into(),
        plan: "pro".to_owned(),
        tags: std::collections::BTreeMap::default(),
        terms: None,
    }
}

pub(super) fn create() -> Request {
    Request::Create {
        spec: Box::new(crate::sandbox::spec::tests::small()),
        plan: "pro".to_owned(),
        tags: std::collections::BTreeMap::default(),
    }
}

pub(super) fn hibernate(method: Method) -> Request {
    Request::Hibernate { method: MethodChoice::Named(method) }
}

pub(super) fn suppress() -> Request {
    Request::Suppress { reason: "moving house".to_owned() }
}

pub(super) fn scale(mib: u64) -> Request {
    Request::Scale(Scaling::of_memory(mib * MIB))
}

pub(super) fn pause() -> Request {
    Request::Pause { reclaim: false }
}

pub(super) fn resume() -> Request {
    Request::Resume { prefetch: false }
}

/// A device of a GiB, in blocks of 2 MiB.
pub(super) fn device(id: &str, mib: u64) -> MemoryDevice {
    let bytes = mib * MIB;
    MemoryDevice {
        id: id.to_owned(),
        size_bytes: bytes,
        requested_bytes: bytes,
        max_bytes: 1024 * MIB,
        block_bytes: 2 * MIB,
        address: 0x1_4000_0000,
        node: 0,
    }
}

/// As much of QEMU as the machine sees.
pub(super) struct Qemu {
    pub(super) pid: i32,
    pub(super) status: &'static str,
    pub(super) devices: Vec<MemoryDevice>,
    jobs: Vec<String>,
    pub(super) disks: Vec<(&'static str, u64)>,
    pub(super) vcpu_limit_milli: Result<Option<u32>, String>,
}

impl Qemu {
    pub(super) fn new(pid: i32) -> Self {
        Self {
            pid,
            status: "running",
            devices: vec![device("vm0", 0)],
            jobs: Vec::new(),
            disks: vec![("d0", GIB)],
            vcpu_limit_milli: Ok(None),
        }
    }

    pub(super) fn survey(&self) -> Survey {
        Survey {
            version: QemuVersion { major: 10, minor: 0, micro: 2 },
            pid: self.pid,
            run_state: self.status.to_owned(),
            vcpus_milli: 2000,
            vcpu_limit_milli: self.vcpu_limit_milli.clone(),
            memory_base_bytes: BASE,
            memory_devices: self.devices.clone(),
            backends: vec![MemoryBackend {
                id: "ram0".into(),
                share: true,
                path: Some("/ram/0".into()),
                size_bytes: BASE,
            }],
            disks: Disk::list(&self.block()),
            capabilities: Capabilities { snapshot_jobs: true, ignore_shared: true, mapped_ram: true },
            command_line: Ok(command_line()),
        }
    }

    /// Carries a command out. The events come before the reply.
    pub(super) fn take(&mut self, command: &QmpCommand) -> (Vec<(&'static str, Value)>, Value) {
        let mut events = Vec::new();
        let job = || command.arguments["job-id"].as_str().unwrap_or_default().to_owned();
        let returned = match command.name {
            "stop" if self.status == "running" => {
                self.status = "paused";
                events.push(("STOP", json!({})));
                json!({})
            }
            "cont" if self.status != "running" => {
                self.status = "running";
                events.push(("RESUME", json!({})));
                json!({})
            }
            "system_reset" => {
                events.extend([("RESET", json!({})), ("RESET", json!({}))]);
                json!({})
            }
            "quit" => {
                self.status = "shutdown";
                events.push(("SHUTDOWN", json!({})));
                json!({})
            }
            "query-status" => json!({"status": self.status}),
            "query-memory-devices" => self.memory(),
            "query-block" => self.block(),
            "block_resize" => {
                let bytes = command.arguments["size"].as_u64().unwrap_or_default();
                let node = command.arguments["node-name"].as_str().unwrap_or_default();
                for (_, size_bytes) in self.disks.iter_mut().filter(|(name, _)| *name == node) {
                    *size_bytes = bytes;
                }
                json!({})
            }
            "query-jobs" => self.jobs.iter().map(|id| json!({"id": id, "status": "concluded"})).collect(),
            "query-migrate" => json!({"status": "completed"}),
            "snapshot-save" | "snapshot-load" => {
                self.jobs.push(job());
                json!({})
            }
            "job-dismiss" => {
                self.jobs.clear();
                json!({})
            }
            "qom-set" => {
                let path = command.arguments["path"].as_str().unwrap_or_default();
                let bytes = command.arguments["value"].as_u64().unwrap_or_default();
                let named = |device: &&mut MemoryDevice| path.ends_with(&format!("/{}", device.id));
                if let Some(device) = self.devices.iter_mut().find(named) {
                    (device.requested_bytes, device.size_bytes) = (bytes, bytes);
                    events.push(("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": device.id, "size": bytes})));
                }
                json!({})
            }
            _ => json!({}),
        };
        (events, returned)
    }

    fn block(&self) -> Value {
        let disk = |(node, bytes): &(&str, u64)| json!({"inserted": {"node-name": node, "drv": "qcow2", "ro": false, "image": {"virtual-size": bytes}}});
        self.disks.iter().map(disk).collect()
    }

    fn memory(&self) -> Value {
        let device = |d: &MemoryDevice| {
            json!({"type": "virtio-mem", "data": {"id": d.id, "size": d.size_bytes, "requested-size":
                d.requested_bytes, "max-size": d.max_bytes, "block-size": d.block_bytes, "memaddr": d.address,
                "node": d.node}})
        };
        self.devices.iter().map(device).collect()
    }
}

pub(super) fn command_line() -> CommandLine {
    CommandLine {
        exe: "/usr/bin/qemu-system-x86_64".into(),
        argv: ["qemu-system-x86_64", "-m", "256M"].into_iter().collect(),
        cwd: "/".into(),
        env: crate::process::Variables::default(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    }
}

fn draft() -> Draft {
    let (uid, gid) = (0, 0);
    Draft::imaginary(DraftSpec {
        key: &key(),
        generation: 7,
        ordinal_min: 1,
        method: Method::Shared,
        uid,
        gid,
    })
}

pub(super) fn manifest(method: Method) -> Box<Manifest> {
    let survey = Qemu::new(1).survey();
    Box::new(Manifest {
        version: 1,
        key: key(),
        generation: 7,
        ordinal: 1,
        folder: PathBuf::from("/snapshots"),
        created_unix_ns: 7,
        method,
        state: None,
        ram: Vec::new(),
        qemu_version: survey.version.to_string(),
        machine_type: None,
        command_line: command_line(),
        memory_devices: survey.memory_devices.clone(),
        shape: survey.shape(),
    })
}

/// The machine, what it has said, and what it waits for.
pub(super) struct Driver {
    pub(super) sandbox: Sandbox,
    pub(super) qemu: Option<Qemu>,
    pub(super) now_ns: u64,
    /// Actions that ask for an answer and have none yet.
    pub(super) open: VecDeque<Action>,
    /// Everything that was done, in a word each.
    pub(super) log: Vec<String>,
    pub(super) observed: Vec<Observation>,
    pub(super) replies: Vec<(String, Result<Outcome, Refusal>)>,
    pub(super) retired: bool,
    /// Whether QEMU was told to go.
    pub(super) going: bool,
}

impl Driver {
    pub(super) fn of(sandbox: Sandbox, qemu: Option<Qemu>) -> Self {
        Self {
            sandbox,
            qemu,
            now_ns: 1_000_000_000_000,
            open: VecDeque::new(),
            log: Vec::new(),
            observed: Vec::new(),
            replies: Vec::new(),
            retired: false,
            going: false,
        }
    }

    pub(super) fn new() -> Self {
        let core = Core::new(key(), "/run/dormouse/sb-1.qmp".into(), Settings::default());
        Self::of(Sandbox::new(core), Some(Qemu::new(100)))
    }

    /// One that is attached and runs, with nothing in its log.
    pub(super) fn attached() -> Self {
        let mut driver = Self::new();
        driver.execute("attach", attach()).unwrap();
        driver.log.clear();
        driver.observed.clear();
        driver.replies.clear();
        driver
    }

    pub(super) fn hibernated(method: Method) -> Self {
        let mut driver = Self::attached();
        driver.execute("to-sleep", hibernate(method)).unwrap();
        assert_eq!(driver.sandbox.core().phase, Phase::Hibernated);
        driver.log.clear();
        driver.observed.clear();
        driver.replies.clear();
        driver
    }

    pub(super) fn now(&self) -> Stamp {
        at(self.now_ns)
    }

    /// Gives a command and answers everything as a QEMU that works would.
    pub(super) fn execute(&mut self, id: &str, request: Request) -> Result<Outcome, Refusal> {
        self.feed(Input::Command(command(id, request)));
        self.settle();
        let found = self.replies.iter().rev().find(|(request_id, _)| request_id == id);
        found.unwrap_or_else(|| panic!("{id} has no reply; log {:#?}", self.log)).1.clone()
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.now_ns += 1_000_000;
        let actions = self.sandbox.step(self.now(), input);
        self.take(actions);
    }

    pub(super) fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push(word(&action));
            match action {
                Action::Observe(observation) | Action::ObserveFirst(observation) => {
                    self.observed.push(observation);
                }
                Action::Reply(id, result) | Action::Replay(id, result) => self.replies.push((id, result)),
                Action::Refuse(id, refusal) => self.replies.push((id, Err(refusal))),
                Action::Retire => self.retired = true,
                Action::Kill(_) => self.going = true,
                Action::Disconnect
                | Action::KeepMemory(_)
                | Action::WriteOut(_)
                | Action::Publish(_)
                | Action::RemoveSnapshot(_)
                | Action::Announce(_, Announcement::Reattached(..)) => {}
                action => self.open.push_back(action),
            }
        }
    }

    /// Answers until nothing is asked any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..2_000 {
            let waits = self.open.iter().all(|action| matches!(action, Action::Wait(..)));
            if waits && self.going && self.qemu.is_some() {
                self.exit();
            } else if let Some(action) = self.open.pop_front() {
                self.answer_well(action);
            } else {
                return;
            }
        }
        panic!("it never ends: {:#?}", self.log.iter().rev().take(20).collect::<Vec<_>>());
    }

    pub(super) fn exit(&mut self) {
        self.qemu = None;
        self.going = false;
        self.feed(Input::Exited);
        self.feed(Input::Disconnected);
    }

    pub(super) fn event(&mut self, name: &str, detail: Value) {
        let at = at(self.now_ns + 500_000);
        self.feed(Input::Event(QemuEvent { name: name.to_owned(), at, detail }));
    }

    pub(super) fn answer_well(&mut self, action: Action) {
        let Some((token, answer)) = self.good_answer(action) else { return };
        self.feed(Input::Answer(token, answer));
    }

    fn good_answer(&mut self, action: Action) -> Option<(Token, Answer)> {
        let unreachable = || Answer::Failed(Refusal::new(Reason::QmpUnreachable, "gone"));
        Some(match action {
            Action::Announce(token, Announcement::Attached { .. }) => (token, Answer::Recorded(7)),
            Action::Announce(token, _) => (token, Answer::Durable),
            Action::Connect(token, _) | Action::Survey(token) => {
                let found = self.qemu.as_ref().map(|qemu| (qemu.survey(), identity(qemu.pid)));
                (token, found.map_or_else(unreachable, |(s, p)| Answer::Surveyed(Box::new(s), p)))
            }
            Action::Qmp(token, command) => {
                let Some(qemu) = self.qemu.as_mut() else { return Some((token, unreachable())) };
                self.going |= command.name == "quit";
                let (events, returned) = qemu.take(&command);
                for (name, detail) in events {
                    self.event(name, detail);
                }
                (token, Answer::Returned(returned))
            }
            Action::Wait(token, ms) => {
                self.now_ns += ms * 1_000_000;
                (token, Answer::Elapsed)
            }
            Action::PrepareSnapshot(token, _) => (token, Answer::SnapshotPrepared(draft())),
            Action::WriteSnapshot(token, method) => (token, Answer::SnapshotWritten(manifest(method))),
            Action::VerifySnapshot(token, manifest, _) => {
                let wanted_bytes = manifest.shape.memory_base_bytes + manifest.shape.memory_plugged_bytes;
                (token, Answer::SnapshotVerified(manifest, wanted_bytes))
            }
            Action::AwaitDigest(token) => (token, Answer::DigestRight),
            Action::GiveUpSnapshot(token, manifest) => (token, Answer::SnapshotGivenUp(manifest)),
            Action::Launch(token, _) | Action::Start(token, _) => {
                self.qemu = Some(Qemu { status: "paused", ..Qemu::new(200) });
                (token, Answer::Launched(identity(200)))
            }
            Action::PromiseMemory(token, _) => (token, Answer::Promised),
            Action::LimitVcpus(token, limit) => (token, Answer::VcpusLimited(limit)),
            Action::Advise(token, _) => (token, Answer::Advised(Box::default())),
            _ => return None,
        })
    }
}

/// Answers what is asked until something of this name is: that one stays open.
pub(super) fn until(driver: &mut Driver, is_it: impl Fn(&Action) -> bool) {
    while !driver.open.front().is_some_and(&is_it) {
        let action = driver.open.pop_front().unwrap_or_else(|| panic!("never asked: {:#?}", driver.log));
        driver.answer_well(action);
    }
}

pub(super) fn token_of(action: &Action) -> Option<Token> {
    match action {
        Action::Announce(token, _)
        | Action::Connect(token, _)
        | Action::Survey(token)
        | Action::Qmp(token, _)
        | Action::Wait(token, _)
        | Action::PrepareSnapshot(token, _)
        | Action::WriteSnapshot(token, _)
        | Action::VerifySnapshot(token, ..)
        | Action::AwaitDigest(token)
        | Action::GiveUpSnapshot(token, _)
        | Action::Launch(token, _)
        | Action::PromiseMemory(token, _)
        | Action::LimitVcpus(token, _)
        | Action::Advise(token, _)
        | Action::Start(token, _) => Some(*token),
        _ => None,
    }
}

fn word(action: &Action) -> String {
    match action {
        Action::Announce(_, announcement) => match announcement {
            Announcement::Attached { .. } => "attached".to_owned(),
            Announcement::Reattached(..) => "reattached".to_owned(),
            Announcement::Before(..) => "before".to_owned(),
            Announcement::After(..) => "after".to_owned(),
            Announcement::Saved(_) => "saved".to_owned(),
        },
        Action::Observe(observation) | Action::ObserveFirst(observation) => match observation.change {
            Change::State(state) => format!("observe {state}"),
            Change::Plugged(bytes) => format!("observe plugged {}", bytes / MIB),
            Change::Requested(bytes) => format!("observe requested {}", bytes / MIB),
            Change::Disk(bytes) => format!("observe disk {}", bytes / MIB),
            Change::Vcpus(milli) => format!("observe vcpus {milli}"),
            Change::Suppressed(true) => "observe suppressed".to_owned(),
            Change::Suppressed(false) => "observe billed".to_owned(),
            Change::Ended => "observe ended".to_owned(),
            other => format!("observe {other:?}"),
        },
        Action::Connect(..) => "connect".to_owned(),
        Action::Survey(_) => "survey".to_owned(),
        Action::Qmp(_, command) => command.name.to_owned(),
        Action::Wait(..) => "wait".to_owned(),
        Action::PrepareSnapshot(..) => "prepare snapshot".to_owned(),
        Action::WriteOut(method) => format!("write out {}", method.as_str()),
        Action::WriteSnapshot(..) => "write snapshot".to_owned(),
        Action::VerifySnapshot(..) => "verify snapshot".to_owned(),
        Action::AwaitDigest(_) => "await digest".to_owned(),
        Action::GiveUpSnapshot(..) => "give up snapshot".to_owned(),
        Action::RemoveSnapshot(SnapshotRemoval::Draft) => "remove snapshot".to_owned(),
        Action::RemoveSnapshot(SnapshotRemoval::Consumed(_)) => "remove consumed snapshot".to_owned(),
        Action::Launch(..) => "launch".to_owned(),
        Action::PromiseMemory(_, bytes) => format!("promise {}", bytes / MIB),
        Action::KeepMemory(bytes) => format!("keep {}", bytes / MIB),
        Action::LimitVcpus(_, limit) => format!("limit {limit:?}"),
        Action::Advise(_, advice) => format!("advise {advice:?}"),
        Action::Start(..) => "start".to_owned(),
        Action::Kill(_) => "kill".to_owned(),
        Action::Disconnect => "disconnect".to_owned(),
        Action::Reply(_, Ok(_)) => "reply ok".to_owned(),
        Action::Reply(_, Err(_)) => "reply refused".to_owned(),
        Action::Replay(..) => "replay".to_owned(),
        Action::Refuse(..) => "refuse".to_owned(),
        Action::Publish(_) => "publish".to_owned(),
        Action::Retire => "retire".to_owned(),
    }
}
