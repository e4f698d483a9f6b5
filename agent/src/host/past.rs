//! What the ledger says of the last life of a sandbox that is not there any more.
//!
//! One that was handed back by a detach is left alone by discovery until its QEMU is another one, or somebody asks for it. One
//! that has ended otherwise is destroyed as it is: whoever tells it so once more is answered that nothing was to be done. To
//! whoever asks for anything else it is not found, with when its last life ended and why.
//!
//! ```text
//!   not there ── its last life has ended, by the ledger ─────────────────────────────▶ that is what is answered
//!        │ it has not: its end is on its way there                                           ▲
//!        └──▶ all that was told is made durable, and the ledger is asked once more ──────────┘
//! ```

use std::sync::PoisonError;
use std::time::Duration;

use dormouse_ledger::{
    LedgerError, Reader, SandboxFilter, SandboxRow, SliceCursor, SliceQuery, SliceRow, rfc3339,
};
use dormouse_metering::Cause;

use super::HostHandle;
use super::handle::Executed;
use crate::metering::{self, Acknowledgement};
use crate::process::Process;
use crate::sandbox::actor::Attachment;
use crate::sandbox::command::{Command, CommandResult, Outcome, SandboxKey};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::SandboxView;
use crate::words::why;

/// For how long the refusal of what is not there waits for what the ledger says of its past.
const PAST_WAIT: Duration = Duration::from_millis(500);

impl HostHandle {
    /// Whether discovery is to leave a sandbox alone, because it was handed back. What the ledger cannot tell is not so.
    pub(super) async fn is_handed_back(&self, key: &SandboxKey) -> bool {
        let last = self.last_life(key).await.unwrap_or_else(|why| {
            tracing::warn!(%why, "whether a sandbox was detached cannot be read");
            None
        });
        last.is_some_and(|last| last.is_detached() && last.qemu_lives())
    }

    /// One sandbox. Of one that has ended the refusal says so.
    pub async fn find(&self, key: &SandboxKey) -> Result<SandboxView, Refusal> {
        match self.get(key) {
            Err(not_found) => Err(self.with_past(key, not_found).await),
            found => found,
        }
    }

    /// The refusal for want of a sandbox, with what became of it. A disk that hangs holds it up for a moment only.
    pub(super) async fn with_past(&self, key: &SandboxKey, not_found: Refusal) -> Refusal {
        match tokio::time::timeout(PAST_WAIT, self.past(key)).await {
            Ok(Ok(Some(past))) => past.refusal(key),
            _ => not_found,
        }
    }

    /// Carries out a destroy of a sandbox that is not there: refused as it was, unless its last life is over. That is
    /// recorded as any command is, so that the same request never destroys one that is begun later.
    pub(super) async fn destroyed_before(
        &self,
        command: Command,
        not_found: Refusal,
    ) -> Result<Executed, Refusal> {
        let Some(past) = self.past(&command.key).await? else { return Err(not_found) };
        if past.is_detached() {
            return Err(past.refusal(&command.key));
        }
        let outcome = Outcome { result: CommandResult::Unchanged, message: past.in_words(&command.key) };
        let (sandbox, generation) = (SandboxView::gone(command.key.clone()), past.row.key.generation);
        let at = self.environment.clock.now();
        let intent = Box::new(metering::intent(&command, Some(generation), at));
        let concluded = Box::new(metering::outcome_of(&command, at, &Ok(outcome.clone())));
        let message = |reply| metering::Message::IntendApart(intent, Some(concluded), reply);
        match self.record(message).await? {
            Acknowledgement::Replayed(stored) => Ok(Executed { outcome: stored?, sandbox, replayed: true }),
            _ => Ok(Executed { outcome, sandbox, replayed: false }),
        }
    }

    /// The last life of a sandbox that is not there any more, if it has ended. That it has the metering actor was told before
    /// the sandbox was seen to be gone, and the ledger may be yet to learn.
    async fn past(&self, key: &SandboxKey) -> Result<Option<Life>, Refusal> {
        let unreadable = |why: String| Refusal::new(Reason::LedgerUnwritable, why);
        let last = self.last_life(key).await.map_err(unreadable)?;
        if last.as_ref().is_none_or(Life::has_ended) {
            return Ok(last);
        }
        self.record(metering::Message::Settle).await?;
        Ok(self.last_life(key).await.map_err(unreadable)?.filter(Life::has_ended))
    }

    /// The last life of that name; what went wrong where that cannot be read.
    async fn last_life(&self, key: &SandboxKey) -> Result<Option<Life>, String> {
        let (reader, key) = (self.reader.clone(), key.clone());
        let look_up = move || Life::last_of(&reader.lock().unwrap_or_else(PoisonError::into_inner), &key);
        let found = tokio::task::spawn_blocking(look_up).await.map_err(|error| error.to_string())?;
        found.map_err(|error| error.to_string())
    }
}

/// The last life of a name, as the ledger has it.
struct Life {
    row: SandboxRow,
    /// Where it has ended, its last slice: what closed that has ended it.
    last: Option<SliceRow>,
}

impl Life {
    fn last_of(reader: &Reader, key: &SandboxKey) -> Result<Option<Self>, LedgerError> {
        let filter = SandboxFilter {
            org: Some(key.org.clone()),
            sandbox: Some(key.sandbox.clone()),
            ..SandboxFilter::default()
        };
        let Some(row) = reader.sandboxes(&filter)?.pop() else { return Ok(None) };
        let last = if row.ended_unix_ns.is_some() { last_slice(reader, &row)? } else { None };
        Ok(Some(Self { row, last }))
    }

    fn has_ended(&self) -> bool {
        self.row.ended_unix_ns.is_some()
    }

    fn ended_by(&self) -> Option<&str> {
        self.last.as_ref()?.closed_by.as_deref()
    }

    /// Whether it was handed back, and its QEMU was left to itself.
    fn is_detached(&self) -> bool {
        self.ended_by() == Some(Cause::Detach.as_str())
    }

    /// When it ended and why, where it has.
    fn in_words(&self, key: &SandboxKey) -> String {
        let when = self.row.ended_unix_ns.map(|ns| format!(" at {}", rfc3339(ns))).unwrap_or_default();
        let why = self.ended_by().map(|cause| format!(": {}", why(cause))).unwrap_or_default();
        let command = self.last.as_ref().and_then(|last| last.command_id.as_ref());
        let request = command.map(|id| format!(" (request {id})")).unwrap_or_default();
        format!("{key} has ended{when}{why}{request}")
    }

    fn refusal(&self, key: &SandboxKey) -> Refusal {
        let refusal = Refusal::new(Reason::SandboxNotFound, self.in_words(key));
        let refusal = refusal.with("org", &key.org).with("sandbox", &key.sandbox);
        let facts = [
            ("ended_unix_ns", self.row.ended_unix_ns.map(|ns| ns.to_string())),
            ("ended_by", self.ended_by().map(str::to_owned)),
            ("ended_by_command_id", self.last.as_ref().and_then(|last| last.command_id.clone())),
        ];
        let known = facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
        known.fold(refusal, |refusal, (name, fact)| refusal.with(name, fact))
    }

    fn qemu_lives(&self) -> bool {
        let identity =
            Attachment::from_json(&self.row.attachment).and_then(|attachment| attachment.process());
        identity.is_some_and(|identity| matches!(Process::find_by(identity), Ok(Some(_))))
    }
}

/// The last slice of a life that has ended.
fn last_slice(reader: &Reader, row: &SandboxRow) -> Result<Option<SliceRow>, LedgerError> {
    let Some(last) = reader.last_slice(&row.key)? else { return Ok(None) };
    let sandboxes = SandboxFilter {
        org: Some(row.key.org.clone()),
        sandbox: Some(row.key.sandbox.clone()),
        generation: Some(row.key.generation),
        live_only: false,
    };
    let after = Some(SliceCursor { key: row.key.clone(), seq: last.saturating_sub(1) });
    let mut page = reader.slices(&SliceQuery { sandboxes, window: None, after, limit: 1, now: None })?;
    Ok(page.rows.pop())
}
