//! A clock that is moved by hand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Reading;

/// The hands of a simulated clock: it stands still until it is told to move.
#[derive(Debug)]
pub struct ManualTime {
    hands: Mutex<Hands>,
    pub(super) set: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Hands {
    boottime_ns: u64,
    wall_ns: i64,
    slept_ns: u64,
    /// By how much the wall clock runs fast, in parts per billion.
    drift_ppb: i32,
}

impl ManualTime {
    pub(super) fn new(wall_ns: i64) -> Self {
        Self {
            hands: Mutex::new(Hands { boottime_ns: 0, wall_ns, slept_ns: 0, drift_ppb: 0 }),
            set: Notify::new(),
        }
    }

    /// Lets this much time pass: boottime moves by just that, the wall clock by its drift more.
    pub fn advance(&self, ns: u64) {
        let mut hands = self.hands();
        let drift_ns = i128::from(ns) * i128::from(hands.drift_ppb) / 1_000_000_000;
        hands.boottime_ns = hands.boottime_ns.saturating_add(ns);
        hands.wall_ns = hands
            .wall_ns
            .saturating_add_unsigned(ns)
            .saturating_add(i64::try_from(drift_ns).unwrap_or(i64::MAX));
    }

    /// Counts so much of the time that passes as slept by the host. The hands do not move by that.
    pub fn sleep(&self, ns: u64) {
        let mut hands = self.hands();
        hands.slept_ns = hands.slept_ns.saturating_add(ns);
    }

    pub(super) fn slept_ns(&self) -> u64 {
        self.hands().slept_ns
    }

    /// Lets the wall clock run fast (or slow, where negative) against boottime, in parts per billion.
    pub fn drift(&self, ppb: i32) {
        self.hands().drift_ppb = ppb;
    }

    /// Sets the wall clock forward, or back where negative, in nanoseconds. Boottime does not move.
    pub fn step_wall(&self, by_ns: i64) {
        {
            let mut hands = self.hands();
            hands.wall_ns = hands.wall_ns.saturating_add(by_ns);
        }
        self.set.notify_one();
    }

    pub(super) fn read(&self) -> Reading {
        let hands = *self.hands();
        Reading { boottime_ns: hands.boottime_ns, wall_ns: hands.wall_ns, apart_ns: 0 }
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        // Every change is one assignment after the other of plain numbers: there is no half-made state.
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
