//! One QEMU sandbox: what is asked of it, what it is, and the actor that brings the two together.
//!
//! [`machine`] decides and is pure; [`actor`] executes. [`command`], [`refusal`] and [`view`] are the words in
//! which the rest of the agent speaks to a sandbox. Nothing here knows the wire on which commands come.

pub mod actor;
pub mod command;
pub mod facts;
pub mod hibernation;
pub mod launching;
pub mod machine;
pub mod refusal;
pub mod snapshot;
pub mod spec;
pub mod terms;
pub mod view;
