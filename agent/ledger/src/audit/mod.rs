//! The audit: walks the whole ledger and names what does not hold.
//!
//! The work is cut into jobs that several connections share, all of which read as of one moment ([`moment`]). Slices
//! and events are compared by sums, and only where these differ one by one ([`told`]).
//!
//! It trusts nothing that the schema promises: a file may have been damaged, or written by something else. It
//! never changes anything. What it checks, with the code of each violation:
//!
//! | code | what must hold |
//! |---|---|
//! | `AUDIT_INTEGRITY` | SQLite finds its own structures in order, and no reference dangles |
//! | `AUDIT_UNREADABLE` | what is stored can be read |
//! | `AUDIT_SEQ` and the others of [`dormouse_metering::audit::ViolationKind::reason`] | M1, M3: slices tile, causes chain, the open slice follows |
//! | `AUDIT_LIFE` | a life that has begun is open or has ended, with its last slice; nothing is pending after its end |
//! | `AUDIT_STANDING` | what is open or pending has the hash that was written with it |
//! | `AUDIT_COMMAND_UNKNOWN` | M3: a command that a slice names is in the ledger |
//! | `AUDIT_OUTBOX_GAP` | L1: events are numbered from the first that is kept without a hole |
//! | `AUDIT_OUTBOX_HASH` | L1: an event's bytes have its hash, and carry the hash of the one before |
//! | `AUDIT_EVENT_MISSING` | every final slice has its event |
//! | `AUDIT_EVENT_DIFFERS` | the event of a slice says what the slice says |
//! | `AUDIT_EVENT_EXTRA` | every slice event has its slice |
//! | `AUDIT_ROLLUP` | L2: every hourly rollup is what the slices before its hour amount to |
//! | `AUDIT_SUM` | L2: what SQLite sums over an org is what its sandboxes' slices add up to |

mod ahead;
mod events;
mod file;
mod lives;
mod moment;
mod rollups;
mod sums;
mod told;

use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use serde::Serialize;

use crate::outbox::Head;
use crate::reader::sandboxes::matching_or;
use crate::{LedgerError, Reader, SandboxFilter, SandboxKey, SandboxRow, schema};
use lives::Sums;
use told::Sum;

/// At most so many violations are told one by one; all are counted.
const TOLD_MAX: usize = 10_000;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// How many generations of sandboxes were looked at.
    pub sandboxes: u64,
    /// How many closed slices.
    pub slices: u64,
    /// How many events.
    pub events: u64,
    /// How many things do not hold.
    pub violations_total: u64,
    /// At most 10,000 of them: those of the ledger as a whole first, then sandbox by sandbox, slice by slice.
    pub violations: Vec<AuditViolation>,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditViolation {
    /// What, as a stable code.
    pub code: &'static str,
    /// Of which org.
    pub org: Option<String>,
    /// Of which sandbox.
    pub sandbox: Option<String>,
    /// Of which generation.
    pub generation: Option<i64>,
    /// At which slice, or at which event of the outbox where no sandbox is named.
    pub seq: Option<u64>,
    /// In words.
    pub message: String,
}

impl AuditViolation {
    /// Of the ledger as a whole first, then of each sandbox, in the order of their numbers.
    fn place(&self) -> (Option<&str>, Option<&str>, Option<i64>, Option<u64>) {
        (self.org.as_deref(), self.sandbox.as_deref(), self.generation, self.seq)
    }
}

impl AuditReport {
    /// Whether everything holds.
    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }

    fn tell(&mut self, violation: AuditViolation) {
        self.violations_total += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation);
        }
    }

    /// Takes damage as a finding.
    fn note_damage(&mut self, result: Result<(), LedgerError>) -> Result<(), LedgerError> {
        match result {
            Err(LedgerError::Corrupt { what, .. }) => {
                self.of_ledger("AUDIT_UNREADABLE", None, what);
                Ok(())
            }
            result => result,
        }
    }

    /// Something is wrong with the ledger, or with the event of this number.
    fn of_ledger(&mut self, code: &'static str, host_seq: Option<u64>, message: impl Into<String>) {
        let message = message.into();
        self.tell(AuditViolation {
            code,
            org: None,
            sandbox: None,
            generation: None,
            seq: host_seq,
            message,
        });
    }

    /// Something is wrong with a sandbox, or with its slice of this number.
    fn of_sandbox(
        &mut self,
        code: &'static str,
        key: &SandboxKey,
        seq: Option<u64>,
        message: impl Into<String>,
    ) {
        self.tell(AuditViolation {
            code,
            org: Some(key.org.clone()),
            sandbox: Some(key.sandbox.clone()),
            generation: Some(key.generation),
            seq,
            message: message.into(),
        });
    }

    fn merge(&mut self, other: Self) {
        self.sandboxes += other.sandboxes;
        self.slices += other.slices;
        self.events += other.events;
        self.violations_total += other.violations_total;
        let room = TOLD_MAX - self.violations.len();
        self.violations.extend(other.violations.into_iter().take(room));
    }
}

impl Reader {
    /// Checks everything that must hold of a ledger, on every core. Damage is a finding; an error means that the
    /// file cannot be read at all.
    pub fn audit(&self) -> Result<AuditReport, LedgerError> {
        self.answer(|conn| {
            let helpers = moment::helpers(conn, self.path())?;
            let mut whole = Found::default();
            let contents = Contents::read(conn, self.path(), &mut whole)?;
            let results = Mutex::new(Ok(whole));
            let work = |job: &Job, conn: &Connection| {
                let found = contents.work(job, conn);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *results, found) {
                    (Ok(whole), Ok(found)) => whole.merge(found),
                    (Ok(_), Err(error)) => *results = Err(error),
                    (Err(_), _) => {}
                }
            };
            let (path, is_over) = (self.path(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| ahead::read(path, &is_over));
                moment::share(&contents.jobs(), conn, helpers, work);
                is_over.store(true, Ordering::Relaxed);
            });
            let mut whole = results.into_inner().unwrap_or_else(PoisonError::into_inner)?;
            contents.compare(conn, &mut whole)?;
            whole.report.violations.sort_by(|one, other| one.place().cmp(&other.place()));
            Ok(whole.report)
        })
    }
}

/// Something to check, by itself.
enum Job {
    File,
    Index,
    Sums,
    /// The events with numbers from the first to the last.
    Events((i64, i64)),
    /// The lives from one place in the list to before another.
    Lives(usize, usize),
}

/// Into how many jobs lives are cut, where there are as many: they are of very different lengths.
const JOBS_OF_LIVES: usize = 64;

/// Lives that one job walks at the most.
const LIVES_OF_A_JOB_MAX: usize = 64;

/// What the jobs need to know. Of the two long tables nothing is kept.
struct Contents {
    path: PathBuf,
    source: String,
    /// The last event that is no longer kept.
    retained: Head,
    lives: Vec<(i64, SandboxRow)>,
    parts: Vec<(i64, i64)>,
    keys: RandomState,
}

/// What a job found, or several.
#[derive(Default)]
struct Found {
    report: AuditReport,
    /// What the events of slices say, by the events.
    events: Sum,
    /// What they must say, by the slices.
    slices: Sum,
    /// The ids of events, by the events and by their index.
    ids: Sum,
    index: Sum,
    /// The durations of each org, by its sandboxes and by SQLite.
    sums: Sums,
    by_org: Sums,
    /// Something could not be read to its end, so what was added up says nothing.
    damaged: bool,
}

impl Found {
    fn merge(&mut self, other: Self) {
        self.report.merge(other.report);
        self.events.merge(other.events);
        self.slices.merge(other.slices);
        self.ids.merge(other.ids);
        self.index.merge(other.index);
        for (org, duration_ns) in other.sums {
            *self.sums.entry(org).or_default() += duration_ns;
        }
        self.by_org.extend(other.by_org);
        self.damaged |= other.damaged;
    }

    /// Takes what could not be read as a finding; nothing takes its place.
    fn or_default<T: Default>(&mut self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.damaged |= matches!(result, Err(LedgerError::Corrupt { .. }));
        let mut read = T::default();
        self.report.note_damage(result.map(|value| read = value))?;
        Ok(read)
    }
}

impl Contents {
    /// What cannot be read does not keep the rest from being looked at.
    fn read(conn: &Connection, path: &Path, found: &mut Found) -> Result<Self, LedgerError> {
        Ok(Self {
            path: path.to_owned(),
            source: found.or_default(schema::owner(conn).map(|host| host.source()))?,
            retained: found.or_default(Head::retained_after(conn))?,
            lives: {
                let lives = matching_or(conn, &SandboxFilter::default(), |key| {
                    let message = "what is open or pending is not what was written";
                    found.report.of_sandbox("AUDIT_STANDING", key, None, message);
                    Ok(())
                });
                found.or_default(lives)?
            },
            parts: found.or_default(events::parts(conn))?,
            keys: RandomState::new(),
        })
    }

    /// First most of the chain, which lies in the file nearly as it is read, while the file is still read ahead for those
    /// who read all over it. Of these the longest first; last the rest of the chain, in parts of one length, so that all cores
    /// end together.
    fn jobs(&self) -> Vec<Job> {
        let each = (self.lives.len() / JOBS_OF_LIVES).clamp(1, LIVES_OF_A_JOB_MAX);
        let lives = (0..self.lives.len()).step_by(each);
        let lives = lives.map(|from| Job::Lives(from, (from + each).min(self.lives.len())));
        let (ahead, behind) = self.parts.split_at(self.parts.len() / 4 * 3);
        let events = |parts: &[(i64, i64)]| parts.iter().copied().map(Job::Events).collect::<Vec<_>>();
        let whole = [Job::File, Job::Index, Job::Sums];
        events(ahead).into_iter().chain(whole).chain(lives).chain(events(behind)).collect()
    }

    fn work(&self, job: &Job, conn: &Connection) -> Result<Found, LedgerError> {
        let mut found = Found::default();
        let result = match *job {
            Job::File => file::check(conn, &self.path, &mut found.report),
            Job::Index => events::check_index(conn, self, &mut found),
            Job::Sums => sums::by_org(conn, self, &mut found),
            Job::Events(part) => events::check(conn, self, part, &mut found),
            Job::Lives(from, to) => lives::check(conn, self, &self.lives[from..to], &mut found),
        };
        found.or_default(result)?;
        Ok(found)
    }

    /// Holds what the jobs added up beside each other.
    fn compare(&self, conn: &Connection, whole: &mut Found) -> Result<(), LedgerError> {
        if !whole.damaged {
            if whole.ids != whole.index {
                let message = "the index of event ids does not hold what the events hold";
                whole.report.of_ledger("AUDIT_INTEGRITY", None, message);
            }
            sums::compare(&whole.by_org, &whole.sums, &mut whole.report);
        }
        if whole.damaged || whole.events != whole.slices {
            let named = told::name_differences(conn, self, &mut whole.report);
            whole.report.note_damage(named)?;
        }
        Ok(())
    }
}
