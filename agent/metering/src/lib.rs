//! The meter: observations of a sandbox in, billing slices out.
//!
//! This crate is the pure core of Dormouse. It decides what every nanosecond of a sandbox's life was:
//! in which billing state, at which shape, opened and closed by which cause. The same code serves the
//! live path, crash recovery, simulation and audit.
//!
//! # Architecture invariant
//!
//! Nothing here reads a clock, touches a file, awaits, or depends on any crate but `std`. Time is an
//! argument ([`Stamp`]); quantities are integers; nothing is rounded.
//!
//! Start with [`meter`] for how slices are cut, [`audit`] for what must hold of them afterwards, and
//! [`Quantities`] for how they become byte-nanoseconds.

#![deny(clippy::float_arithmetic)]

pub mod audit;
mod cause;
mod decimal;
mod holding;
pub mod hour;
pub mod meter;
mod observation;
mod outcome;
mod pending;
mod place;
mod policy;
mod quantity;
mod run_state;
mod shape;
mod slice;
mod stamp;
mod state;
mod sweep;

pub use cause::{Cause, CommandId};
pub use decimal::{GbSeconds, VcpuSeconds};
pub use meter::Meter;
pub use observation::{Change, Observation};
pub use outcome::{Placed, Refused};
pub use policy::{Dimensions, Policy};
pub use quantity::{Basis, Quantities, clip, clip_interval};
pub use run_state::RunState;
pub use shape::Shape;
pub use slice::{Boundary, OpenSlice, Slice};
pub use stamp::{BootId, Stamp};
pub use state::{BillingState, Fault, UnknownState};
