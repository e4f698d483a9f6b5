//! The tiling audit: what must hold of a sandbox's slices, checked on the slices alone.
//!
//! One slice is looked at a time, and only the boundary before it is kept: an audit of any length takes the
//! same memory. It knows nothing of how slices are made.

use std::fmt;

use crate::{Boundary, Cause, OpenSlice, Slice, hour};

/// Something that must not be, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The number of the slice that shows it.
    pub seq: u64,
    /// What it is.
    pub kind: ViolationKind,
}

/// What can be wrong with a slice, by itself or behind its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// Numbers must be contiguous from 1 (M1).
    Seq {
        /// The number that belongs here.
        expected: u64,
    },
    /// Time between this slice and its predecessor is in neither (M1).
    Gap {
        /// How much, in nanoseconds of wall time.
        ns: u64,
    },
    /// The slice begins before its predecessor ends (M1).
    Overlap {
        /// How much, in nanoseconds of wall time.
        ns: u64,
    },
    /// The slice is not opened by what closed its predecessor (M3).
    Cause,
    /// The slice is not opened by the command that closed its predecessor (M3).
    Command,
    /// The boundary is not as uncertain for this slice as for its predecessor (M1).
    Uncertainty,
    /// A command's cause closes the slice, or opens the first, and no command is named (M3).
    Unnamed,
    /// The slice ends before it begins (M1).
    Backwards,
    /// The slice has neither duration nor extent (M1).
    Empty,
    /// The duration is not the extent, although no clock step explains it (M8).
    Duration {
        /// The wall time between start and end, in nanoseconds.
        span_ns: u64,
    },
    /// A full UTC hour lies inside the slice.
    CrossesHour,
}

impl ViolationKind {
    /// The reason's stable code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Seq { .. } => "AUDIT_SEQ",
            Self::Gap { .. } => "AUDIT_GAP",
            Self::Overlap { .. } => "AUDIT_OVERLAP",
            Self::Cause => "AUDIT_CAUSE",
            Self::Command => "AUDIT_COMMAND",
            Self::Uncertainty => "AUDIT_UNCERTAINTY",
            Self::Unnamed => "AUDIT_UNNAMED",
            Self::Backwards => "AUDIT_BACKWARDS",
            Self::Empty => "AUDIT_EMPTY",
            Self::Duration { .. } => "AUDIT_DURATION",
            Self::CrossesHour => "AUDIT_CROSSES_HOUR",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slice {}: ", self.seq)?;
        match self.kind {
            ViolationKind::Seq { expected } => write!(f, "the next number is {expected}"),
            ViolationKind::Gap { ns } => write!(f, "{ns} ns before it are in no slice"),
            ViolationKind::Overlap { ns } => write!(f, "its first {ns} ns are in its predecessor too"),
            ViolationKind::Cause => f.write_str("another cause closed its predecessor"),
            ViolationKind::Command => f.write_str("another command closed its predecessor"),
            ViolationKind::Uncertainty => f.write_str("its predecessor's end is uncertain by another amount"),
            ViolationKind::Unnamed => f.write_str("a command cut it and is not named"),
            ViolationKind::Backwards => f.write_str("it ends before it begins"),
            ViolationKind::Empty => f.write_str("it has neither duration nor extent"),
            ViolationKind::Duration { span_ns } => {
                write!(f, "its duration is not the {span_ns} ns from its start to its end")
            }
            ViolationKind::CrossesHour => f.write_str("a full UTC hour lies inside it"),
        }
    }
}

/// The audit of one sandbox's life, slice by slice.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    seq: u64,
    end: Option<Boundary>,
}

impl Audit {
    /// An audit that expects slice 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next closed slice.
    pub fn closed(&mut self, slice: &Slice, report: &mut impl FnMut(Violation)) {
        self.begins(slice.seq, &slice.start, report);
        let mut wrong = |kind| report(Violation { seq: slice.seq, kind });
        let (start_ns, end_ns) = (slice.start.unix_ns, slice.end.unix_ns);
        let span_ns = end_ns.abs_diff(start_ns);
        if end_ns < start_ns {
            wrong(ViolationKind::Backwards);
        } else if span_ns == 0 && slice.duration_ns == 0 {
            wrong(ViolationKind::Empty);
        } else if span_ns != 0 && slice.duration_ns != 0 && slice.duration_ns != span_ns {
            wrong(ViolationKind::Duration { span_ns });
        }
        if start_ns < end_ns && hour::next_boundary(start_ns) < end_ns {
            wrong(ViolationKind::CrossesHour);
        }
        if unnamed(&slice.end) {
            wrong(ViolationKind::Unnamed);
        }
        self.end = Some(slice.end.clone());
    }

    /// Checks the slice that is open behind all closed ones.
    pub fn open(mut self, open: &OpenSlice, report: &mut impl FnMut(Violation)) {
        self.begins(open.seq, &open.start, report);
    }

    /// Checks a start against the end before it, and goes on to its number.
    fn begins(&mut self, seq: u64, start: &Boundary, report: &mut impl FnMut(Violation)) {
        let mut wrong = |kind| report(Violation { seq, kind });
        let expected = self.seq + 1;
        if seq != expected {
            wrong(ViolationKind::Seq { expected });
        }
        // After a wrong number the count goes on from it: one hole is one violation.
        self.seq = seq;
        let Some(end) = &self.end else {
            if unnamed(start) {
                wrong(ViolationKind::Unnamed);
            }
            return;
        };
        let ns = start.unix_ns.abs_diff(end.unix_ns);
        if start.unix_ns > end.unix_ns {
            wrong(ViolationKind::Gap { ns });
        } else if start.unix_ns < end.unix_ns {
            wrong(ViolationKind::Overlap { ns });
        }
        if start.cause != end.cause {
            wrong(ViolationKind::Cause);
        }
        if start.command != end.command {
            wrong(ViolationKind::Command);
        }
        if start.uncertainty_ns != end.uncertainty_ns {
            wrong(ViolationKind::Uncertainty);
        }
    }
}

/// Audits the closed slices of one sandbox in order, and the open one behind them if there is one.
pub fn audit<'a>(
    closed: impl IntoIterator<Item = &'a Slice>,
    open: Option<&OpenSlice>,
    report: &mut impl FnMut(Violation),
) {
    let mut audit = Audit::new();
    closed.into_iter().for_each(|slice| audit.closed(slice, report));
    if let Some(open) = open {
        audit.open(open, report);
    }
}

/// Whether a boundary that only a command can make names none.
fn unnamed(boundary: &Boundary) -> bool {
    let by_command = matches!(
        boundary.cause,
        Cause::Detach
            | Cause::Scale
            | Cause::Pause
            | Cause::Resume
            | Cause::Hibernate
            | Cause::HibernateFailed
            | Cause::Wake
            | Cause::WakeFailed
            | Cause::Reboot
            | Cause::Destroy
            | Cause::Suppress
            | Cause::Unsuppress
            | Cause::Create
            | Cause::PowerCycle
    );
    by_command && boundary.command.is_none()
}
