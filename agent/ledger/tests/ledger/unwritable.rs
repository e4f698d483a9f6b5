//! While nothing can be made durable, intents are refused, facts wait in order, and nothing is missing afterwards.

use std::sync::mpsc;
use std::time::Duration;

use dormouse_ledger::{Class, Committed, Health, Ledger, LedgerError, Record};
use dormouse_metering::Cause;

use crate::opening::Mount;
use crate::support::{Life, Place, facts, host, intent, key};

const PATIENCE: Duration = Duration::from_secs(20);

type Answers = mpsc::Receiver<Result<Committed, LedgerError>>;

/// Submits `count` facts, each a slice of the life, and hands out where their answers come.
fn submit_facts(ledger: &Ledger, life: &mut Life, count: usize) -> Answers {
    let (answer, answers) = mpsc::channel();
    for _ in 0..count {
        let slice = life.cut(1, Cause::Tick, None);
        let answer = answer.clone();
        let done = Box::new(move |result| answer.send(result).unwrap());
        ledger.writer().submit(Class::Fact, vec![life.record(vec![slice])], done).unwrap();
    }
    answers
}

fn unwritable(error: &LedgerError) -> bool {
    error.reason() == "LEDGER_UNWRITABLE"
}

/// Tells the ledger facts and intents while nothing can be written, lets it be written again, and looks.
fn outage(ledger: &Ledger, life: &mut Life, recover: impl FnOnce()) {
    let writer = ledger.writer();
    let answers = submit_facts(ledger, life, 20);
    let refused = writer.write(Class::Intent, vec![Record::Intent(intent("req-1"))]).unwrap_err();
    assert!(unwritable(&refused), "{refused}");
    let Health::Unwritable { facts_waiting, attempts, .. } = writer.health() else { panic!("healthy") };
    assert!(attempts > 0 && facts_waiting <= 20);
    let more = submit_facts(ledger, life, 5);
    let refused =
        writer.submit(Class::Intent, vec![Record::Intent(intent("req-2"))], Box::new(|_| panic!("called")));
    assert!(unwritable(&refused.unwrap_err().error), "refused at once, without touching the disk");
    assert!(answers.try_recv().is_err(), "a fact is answered when it is durable, not before");
    recover();
    let host_seqs: Vec<u64> = (0..20)
        .map(|_| answers.recv_timeout(PATIENCE))
        .chain((0..5).map(|_| more.recv_timeout(PATIENCE)))
        .map(|answer| match answer.unwrap().unwrap() {
            Committed::Applied { host_seq } => host_seq,
            Committed::Repeat(_) => panic!("no intent"),
        })
        .collect();
    assert!(host_seqs.is_sorted(), "in the order in which they happened: {host_seqs:?}");
    assert_eq!(writer.health(), Health::Writable);
    writer.write(Class::Intent, vec![Record::Intent(intent("req-1"))]).unwrap();
    let report = ledger.reader().unwrap().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.slices, 25);
}

#[test]
fn while_another_process_holds_the_file_intents_are_refused_and_facts_wait() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    outage(&ledger, &mut life, || other.execute_batch("ROLLBACK").unwrap());
}

#[test]
fn while_the_disk_is_full_intents_are_refused_and_facts_wait() {
    let place = Place::new();
    let disk = place.folder.path().join("disk");
    let Some(_mount) = Mount::tmpfs(&disk, "size=4m") else {
        eprintln!("not shown: this process may not mount");
        return;
    };
    let ledger = Ledger::open(&disk.join("ledger.sqlite"), &host()).unwrap();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    let filler = disk.join("filler");
    // Fails when the disk is full: that is what it is for.
    std::fs::write(&filler, vec![1; 8 << 20]).unwrap_err();
    // What the log has left of its last page must not be enough for the facts.
    let used: String = std::iter::repeat_n("x", 3000).collect();
    while writer_takes(&ledger, &used) {}
    outage(&ledger, &mut life, || std::fs::remove_file(&filler).unwrap());
}

/// Whether a large intent is still taken.
fn writer_takes(ledger: &Ledger, text: &str) -> bool {
    let request_id = format!("filler-{}", ledger.reader().unwrap().recovery().unwrap().unfinished.len());
    let large = dormouse_ledger::CommandIntent { payload: text.into(), ..intent(&request_id) };
    ledger.writer().write(Class::Intent, vec![Record::Intent(large)]).is_ok()
}

#[test]
fn an_idle_ledger_finds_by_itself_that_it_takes_writes_again() {
    let place = Place::new();
    let ledger = place.open();
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = ledger.writer().write(Class::Intent, vec![Record::Intent(intent("req-1"))]).unwrap_err();
    assert!(unwritable(&refused), "{refused}");
    other.execute_batch("ROLLBACK").unwrap();
    let (_never, wait) = mpsc::channel::<()>();
    for _ in 0..200 {
        if ledger.writer().health() == Health::Writable {
            ledger.writer().write(Class::Intent, vec![Record::Intent(intent("req-1"))]).unwrap();
            return;
        }
        let _ = wait.recv_timeout(Duration::from_millis(50));
    }
    panic!("still unwritable");
}

#[test]
fn a_ledger_closed_while_it_cannot_be_written_tells_so_and_does_not_hang() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answers = submit_facts(&ledger, &mut life, 3);
    let writer = ledger.writer();
    drop(ledger);
    for _ in 0..3 {
        assert!(unwritable(&answers.try_recv().unwrap().unwrap_err()));
    }
    assert_eq!(writer.write(Class::Fact, vec![life.seen()]).unwrap_err().reason(), "LEDGER_CLOSED");
}

#[test]
fn a_ledger_that_is_closed_makes_everything_queued_durable_first() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    let answers = submit_facts(&ledger, &mut life, 1500);
    drop(ledger);
    assert_eq!(answers.try_iter().flatten().count(), 1500);
    assert_eq!(place.reader().audit().unwrap().slices, 1500);
}

#[test]
fn a_full_queue_hands_the_unit_back() {
    let place = Place::new();
    let ledger = place.open();
    let other = place.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writer = ledger.writer();
    let unit = |number: usize| vec![Record::Intent(intent(&format!("req-{number}")))];
    let refused =
        (0..2000).find_map(|number| writer.submit(Class::Intent, unit(number), Box::new(drop)).err());
    let refused = refused.expect("at most 1,024 intents wait");
    assert_eq!(refused.error.reason(), "LEDGER_BUSY");
    assert_eq!(refused.records.len(), 1);
}

#[test]
fn a_callback_that_panics_does_not_stop_the_writer() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    ledger.writer().submit(Class::Fact, vec![life.seen()], Box::new(|_| panic!("on purpose"))).unwrap();
    facts(&ledger, vec![life.record(vec![])]).unwrap();
}
