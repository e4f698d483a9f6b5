//! The host, in this process, drives a real guest.

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse::config::Config;
use dormouse::host::{self, HostHandle};
use dormouse::sandbox::command::{Command, CommandResult, MethodChoice, Request, SandboxKey};
use dormouse_ledger::{HostName, Ledger, Reader, SandboxFilter, SliceQuery};
use dormouse_tests::argv::Spec;
use dormouse_tests::guest::Guest;

fn key() -> SandboxKey {
    SandboxKey { org: "default".into(), sandbox: "g1".into() }
}

async fn run(host: &HostHandle, id: &str, request: Request) -> CommandResult {
    let command = Command {
        key: key(),
        request_id: id.to_owned(),
        deadline_ms: Some(60_000),
        asked_by: "test".into(),
        request,
    };
    let started = tokio::time::Instant::now();
    let executed = host.execute(command).await;
    eprintln!(
        "{id}: {:?} {:?}",
        started.elapsed(),
        executed.as_ref().map(|e| (&e.outcome, e.sandbox.state, e.sandbox.shape))
    );
    executed.unwrap().outcome.result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_lives_its_whole_life() {
    tracing_subscriber::fmt().with_env_filter("info,dormouse=debug").with_writer(std::io::stderr).init();
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: folder.path().join("state"),
        run_dir: folder.path().join("run"),
        ..Config::default()
    };
    std::fs::create_dir_all(&config.state_dir).unwrap();
    std::fs::create_dir_all(&config.run_dir).unwrap();
    let path = config.state_dir.join("ledger.db");
    let ledger = Ledger::open(&path, &HostName { cell: "c".into(), host: "h".into() }).unwrap();
    let running = host::start(&config, &ledger).await.unwrap();
    let host = running.handle.clone();
    let mut guest = Guest::boot(
        &Spec::default(),
        "g1",
        &{
            let q = folder.path().join("q");
            std::fs::create_dir_all(&q).unwrap();
            q
        },
        folder.path(),
    )
    .await
    .unwrap();
    let attach = Request::Attach {
        qmp_path: guest.places().qmp.clone(),
        plan: "default".into(),
        tags: BTreeMap::new(),
    };
    run(&host, "r1", attach).await;
    run(&host, "r2", Request::Scale { memory_bytes: (256 + 1024) << 20 }).await;
    let filled = guest.fill(400).await.unwrap();
    run(&host, "r3", Request::Pause).await;
    run(&host, "r4", Request::Resume).await;
    for (n, method) in [
        MethodChoice::Auto,
        MethodChoice::Named(dormouse::sandbox::command::Method::MappedRam),
        MethodChoice::Named(dormouse::sandbox::command::Method::Internal),
    ]
    .into_iter()
    .enumerate()
    {
        run(&host, &format!("h{n}"), Request::Hibernate { method }).await;
        run(&host, &format!("w{n}"), Request::Wake).await;
        assert_eq!(guest.sum().await.unwrap(), filled);
    }
    guest.free().await.unwrap();
    run(&host, "r5", Request::Scale { memory_bytes: 256 << 20 }).await;
    run(&host, "r6", Request::Reboot).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    run(&host, "r7", Request::Destroy).await;
    running.stop().await;
    let reader = Reader::open(&path).unwrap();
    let page = reader
        .slices(&SliceQuery { sandboxes: SandboxFilter::default(), after: None, limit: 500, now: None })
        .unwrap();
    for row in page.rows {
        eprintln!(
            "{:>3} {:<11} {:>13} {:>5} {:<10} {:<10} {:?} u={}",
            row.seq,
            row.state,
            row.duration_ns,
            row.memory_plugged_bytes >> 20,
            row.opened_by,
            row.closed_by.clone().unwrap_or_default(),
            row.command_id,
            row.uncertainty_ns
        );
    }
    let audit = reader.audit().unwrap();
    assert!(audit.violations.is_empty(), "{:?}", audit.violations);
    drop(ledger);
}
