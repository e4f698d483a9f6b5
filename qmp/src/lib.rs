//! Speaking QMP, the QEMU Machine Protocol, for programs that must not be hurt by a sick QEMU.
//!
//! - [`Connection::connect`] connects to a QMP unix socket and negotiates. Its [`Client`] carries out commands, typed
//!   by [`qapi_qmp`] or raw by name; its [`EventStream`] hands on events, anomalies, gaps and the end.
//! - [`session`] is the protocol without IO, [`codec`] and [`message`] the wire format.
//! - [`Schema`] tells what this QEMU can do.
//! - `scripted` (feature `test-util`) is a QEMU for tests.
//!
//! # What holds
//!
//! - Everything is bounded: lines, queues, and by a deadline every wait. Each [`QmpError`] has a stable
//!   [`reason`](QmpError::reason), and says whether the command [may have happened](QmpError::may_have_happened).
//! - A bad line, an unknown event, a late reply or a dropped future never ends a session.
//! - Nothing is lost in silence: what could not be read, matched or delivered is counted and reported.
//! - One command is in flight at a time, and out-of-band execution is never enabled.
//!
//! # What it never does
//!
//! It never reconnects, reads no clock but the monotonic one of its runtime's deadlines, stamps no event with its
//! arrival, and knows nothing of what its user makes of QEMU.
//!
//! # Example
//!
//! ```no_run
//! use dormouse_qmp::{Config, Connection, Incoming, qapi_qmp};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dormouse_qmp::QmpError> {
//! let Connection { client, mut events, peer, version } =
//!     Connection::connect("/run/sandbox-1.qmp", Config::default()).await?;
//! println!("QEMU {version}, pid {}", peer.pid);
//!
//! // Events that were sent before we came are gone: ask first.
//! let status = client.execute(qapi_qmp::query_status {}).await?;
//! println!("now {:?}", status.status);
//!
//! client.execute(qapi_qmp::stop {}).await?;
//! loop {
//!     match events.next().await {
//!         Incoming::Event(event) => println!("{} at {:?}", event.name, event.timestamp_unix_ns),
//!         Incoming::Anomaly(anomaly) => println!("{anomaly}: ask for the state again"),
//!         Incoming::Gap { missed } => println!("{missed} events missed: ask for the state again"),
//!         Incoming::Closed(close) => break println!("{close}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod codec;
mod config;
mod error;
mod event;
pub mod message;
pub mod queue;
mod schema;
#[cfg(feature = "test-util")]
pub mod scripted;
pub mod session;
mod transport;
mod version;

pub use config::Config;
pub use error::QmpError;
pub use event::{Decoded, Event};
pub use qapi_qmp;
pub use qapi_spec::ErrorClass;
pub use schema::Schema;
pub use session::{Anomaly, AnomalyCounts, CloseReason};
pub use transport::{Client, Connection, EventStream, Incoming, Peer, Position};
pub use version::Version;
