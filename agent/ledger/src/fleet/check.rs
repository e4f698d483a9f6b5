//! Which hours of which hosts are complete, and what holds the others open.

use serde::Serialize;

use super::{FleetError, FleetLedger};

/// What a look at the whole ledger found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Completeness {
    /// The hour, by its end in nanoseconds since the Unix epoch, through which hosts should be complete.
    pub through_unix_ns: i64,
    /// Hosts that have stored something, or are known.
    pub hosts: u64,
    /// Runs of numbers that have not arrived and can be had from their host, by host.
    pub missing: Vec<Missing>,
    /// Runs of numbers that are not stored, and that their host keeps no longer, by host.
    pub lost: Vec<Lost>,
    /// Hosts that have not said that the hour is complete.
    pub silent: Vec<Silent>,
    /// Links between events that do not hold.
    pub broken: Vec<BrokenLink>,
    /// Messages in the quarantine, by reason.
    pub quarantined: Vec<Quarantined>,
}

/// A run of event numbers of a host that have not arrived yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The host's source.
    pub source: String,
    /// The first number.
    pub first_seq: i64,
    /// The last number.
    pub last_seq: i64,
    /// The end of the first hour that they hold open; `None` where no watermark covers them yet.
    pub holds_open_unix_ns: Option<i64>,
}

/// A run of event numbers of a host that are not stored, and that it keeps no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The host's source.
    pub source: String,
    /// The first number.
    pub first_seq: i64,
    /// The last number.
    pub last_seq: i64,
    /// The end of the first hour that they hold open; `None` where no watermark covers them yet.
    pub holds_open_unix_ns: Option<i64>,
    /// Since when the host keeps none of them, at the latest, in nanoseconds since the Unix epoch.
    pub since_unix_ns: i64,
}

/// A host that has not said that the hour is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// The host's source.
    pub source: String,
    /// The end of the last hour that it has called complete, and that is believed.
    pub complete_through_unix_ns: Option<i64>,
    /// The number of the next event that is awaited of it.
    pub awaited_seq: i64,
}

/// An event that does not carry the hash of the event before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenLink {
    /// The host's source.
    pub source: String,
    /// The event's number.
    pub host_seq: i64,
}

/// How much is in the quarantine for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// The stable code.
    pub reason: String,
    /// How many different messages.
    pub messages: i64,
}

/// A run of numbers that a host is asked to send again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resend {
    /// The request.
    pub id: i64,
    /// The host's source.
    pub source: String,
    /// The first number.
    pub first_seq: i64,
    /// The last number.
    pub last_seq: i64,
}

/// Runs of numbers from a view of them, each with the end of the first hour that it holds open, and more columns.
macro_rules! runs_of {
    ($view:literal, $more:literal) => {
        concat!(
            "SELECT m.source, m.first_seq, m.last_seq, \
             (SELECT min(w.complete_through_unix_ns) FROM watermarks w \
                 WHERE w.source_id = m.source_id AND w.host_seq >= m.first_seq)",
            $more,
            " FROM ",
            $view,
            " m ORDER BY m.source, m.first_seq"
        )
    };
}

const MISSING: &str = runs_of!("missing_events", "");
const LOST: &str = runs_of!("lost_events", ", m.since_unix_ns");

/// Hosts that are known now. One that was removed is not waited for; what it left out is still missing.
const SILENT: &str = "SELECT h.source, b.through, coalesce(upper(o.received), 1) \
     FROM hosts h LEFT JOIN sources o ON o.source = h.source \
     LEFT JOIN LATERAL (SELECT max(w.complete_through_unix_ns) AS through FROM believed_watermarks w \
         WHERE w.source = h.source AND w.believed) b ON true \
     WHERE b.through IS NULL OR b.through < $1 ORDER BY h.source";

/// So many are named at the most.
const BROKEN: &str = "SELECT o.source, b.host_seq FROM broken_links b JOIN sources o ON o.id = b.source_id \
     ORDER BY o.source, b.host_seq LIMIT 1000";

/// Asks for all that is missing and not asked for yet.
const REQUEST: &str = "INSERT INTO resend_requests (source_id, first_seq, last_seq) \
     SELECT m.source_id, m.first_seq, m.last_seq FROM missing_events m WHERE NOT EXISTS ( \
         SELECT FROM resend_requests r WHERE r.source_id = m.source_id AND r.first_seq <= m.first_seq \
         AND r.last_seq >= m.last_seq) ORDER BY m.source_id, m.first_seq";

const OPEN: &str = "SELECT r.id, m.source, greatest(r.first_seq, m.first_seq), least(r.last_seq, m.last_seq) \
     FROM resend_requests r JOIN missing_events m ON m.source_id = r.source_id \
         AND m.first_seq <= r.last_seq AND m.last_seq >= r.first_seq \
     ORDER BY r.id, m.first_seq LIMIT 1000";

impl Completeness {
    /// Whether nothing is missing, lost, silent, broken or in quarantine.
    pub fn is_clean(&self) -> bool {
        let all_told = self.missing.is_empty() && self.lost.is_empty() && self.silent.is_empty();
        all_told && self.broken.is_empty() && self.quarantined.is_empty()
    }
}

impl FleetLedger {
    /// Looks whether every host is complete through an hour, given by its end in nanoseconds since the Unix epoch.
    pub async fn check(&mut self, through_unix_ns: i64) -> Result<Completeness, FleetError> {
        let tx = self.client.build_transaction().read_only(true);
        let tx = tx.isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await?;
        let missing = tx.query(MISSING, &[]).await?;
        let lost = tx.query(LOST, &[]).await?;
        let silent = tx.query(SILENT, &[&through_unix_ns]).await?;
        let broken = tx.query(BROKEN, &[]).await?;
        let quarantined =
            tx.query("SELECT reason, count(*) FROM quarantine GROUP BY reason ORDER BY reason", &[]).await?;
        let hosts = "SELECT count(*) FROM (SELECT source FROM hosts UNION SELECT source FROM sources) known";
        let hosts: i64 = tx.query_one(hosts, &[]).await?.get(0);
        tx.commit().await?;
        Ok(Completeness {
            through_unix_ns,
            // A count is never negative.
            hosts: u64::try_from(hosts).unwrap_or_default(),
            missing: missing
                .iter()
                .map(|row| Missing {
                    source: row.get(0),
                    first_seq: row.get(1),
                    last_seq: row.get(2),
                    holds_open_unix_ns: row.get(3),
                })
                .collect(),
            lost: lost
                .iter()
                .map(|row| Lost {
                    source: row.get(0),
                    first_seq: row.get(1),
                    last_seq: row.get(2),
                    holds_open_unix_ns: row.get(3),
                    since_unix_ns: row.get(4),
                })
                .collect(),
            silent: silent
                .iter()
                .map(|row| Silent {
                    source: row.get(0),
                    complete_through_unix_ns: row.get(1),
                    awaited_seq: row.get(2),
                })
                .collect(),
            broken: broken
                .iter()
                .map(|row| BrokenLink { source: row.get(0), host_seq: row.get(1) })
                .collect(),
            quarantined: quarantined
                .iter()
                .map(|row| Quarantined { reason: row.get(0), messages: row.get(1) })
                .collect(),
        })
    }

    /// Asks the hosts for everything that is missing and was not asked for yet; returns how many requests that are.
    pub async fn request_missing(&mut self) -> Result<u64, FleetError> {
        Ok(self.client.execute(REQUEST, &[]).await?)
    }

    /// What of the requests is not stored yet and can be had, the oldest first: so many runs of numbers at most.
    pub async fn open_requests(&mut self) -> Result<Vec<Resend>, FleetError> {
        let resend = |row: &tokio_postgres::Row| Resend {
            id: row.get(0),
            source: row.get(1),
            first_seq: row.get(2),
            last_seq: row.get(3),
        };
        Ok(self.client.query(OPEN, &[]).await?.iter().map(resend).collect())
    }
}
