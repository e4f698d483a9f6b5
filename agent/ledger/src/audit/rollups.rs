//! L2: every rollup is what the slices amount to.

use std::collections::VecDeque;

use dormouse_metering::Slice;
use rusqlite::Connection;

use crate::LedgerError;
use crate::encode::int;
use crate::usage::rollups::Rollup;
use crate::usage::totals::{Piece, Totals};

const ROLLUPS: &str = "SELECT until_unix_ns, seq, since_unix_ns, totals FROM usage_rollups \
     WHERE sandbox_pk = ?1 ORDER BY until_unix_ns";

/// The rollups of one life, to be compared while its slices are walked.
#[derive(Default)]
pub(super) struct Rollups {
    /// Those that are still to be compared, the next one first.
    ahead: VecDeque<Rollup>,
    /// What the slices amount to so far: to the end of the next one at the most.
    totals: Totals,
    /// The end of the last one. What lies before it counts already.
    from_unix_ns: Option<i64>,
    /// From where the totals count; `None` from the beginning.
    since_unix_ns: Option<i64>,
    /// A sum has passed 128 bits.
    overflown: bool,
    /// The first slice that reaches the end of the next one.
    reached_by: Option<i64>,
}

impl Rollups {
    /// All that are stored of a life: far fewer than its slices, so that few are kept in memory.
    pub(super) fn of(conn: &Connection, pk: i64) -> Result<Self, LedgerError> {
        let mut statement = conn.prepare_cached(ROLLUPS)?;
        let ahead = statement.query_map([pk], |row| Rollup::read(row, 0))?.collect::<Result<_, _>>()?;
        Ok(Self { ahead, ..Self::default() })
    }

    /// Adds a slice, the next one in order. Calls `differs` with each rollup that is not what the slices before its
    /// end amount to.
    pub(super) fn slice(
        &mut self,
        slice: &Slice,
        differs: &mut impl FnMut(&Rollup),
    ) -> Result<(), LedgerError> {
        let piece = Piece::of(slice);
        while let Some(next) = self.ahead.front() {
            let until_unix_ns = next.until_unix_ns;
            if piece.place.start < until_unix_ns {
                let window = self.from_unix_ns.unwrap_or(i64::MIN)..until_unix_ns;
                self.overflown |= self.totals.add(&piece, &window).is_none();
                if piece.place.end >= until_unix_ns && self.reached_by.is_none() {
                    self.reached_by = Some(int("seq", slice.seq)?);
                }
                if piece.place.end <= until_unix_ns {
                    break;
                }
            }
            self.compare(differs);
        }
        Ok(())
    }

    /// The life has no more closed slices.
    pub(super) fn end(mut self, differs: &mut impl FnMut(&Rollup)) {
        while !self.ahead.is_empty() {
            self.compare(differs);
        }
    }

    fn compare(&mut self, differs: &mut impl FnMut(&Rollup)) {
        let Some(stored) = self.ahead.pop_front() else { return };
        let is_so = !self.overflown
            && self.reached_by == Some(stored.seq)
            && self.since_unix_ns == stored.since_unix_ns
            && self.totals == stored.totals;
        if !is_so {
            differs(&stored);
        }
        (self.from_unix_ns, self.reached_by, self.overflown) = (Some(stored.until_unix_ns), None, false);
        let begins_anew = |next: &Rollup| next.since_unix_ns == Some(stored.until_unix_ns);
        if self.ahead.front().is_some_and(begins_anew) {
            (self.totals, self.since_unix_ns) = (Totals::default(), Some(stored.until_unix_ns));
        }
    }
}
