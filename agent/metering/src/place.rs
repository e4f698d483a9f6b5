//! Where slices lie: durations by boottime, placement by the wall clock, never across a UTC hour.
//!
//! Nothing here decides that a slice is cut, only how a stretch of time that ends somewhere becomes slices of
//! the three forms that [`Slice`] documents. [`crate::meter`] tells the rules.

use std::cmp::{Ordering, max};
use std::mem::replace;

use crate::{BootId, Boundary, Cause, OpenSlice, Slice, hour};

/// A point in a host's time.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) boot: BootId,
    pub(crate) boottime_ns: u64,
    pub(crate) wall_ns: i64,
}

/// What passed between the start of the open slice and a point after it.
#[expect(clippy::struct_field_names, reason = "every name ends in its unit")]
struct Stretch {
    /// By `CLOCK_BOOTTIME`, or by the wall clock where the host was booted in between.
    elapsed_ns: u64,
    /// By the wall clock, which never goes back.
    span_ns: u64,
    /// The wall position of the point: never before the start.
    wall_ns: i64,
}

impl Stretch {
    fn between(open: &OpenSlice, to: &Point) -> Self {
        let wall_ns = max(to.wall_ns, open.start.unix_ns);
        let span_ns = wall_ns.abs_diff(open.start.unix_ns);
        let elapsed_ns = if open.boot == to.boot {
            to.boottime_ns.saturating_sub(open.start_boottime_ns)
        } else {
            span_ns
        };
        Self { elapsed_ns, span_ns, wall_ns }
    }
}

/// Whether the time of a piece passed, or the wall clock merely jumped over it.
#[derive(Clone, Copy)]
enum Piece {
    Ordinary,
    Bridge,
}

/// Emits what the open slice was up to `to`, and lets the open slice begin there, with the boundary `why`.
///
/// Where no time at all lies between, nothing is emitted and the boundary that is there stays.
pub(crate) fn close(open: &mut OpenSlice, to: &Point, why: Boundary, emit: &mut impl FnMut(Slice)) {
    let stretch = Stretch::between(open, to);
    let why = Boundary { unix_ns: stretch.wall_ns, ..why };
    match stretch.span_ns.cmp(&stretch.elapsed_ns) {
        Ordering::Equal => piece(open, Piece::Ordinary, why, emit),
        Ordering::Greater => {
            let step_ns = open.start.unix_ns.saturating_add_unsigned(stretch.elapsed_ns);
            piece(open, Piece::Ordinary, boundary(step_ns, Cause::ClockStep), emit);
            piece(open, Piece::Bridge, why, emit);
        }
        Ordering::Less => {
            let excess_ns = stretch.elapsed_ns - stretch.span_ns;
            if stretch.span_ns == 0 {
                slice(open, excess_ns, why, emit);
            } else {
                let step = boundary(open.start.unix_ns, Cause::ClockStep);
                slice(open, excess_ns, step, emit);
                piece(open, Piece::Ordinary, why, emit);
            }
        }
    }
    open.boot = to.boot;
    open.start_boottime_ns = to.boottime_ns;
}

/// Closes the open slice at every full hour up to and including `to`, and leaves the rest open.
///
/// Only the hours that a later cut would put at the same place: those of the clock by which the slice began.
pub(crate) fn close_hours(open: &mut OpenSlice, to: &Point, emit: &mut impl FnMut(Slice)) {
    let stretch = Stretch::between(open, to);
    let excess_ns = stretch.elapsed_ns.saturating_sub(stretch.span_ns);
    let passed_ns = stretch.elapsed_ns - excess_ns;
    let reach_ns = open.start.unix_ns.saturating_add_unsigned(passed_ns);
    let mut hour_ns = hour::next_boundary(open.start.unix_ns);
    if hour_ns > reach_ns {
        return;
    }
    if excess_ns > 0 {
        let step = boundary(open.start.unix_ns, Cause::ClockStep);
        slice(open, excess_ns, step, emit);
    }
    while hour_ns <= reach_ns && open.start.unix_ns < hour_ns {
        slice(open, hour_ns.abs_diff(open.start.unix_ns), boundary(hour_ns, Cause::Hour), emit);
        hour_ns = hour::next_boundary(hour_ns);
    }
}

/// Emits one piece up to a boundary, in as many slices as it touches hours.
fn piece(open: &mut OpenSlice, form: Piece, end: Boundary, emit: &mut impl FnMut(Slice)) {
    let duration_ns = |from_ns: i64, to_ns: i64| match form {
        Piece::Ordinary => to_ns.abs_diff(from_ns),
        Piece::Bridge => 0,
    };
    let mut hour_ns = hour::next_boundary(open.start.unix_ns);
    while hour_ns < end.unix_ns {
        slice(open, duration_ns(open.start.unix_ns, hour_ns), boundary(hour_ns, Cause::Hour), emit);
        hour_ns = hour::next_boundary(hour_ns);
    }
    if open.start.unix_ns < end.unix_ns {
        slice(open, duration_ns(open.start.unix_ns, end.unix_ns), end, emit);
    }
}

fn slice(open: &mut OpenSlice, duration_ns: u64, end: Boundary, emit: &mut impl FnMut(Slice)) {
    let start = replace(&mut open.start, end.clone());
    emit(Slice { seq: open.seq, state: open.state, shape: open.shape, duration_ns, start, end });
    open.seq += 1;
    open.start_boottime_ns = open.start_boottime_ns.saturating_add(duration_ns);
}

/// A boundary that time itself puts there: certain, and without a command.
fn boundary(unix_ns: i64, cause: Cause) -> Boundary {
    Boundary { unix_ns, uncertainty_ns: 0, cause, command: None }
}
