//! The generations of an org's sandboxes, and what each amounts to in the segments of a window.

use dormouse_metering::{OpenSlice, Stamp};
use rusqlite::Connection;

use super::hours::amount_before;
use super::totals::Piece;
use super::{Amount, Rules};
use crate::encode::{self, open_columns};
use crate::reader::sandboxes::pending;
use crate::reader::slices::NotFinal;
use crate::{LedgerError, SandboxKey};

macro_rules! lives {
    ($which:literal) => {
        concat!(
            "SELECT s.pk, s.sandbox, s.generation, s.ended_unix_ns, ",
            open_columns!(),
            " FROM sandboxes s WHERE s.org = ?1 AND (s.ended_unix_ns IS NULL OR s.ended_unix_ns >= ?2) ",
            $which,
            " ORDER BY s.sandbox, s.generation"
        )
    };
}

const OF_ORG: &str = lives!("");
const OF_SANDBOX: &str = lives!("AND s.sandbox = ?3");

/// A generation of a sandbox.
pub(super) struct Life {
    pub(super) pk: i64,
    pub(super) key: SandboxKey,
    ended: bool,
    open: Option<OpenSlice>,
}

/// The generations of an org's sandboxes, or of one, that had not ended before an instant, by sandbox and age.
pub(super) fn lives(
    conn: &Connection,
    org: &str,
    sandbox: Option<&str>,
    from_unix_ns: i64,
) -> Result<Vec<Life>, LedgerError> {
    let life = |row: &rusqlite::Row<'_>| {
        Ok(Life {
            pk: row.get(0)?,
            key: SandboxKey { org: org.to_owned(), sandbox: row.get(1)?, generation: row.get(2)? },
            ended: row.get::<_, Option<i64>>(3)?.is_some(),
            open: encode::open_slice(row, 4)?,
        })
    };
    let lives: rusqlite::Result<Vec<Life>> = match sandbox {
        None => conn.prepare_cached(OF_ORG)?.query_map((org, from_unix_ns), life)?.collect(),
        Some(sandbox) => {
            conn.prepare_cached(OF_SANDBOX)?.query_map((org, from_unix_ns, sandbox), life)?.collect()
        }
    };
    Ok(lives?)
}

impl Life {
    /// What is not final of it, counted until `now`.
    pub(super) fn not_final(&self, conn: &Connection, now: Option<Stamp>) -> Result<Vec<Piece>, LedgerError> {
        let Some(now) = now.filter(|_| !self.ended) else { return Ok(Vec::new()) };
        let not_final = NotFinal::of(&self.key, self.open.clone(), &pending(conn, self.pk)?, now)?;
        Ok(not_final.closed.iter().chain(&not_final.until_now).map(Piece::of).collect())
    }

    /// What it amounts to between each two neighbours of `cuts`, which ascend.
    pub(super) fn amounts(
        &self,
        conn: &Connection,
        cuts: &[i64],
        now: Option<Stamp>,
        rules: &Rules,
    ) -> Result<Vec<Amount>, LedgerError> {
        let not_final = self.not_final(conn, now)?;
        let mut amounts = Vec::with_capacity(cuts.len());
        let mut before: Option<(i64, Amount)> = None;
        for cut in cuts {
            let now = amount_before(conn, self.pk, *cut, rules)?;
            if let Some((from, was)) = before {
                let mut amount = now.since(was);
                for piece in &not_final {
                    amount.add(piece.amount(&(from..*cut), rules)?)?;
                }
                amounts.push(amount);
            }
            before = Some((*cut, now));
        }
        Ok(amounts)
    }
}
