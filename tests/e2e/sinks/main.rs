//! Events on their way to real servers: what is stopped, killed and paused there loses nothing and changes no order.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod agent;
mod flat;
mod http;
mod outages;
mod received;
