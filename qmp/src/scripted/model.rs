//! What the scripted QEMU is: enough state to live a sandbox's life, and what its queries return.
//!
//! Data alone, for tests to set and to look at. How it changes is in [`super::machine`].

use std::time::Duration;

use serde_json::{Value, json};

use crate::version::Version;

/// The state of a scripted QEMU.
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
    pub(super) fn greeting(&self) -> Value {
        json!({ "QMP": { "version": self.version_reply(), "capabilities": ["oob"] } })
    }

    /// What a query returns; `None` if there is no such command.
    pub(super) fn query(&self, name: &str) -> Option<Value> {
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
