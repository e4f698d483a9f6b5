//! Questions about the past: slices, usage, audit; and tags, which the ledger alone keeps. Each is answered by the
//! ledger alone, so the same code answers for a running agent and for the command line that reads a ledger by itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use dormouse_ledger::{
    AuditReport, Editor, LedgerError, OutboxRow, OutboxStanding, Reader, SandboxFilter, SliceQuery, SliceRow,
    TagSet, TagsNow, Usage, UsageQuery,
};
use dormouse_metering::Stamp;

use crate::config::Config;
use crate::sandbox::command::SandboxKey;
use crate::sandbox::view::SandboxView;

/// Slices that are read at once.
const PAGE_SLICES: usize = 512;

/// Events that are read at once.
const PAGE_EVENTS: usize = 512;

/// A ledger, and the rules by which it is read. Its answers take disk reads: ask from a blocking thread.
#[derive(Clone, Debug)]
pub struct Questions {
    ledger: PathBuf,
    config: Arc<Config>,
}

impl Questions {
    /// Questions to the ledger at `ledger`, by the billing rules of `config`.
    pub fn new(ledger: PathBuf, config: Arc<Config>) -> Self {
        Self { ledger, config }
    }

    /// Calls `each` with the slices of an org and a sandbox, or of all, in order, open ones last at `now`; stops
    /// when it answers `false`.
    pub fn slices(
        &self,
        sandboxes: SandboxFilter,
        now: Option<Stamp>,
        mut each: impl FnMut(SliceRow) -> bool,
    ) -> Result<(), LedgerError> {
        let reader = Reader::open(&self.ledger)?;
        let mut query = SliceQuery { sandboxes, window: None, after: None, limit: PAGE_SLICES, now };
        loop {
            let page = reader.slices(&query)?;
            if !page.rows.into_iter().all(&mut each) || page.next.is_none() {
                return Ok(());
            }
            query.after = page.next;
        }
    }

    /// What sandboxes amount to in a half-open window of wall time, in nanoseconds since the Unix epoch; open
    /// slices count until `now`.
    pub fn usage(
        &self,
        sandboxes: SandboxFilter,
        window: Range<i64>,
        now: Option<Stamp>,
    ) -> Result<Usage, LedgerError> {
        let billing = &self.config.billing;
        Reader::open(&self.ledger)?.usage(&UsageQuery {
            sandboxes,
            window,
            now,
            policy: billing.policy.policy(),
            basis: billing.basis.into(),
            free_disk_bytes: billing.free_disk_bytes,
        })
    }

    /// The tags of a sandbox as they are. Fails with [`LedgerError::UnknownSandbox`] if there never was one.
    pub fn tags(&self, key: &SandboxKey) -> Result<TagsNow, LedgerError> {
        let reader = Reader::open(&self.ledger)?;
        if reader.sandbox_entry(&key.org, &key.sandbox)?.is_none() {
            let (org, sandbox) = (key.org.clone(), key.sandbox.clone());
            return Err(LedgerError::UnknownSandbox(dormouse_ledger::SandboxKey {
                org,
                sandbox,
                generation: 0,
            }));
        }
        reader.tags(&key.org, &key.sandbox)
    }

    /// Sandboxes with the tags that they have. One of which none are recorded keeps those it has.
    pub fn tagged(&self, mut views: Vec<SandboxView>) -> Result<Vec<SandboxView>, LedgerError> {
        Reader::open(&self.ledger)?.at_one_moment(|reader| {
            for view in &mut views {
                let now = reader.tags(&view.key.org, &view.key.sandbox)?;
                if now.updated_unix_ns.is_some() {
                    view.tags = now.tags;
                }
            }
            Ok(views)
        })
    }

    /// Replaces all the tags of a sandbox, as of `at_unix_ns`.
    pub fn set_tags(
        &self,
        key: &SandboxKey,
        tags: BTreeMap<String, String>,
        at_unix_ns: i64,
    ) -> Result<TagsNow, LedgerError> {
        let (org, sandbox) = (key.org.clone(), key.sandbox.clone());
        Editor::open(&self.ledger)?.set_tags(&TagSet { org, sandbox, tags, at_unix_ns })
    }

    /// Walks the whole ledger and checks its invariants.
    pub fn audit(&self) -> Result<AuditReport, LedgerError> {
        Reader::open(&self.ledger)?.audit()
    }

    /// Where the outbox and its sinks stand.
    pub fn outbox(&self) -> Result<OutboxStanding, LedgerError> {
        Reader::open(&self.ledger)?.outbox_standing()
    }

    /// Calls `each` with the events after a number that are kept, in order; stops when it answers `false`.
    pub fn events(&self, after_seq: u64, mut each: impl FnMut(OutboxRow) -> bool) -> Result<(), LedgerError> {
        let reader = Reader::open(&self.ledger)?;
        let mut after_seq = after_seq;
        loop {
            let events = reader.outbox(after_seq, PAGE_EVENTS)?;
            let Some(last) = events.last() else { return Ok(()) };
            after_seq = last.host_seq;
            if !events.into_iter().all(&mut each) {
                return Ok(());
            }
        }
    }

    /// The last moment that the ledger itself knows of: its proof of life, or an observation after it. Until then
    /// open slices may be counted where no agent is asked.
    pub fn last_known(&self) -> Result<Option<Stamp>, LedgerError> {
        let recovery = Reader::open(&self.ledger)?.recovery()?;
        let Some(proof) = recovery.proof else { return Ok(None) };
        let observed =
            recovery.sandboxes.iter().flat_map(|sandbox| &sandbox.pending).map(|pending| pending.at);
        Ok(observed.chain([proof]).filter(|at| at.boot == proof.boot).max_by_key(|at| at.boottime_ns))
    }
}
