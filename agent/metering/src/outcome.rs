//! What became of an observation that was given to a meter.

use std::fmt;

/// Where an observation was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The life begins with it, and that is final.
    Began,
    /// At its own stamp, among the pending observations.
    AsStamped,
    /// At the last final cut, which lies `by_ns` after its stamp: it came too late.
    Clamped {
        /// By how much it was moved, in nanoseconds; its uncertainty has grown by as much.
        by_ns: u64,
    },
    /// Nowhere of its own: what is pending says the same already, and has taken its name.
    Repeated,
}

/// Why an observation was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The life has not begun.
    NotBegun,
    /// The life has begun before.
    AlreadyBegun,
    /// The life has ended, at an earlier stamp.
    Ended,
}

impl Refused {
    /// The reason's stable code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotBegun => "METER_NOT_BEGUN",
            Self::AlreadyBegun => "METER_ALREADY_BEGUN",
            Self::Ended => "METER_ENDED",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBegun => "an observation came before the one that begins the sandbox's life",
            Self::AlreadyBegun => "the sandbox's life was begun a second time",
            Self::Ended => "an observation is stamped after the end of the sandbox's life",
        })
    }
}

impl std::error::Error for Refused {}
