//! The host: finds sandboxes, supervises their actors, and passes commands to them.
//!
//! ```text
//!   discovery ──▶ host actor ──▶ one actor per sandbox ──▶ metering actor ──▶ ledger
//!                   ▲   │ a sandbox's actor panicked: that one alone is started again
//!   commands ── HostHandle ──────────▲
//! ```
//!
//! [`start`] puts it together. Commands go from [`HostHandle`] straight to the sandbox's actor; only what
//! creates or replaces an actor goes through the host actor.

mod actor;
mod directory;
pub mod discovery;
mod handle;
mod orphans;
mod past;
mod recover;
mod start;
mod watch;

pub use discovery::{RejectedFile, RejectedFiles};
pub(crate) use handle::not_found;
pub use handle::{Executed, HostHandle};
pub use orphans::{EndOrphan, Orphan};
pub use start::{Running, StartError, start};
