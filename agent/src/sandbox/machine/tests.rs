//! The machine by itself: actions out, answers in, no QEMU. [`driver`] answers as a small model of QEMU would, or as
//! a test says.

mod anything;
mod devices;
mod driver;
mod known;
mod limits;
mod meddled;
mod overtaking;
mod paths;
mod recovery;
mod scaling;
mod sight;
mod starting;
mod table;
mod unsaid;
mod waking;
