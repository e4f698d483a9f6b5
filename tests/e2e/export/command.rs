//! `dormouse export`, the program.

use std::process::{Command, Output};

use dormouse_metering::Cause;
use dormouse_tests::paths;

use crate::lines;
use crate::support::{Life, Place, facts, key};

fn export(place: &Place, more: &[&str]) -> Output {
    let mut command = Command::new(paths::dormouse().unwrap());
    let ledger = format!("sqlite:{}", place.path().display());
    command.args(["export", "--ledger", &ledger, "--to", "2026-01-02"]).args(more).output().unwrap()
}

#[test]
fn an_export_goes_to_standard_output_or_to_a_file_that_is_whole() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let slices = vec![life.cut(10, Cause::Pause, None), life.cut(5, Cause::Destroy, None)];
    facts(&ledger, vec![life.seen(), life.end(slices)]).unwrap();
    let told = export(&place, &["--format", "csv", "--from", "2026-01-01"]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(lines(&told.stdout).len(), 2);
    assert_eq!(String::from_utf8(told.stderr).unwrap(), "exported 2 slices\n");
    let file = place.folder.path().join("out.csv");
    let to_file = ["--format", "csv", "--from", "2026-01-01", "--output", file.to_str().unwrap()];
    assert!(export(&place, &to_file).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), told.stdout);
    assert!(!place.folder.path().join("out.csv.partial").exists());
    let wrong = export(&place, &["--format", "focus", "--from", "2026-01-01T00:00:01Z"]);
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("full hours"));
    let nowhere = ["--format", "csv", "--from", "2026-01-01", "--output", "/nowhere/out.csv"];
    assert_eq!(export(&place, &nowhere).status.code(), Some(1));
}
