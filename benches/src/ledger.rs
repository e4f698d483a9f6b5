//! The ledger's commit rate, beside plain rusqlite writing the very same rows in as many transactions.
//!
//! A unit is one slice that became final, with the slice that is open behind it. The two write in turn, a round each,
//! so that what else the disk does hits both; a ratio is that of one round of each.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use dormouse_ledger::{Class, Ledger, LedgerError, Record, Writer};

use crate::life::{self, Life};
use crate::plain::{Plain, Rows, rows_after};
use crate::report::{Goal, Row};
use crate::stopwatch::{Stopwatch, Took};
use crate::{Error, Size};

const ROUNDS: usize = 7;

/// Groups of 1, 16 and 512 units: as many as one transaction of the ledger holds.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (group, units) in
        [(1, size.pick(4, 400)), (16, size.pick(32, 3_200)), (512, size.pick(1_024, 25_600))]
    {
        rows.extend(measure(group, units, size.pick(2, ROUNDS))?);
    }
    Ok(rows)
}

fn measure(group: usize, units: usize, rounds: usize) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let place = |name: &str| folder.path().join(name);
    let mut lives: Vec<Life> = (0..512).map(Life::begun).collect();
    // What there is to write, and what the rows will be: a ledger that nobody watches writes them first.
    let rehearsal = begin(&place("rehearsal.sqlite"), &mut lives)?;
    let told: Vec<Vec<Record>> = (0..units * rounds).map(|unit| next(&mut lives[unit % 512])).collect();
    write(&rehearsal, told.clone(), 512)?;
    drop(rehearsal);
    let rows = rows_after(&place("rehearsal.sqlite"), 0)?;
    let ledger = begin(&place("ledger.sqlite"), &mut (0..512).map(Life::begun).collect::<Vec<_>>())?;
    let plain = Plain::create(&place("plain.sqlite"), &place("ledger.sqlite"))?;
    let mut figures = Figures::default();
    for (round, (told, rows)) in told.chunks(units).zip(rows.chunks(units)).enumerate() {
        figures.add(round, units, &ledger, told.to_vec(), (&plain, rows), group)?;
    }
    drop(ledger);
    let written = rows_after(&place("ledger.sqlite"), 0)?;
    let same =
        written.iter().zip(&rows).all(|(one, other)| one.event == other.event && one.slice == other.slice);
    assert!(same && written.len() == rows.len(), "both wrote the same rows");
    Ok(figures.rows(group).into())
}

#[derive(Default)]
struct Figures {
    ledger: Vec<f64>,
    plain: Vec<f64>,
    ratios: Vec<f64>,
    cpu_ratios: Vec<f64>,
}

impl Figures {
    fn add(
        &mut self,
        round: usize,
        units: usize,
        ledger: &Ledger,
        told: Vec<Vec<Record>>,
        (plain, rows): (&Plain, &[Rows]),
        group: usize,
    ) -> Result<(), Error> {
        let by_ledger = || -> Result<Took, Error> {
            let watch = Stopwatch::start();
            write(ledger, told, group)?;
            Ok(watch.read())
        };
        let by_plain = || -> Result<Took, Error> {
            let watch = Stopwatch::start();
            plain.write(rows, group)?;
            Ok(watch.read())
        };
        // Each goes first as often as the other.
        let (ledger, plain) = if round.is_multiple_of(2) {
            let ledger = by_ledger()?;
            (ledger, by_plain()?)
        } else {
            let plain = by_plain()?;
            (by_ledger()?, plain)
        };
        let per_second =
            |took: Took| f64::from(u32::try_from(units).unwrap_or(u32::MAX)) / took.wall.as_secs_f64();
        self.ledger.push(per_second(ledger));
        self.plain.push(per_second(plain));
        self.ratios.push(100.0 * plain.wall.as_secs_f64() / ledger.wall.as_secs_f64());
        self.cpu_ratios.push(100.0 * plain.cpu.as_secs_f64() / ledger.cpu.as_secs_f64());
        Ok(())
    }

    fn rows(self, group: usize) -> [Row; 4] {
        let what = format!("ledger: groups of {group}");
        [
            Row::spread(what, "units/s", self.ledger, None),
            Row::spread("  beside: plain rusqlite", "units/s", self.plain, None),
            Row::spread("  of plain's rate", "%", self.ratios, Some(Goal::AtLeast(60.0))),
            Row::spread("  of plain's rate, by processor time", "%", self.cpu_ratios, None),
        ]
    }
}

fn begin(path: &Path, lives: &mut [Life]) -> Result<Ledger, LedgerError> {
    let ledger = Ledger::open(path, &life::host())?;
    life::tell(&ledger, lives, 0)?;
    Ok(ledger)
}

fn next(life: &mut Life) -> Vec<Record> {
    let slice = life.cut();
    vec![life.record(vec![slice], Vec::new())]
}

/// Writes units in transactions of `group`. One by one, the caller waits for each; else each unit that is durable
/// makes room for the next, so that `group` of them wait whenever the writer comes back.
fn write(ledger: &Ledger, units: Vec<Vec<Record>>, group: usize) -> Result<(), Error> {
    let writer = ledger.writer();
    if group == 1 {
        for unit in units {
            writer.write(Class::Fact, unit)?;
        }
        return Ok(());
    }
    let count = units.len();
    let (answer, answers) = mpsc::channel();
    let line = Line { writer, waiting: Arc::new(Mutex::new(units.into())), answer };
    (0..group).for_each(|_| line.submit());
    drop(line);
    for _ in 0..count {
        answers.recv()??;
    }
    Ok(())
}

#[derive(Clone)]
struct Line {
    writer: Writer,
    waiting: Arc<Mutex<VecDeque<Vec<Record>>>>,
    answer: mpsc::Sender<Result<(), LedgerError>>,
}

impl Line {
    fn submit(&self) {
        // Held until the unit is in the queue: two who submit at once must not change the order.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(unit) = waiting.pop_front() else { return };
        let line = self.clone();
        let done = Box::new(move |result: Result<_, _>| {
            line.submit();
            // The receiver is gone only when another unit has failed already.
            let _ = line.answer.send(result.map(drop));
        });
        let submitted = self.writer.submit(Class::Fact, unit, done);
        drop(waiting);
        if let Err(refused) = submitted {
            refused.answer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_is_measured_beside_plain_rusqlite() {
        assert_eq!(run(Size::Small).unwrap().len(), 12);
    }
}
