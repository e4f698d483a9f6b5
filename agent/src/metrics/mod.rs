//! Figures for Prometheus. `packaging/metrics.md` explains each; a test holds the two together.
//!
//! Calls and denials are counted as they happen; what the host holds is looked up when somebody asks, so that an agent
//! whom nobody asks does nothing. No figure names an org or a sandbox: ten thousand of them must not make ten
//! thousand time series, and whoever reads figures learns nothing of anybody.

mod server;

use std::sync::atomic::AtomicU64;

use dormouse_ledger::Health;
use dormouse_metering::BillingState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::sandbox::view::SandboxView;

pub use server::{MetricsError, MetricsListener};

/// The upper bounds of a call's duration, in seconds: from an answer from memory to a hibernation.
const DURATION_BUCKETS_S: [f64; 12] =
    [0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// A figure in bytes, which passes what a signed number holds on a large host.
type Bytes = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connection {
    connection: &'static str,
}

/// What the host holds at the moment of a question.
#[derive(Debug)]
pub struct Holding {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxView>,
    /// Whether the ledger takes writes.
    pub ledger: Health,
    /// How many files of the watched folder are not taken.
    pub rejected: usize,
}

/// All figures of an agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_duration: Family<Method, Histogram>,
    denials: Family<Reason, Counter>,
    certificate_reads: Family<Outcome, Counter>,
    sandboxes: Family<State, Gauge>,
    connections: Family<Connection, Gauge>,
    memory_base: Bytes,
    memory_plugged: Bytes,
    memory_requested: Bytes,
    vcpus_milli: Bytes,
    disk: Bytes,
    operations: Gauge,
    rejected: Gauge,
    ledger_writable: Gauge,
    ledger_facts_waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS_S);
        let mut metrics = Self {
            registry: Registry::with_prefix("dormouse"),
            calls: Family::default(),
            call_duration: Family::new_with_constructor(histogram),
            denials: Family::default(),
            certificate_reads: Family::default(),
            sandboxes: Family::default(),
            connections: Family::default(),
            memory_base: Bytes::default(),
            memory_plugged: Bytes::default(),
            memory_requested: Bytes::default(),
            vcpus_milli: Bytes::default(),
            disk: Bytes::default(),
            operations: Gauge::default(),
            rejected: Gauge::default(),
            ledger_writable: Gauge::default(),
            ledger_facts_waiting: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "build",
            "The version of the agent",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("calls", "Calls answered", self.calls.clone());
        registry.register(
            "call_duration_seconds",
            "From a call's arrival to its answer",
            self.call_duration.clone(),
        );
        registry.register("denials", "Calls and connections denied", self.denials.clone());
        registry.register(
            "certificate_reads",
            "Times that the certificates of the TCP listener were read again",
            self.certificate_reads.clone(),
        );
        registry.register("sandboxes", "Sandboxes by billing state", self.sandboxes.clone());
        registry.register("qmp_connections", "Sandboxes by QMP connection", self.connections.clone());
        registry.register("memory_base_bytes", "Memory that is always there", self.memory_base.clone());
        registry.register(
            "memory_plugged_bytes",
            "Memory plugged by virtio-mem",
            self.memory_plugged.clone(),
        );
        registry.register(
            "memory_requested_bytes",
            "Memory asked of virtio-mem",
            self.memory_requested.clone(),
        );
        registry.register("vcpus_milli", "vCPUs in thousandths", self.vcpus_milli.clone());
        registry.register("disk_bytes", "Virtual size of the writable disks", self.disk.clone());
        registry.register(
            "operations_under_way",
            "Sandboxes with a command under way",
            self.operations.clone(),
        );
        registry.register(
            "files_rejected",
            "Files in the watched folder that are not taken as sandboxes",
            self.rejected.clone(),
        );
        registry.register("ledger_writable", "Whether the ledger takes writes", self.ledger_writable.clone());
        registry.register(
            "ledger_facts_waiting",
            "Facts that wait for a ledger that takes no writes",
            self.ledger_facts_waiting.clone(),
        );
    }

    /// Counts a call that was answered: its path, its gRPC status code, and how long that took.
    pub fn called(&self, method: &'static str, code: &'static str, duration_ns: u64) {
        self.calls.get_or_create(&Call { method, code }).inc();
        // The edge at which exact time becomes a figure to look at.
        let seconds = std::time::Duration::from_nanos(duration_ns).as_secs_f64();
        self.call_duration.get_or_create(&Method { method }).observe(seconds);
    }

    /// Counts a denial by its reason code.
    pub fn denied(&self, reason: &'static str) {
        self.denials.get_or_create(&Reason { reason }).inc();
    }

    /// Counts that certificates were read again: taken, or not and left as they were.
    pub fn certificates_read(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.certificate_reads.get_or_create(&Outcome { outcome }).inc();
    }

    /// All figures in the text format that Prometheus reads.
    pub fn render(&self, holding: &Holding) -> String {
        self.look_at(holding);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn look_at(&self, holding: &Holding) {
        for state in BillingState::ALL {
            self.sandboxes.get_or_create(&State { state: state.name() }).set(0);
        }
        self.connections.clear();
        for view in &holding.sandboxes {
            if let Some(state) = view.state {
                self.sandboxes.get_or_create(&State { state: state.name() }).inc();
            }
            let connection = view.connection.as_str();
            self.connections.get_or_create(&Connection { connection }).inc();
        }
        let sum = |of: fn(&SandboxView) -> u64| holding.sandboxes.iter().map(of).fold(0, u64::saturating_add);
        self.memory_base.set(sum(|view| view.shape.memory_base_bytes));
        self.memory_plugged.set(sum(|view| view.shape.memory_plugged_bytes));
        self.memory_requested.set(sum(|view| view.shape.memory_requested_bytes));
        self.vcpus_milli.set(sum(|view| view.shape.vcpus_milli.into()));
        self.disk.set(sum(|view| view.shape.disk_bytes));
        let under_way = holding.sandboxes.iter().filter(|view| view.operation.is_some()).count();
        self.operations.set(i64::try_from(under_way).unwrap_or(i64::MAX));
        self.rejected.set(i64::try_from(holding.rejected).unwrap_or(i64::MAX));
        let (writable, waiting) = match &holding.ledger {
            Health::Writable => (1, 0),
            Health::Unwritable { facts_waiting, .. } => {
                (0, i64::try_from(*facts_waiting).unwrap_or(i64::MAX))
            }
        };
        self.ledger_writable.set(writable);
        self.ledger_facts_waiting.set(waiting);
    }
}

#[cfg(test)]
mod tests;
