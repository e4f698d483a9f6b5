//! Who may open a ledger, where, and how it is read beside and after its agent.

use std::path::Path;

use dormouse_ledger::{HostName, Ledger, Reader, SandboxFilter};

use crate::support::{Place, host, written};

#[test]
fn a_second_agent_is_refused_until_the_first_has_closed_the_ledger() {
    let place = Place::new();
    let first = place.open();
    let error = Ledger::open(&place.path(), &host()).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_LOCKED");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(first);
    place.open();
}

#[test]
fn a_missing_folder_is_named_and_not_created() {
    let place = Place::new();
    let folder = place.folder.path().join("not-there");
    let error = Ledger::open(&folder.join("ledger.sqlite"), &host()).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_NO_FOLDER");
    assert!(error.to_string().contains("not-there"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn a_ledger_that_was_removed_is_missed_until_its_lock_file_is_removed_too() {
    let (place, _) = written();
    std::fs::remove_file(place.path()).unwrap();
    let error = Ledger::open(&place.path(), &host()).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_LOST");
    assert!(!place.path().exists());
    std::fs::remove_file(place.path().with_extension("sqlite.lock")).unwrap();
    place.open();
}

#[test]
fn another_host_s_ledger_is_refused() {
    let place = Place::new();
    drop(place.open());
    let other = HostName { host: "host-2".to_owned(), ..host() };
    let error = Ledger::open(&place.path(), &other).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_OTHER_HOST");
    assert!(error.to_string().contains("//dormouse/cell-a/host-1"), "{error}");
}

#[test]
fn a_reader_says_what_is_missing_and_creates_nothing() {
    let place = Place::new();
    assert_eq!(Reader::open(&place.path()).err().unwrap().reason(), "LEDGER_MISSING");
    std::fs::write(place.path(), b"").unwrap();
    assert_eq!(Reader::open(&place.path()).err().unwrap().reason(), "LEDGER_OLDER");
    std::fs::write(
        place.path(),
        b"not a database, and longer than the header of one, which has a hundred bytes or so......",
    )
    .unwrap();
    assert_eq!(Reader::open(&place.path()).err().unwrap().reason(), "LEDGER_CORRUPT");
    assert_eq!(Reader::open(place.folder.path()).err().unwrap().reason(), "LEDGER_UNREADABLE");
}

#[test]
fn a_reader_works_beside_a_running_agent_and_sees_each_commit() {
    let place = Place::new();
    let ledger = place.open();
    let reader = place.reader();
    assert!(reader.sandboxes(&SandboxFilter::default()).unwrap().is_empty());
    let life = crate::support::Life::begins(crate::support::key("org", "sb"));
    crate::support::facts(&ledger, vec![life.seen()]).unwrap();
    assert_eq!(reader.sandboxes(&SandboxFilter::default()).unwrap().len(), 1);
    assert_eq!(reader.host().unwrap(), host());
}

/// The files of a ledger as a killed agent leaves them: with a write-ahead log that holds everything.
fn leave_behind(place: &Place, into: &Path) {
    let ledger = place.open();
    let mut life = crate::support::Life::begins(crate::support::key("org", "sb"));
    let first = life.cut(3, dormouse_metering::Cause::Tick, None);
    crate::support::facts(&ledger, vec![life.seen(), life.record(vec![first])]).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("ledger.sqlite{suffix}");
        std::fs::copy(place.folder.path().join(&name), into.join(&name)).unwrap();
    }
}

#[test]
fn a_killed_agent_s_ledger_is_read_with_what_its_log_holds() {
    let (place, killed) = (Place::new(), Place::new());
    leave_behind(&place, killed.folder.path());
    let report = killed.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.slices, 1);
}

/// A file system of its own, unmounted when dropped. `None` where this process may not mount.
pub(crate) struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    pub(crate) fn tmpfs(at: &'a Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]).then_some(Self(at))
    }

    fn read_only(at: &'a Path) -> Option<Self> {
        let path = at.to_str().unwrap();
        (mount(&["--bind", path, path]) && mount(&["-o", "remount,bind,ro", path])).then_some(Self(at))
    }
}

fn mount(arguments: &[&str]) -> bool {
    std::process::Command::new("mount").args(arguments).output().is_ok_and(|output| output.status.success())
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        assert!(std::process::Command::new("umount").arg("-l").arg(self.0).status().unwrap().success());
    }
}

#[test]
fn a_ledger_on_a_read_only_disk_is_read_and_not_opened_for_writing() {
    let (place, _) = written();
    let Some(_mount) = Mount::read_only(place.folder.path()) else {
        eprintln!("not shown: this process may not mount");
        return;
    };
    assert!(place.reader().audit().unwrap().is_clean());
    assert_eq!(Ledger::open(&place.path(), &host()).err().unwrap().reason(), "LEDGER_UNWRITABLE");
}

#[test]
fn a_killed_agent_s_ledger_is_read_from_a_read_only_disk() {
    let (place, killed) = (Place::new(), Place::new());
    leave_behind(&place, killed.folder.path());
    let Some(_mount) = Mount::read_only(killed.folder.path()) else {
        eprintln!("not shown: this process may not mount");
        return;
    };
    let report = killed.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.slices, 1);
}

#[test]
fn a_backup_taken_while_the_ledger_is_written_is_a_whole_ledger() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = crate::support::Life::begins(crate::support::key("org", "sb"));
    crate::support::facts(&ledger, vec![life.seen()]).unwrap();
    let copy = place.folder.path().join("copy.sqlite");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                let slice = life.cut(1, dormouse_metering::Cause::Tick, None);
                crate::support::facts(&ledger, vec![life.record(vec![slice])]).unwrap();
            }
        });
        ledger.backup(&copy).unwrap();
    });
    let report = Reader::open(&copy).unwrap().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(report.slices <= 200);
    assert_eq!(ledger.backup(&copy).unwrap_err().reason(), "LEDGER_CONFLICT");
    drop(Ledger::open(&copy, &host()).unwrap());
}
