//! M7: what was acknowledged is there after SIGKILL, and nothing is there by half.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dormouse_ledger::{Class, Ledger, LifecycleEvent, OutcomeStatus, Record, SandboxFilter};
use dormouse_metering::{Cause, CommandId};
use serde_json::json;

use crate::support::{BEGAN, Life, Place, host, intent, key, outcome, stamp};

const CHILD: &str = "DORMOUSE_LEDGER_KILLED_CHILD";
const ROUNDS: u32 = 20;

/// One unit: a command's intent with the two slices that it cuts, its outcome and its event.
fn unit(life: &mut Life, number: u64) -> Vec<Record> {
    let request_id = format!("req-{number}");
    let slices = vec![life.cut(1, Cause::Pause, Some(&request_id)), life.cut(1, Cause::Tick, None)];
    let event = LifecycleEvent {
        key: life.key.clone(),
        kind: "paused".to_owned(),
        command: Some(CommandId::new(&request_id)),
        detail: json!({}),
        at: stamp(0),
    };
    vec![
        Record::Intent(intent(&request_id)),
        life.record(slices),
        Record::Outcome(outcome(&request_id, OutcomeStatus::Done)),
        Record::Lifecycle(event),
    ]
}

/// The life where the ledger left it, and how many units it has had.
fn resume(ledger: &Ledger) -> (Life, u64) {
    let mut sandboxes = ledger.reader().unwrap().sandboxes(&SandboxFilter::default()).unwrap();
    let mut life = Life::begins(key("org", "sb"));
    if let Some(open) = sandboxes.pop().and_then(|row| row.open) {
        life.open = open;
    }
    let units = (life.open.seq - 1) / 2;
    (life, units)
}

/// What the killed process runs: it writes units until it dies, and tells on standard output which are durable.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let ledger = Ledger::open(Path::new(&path), &host()).unwrap();
    let (mut life, units) = resume(&ledger);
    ledger.writer().write(Class::Fact, vec![life.seen()]).unwrap();
    for number in units + 1.. {
        let records = unit(&mut life, number);
        let done = Box::new(move |result: Result<_, _>| {
            result.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "durable {number}").unwrap();
            out.flush().unwrap();
        });
        ledger.writer().submit(Class::Fact, records, done).expect("the queue has room");
        if number % 8 == 0 {
            // Nothing to write: this only waits for the writer, so that groups differ in size.
            ledger.writer().write(Class::Fact, Vec::new()).unwrap();
        }
    }
}

/// Starts the child, reads `units` acknowledgements, kills it, and reads what it still said.
fn kill_after(path: &Path, units: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["killed::child", "--exact", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The harness' own words may stand before the first.
    let mut acknowledged = lines.map_while(Result::ok).filter_map(|line| {
        let (_, number) = line.split_once("durable ")?;
        number.parse::<u64>().ok()
    });
    let before = acknowledged.by_ref().take(units).last();
    child.kill().unwrap();
    let after = acknowledged.last();
    child.wait().unwrap();
    after.or(before).expect("at least one unit is acknowledged")
}

#[test]
fn m7_every_acknowledged_unit_is_there_after_sigkill_and_none_by_half() {
    let place = Place::new();
    let mut random = 0x2545_f491_u32;
    let mut had = 0;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let units = 1 + (random >> 26) as usize;
        let acknowledged = kill_after(&place.path(), units);
        let ledger = place.open();
        let (life, there) = resume(&ledger);
        assert!(acknowledged <= there, "round {round}: {acknowledged} acknowledged, {there} there");
        assert!(there > had, "round {round}: the ledger goes on where it was");
        assert_eq!(life.open.seq, 2 * there + 1, "round {round}: both slices of a unit or neither");
        let reader = ledger.reader().unwrap();
        assert!(
            reader.recovery().unwrap().unfinished.is_empty(),
            "round {round}: no intent without its outcome"
        );
        assert!(reader.command("org", &format!("req-{there}")).unwrap().is_some());
        assert!(reader.command("org", &format!("req-{}", there + 1)).unwrap().is_none());
        let report = reader.audit().unwrap();
        assert!(report.is_clean(), "round {round}: {report:?}");
        assert_eq!((report.slices, report.events), (2 * there, 3 * there), "round {round}");
        had = there;
    }
    assert_eq!(resume(&place.open()).0.key.generation, BEGAN);
}
