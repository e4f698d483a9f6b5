//! How soon an agent is ready whose ledger holds 10,000 open slices, beside plain rusqlite reading those rows.

use std::path::Path;
use std::time::Duration;

use dormouse::clock::Clock;
use dormouse::config::Config;
use dormouse::host;
use dormouse_ledger::{Class, Ledger};
use rusqlite::Connection;
use tokio::runtime::Builder;

use crate::life::{self, Life};
use crate::report::{Goal, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

const RUNS: usize = 5;

/// Every sandbox has five closed slices, an open one, and an observation that is not final. Its QEMU lives, but has no
/// socket: attaching follows, and is not part of being ready.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let sandboxes = size.pick(50, 10_000);
    let folder = crate::folder()?;
    let config = Config {
        state_dir: folder.path().join("state"),
        run_dir: folder.path().join("run"),
        ..Config::default()
    };
    std::fs::create_dir_all(&config.state_dir)?;
    let path = config.ledger_path();
    fill(&path, sandboxes)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..size.pick(1, RUNS) {
        let [opened, ready, ready_cpu, listed] = start(&config, &path, sandboxes)?;
        let watch = Stopwatch::start();
        read_rows(&path)?;
        let millis = [opened, ready, ready_cpu, listed, watch.wall()].map(|time| time.as_secs_f64() * 1e3);
        times.iter_mut().zip(millis).for_each(|(times, time)| times.push(time));
    }
    let [opened, ready, ready_cpu, listed, read] = times;
    Ok(vec![
        Row::spread(format!("ready: with {sandboxes} open slices"), "ms", ready, Some(Goal::AtMost(1_000.0))),
        Row::spread("  processor time until then, of all cores", "ms", ready_cpu, None),
        Row::spread("  of it opening the ledger", "ms", opened, None),
        Row::spread("  until every sandbox is listed", "ms", listed, None),
        Row::spread("  beside: plain rusqlite reads the rows", "ms", read, None),
    ])
}

fn fill(path: &Path, sandboxes: u32) -> Result<(), Error> {
    let ledger = Ledger::open(path, &life::host())?;
    // Two minutes ago: what was missed while the agent was away is little.
    let began = Clock::start(None)?.0.now().earlier_by(120_000_000_000);
    let mut lives: Vec<Life> = (0..sandboxes).map(|number| Life::begun_at(number, began)).collect();
    life::tell(&ledger, &mut lives, 5)?;
    for some in lives.chunks(256) {
        let records = some.iter().map(|life| life.record(Vec::new(), vec![life.pending()])).collect();
        ledger.writer().write(Class::Fact, records)?;
    }
    Ok(())
}

/// Starts the agent's host. How long it took until the ledger was open, the host answered (and how much processor time),
/// and listed every sandbox.
fn start(config: &Config, path: &Path, sandboxes: u32) -> Result<[Duration; 4], Error> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let watch = Stopwatch::start();
    let ledger = Ledger::open(path, &life::host())?;
    let opened = watch.wall();
    let (ready, listed) = runtime.block_on(async {
        let running = host::start(config, &ledger).await?;
        running.handle.list(Some("no-such-org"));
        let ready = watch.read();
        while running.handle.list(None).len() < sandboxes as usize && watch.wall() < Duration::from_mins(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let listed = watch.wall();
        running.stop().await;
        Ok::<_, Error>((ready, listed))
    })?;
    runtime.shutdown_timeout(Duration::from_secs(10));
    Ok([opened, ready.wall, ready.cpu, listed])
}

fn read_rows(path: &Path) -> Result<(), Error> {
    let conn = Connection::open(path)?;
    for sql in ["SELECT * FROM sandboxes", "SELECT * FROM attachments", "SELECT * FROM pending"] {
        let mut statement = conn.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                std::hint::black_box(row.get_ref(column)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_ready_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 5);
    }
}
