//! One QEMU sandbox: what is asked of it, what it is, and the actor that brings the two together.

pub mod command;
pub mod refusal;
pub mod snapshot;
pub mod view;
