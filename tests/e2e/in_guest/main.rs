//! An agent inside a guest, under a kernel of its own: what is done to a clock, and what a kernel with every controller of
//! cgroup v2 makes of a limit on CPU time.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests, too")]

mod clock_step;
mod cpu_limit;
