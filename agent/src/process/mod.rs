//! Processes of QEMU: which one it is, whether it lives, how it was started, and how to start it again.
//!
//! A pid says little: it is used again. A process is known by boot, pid and start time together
//! ([`ProcessIdentity`]) and held by a pidfd ([`Process`]), which the kernel never lets name another one.
//! QEMU outlives the agent: dropping anything here ends nothing.
//!
//! Where to go next: [`identity`] reads `/proc`, [`command_line`] says how to start a QEMU again, [`launch()`]
//! starts it, in a session or a service of its own, and [`started_by`] finds what was started. [`cpu_group`] limits its
//! CPU time, [`paging`] has its memory written out. [`Ends`] tells of those that have died.

mod advise;
mod argv;
pub mod command_line;
pub mod cpu_group;
pub mod cpu_max;
mod ends;
pub mod identity;
pub mod launch;
mod marker;
pub mod paging;
mod pidfd;
mod systemd;
mod words;

pub use argv::{repeatable, wake_argv};
pub use command_line::{CommandLine, CommandLineError, Variables};
pub use cpu_group::{CpuGroupError, CpuGroups};
pub use cpu_max::CpuMax;
pub use ends::{Ends, Watch};
pub use identity::{ProcessIdentity, StatError};
pub use launch::{LaunchError, LaunchSpec, Launched, launch};
pub use marker::{Marker, Started, started_by};
pub use paging::{Advice, Paging};
pub use pidfd::{Process, ProcessError};
pub use systemd::Instance;
pub use words::Words;

#[cfg(test)]
mod tests;
