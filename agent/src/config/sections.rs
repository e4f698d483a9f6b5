//! The keys of the configuration, their defaults, and what they mean.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::billing::Billing;
use super::control::Control;
use super::section::section;
use super::sinks::{Outbox, Sink};
use crate::sandbox::command::Method;

section! {
    /// The whole configuration.
    Config {
        /// The cell that this host is part of: a failure domain of the fleet. With `host` it names the source of
        /// every event, so it must never change while this host has a ledger.
        cell: String = "default".to_owned(),
        /// This host's name, unique within the cell. Not set: the machine's hostname.
        host: Option<String> = None,
        /// Where the ledger and the snapshots are kept. An absolute path on a local disk.
        state_dir: PathBuf = PathBuf::from("/var/lib/dormouse"),
        /// The watched folder: a QMP socket `<sandbox>.qmp` that appears here is attached.
        run_dir: PathBuf = PathBuf::from("/run/dormouse/sandboxes"),
        /// The unix socket on which commands are taken.
        socket: PathBuf = PathBuf::from("/run/dormouse/control.sock"),
        /// Who may connect to it: the socket's file mode, in octal.
        socket_mode: FileMode = FileMode(0o660),
        /// The socket's group, by name or number. Not set: the group that the agent runs as.
        socket_group: Option<String> = None,
        /// The org of a sandbox that was found in the watched folder.
        default_org: String = "default".to_owned(),
        /// The plan of a sandbox that was found in the watched folder, or attached without one.
        default_plan: String = "default".to_owned(),
    }
    sections {
        /// Who may command the agent, and how much at once.
        control: Control = Control::default(),
        /// How QEMU is spoken to.
        qmp: Qmp = Qmp::default(),
        /// How long a caller waits for each command, where it does not say. The operation itself goes on to its
        /// end: after the deadline its outcome is unknown to the caller, not cancelled.
        deadlines: Deadlines = Deadlines::default(),
        /// How slices are cut.
        metering: Metering = Metering::default(),
        /// What is billed.
        billing: Billing = Billing::default(),
        /// Usage and tags over HTTP, for programs and as pages for people: `dormouse token create` makes the tokens.
        http: Http = Http::default(),
        /// How far sandboxes may grow and shrink.
        scale: Scale = Scale::default(),
        /// How sandboxes are saved.
        hibernation: Hibernation = Hibernation::default(),
        /// How QEMU is started: for a create, a wake and a power-cycle.
        launch: Launch = Launch::default(),
        /// Figures for Prometheus.
        metrics: Metrics = Metrics::default(),
        /// Traces for a collector.
        telemetry: Telemetry = Telemetry::default(),
        /// What becomes of events.
        outbox: Outbox = Outbox::default(),
        /// What the agent says while it works, on standard error.
        log: Log = Log::default(),
        /// Where events go. Each sink gets every event, in order; one that is down delays no other.
        sinks: Vec<Sink> = Vec::new(),
    }
}

section! {
    /// How QEMU is spoken to.
    Qmp {
        /// How long connecting to a socket may take.
        connect_ms: u64 = 2_000,
        /// How long QEMU may take to greet. Passing it means that another client holds the socket.
        greeting_ms: u64 = 2_000,
        /// How long QEMU may take to accept a command's bytes.
        write_ms: u64 = 5_000,
        /// How long QEMU may take to answer a command. Too tight a value makes false alarms on a loaded host.
        reply_ms: u64 = 10_000,
        /// The longest line that is read. QEMU's own schema is one line of 236 KB.
        line_limit_bytes: u64 = 4 << 20,
        /// How long to wait before connecting again, at first.
        reconnect_min_ms: u64 = 100,
        /// How long to wait before connecting again, after many failures.
        reconnect_max_ms: u64 = 5_000,
    }
    sections {}
}

section! {
    /// How long a caller waits for each command, where it does not say.
    Deadlines {
        /// The longest that a caller waits; a longer deadline is cut to this.
        max_ms: u64 = 3_600_000,
        /// Taking a sandbox under care.
        attach_ms: u64 = 15_000,
        /// Handing it back.
        detach_ms: u64 = 15_000,
        /// Plugging memory, or the guest giving it back.
        scale_ms: u64 = 60_000,
        /// Stopping the guest.
        pause_ms: u64 = 15_000,
        /// Continuing the guest.
        resume_ms: u64 = 15_000,
        /// Writing the state to disk. Give it the size of the memory divided by the speed of the disk, and more.
        hibernate_ms: u64 = 600_000,
        /// Starting QEMU and loading the state.
        wake_ms: u64 = 300_000,
        /// Resetting the guest.
        reboot_ms: u64 = 15_000,
        /// Freeing its time, or billing it again: two writes to the ledger.
        suppress_ms: u64 = 15_000,
        /// Ending the sandbox, apart from the time that its guest is given to power itself off.
        destroy_ms: u64 = 30_000,
        /// Starting a sandbox, until its guest runs.
        create_ms: u64 = 60_000,
        /// Ending QEMU and starting it again.
        power_cycle_ms: u64 = 60_000,
    }
    sections {}
}

section! {
    /// How slices are cut.
    Metering {
        /// How often the agent proves that the QEMU processes exist. The most that can be left unbilled of the
        /// last moments of a sandbox that died with the host.
        proof_of_life_ms: u64 = 1_000,
        /// How late an event of QEMU may arrive; a slice is final only after it. QEMU delivers changes of the
        /// memory size up to 1000 ms late.
        lateness_ms: u64 = 1_500,
        /// How often the slices of orgs that prepay are cut.
        tick_ms: u64 = 20_000,
        /// The plans that prepay.
        prepaid_plans: Vec<String> = vec!["free".to_owned()],
    }
    sections {}
}

section! {
    /// Usage and tags over HTTP.
    Http {
        /// The address and port to listen on, such as `127.0.0.1:7474`. Not set: nothing listens. Tokens cross the
        /// network as they are: listen beyond this host only behind something that speaks TLS.
        listen: Option<SocketAddr> = None,
        /// How many requests in a second one token may make.
        requests_per_second: u64 = 200,
        /// How many requests of one token may wait for their answers at once.
        requests_at_once: u64 = 16,
    }
    sections {}
}

section! {
    /// How far sandboxes may grow and shrink.
    Scale {
        /// How long a guest may go without plugging or giving back any memory before the rest is given up.
        stall_ms: u64 = 10_000,
        /// What stays available on the host (`MemAvailable`) whatever a sandbox asks for. What was plugged and not touched
        /// yet still counts as available.
        host_reserve_bytes: u64 = 512 << 20,
        /// No sandbox grows, is created or woken while something on the host has waited for memory for more than this part
        /// of the last 10 seconds (`some avg10` of /proc/pressure/memory), in per cent. 100, or a kernel without it: it does
        /// not count.
        host_pressure_percent_max: u32 = 20,
        /// What a guest keeps beyond what it says it uses when memory is taken away: a smaller size is refused, unless it
        /// is forced. The guest is asked through virtio-balloon, where it has such a device; the first time that takes a
        /// second. Not set: it is not asked.
        guest_reserve_bytes: Option<u64> = None,
        /// The largest that a disk can be made.
        disk_bytes_max: u64 = 64 << 40,
        /// Where cgroup v2 is mounted. CPU time is limited in the group of QEMU, where it is alone in one.
        cgroup_dir: PathBuf = PathBuf::from("/sys/fs/cgroup"),
    }
    sections {}
}

section! {
    /// How sandboxes are saved.
    Hibernation {
        /// Where snapshots are kept. Not set: `snapshots` in the state folder.
        dir: Option<PathBuf> = None,
        /// The order in which `auto` tries the methods; the first that the sandbox allows is taken. `shared` costs
        /// the least, but needs RAM in files; `mapped-ram` needs QEMU 9.0; `internal` needs qcow2 disks.
        order: Vec<Method> = vec![Method::Shared, Method::MappedRam, Method::Internal],
        /// How many sandboxes are saved at once; the others wait for their turn, and run on meanwhile. One that takes longer
        /// than 10 s, because it is large or sick, goes on beside the next.
        at_once: u64 = 8,
    }
    sections {}
}

section! {
    /// How QEMU is started: for a create, a wake and a power-cycle.
    Launch {
        /// Who starts it, so that it outlives the agent. `systemd`: the host's, as a transient service of its own; for an
        /// agent that is root. `systemd_user`: that of the agent's user, which has to linger (`loginctl enable-linger`).
        /// `session`: the agent itself, in a session of its own; QEMU then has the restrictions of the agent's unit.
        /// `auto`: the first of these that can be.
        by: Starter = Starter::Auto,
        /// The QEMU program of a sandbox whose spec names none: a name that is looked up in PATH, or a full path.
        qemu: String = "qemu-system-x86_64".to_owned(),
        /// Where sandboxes that are created have their QMP sockets, as `<org>/<sandbox>.qmp`. Not set: `guests` beside
        /// the control socket.
        sockets_dir: Option<PathBuf> = None,
        /// Where the memory of those is that have it in files. It is as large as their memory, and goes with them. Not
        /// set: `memory` in the state folder.
        memory_dir: Option<PathBuf> = None,
    }
    sections {}
}

/// Who starts QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Starter {
    /// systemd where it can be asked, else the agent.
    Auto,
    /// The host's systemd.
    Systemd,
    /// The systemd of the agent's user.
    SystemdUser,
    /// The agent.
    Session,
}

section! {
    /// Figures for Prometheus.
    Metrics {
        /// Where they are served over HTTP, at `/metrics`: `"127.0.0.1:9753"`, or `"unix:/run/dormouse/metrics.sock"`.
        /// Nobody is asked who they are there, and no figure names an org or a sandbox. Not set: nowhere.
        listen: Option<MetricsAddress> = None,
    }
    sections {}
}

section! {
    /// Traces for a collector.
    Telemetry {
        /// The collector that gets them, by OTLP over gRPC and without TLS: `"http://127.0.0.1:4317"`. Each call and each
        /// command is a span, with org, sandbox and request id. A collector that is slow or away delays nothing, and
        /// loses them. Headers for it are taken from the environment variable `OTEL_EXPORTER_OTLP_HEADERS`. Not set: there
        /// are none.
        otlp_endpoint: Option<String> = None,
        /// How long the collector may take to take a batch.
        otlp_timeout_ms: u64 = 5_000,
    }
    sections {}
}

/// Where figures are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum MetricsAddress {
    /// On a TCP address.
    Tcp(SocketAddr),
    /// On a unix socket, which has the mode and the group of the control socket.
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        let no_address =
            |_| format!("{text:?} is neither an address and port nor unix: and an absolute path");
        text.parse().map(Self::Tcp).map_err(no_address)
    }
}

section! {
    /// What the agent says while it works.
    Log {
        /// A level (`error`, `warn`, `info`, `debug`, `trace`), or a filter such as `info,dormouse::sandbox=debug`.
        level: String = "info".to_owned(),
        /// `text` for people, `json` for programs. Where standard error is the journal, `text` goes there entry by entry,
        /// each with its fields: `DORMOUSE_ORG`, `DORMOUSE_SANDBOX`, `DORMOUSE_REQUEST_ID` and others.
        format: LogFormat = LogFormat::Text,
    }
    sections {}
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people and the journal.
    Text,
    /// One JSON document per line.
    Json,
}

/// The mode of a file, written in octal: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FileMode(pub u32);

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octal = text.len() <= 4 && !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("{text:?} is no file mode: write it in octal from \"0000\" to \"0777\"")),
        }
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        mode.to_string()
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
