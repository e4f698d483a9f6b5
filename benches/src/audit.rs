//! The audit: how many slices a second it checks, beside plain rusqlite reading the same rows once on one core and
//! hashing each event once.

use std::path::Path;

use dormouse_ledger::{Ledger, Reader};
use rusqlite::Connection;

use crate::life::{self, Life};
use crate::report::{Goal, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

const RUNS: usize = 3;

/// 10 million slices within 20 s.
const GOAL_PER_SECOND: f64 = 500_000.0;

/// A million slices of 4,000 sandboxes, told over time; with `AUDIT_SLICES_EACH=2500` ten million, which are 15 GB.
///
/// # Panics
/// Where what was measured is not what was to be done: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let wanted = std::env::var("AUDIT_SLICES_EACH").ok().and_then(|text| text.parse().ok());
    let (sandboxes, slices_each) = size.pick((20, 20), (4_000, wanted.unwrap_or(250)));
    let slices = sandboxes * slices_each;
    let folder = crate::folder()?;
    let path = folder.path().join("ledger.sqlite");
    let mut lives: Vec<Life> = (0..sandboxes).map(Life::begun).collect();
    life::tell(&Ledger::open(&path, &life::host())?, &mut lives, slices_each)?;
    let (mut audited, mut cpu, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.pick(1, RUNS) {
        let watch = Stopwatch::start();
        let report = Reader::open(&path)?.audit()?;
        let took = watch.read();
        assert!(report.is_clean() && report.slices == u64::from(slices), "{report:?}");
        audited.push(f64::from(slices) / took.wall.as_secs_f64());
        cpu.push(took.cpu.as_secs_f64() * 1e6 / f64::from(slices));
        let watch = Stopwatch::start();
        read_once(&path)?;
        read.push(f64::from(slices) / watch.read().wall.as_secs_f64());
    }
    Ok(vec![
        Row::spread(
            format!("audit: of {slices} slices"),
            "slices/s",
            audited,
            Some(Goal::AtLeast(GOAL_PER_SECOND)),
        ),
        Row::spread("  processor time for each slice", "us", cpu, None),
        Row::spread("  beside: plain rusqlite, one core, one reading, one hash", "slices/s", read, None),
    ])
}

fn read_once(path: &Path) -> Result<(), Error> {
    let conn = Connection::open(path)?;
    let mut statement = conn.prepare("SELECT * FROM slices")?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            std::hint::black_box(row.get_ref(column)?);
        }
    }
    let mut statement = conn.prepare("SELECT payload, payload_hash FROM outbox")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let payload = row.get_ref(0)?.as_blob()?;
        assert_eq!(blake3::hash(payload).as_bytes(), &row.get::<_, [u8; 32]>(1)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 3);
    }
}
