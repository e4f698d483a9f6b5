//! What the scripted QEMU has inside: enough state to live a sandbox's life.
//!
//! Without IO and without a clock: a command and the time go in, a reply comes out, and events queue up. What the
//! model does was measured on QEMU 10.0.2: the order of events and replies, the words of errors, the throttling of
//! size events, the two RESETs 40 ms apart.

use std::mem;
use std::time::Duration;

use serde_json::{Value, json};

use super::Command;
use crate::event::Event;
use crate::version::Version;

/// The state of a scripted QEMU. Times are since its start.
#[derive(Debug, Clone)]
pub struct Model {
    /// In the greeting and in `query-version`. Default 10.0.2.
    pub version: Version,
    /// In `query-name`; `None` as without `-name`.
    pub name: Option<String>,
    /// In `query-uuid`.
    pub uuid: String,
    /// In `query-cpus-fast`. Default 1.
    pub vcpus: u32,
    /// A QAPI `RunState`; `stop` and `cont` change it. Default `running`.
    pub run_state: String,
    /// In `query-memory-size-summary`. Default 256 MiB.
    pub memory_base_bytes: u64,
    /// The memory device that `qom-set` resizes.
    pub virtio_mem: VirtioMem,
    /// What `query-block` returns. Default `[]`.
    pub block: Value,
    /// What `query-named-block-nodes` returns. Default `[]`.
    pub named_block_nodes: Value,
    /// What `query-jobs` returns. Default `[]`.
    pub jobs: Value,
    /// What `query-migrate` returns. Default `{}`.
    pub migrate: Value,
    /// What `query-qmp-schema` returns. Default a small schema with QEMU 10's migration capabilities.
    pub schema: Value,
    /// How long the guest takes to reset a second time after `system_reset`. Default 40 ms.
    pub second_reset_delay: Duration,
    /// How long the guest takes to boot and plug its memory again after `system_reset`. Default 2 s.
    pub boot_delay: Duration,
    /// How often a size event may be sent; those between are held and overwritten. Default 1 s.
    pub size_event_interval: Duration,
    /// The wall clock at the start, for event timestamps. The default is an instant of 2025.
    pub wall_at_start_unix_ns: i64,
    resize_due: Option<Duration>,
    second_reset_due: Option<Duration>,
    size_event_window_ends: Option<Duration>,
    held_size_event: Option<Event>,
    events: Vec<Event>,
    quit: bool,
}

/// The virtio-mem device of a scripted QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioMem {
    /// Its id, and so its place: `/machine/peripheral/<id>`. Default `vm0`.
    pub id: String,
    /// What the guest has plugged.
    pub size_bytes: u64,
    /// What it was last asked to plug.
    pub requested_size_bytes: u64,
    /// Default 2 GiB.
    pub size_max_bytes: u64,
    /// Default 2 MiB.
    pub block_size_bytes: u64,
    /// Below this the guest gives nothing back. Default 0.
    pub unplug_floor_bytes: u64,
    /// How long the guest takes from a request to its size. Default 50 ms.
    pub resize_delay: Duration,
}

/// How a command is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It was carried out.
    Return(Value),
    /// It was refused.
    Error {
        /// Such as `GenericError`.
        class: String,
        /// For people.
        desc: String,
    },
}

impl Default for Model {
    fn default() -> Self {
        Self {
            version: Version { major: 10, minor: 0, micro: 2, package: "scripted".to_owned() },
            name: None,
            uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
            vcpus: 1,
            run_state: "running".to_owned(),
            memory_base_bytes: 256 << 20,
            virtio_mem: VirtioMem::default(),
            block: json!([]),
            named_block_nodes: json!([]),
            jobs: json!([]),
            migrate: json!({}),
            schema: small_schema(),
            second_reset_delay: Duration::from_millis(40),
            boot_delay: Duration::from_secs(2),
            size_event_interval: Duration::from_secs(1),
            wall_at_start_unix_ns: 1_760_000_000_000_000_000,
            resize_due: None,
            second_reset_due: None,
            size_event_window_ends: None,
            held_size_event: None,
            events: Vec::new(),
            quit: false,
        }
    }
}

impl Default for VirtioMem {
    fn default() -> Self {
        Self {
            id: "vm0".to_owned(),
            size_bytes: 0,
            requested_size_bytes: 0,
            size_max_bytes: 2 << 30,
            block_size_bytes: 2 << 20,
            unplug_floor_bytes: 0,
            resize_delay: Duration::from_millis(50),
        }
    }
}

impl Reply {
    /// A refusal.
    pub fn error(class: &str, desc: &str) -> Self {
        Self::Error { class: class.to_owned(), desc: desc.to_owned() }
    }
}

impl Model {
    /// Carries out a command, after everything that was due before it.
    pub fn execute(&mut self, command: &Command, now: Duration) -> Reply {
        self.advance(now);
        match command.name.as_str() {
            "stop" => self.stop(now),
            "cont" => self.cont(now),
            "qom-set" => return self.qom_set(&command.arguments, now),
            "system_reset" => self.system_reset(now),
            "system_powerdown" => self.emit("POWERDOWN", Value::Null, now),
            "quit" => self.quit(now),
            name => {
                return self.query(name).map_or_else(
                    || Reply::error("CommandNotFound", &format!("The command {name} has not been found")),
                    Reply::Return,
                );
            }
        }
        Reply::Return(json!({}))
    }

    /// Does everything that is due by now.
    pub fn advance(&mut self, now: Duration) {
        // Each in its own time, so that timestamps are true however rarely this is called.
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            if self.second_reset_due.take_if(|at| *at <= due).is_some() {
                self.emit("RESET", json!({ "guest": true, "reason": "guest-reset" }), due);
            }
            if self.resize_due.take_if(|at| *at <= due).is_some() {
                let device = &self.virtio_mem;
                self.set_size(device.requested_size_bytes.max(device.unplug_floor_bytes), due);
            }
            if self.size_event_window_ends.take_if(|at| *at <= due).is_some()
                && let Some(event) = self.held_size_event.take()
            {
                self.events.push(event);
                self.size_event_window_ends = Some(due + self.size_event_interval);
            }
        }
    }

    /// When [`Model::advance`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        [self.resize_due, self.second_reset_due, self.size_event_window_ends].into_iter().flatten().min()
    }

    /// Queues an event, stamped now.
    pub fn emit(&mut self, name: &str, data: Value, now: Duration) {
        let timestamp_unix_ns = Some(self.unix_ns(now));
        self.events.push(Event { name: name.to_owned(), timestamp_unix_ns, data });
    }

    /// The wall clock now, as far as QEMU tells it.
    pub fn unix_ns(&self, now: Duration) -> i64 {
        let micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX / 1_000);
        self.wall_at_start_unix_ns.saturating_add(micros.saturating_mul(1_000))
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    pub(super) fn has_quit(&self) -> bool {
        self.quit
    }

    pub(super) fn greeting(&self) -> Value {
        json!({ "QMP": { "version": self.version_reply(), "capabilities": ["oob"] } })
    }

    fn stop(&mut self, now: Duration) {
        if mem::replace(&mut self.run_state, "paused".to_owned()) == "running" {
            self.resize_due = None;
            self.emit("STOP", Value::Null, now);
        }
    }

    fn cont(&mut self, now: Duration) {
        if mem::replace(&mut self.run_state, "running".to_owned()) != "running" {
            self.emit("RESUME", Value::Null, now);
            self.resize_after(self.virtio_mem.resize_delay, now);
        }
    }

    fn quit(&mut self, now: Duration) {
        self.emit("SHUTDOWN", json!({ "guest": false, "reason": "host-qmp-quit" }), now);
        self.quit = true;
    }

    fn system_reset(&mut self, now: Duration) {
        self.emit("RESET", json!({ "guest": false, "reason": "host-qmp-system-reset" }), now);
        self.second_reset_due = Some(now + self.second_reset_delay);
        self.set_size(0, now);
        self.resize_after(self.boot_delay, now);
    }

    fn qom_set(&mut self, arguments: &Value, now: Duration) -> Reply {
        let device = &mut self.virtio_mem;
        let path = arguments["path"].as_str().unwrap_or_default();
        if path.rsplit('/').next() != Some(&device.id) {
            return Reply::error("DeviceNotFound", &format!("Device '{path}' not found"));
        }
        let (Some("requested-size"), Some(requested)) =
            (arguments["property"].as_str(), arguments["value"].as_u64())
        else {
            return Reply::error("GenericError", "the scripted QEMU sets requested-size only");
        };
        if requested > device.size_max_bytes {
            let max = device.size_max_bytes;
            let desc = format!("'requested-size' cannot exceed the memory backend size({max:#x})");
            return Reply::error("GenericError", &desc);
        }
        if !requested.is_multiple_of(device.block_size_bytes) {
            let block = device.block_size_bytes;
            let desc = format!("'requested-size' has to be multiples of 'block-size' ({block:#x})");
            return Reply::error("GenericError", &desc);
        }
        device.requested_size_bytes = requested;
        self.resize_after(self.virtio_mem.resize_delay, now);
        Reply::Return(json!({}))
    }

    /// A stopped guest does nothing about its memory.
    fn resize_after(&mut self, delay: Duration, now: Duration) {
        self.resize_due = (self.run_state == "running").then(|| now + delay);
    }

    fn set_size(&mut self, size_bytes: u64, now: Duration) {
        if mem::replace(&mut self.virtio_mem.size_bytes, size_bytes) == size_bytes {
            return;
        }
        let id = &self.virtio_mem.id;
        let qom_path = format!("/machine/peripheral/{id}");
        let event = Event {
            name: "MEMORY_DEVICE_SIZE_CHANGE".to_owned(),
            timestamp_unix_ns: Some(self.unix_ns(now)),
            data: json!({ "id": id, "size": size_bytes, "qom-path": qom_path }),
        };
        if self.size_event_window_ends.is_some() {
            self.held_size_event = Some(event);
        } else {
            self.events.push(event);
            self.size_event_window_ends = Some(now + self.size_event_interval);
        }
    }

    fn query(&self, name: &str) -> Option<Value> {
        Some(match name {
            "query-status" => {
                json!({ "status": self.run_state, "running": self.run_state == "running" })
            }
            "query-version" => self.version_reply(),
            "query-name" => self.name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name })),
            "query-uuid" => json!({ "UUID": self.uuid }),
            "query-cpus-fast" => (0..self.vcpus).map(vcpu).collect(),
            "query-memory-size-summary" => json!({
                "base-memory": self.memory_base_bytes,
                "plugged-memory": self.virtio_mem.size_bytes,
            }),
            "query-memory-devices" => json!([{ "type": "virtio-mem", "data": self.virtio_mem.reply() }]),
            "query-memdev" => json!([
                memory_backend("vmem0", self.virtio_mem.size_max_bytes),
                memory_backend("pc.ram", self.memory_base_bytes),
            ]),
            "query-block" => self.block.clone(),
            "query-named-block-nodes" => self.named_block_nodes.clone(),
            "query-jobs" => self.jobs.clone(),
            "query-migrate" => self.migrate.clone(),
            "query-qmp-schema" => self.schema.clone(),
            _ => return None,
        })
    }

    fn version_reply(&self) -> Value {
        let Version { major, minor, micro, package } = &self.version;
        json!({ "qemu": { "micro": micro, "minor": minor, "major": major }, "package": package })
    }
}

impl VirtioMem {
    fn reply(&self) -> Value {
        json!({
            "memdev": "/objects/vmem0",
            "memaddr": 4_294_967_296_u64,
            "block-size": self.block_size_bytes,
            "size": self.size_bytes,
            "node": 0,
            "max-size": self.size_max_bytes,
            "requested-size": self.requested_size_bytes,
            "id": self.id,
        })
    }
}

fn vcpu(index: u32) -> Value {
    json!({
        "thread-id": 1_000 + index,
        "props": { "core-id": index, "thread-id": 0, "node-id": 0, "socket-id": 0 },
        "qom-path": format!("/machine/unattached/device[{index}]"),
        "cpu-index": index,
        "target": "x86_64",
    })
}

fn memory_backend(id: &str, size_bytes: u64) -> Value {
    json!({
        "share": false, "reserve": true, "prealloc": false, "host-nodes": [], "size": size_bytes,
        "merge": true, "dump": true, "policy": "default", "id": id,
    })
}

fn small_schema() -> Value {
    let command = |name: &str, arg_type: &str| json!({ "name": name, "meta-type": "command", "arg-type": arg_type, "ret-type": "0" });
    json!([
        { "name": "0", "meta-type": "object", "members": [] },
        { "name": "1", "meta-type": "object", "members": [{ "name": "capabilities", "type": "[2]" }] },
        { "name": "[2]", "meta-type": "array", "element-type": "2" },
        { "name": "2", "meta-type": "object", "members": [{ "name": "capability", "type": "3" }] },
        { "name": "3", "meta-type": "enum", "values": ["events", "multifd", "mapped-ram", "x-ignore-shared"] },
        { "name": "MEMORY_DEVICE_SIZE_CHANGE", "meta-type": "event", "arg-type": "0" },
        command("migrate-set-capabilities", "1"),
        command("migrate", "0"),
        command("snapshot-save", "0"),
        command("snapshot-load", "0"),
        command("snapshot-delete", "0"),
    ])
}
