//! Package `dormouse.control.v1`, generated from `proto/` at build time.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated; documented in the .proto file"
)]

tonic::include_proto!("dormouse.control.v1");

/// The file descriptors, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
