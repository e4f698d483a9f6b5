//! The harness's own guest does what every other test relies on, on both versions of QEMU and without any agent.

use std::path::Path;
use std::time::Duration;

use dormouse_tests::argv::{Backend, Spec};
use dormouse_tests::guest::Guest;
use dormouse_tests::monitor::Monitor;
use dormouse_tests::{Result, wait};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

#[tokio::test]
async fn on_qemu_10_the_guest_fills_plugged_memory_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    fills_plugged_memory_and_gives_it_back(&Spec::default(), folder.path()).await.unwrap();
}

#[tokio::test]
async fn on_qemu_7_2_the_guest_fills_plugged_memory_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { backend: Backend::Ram, ..Spec::default() }.on_7_2();
    fills_plugged_memory_and_gives_it_back(&spec, folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_qemu_that_cannot_start_says_why_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { extra: vec!["-no-such-option".to_owned()], ..Spec::default() };
    let error = Guest::boot(&spec, "g1", folder.path(), folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

#[tokio::test]
async fn dropping_a_guest_ends_its_qemu_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { disk: false, ..Spec::default() };
    let first = Guest::launch(&spec, "first", folder.path(), folder.path()).await.unwrap();
    let second = Guest::launch(&spec, "second", folder.path(), folder.path()).await.unwrap();
    drop(first);
    let lives = async || wait::unless(second.pids().len() == 1, || format!("{:?}", second.pids()));
    wait::until("the second QEMU to be seen", DEADLINE, lives).await.unwrap();
    second.kill9().await.unwrap();
    assert_eq!(second.pids(), []);
}

async fn fills_plugged_memory_and_gives_it_back(spec: &Spec, folder: &Path) -> Result<()> {
    let mut guest = Guest::boot(spec, "g1", folder, folder).await?;
    let base_kib = guest.mem_total_kib().await?;

    guest.monitor().resize(GIB).await?;
    assert_eq!(guest.mem_total_kib().await?, base_kib + GIB / 1024);

    let filled = guest.fill(512).await?;
    assert_eq!(guest.sum().await?, filled);
    assert_eq!(guest.sum().await?, filled);

    guest.free().await?;
    guest.monitor().resize(256 * MIB).await?;
    assert_eq!(guest.mem_total_kib().await?, base_kib + 256 * MIB / 1024);
    assert_eq!(guest.monitor().run_state().await?, "running");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_another_qemu_wakes_answers_with_its_memory_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::boot(&Spec::default(), "g1", folder.path(), folder.path()).await.unwrap();
    guest.monitor().resize(GIB).await.unwrap();
    let filled = guest.fill(300).await.unwrap();

    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", guest.pids()[0])).unwrap();
    let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
    let saved = format!("file:{}", folder.path().join("saved").display());
    let qmp = guest.monitor().clone();
    qmp.execute("stop", json!({})).await.unwrap();
    qmp.execute("migrate-set-capabilities", x_ignore_shared()).await.unwrap();
    qmp.execute("migrate", json!({ "uri": saved })).await.unwrap();
    migrated(&qmp).await.unwrap();
    qmp.execute("quit", json!({})).await.unwrap();
    guest.gone(DEADLINE).await.unwrap();

    let mut second = tokio::process::Command::new(arguments[0])
        .args(&arguments[1..])
        .args(["-S", "-incoming", "defer"])
        .spawn()
        .unwrap();
    wait::until("the second QEMU", DEADLINE, async || qmp.run_state().await).await.unwrap();
    qmp.execute("migrate-set-capabilities", x_ignore_shared()).await.unwrap();
    qmp.execute("migrate-incoming", json!({ "uri": saved })).await.unwrap();
    migrated(&qmp).await.unwrap();
    qmp.execute("cont", json!({})).await.unwrap();

    assert_eq!(guest.sum().await.unwrap(), filled);
    assert_eq!(qmp.plugged_bytes().await.unwrap(), GIB);
    drop(guest);
    assert!(!second.wait().await.unwrap().success(), "dropping the guest kills the second QEMU as well");
}

fn x_ignore_shared() -> Value {
    json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] })
}

async fn migrated(qmp: &Monitor) -> Result<()> {
    wait::until("the migration to be completed", DEADLINE, async || {
        let reply = qmp.execute("query-migrate", json!({})).await.map_err(|error| error.to_string())?;
        wait::unless(reply["status"] == "completed", || reply.to_string())
    })
    .await
}
