//! The questions about usage, which a host's ledger and a fleet's answer alike.

use std::ops::Range;

use dormouse_metering::Stamp;
use serde::{Deserialize, Serialize};

use super::{Breakdown, BreakdownQuery, Cancel, CursorKey, Drilldown, DrilldownQuery, SandboxEntry, TagKey};
use crate::{LedgerError, OutboxStanding, Role, SliceRow, TagSet, TagsNow, Token};

/// Which slices of one sandbox.
#[derive(Clone, Debug)]
pub struct SlicesOf {
    /// Its org.
    pub org: String,
    /// Its id.
    pub sandbox: String,
    /// Only those with time in this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Option<Range<i64>>,
    /// Only what follows this place.
    pub after: Option<SlicePlace>,
    /// At most this many.
    pub limit: usize,
    /// Until when an open slice lasts; `None`: only final slices are told.
    pub open_until: Option<Stamp>,
}

/// A place in the order of one sandbox's slices, which is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePlace {
    /// Where the slice before the place begins, in nanoseconds since the Unix epoch.
    pub start_unix_ns: i64,
    /// Its generation.
    pub generation: i64,
    /// Its number.
    pub seq: u64,
}

/// Which slices of an org.
#[derive(Clone, Debug)]
pub struct SlicesIn {
    /// The org.
    pub org: String,
    /// Those that this half-open window of wall time touches, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// Until when an open slice lasts; `None`: only final slices are told.
    pub open_until: Option<Stamp>,
}

impl SlicePlace {
    /// The place behind a slice.
    pub fn behind(row: &SliceRow) -> Self {
        Self { start_unix_ns: row.start_unix_ns, generation: row.generation, seq: row.seq }
    }
}

/// A ledger that is asked who used what: [`Reader`](crate::Reader) of a host's,
/// [`FleetReader`](crate::fleet::FleetReader) of a fleet's.
///
/// Every answer is as of one moment, and of one org where it names one. Calls block. A question with a [`Cancel`] fails
/// with [`LedgerError::Cancelled`] soon after it was cancelled, and the store works on it no longer.
pub trait UsageLedger: Send {
    /// Whether it must not be asked again: its connection broke, or a cancellation may still be on its way.
    fn is_spent(&self) -> bool;

    /// What cursors over this ledger are signed with.
    fn cursor_key(&mut self) -> Result<CursorKey, LedgerError>;

    /// Until when open slices are known to be open; `None`: open slices are not known here.
    fn open_until(&mut self) -> Result<Option<Stamp>, LedgerError>;

    /// Whose token this text is; `None` if it is nobody's, or revoked. Takes as long whatever is wrong with the secret.
    fn bearer(&mut self, presented: &str) -> Result<Option<Token>, LedgerError>;

    /// The token of this id; `None` if there is none, or it was revoked.
    fn token(&mut self, id: &str) -> Result<Option<Token>, LedgerError>;

    /// Where the sinks of the host stand; a fleet's ledger has none.
    fn outbox_standing(&mut self) -> Result<OutboxStanding, LedgerError>;

    /// What an org used in a window, broken down. Everything is clipped to the window, and nothing is rounded.
    fn breakdown(&mut self, query: &BreakdownQuery, cancel: &Cancel) -> Result<Breakdown, LedgerError>;

    /// What one sandbox used in a window; `None` if the org has no such sandbox.
    fn drilldown(
        &mut self,
        query: &DrilldownQuery,
        cancel: &Cancel,
    ) -> Result<Option<Drilldown>, LedgerError>;

    /// At most `limit` sandboxes of an org with ids after `after`, in order.
    fn sandbox_entries(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<SandboxEntry>, LedgerError>;

    /// One sandbox; `None` if the org has none of this id.
    fn sandbox_entry(&mut self, org: &str, sandbox: &str) -> Result<Option<SandboxEntry>, LedgerError>;

    /// A page of a sandbox's slices, oldest first; `None` if the org has no such sandbox.
    fn slices_of(&mut self, query: &SlicesOf, cancel: &Cancel) -> Result<Option<Vec<SliceRow>>, LedgerError>;

    /// Calls `each` with the slices of an org that a window touches, by sandbox and time, all as of one moment. What is
    /// open ends at the moment until which it is known, and is not final.
    fn each_slice(
        &mut self,
        query: &SlicesIn,
        cancel: &Cancel,
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError>;

    /// The orgs that have sandboxes, in order.
    fn orgs(&mut self) -> Result<Vec<String>, LedgerError>;

    /// The tags of a sandbox as they are.
    fn tags(&mut self, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError>;

    /// At most `limit` keys of an org's tags after `after`, in order.
    fn tag_keys(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<TagKey>, LedgerError>;

    /// Replaces all the tags of a sandbox, and returns them as they are then. The same tags again change nothing, not
    /// even the time of the last change. Fails with [`LedgerError::InvalidTag`] and [`LedgerError::UnknownSandbox`].
    fn set_tags(&mut self, set: &TagSet) -> Result<TagsNow, LedgerError>;

    /// Creates a token for an org as of `at_unix_ns`. The text, with the secret in it, is told this once.
    fn create_token(
        &mut self,
        org: &str,
        role: Role,
        at_unix_ns: i64,
    ) -> Result<(Token, String), LedgerError>;

    /// Every token that there ever was, by org and age.
    fn tokens(&mut self) -> Result<Vec<Token>, LedgerError>;

    /// Revokes a token at once and for good. Whether there was one to revoke.
    fn revoke_token(&mut self, id: &str, at_unix_ns: i64) -> Result<bool, LedgerError>;
}
