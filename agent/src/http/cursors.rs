//! Where an answer goes on: signed places that hold for the question they were handed out for.

use dormouse_ledger::usage::{Moment, Place};
use dormouse_metering::{BootId, Stamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::problem::{Problem, Reason};
use super::query::Params;

/// A place behind the items of a page of usage, with the moment of which all pages tell.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UsagePlace {
    pub(super) from_unix_ns: i64,
    pub(super) to_unix_ns: i64,
    open_until: Option<(String, u64, i64)>,
    tags_unix_ns: i64,
    /// An integer of up to 128 bits.
    amount: String,
    key: String,
}

impl UsagePlace {
    pub(super) fn new(window: &std::ops::Range<i64>, moment: Moment, place: Place) -> Self {
        let stamp = |stamp: Stamp| (stamp.boot.to_string(), stamp.boottime_ns, stamp.wall_ns);
        Self {
            from_unix_ns: window.start,
            to_unix_ns: window.end,
            open_until: moment.open_until.map(stamp),
            tags_unix_ns: moment.tags_unix_ns,
            amount: place.amount.to_string(),
            key: place.key,
        }
    }

    /// The moment and the place. What is signed was written by `new`.
    pub(super) fn read(self) -> Result<(Moment, Place), Problem> {
        let stamp = |(boot, boottime_ns, wall_ns): (String, u64, i64)| {
            Some(Stamp { boot: BootId::parse(&boot)?, boottime_ns, wall_ns, uncertainty_ns: 0 })
        };
        let open_until = match self.open_until {
            Some(parts) => Some(stamp(parts).ok_or_else(invalid)?),
            None => None,
        };
        let amount = self.amount.parse().map_err(|_| invalid())?;
        Ok((Moment { open_until, tags_unix_ns: self.tags_unix_ns }, Place { amount, key: self.key }))
    }
}

fn invalid() -> Problem {
    Problem::new(
        Reason::InvalidCursor,
        "the cursor was not handed out for this question: repeat the question as it was, or begin without one",
    )
}

impl Shared {
    /// The place that a request goes on from, if it names one.
    pub(super) fn place<T: DeserializeOwned>(&self, params: &Params) -> Result<Option<T>, Problem> {
        let Some(cursor) = params.get("cursor") else { return Ok(None) };
        self.cursor_key.open(params.question(), cursor).map(Some).ok_or_else(invalid)
    }

    /// The cursor of a place.
    pub(super) fn cursor<T: Serialize>(
        &self,
        params: &Params,
        place: Option<T>,
    ) -> Result<Option<String>, Problem> {
        Ok(place.map(|place| self.cursor_key.seal(params.question(), &place)).transpose()?)
    }
}
