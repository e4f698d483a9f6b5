//! What to do next, for each reason.

use crate::sandbox::refusal::Reason;

/// What a person at the command line does about a refusal.
pub(super) const fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::CallerUnknown | Reason::CertificateRefused => {
            "show a valid certificate of the agent's client_ca"
        }
        Reason::RoleInsufficient => "ask whoever runs the host for a grant in [[control.grants]]",
        Reason::OrgBound => "ask as a caller whose grant names no org",
        Reason::RequestTooLarge => "send less in one request",
        Reason::InvalidId | Reason::InvalidRequestId | Reason::InvalidSuppression | Reason::InvalidTag => {
            "correct it and try again"
        }
        Reason::InvalidQmpPath => "give the full path of the socket that QEMU's -qmp option names",
        Reason::SizeMisaligned => {
            "choose the base memory plus a multiple of the block size: `dormouse show ID` has both; disks come in 512 bytes"
        }
        Reason::SizeOutOfBounds => {
            "`dormouse show ID` says how far the memory reaches; vCPUs are as many as its QEMU was started with"
        }
        Reason::SandboxNotFound => "`dormouse ls` shows what is attached",
        Reason::RequestIdReused => "choose a new --request-id, or leave it out",
        Reason::SandboxExists => "choose another id, or detach the sandbox that has it",
        Reason::WrongState => "`dormouse show ID` says what it is doing",
        Reason::NoMemoryDevice => "start its QEMU with a virtio-mem device",
        Reason::MethodUnsuitable => "use --method auto: it takes what suits the sandbox and says why",
        Reason::QemuMismatch => {
            "install the QEMU that saved the snapshot, and wake again; or give up what its memory held: `dormouse wake ID --cold`"
        }
        Reason::OperationUnderWay => "`dormouse watch ID` follows it; try again when it is done, or destroy",
        Reason::Overtaken => "the sandbox was destroyed: there is nothing left to do",
        Reason::Interrupted => {
            "repeat it with the same --request-id; where that is refused as well, with a new one"
        }
        Reason::QueueFull | Reason::TooManyRequests => "try again in a moment",
        Reason::QmpUnreachable => {
            "see whether QEMU runs and listens there, and whether the agent may open the socket"
        }
        Reason::QmpBusy => "give the agent a -qmp socket of its own, or disconnect the other client",
        Reason::QmpNotSpoken => "give the socket of QEMU's -qmp option",
        Reason::LedgerUnwritable => "free space on the ledger's disk, or make it writable, and try again",
        Reason::OutcomeUnknown => {
            "repeat it with the same --request-id to learn the outcome: nothing is done twice"
        }
        Reason::AgentStopping => "repeat it with the same --request-id once the agent is back",
        Reason::SnapshotDamaged => {
            "restore the files that the message names from a copy, or give up what its memory held: `dormouse wake ID --cold`"
        }
        Reason::QemuFailed => "the agent's log has what QEMU said",
        Reason::LaunchFailed => {
            "the message has what QEMU said; a snapshot that was not given up is as it was, and what was asked can be tried again"
        }
        Reason::QemuDied => "`dormouse show ID` says what became of the sandbox",
        Reason::SaveFailed => "the guest runs on; free space for the snapshot, or try another --method",
        Reason::NothingToScale => "give --memory, --vcpus or --disk",
        Reason::DiskWouldShrink => "give a size that is not less than what `dormouse show ID` says",
        Reason::NoDisk => "`dormouse show ID` names the disks",
        Reason::CgroupUnsuitable => {
            "give its QEMU a cgroup of its own that the agent may write, or leave --vcpus out"
        }
        Reason::HostMemoryShort => "free memory on the host, move a sandbox away, or ask for less",
        Reason::GuestNeedsMemory => "ask for less to be taken, or --force it",
        Reason::GuestStatisticsUnusable => "see that the guest has a virtio-balloon driver, or --force it",
        Reason::InvalidSpec => "correct the spec: `dormouse create --help` has its keys",
        Reason::NotRepeatable => "start its QEMU without what the message names, or reboot the guest instead",
        Reason::OrphanNotFound => "`dormouse ls --orphans` lists what there is",
        Reason::Bug => "report it with the agent's log",
    }
}
