//! Why a command did not do what it was asked: one stable reason each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A command that was refused, failed, or whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Facts for a program: sizes, states, the request id in the way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// A refusal without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: BTreeMap::new() }
    }

    /// Adds one fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $status:ident,)*) => {
        /// The stable reason codes, each with the gRPC status under which it is reported.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code, as `ErrorInfo.reason` carries it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What kind of failure it is.
            pub const fn status(self) -> Status {
                match self { $(Self::$variant => Status::$status,)* }
            }
        }
    };
}

/// The kinds of failure, named as gRPC's status codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The request itself is wrong.
    InvalidArgument,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Who asks may not do this.
    PermissionDenied,
    /// There is no such sandbox.
    NotFound,
    /// The request id was used with another payload.
    AlreadyExists,
    /// The sandbox is in a state in which this cannot be done.
    FailedPrecondition,
    /// Another operation is under way.
    Aborted,
    /// The host has not enough of something.
    ResourceExhausted,
    /// QMP or the ledger cannot be reached now; try again.
    Unavailable,
    /// The outcome is not known yet; the operation goes on.
    DeadlineExceeded,
    /// A snapshot is not what was written.
    DataLoss,
    /// QEMU or the agent failed in a way that it should not.
    Internal,
}

reasons! {
    /// The caller showed nothing that says who it is.
    CallerUnknown = "CALLER_UNKNOWN" => Unauthenticated,
    /// The caller showed a certificate that is not valid now, or that no known authority signed.
    CertificateRefused = "CERTIFICATE_REFUSED" => Unauthenticated,
    /// The caller's role does not allow the call.
    RoleInsufficient = "ROLE_INSUFFICIENT" => PermissionDenied,
    /// The call is about the whole host, and the caller is bound to an org.
    OrgBound = "ORG_BOUND" => PermissionDenied,
    /// The request is longer than any request needs to be.
    RequestTooLarge = "REQUEST_TOO_LARGE" => ResourceExhausted,
    /// As many calls are under way as the configuration allows.
    TooManyRequests = "TOO_MANY_REQUESTS" => ResourceExhausted,
    /// A sandbox or org id has a character that ids do not have.
    InvalidId = "INVALID_ID" => InvalidArgument,
    /// The QMP path is not the absolute path of a socket.
    InvalidQmpPath = "INVALID_QMP_PATH" => InvalidArgument,
    /// The request id is too long.
    InvalidRequestId = "INVALID_REQUEST_ID" => InvalidArgument,
    /// The reason of a suppression is empty, too long or cannot be printed.
    InvalidSuppression = "INVALID_SUPPRESSION" => InvalidArgument,
    /// A tag key or value is not allowed.
    InvalidTag = "INVALID_TAG" => InvalidArgument,
    /// The size is not a multiple of what sizes come in.
    SizeMisaligned = "SIZE_MISALIGNED" => InvalidArgument,
    /// The size is below what it can be or above it.
    SizeOutOfBounds = "SIZE_OUT_OF_BOUNDS" => InvalidArgument,
    /// No sandbox of that name is attached.
    SandboxNotFound = "SANDBOX_NOT_FOUND" => NotFound,
    /// The request id was used before with another payload.
    RequestIdReused = "REQUEST_ID_REUSED" => AlreadyExists,
    /// A sandbox of that name is attached to another socket.
    SandboxExists = "SANDBOX_EXISTS" => AlreadyExists,
    /// The sandbox's state does not allow the command.
    WrongState = "WRONG_STATE" => FailedPrecondition,
    /// The sandbox has no memory device that could be resized.
    NoMemoryDevice = "NO_MEMORY_DEVICE" => FailedPrecondition,
    /// The hibernation method does not suit the sandbox's QEMU, memory or disks.
    MethodUnsuitable = "METHOD_UNSUITABLE" => FailedPrecondition,
    /// The QEMU that would wake the snapshot is not the one that saved it.
    QemuMismatch = "QEMU_MISMATCH" => FailedPrecondition,
    /// Another operation is under way on this sandbox.
    OperationUnderWay = "OPERATION_UNDER_WAY" => Aborted,
    /// A destroy overtook the operation.
    Overtaken = "OVERTAKEN" => Aborted,
    /// The agent was restarted before the command took effect.
    Interrupted = "INTERRUPTED" => Aborted,
    /// The queue of the sandbox is full.
    QueueFull = "QUEUE_FULL" => ResourceExhausted,
    /// There is nothing at the QMP path, or nobody listens there.
    QmpUnreachable = "QMP_UNREACHABLE" => Unavailable,
    /// Another client holds the QMP socket.
    QmpBusy = "QMP_BUSY" => Unavailable,
    /// What answers at the QMP path does not speak QMP.
    QmpNotSpoken = "QMP_NOT_SPOKEN" => Unavailable,
    /// The ledger cannot make anything durable, so nothing is changed.
    LedgerUnwritable = "LEDGER_UNWRITABLE" => Unavailable,
    /// QEMU did not answer in time: what became of the command is not known yet.
    OutcomeUnknown = "OUTCOME_UNKNOWN" => DeadlineExceeded,
    /// The agent is going down; the operation is taken up at its next start.
    AgentStopping = "AGENT_STOPPING" => Unavailable,
    /// The snapshot does not match its manifest.
    SnapshotDamaged = "SNAPSHOT_DAMAGED" => DataLoss,
    /// QEMU refused or failed the command.
    QemuFailed = "QEMU_FAILED" => Internal,
    /// QEMU could not be started.
    LaunchFailed = "LAUNCH_FAILED" => Internal,
    /// QEMU ended while the command was under way.
    QemuDied = "QEMU_DIED" => Unavailable,
    /// Saving failed; the guest runs on.
    SaveFailed = "SAVE_FAILED" => Internal,
    /// A bug in the agent.
    Bug = "BUG" => Internal,
    /// A scale names nothing to be changed.
    NothingToScale = "NOTHING_TO_SCALE" => InvalidArgument,
    /// The disk is larger than it is to become.
    DiskWouldShrink = "DISK_WOULD_SHRINK" => InvalidArgument,
    /// The sandbox has no writable disk of that name.
    NoDisk = "NO_DISK" => FailedPrecondition,
    /// QEMU has no cgroup of its own whose CPU time the agent could limit.
    CgroupUnsuitable = "CGROUP_UNSUITABLE" => FailedPrecondition,
    /// The host has not the memory for the sandbox to grow.
    HostMemoryShort = "HOST_MEMORY_SHORT" => ResourceExhausted,
    /// The guest uses more than what it would be left with.
    GuestNeedsMemory = "GUEST_NEEDS_MEMORY" => FailedPrecondition,
    /// What the guest says of its memory cannot be relied on.
    GuestStatisticsUnusable = "GUEST_STATISTICS_UNUSABLE" => FailedPrecondition,
    /// The spec of a sandbox to be created says what cannot be.
    InvalidSpec = "INVALID_SPEC" => InvalidArgument,
    /// Another process cannot be started with the arguments of the sandbox's QEMU.
    NotRepeatable = "NOT_REPEATABLE" => FailedPrecondition,
    /// No such process was started by this agent and left without a sandbox.
    OrphanNotFound = "ORPHAN_NOT_FOUND" => NotFound,
}
