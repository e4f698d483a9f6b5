//! The host: finds sandboxes, supervises their actors, and passes commands to them.

pub mod discovery;
mod handle;
pub mod memory;

pub use handle::{Executed, HostHandle};
