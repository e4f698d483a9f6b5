//! Storing a batch: everything of it, or nothing, and each event once.
//!
//! ```text
//! COPY into the tables ───────────────────────┬── lock the sources ── rollups, numbers, lifecycle, watermarks ── COMMIT
//!   │ it fails, a number is known, prepaid     │       │ another stored a number of it meanwhile
//!   ▼                                          │       ▼
//! COPY into staged ── [sift] ── store ─────────┘     all of it again
//!                        ▲        │ it fails
//!                        └── a remedy, each once
//! ```
//!
//! Storing is tried first and asked about afterwards: most batches hold nothing that was stored before, nothing that
//! overlaps and nothing that refers to what is gone, and pay for none of it. Those go straight into the tables.
//! That nothing is stored twice, and that no two slices of a sandbox overlap, the constraints see to: so several
//! instances store side by side, and only what adds up (rollups and numbers) waits for who is before it, until that
//! has committed.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::chain::Chain;
use super::event::Seal;
use super::remedy::{Failure, Reference, Remedy, Tried};
use super::rollup::Rollup;
use super::sift::Sifted;
use super::sources::{Names, Sources, Staged};
use super::{Batch, Event, FleetError, Told, keys, migrations, quarantine, sift, sql, staging, straight};

/// How often a batch is tried again that lost against others who store or delete at the same time.
const LOST_MAX: u32 = 10;

/// The fleet's ledger, by one connection.
pub struct FleetLedger {
    pub(super) client: Client,
    sources: Sources,
    statements: sql::Statements,
    rollup: Rollup,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Events that were stored.
    pub stored: u64,
    /// Those of them that are slices.
    pub slices: u64,
    /// Messages that repeated what is stored, byte for byte.
    pub repeated: u64,
    /// Messages that went to the quarantine.
    pub quarantined: u64,
}

impl Ingested {
    /// The sums of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            stored: self.stored + other.stored,
            slices: self.slices + other.slices,
            repeated: self.repeated + other.repeated,
            quarantined: self.quarantined + other.quarantined,
        }
    }
}

/// How a transaction ended.
enum Attempt {
    Committed(Ingested),
    /// Nothing was stored: a slice lies in a month that has no partition yet.
    NoPartition,
    /// Nothing was stored: another has stored a number of the batch meanwhile. The next attempt finds it.
    Overtaken,
}

impl FleetLedger {
    /// Takes a connection, which somebody must drive, to a database of this program's schema version.
    pub async fn open(client: Client) -> Result<Self, FleetError> {
        client.batch_execute(migrations::SEARCH_PATH).await?;
        migrations::require_current(&client).await?;
        client.batch_execute(sql::SETTINGS).await?;
        client.batch_execute(staging::CREATE).await?;
        let statements = sql::Statements::prepare(&client).await?;
        let rollup = Rollup::prepare(&client).await?;
        Ok(Self { client, sources: Sources::default(), statements, rollup })
    }

    /// Stores what messages hold, in one transaction. Once this returns, the messages may be acknowledged; after an
    /// error nothing of them is stored, and all of them may be given again.
    pub async fn ingest(&mut self, batch: &Batch<'_>) -> Result<Ingested, FleetError> {
        let names = self.sources.learn(&self.client, batch).await?;
        let (mut partitioned, mut lost) = (false, 0);
        loop {
            match self.attempt(batch, &names, partitioned).await {
                Ok(Attempt::Committed(ingested)) => return Ok(ingested),
                Ok(Attempt::NoPartition) => {
                    self.make_partitions(batch).await?;
                    partitioned = true;
                }
                // Whoever was faster has committed, so that it ends.
                Ok(Attempt::Overtaken) => {}
                Err(FleetError::Database(error)) if lost < LOST_MAX && has_lost(&error) => lost += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn make_partitions(&self, batch: &Batch<'_>) -> Result<(), FleetError> {
        const DAY_NS: i64 = 86_400 * 1_000_000_000;
        // One start of each day is enough to name all months.
        let starts = batch.events().filter_map(|event| match &event.told {
            Told::Slice(row) => Some(row.start_unix_ns / DAY_NS * DAY_NS),
            _ => None,
        });
        for start_ns in starts.collect::<BTreeSet<_>>() {
            self.client.execute("SELECT make_slices_partition($1)", &[&start_ns]).await?;
        }
        Ok(())
    }

    async fn attempt(
        &mut self,
        batch: &Batch<'_>,
        names: &[Names],
        partitioned: bool,
    ) -> Result<Attempt, FleetError> {
        let staged = self.sources.stage(batch, names)?;
        let mut tx = self.client.transaction().await?;
        let mut found = look(&tx, &self.statements, batch, &staged).await?;
        let mut sifted = Sifted { rejected: keys::foreign(&tx, batch).await?, ..Sifted::default() };
        let mut stored = None;
        if !found.any_number_is_known && !found.any_org_prepays {
            stored = store_straight(&mut tx, &self.statements, &staged, &sifted, &found).await?;
        }
        if stored.is_none() {
            let tried = Tried(if partitioned { vec![Remedy::Partition] } else { Vec::new() });
            let parts = (batch, &staged);
            stored = store_staged(&mut tx, &self.statements, parts, &mut found, &mut sifted, tried).await?;
        }
        let Some(slices) = stored else { return Ok(Attempt::NoPartition) };
        let (ids, numbers) = staged.numbers(&sifted);
        if lock_sources(&tx, &self.statements, &ids, &numbers).await? {
            return Ok(Attempt::Overtaken);
        }
        let learnt = self.rollup.add(&tx, &staged.added(&sifted)?).await?;
        tx.execute(&self.statements.add_numbers, &[&ids, &numbers]).await?;
        let kept = || batch.events.iter().filter(|(place, _)| !sifted.contains(*place));
        tell_the_rest(&tx, &self.statements, &staged, kept()).await?;
        let quarantined = quarantine::keep(&tx, batch, &sifted).await?;
        tx.commit().await?;
        self.rollup.remember(learnt);
        let stored = kept().count() as u64;
        let repeated = batch.repeated + sifted.repeated.len() as u64;
        Ok(Attempt::Committed(Ingested { stored, slices, repeated, quarantined }))
    }
}

/// Stores a batch that nothing speaks against, and says how many slices are in it. `None` where something does: then
/// nothing of it is stored yet.
async fn store_straight(
    tx: &mut Transaction<'_>,
    statements: &sql::Statements,
    staged: &Staged<'_>,
    sifted: &Sifted,
    found: &Found,
) -> Result<Option<u64>, FleetError> {
    let attempt = tx.savepoint("straight").await?;
    match straight::store(&attempt, &statements.copies, staged, sifted, &found.hosts()).await {
        Ok(slices) => {
            attempt.commit().await?;
            Ok(Some(slices))
        }
        Err(FleetError::Database(error)) => {
            tracing::debug!(%error, "a batch is staged");
            attempt.rollback().await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Stores what may be stored of a batch, with a remedy for what speaks against it. `None` where it lies in a month that has
/// no partition yet.
async fn store_staged(
    tx: &mut Transaction<'_>,
    statements: &sql::Statements,
    (batch, staged): (&Batch<'_>, &Staged<'_>),
    found: &mut Found,
    sifted: &mut Sifted,
    mut tried: Tried,
) -> Result<Option<u64>, FleetError> {
    staging::fill(tx, &statements.stage, staged, sifted).await?;
    if found.any_number_is_known {
        tried.0.push(Remedy::Sift);
        sift::sift(tx, batch, sifted).await?;
    }
    loop {
        let attempt = tx.savepoint("store").await?;
        let failed = match store(&attempt, statements, found).await {
            Ok(slices) => {
                attempt.commit().await?;
                return Ok(Some(slices));
            }
            Err(error) => error,
        };
        attempt.rollback().await?;
        match tried.remedy(Failure::of(&failed)) {
            None => return Err(failed.into()),
            Some(Remedy::Partition) => return Ok(None),
            Some(Remedy::Sift) => sift::sift(tx, batch, sifted).await?,
            Some(Remedy::Forget(Reference::ApiKey)) => forget_api_keys(tx).await?,
            Some(Remedy::Forget(Reference::Host)) => found.forget_what_is_gone(tx).await?,
        }
    }
}

/// Whether another was faster: in a deadlock, or by storing, once the batch was sifted, what is in it.
fn has_lost(error: &tokio_postgres::Error) -> bool {
    let faster = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
    error.code().is_some_and(|code| faster.contains(code))
}

impl<'a> Failure<'a> {
    fn of(error: &'a tokio_postgres::Error) -> Self {
        // What PostgreSQL did not say itself has no remedy, and a code that none has.
        let code = error.code().unwrap_or(&SqlState::CONNECTION_EXCEPTION);
        Self { code, constraint: error.as_db_error().and_then(|said| said.constraint()) }
    }
}

/// What is found in the ledger about a batch: its sources, and the hosts that slices may refer to.
struct Found {
    source_ids: Vec<i32>,
    host_ids: Vec<Option<i64>>,
    any_number_is_known: bool,
    any_org_prepays: bool,
}

/// Looks who the sources of a batch are, whether a number of theirs in it is stored, and whether an org in it prepays.
async fn look(
    tx: &Transaction<'_>,
    statements: &sql::Statements,
    batch: &Batch<'_>,
    staged: &Staged<'_>,
) -> Result<Found, FleetError> {
    let (ids, numbers) = staged.numbers(&Sifted::default());
    let rows = tx.query(&statements.look_at_sources, &[&ids, &numbers]).await?;
    Ok(Found {
        source_ids: rows.iter().map(|row| row.get(0)).collect(),
        host_ids: rows.iter().map(|row| row.get(1)).collect(),
        any_number_is_known: rows.iter().any(|row| row.get(2)),
        any_org_prepays: lock_accounts(tx, statements, batch).await?,
    })
}

/// Holds the sources' rows, in order: nobody else adds anything up of them until this transaction ends. Whether another
/// has stored a number meanwhile that this one has stored, too.
async fn lock_sources(
    tx: &Transaction<'_>,
    statements: &sql::Statements,
    ids: &[i32],
    numbers: &[String],
) -> Result<bool, FleetError> {
    tx.execute(&statements.lock_sources, &[&ids]).await?;
    // As of now, and not as of when the lock was waited for.
    Ok(tx.query_one(&statements.are_numbers_known, &[&ids, &numbers]).await?.get(0))
}

impl Found {
    /// The host of each source that has one.
    fn hosts(&self) -> HashMap<i32, i64> {
        let sources = self.source_ids.iter().zip(&self.host_ids);
        sources.filter_map(|(source_id, host_id)| Some((*source_id, (*host_id)?))).collect()
    }

    /// Keeps those that are still there from going until this transaction ends, and drops the others.
    async fn forget_what_is_gone(&mut self, tx: &Transaction<'_>) -> Result<(), FleetError> {
        let there = "SELECT id FROM hosts WHERE id = ANY($1) ORDER BY id FOR KEY SHARE";
        let there: HashSet<i64> =
            tx.query(there, &[&self.host_ids]).await?.iter().map(|row| row.get(0)).collect();
        for id in &mut self.host_ids {
            *id = id.filter(|id| there.contains(id));
        }
        tracing::warn!("slices of a host that was just removed are stored without their reference to it");
        Ok(())
    }
}

/// Keeps the keys that are still there from going until this transaction ends, and drops the others.
async fn forget_api_keys(tx: &Transaction<'_>) -> Result<(), FleetError> {
    const FORGET: &str = "WITH there AS MATERIALIZED (SELECT k.id FROM api_keys k \
         WHERE k.id IN (SELECT api_key_id FROM staged) ORDER BY k.id FOR KEY SHARE) \
         UPDATE staged SET api_key_id = NULL \
         WHERE api_key_id IS NOT NULL AND api_key_id NOT IN (SELECT id FROM there)";
    let slices = tx.execute(FORGET, &[]).await?;
    tracing::warn!(slices, "slices whose API key is gone are stored without it");
    Ok(())
}

/// Holds the credit accounts of the orgs in the batch, in order, and says whether there are any.
async fn lock_accounts(
    tx: &Transaction<'_>,
    statements: &sql::Statements,
    batch: &Batch<'_>,
) -> Result<bool, FleetError> {
    let orgs: HashSet<&str> = batch
        .events()
        .filter_map(|event| match &event.told {
            Told::Slice(row) => Some(row.org.as_str()),
            _ => None,
        })
        .collect();
    let orgs: Vec<&str> = orgs.into_iter().collect();
    Ok(!tx.query(&statements.lock_accounts, &[&orgs]).await?.is_empty())
}

/// Stores the keys of all that is staged, and the slices; of prepaid orgs the credit is debited by what was stored.
async fn store(
    tx: &Transaction<'_>,
    statements: &sql::Statements,
    found: &Found,
) -> Result<u64, tokio_postgres::Error> {
    tx.execute(&statements.store_events, &[]).await?;
    let (sources, hosts) = (&found.source_ids, &found.host_ids);
    if !found.any_org_prepays {
        return tx.execute(&statements.store_slices, &[sources, hosts]).await;
    }
    let stored = tx.query_one(&statements.store_prepaid_slices, &[sources, hosts]).await?;
    // A count is never negative.
    Ok(u64::try_from(stored.get::<_, i64>(0)).unwrap_or_default())
}

/// Stores what is told beside slices.
async fn tell_the_rest<'a>(
    tx: &Transaction<'_>,
    statements: &sql::Statements,
    staged: &Staged<'_>,
    events: impl Iterator<Item = &'a (usize, Event)>,
) -> Result<(), FleetError> {
    let events: Vec<&Event> = events.map(|(_, event)| event).collect();
    let sourced = events.iter().map(|event| Ok((staged.source_id(&event.source)?, *event)));
    let sourced: Vec<(i32, &Event)> = sourced.collect::<Result<_, FleetError>>()?;
    for (source_id, host_seq) in Chain::of(sourced.into_iter()).join(tx, &statements.join_chain).await? {
        let reason = "BROKEN_LINK";
        tracing::error!(source_id, host_seq, reason, "an event does not carry the hash of the one before it");
    }
    for event in events {
        let source_id = staged.source_id(&event.source)?;
        match &event.told {
            Told::Slice(_) => {}
            Told::Lifecycle(it) => {
                let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
                    &source_id,
                    &event.id,
                    &it.org,
                    &it.sandbox,
                    &it.generation,
                    &it.kind,
                    &it.unix_ns,
                    &it.json,
                ];
                tx.execute(&statements.store_lifecycle, &values).await?;
            }
            Told::Watermark(it) => {
                let says = [it.complete_through_unix_ns];
                state(tx, &statements.store_watermark, source_id, &says, &it.seal).await?;
            }
            Told::Retention(it) => {
                let says = [it.through_seq, it.since_unix_ns];
                state(tx, &statements.store_retention, source_id, &says, &it.seal).await?;
            }
        }
    }
    Ok(())
}

/// Stores what a host has signed for, beside what it signed with.
async fn state(
    tx: &Transaction<'_>,
    statement: &tokio_postgres::Statement,
    source_id: i32,
    says: &[i64],
    seal: &Seal,
) -> Result<(), FleetError> {
    let Seal { host_seq, chain_hash, public_key, signature } = seal;
    let (chain_hash, public_key, signature) =
        (chain_hash.as_slice(), public_key.as_slice(), signature.as_slice());
    let mut values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        vec![&source_id, host_seq, &chain_hash, &public_key, &signature];
    values.extend(says.iter().map(|number| number as &(dyn tokio_postgres::types::ToSql + Sync)));
    tx.execute(statement, &values).await?;
    Ok(())
}
