//! A sandbox to which nothing happens costs the disk nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dormouse_tests::scripted::Options;
use dormouse_tests::wait;
use rusqlite::{Connection, OpenFlags};

use crate::scene::{DEADLINE, Scene, now_unix_ns};

const HOUR_NS: i64 = 3_600_000_000_000;

/// The proofs of life that are waited for. The meter looks for what is due four times in the time of each.
const PROOFS: u64 = 5;

/// How long all of it takes at the most.
const TAKES_NS: i64 = 60_000_000_000;

/// The ledger's write-ahead log: what every transaction since it was begun has written.
struct Log(PathBuf);

/// How many transactions there were, and how often they wrote each page.
#[derive(Debug)]
struct Written {
    transactions: u64,
    pages: BTreeMap<u32, u64>,
}

impl Log {
    /// What was written behind the first so many frames (24 bytes and a page each, behind 32 bytes of header).
    fn since(&self, frames: usize) -> Written {
        let bytes = std::fs::read(&self.0).unwrap();
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let frame_bytes = 24 + usize::try_from(word(&bytes[8..12])).unwrap();
        let mut written = Written { transactions: 0, pages: BTreeMap::new() };
        for frame in bytes[32..].chunks_exact(frame_bytes).skip(frames) {
            // Of the frames of a transaction the last alone tells how large the file is after it.
            written.transactions += u64::from(word(&frame[4..8]) != 0);
            *written.pages.entry(word(&frame[..4])).or_default() += 1;
        }
        written
    }

    fn frames(&self) -> usize {
        usize::try_from(self.since(0).pages.values().sum::<u64>()).unwrap()
    }
}

/// The only page of the table with the one row of the host's proof of life.
fn page_of_proofs(ledger: &Path) -> u32 {
    let conn = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'proof_of_life'";
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_idle_sandbox_costs_no_write_between_hours_but_the_hosts_one_proof_of_life() {
    // A UTC hour that begins meanwhile is a write, and not what this is about.
    wait::until("the next hour to have begun", DEADLINE * 3, async || {
        let left_ns = HOUR_NS - now_unix_ns().rem_euclid(HOUR_NS);
        wait::unless(left_ns > TAKES_NS, || format!("it begins in {left_ns} ns"))
    })
    .await
    .unwrap();
    let scene = Scene::new().await;
    let mut guests = Vec::new();
    for id in ["s1", "s2", "s3"] {
        guests.push(scene.sandbox(id, &Options::default()).await);
    }
    // What was observed of the attaching becomes final a moment later, and that is written.
    for id in ["s1", "s2", "s3"] {
        scene.until_slices(id, |slices| slices.len() == 1).await;
    }
    scene.until_proven_after(now_unix_ns() + 3_000_000_000).await;
    let ledger = scene.agent.state_dir().join("ledger.sqlite");
    let log = Log(ledger.with_extension("sqlite-wal"));
    let proofs = page_of_proofs(&ledger);

    let before = log.frames();
    let written = wait::until("some proofs of life", DEADLINE, async || {
        let written = log.since(before);
        if written.transactions >= PROOFS { Ok(written) } else { Err(format!("{written:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(
        written.pages,
        [(proofs, written.transactions)].into(),
        "each transaction is the one row of the host, however many sandboxes there are"
    );
    // A change is seen by the same means.
    let before = log.frames();
    scene.does(&["pause", "s1"]).await;
    let written = log.since(before);
    assert!(written.pages.keys().any(|page| *page != proofs), "{written:?}");
}
