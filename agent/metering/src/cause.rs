//! Why slices open and close.

use std::fmt;
use std::sync::Arc;

/// The request id of the command that cut a slice, unique within an org.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(Arc<str>);

impl CommandId {
    /// Names a command by its request id.
    pub fn new(request_id: &str) -> Self {
        Self(Arc::from(request_id))
    }

    /// The request id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What closed one slice and opened the next.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The cause's stable name, on the wire and in the ledger.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Reads what [`Cause::as_str`] wrote.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

causes! {
    /// The sandbox was seen for the first time, or for the first time since it was removed.
    Attach = "attach",
    /// The sandbox was handed back by command; its QEMU goes on.
    Detach = "detach",
    /// A scale command changed the shape.
    Scale = "scale",
    /// The shape changed without a command of ours.
    Resize = "resize",
    /// A pause command stopped the guest.
    Pause = "pause",
    /// A resume command continued the guest.
    Resume = "resume",
    /// A hibernate command: the guest stopped, or its state became durable.
    Hibernate = "hibernate",
    /// A hibernate command failed and the guest runs on.
    HibernateFailed = "hibernate_failed",
    /// A wake command: QEMU started, or the guest continued.
    Wake = "wake",
    /// A wake command failed and the sandbox is hibernated as before.
    WakeFailed = "wake_failed",
    /// A reboot command reset the guest.
    Reboot = "reboot",
    /// A destroy command ended the sandbox.
    Destroy = "destroy",
    /// Somebody else stopped the guest.
    Stop = "stop",
    /// Somebody else continued the guest.
    Continue = "continue",
    /// The guest reset itself, or somebody else did.
    Reset = "reset",
    /// The guest powered itself off, or QEMU was told to quit.
    Shutdown = "shutdown",
    /// The QEMU process ended without a word.
    Death = "death",
    /// QEMU stopped the guest because of a fault.
    Fault = "fault",
    /// What QEMU reports after a time without contact differs from what was last known.
    Resync = "resync",
    /// Proof that the QEMU process existed ended here.
    ProofEnded = "proof_ended",
    /// The sandbox was found again after a time without proof.
    Found = "found",
    /// A full UTC hour.
    Hour = "hour",
    /// The tick of a prepaid org.
    Tick = "tick",
    /// The wall clock was stepped.
    ClockStep = "clock_step",
    /// The host was booted again.
    HostBoot = "host_boot",
    /// The platform asked for the time from here not to be billed.
    Suppress = "suppress",
    /// The platform asked for the time from here to be billed again.
    Unsuppress = "unsuppress",
    /// A create command started the sandbox, or continued its guest for the first time.
    Create = "create",
    /// A power-cycle command ended the sandbox's QEMU, or continued the guest in the next one.
    PowerCycle = "power_cycle",
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
