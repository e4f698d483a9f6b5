//! The host: finds sandboxes, supervises their actors, and passes commands to them.

mod handle;

pub use handle::{Executed, HostHandle};
