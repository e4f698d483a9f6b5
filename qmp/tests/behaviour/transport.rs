//! The tokio transport against the scripted QEMU, under paused time: nothing waits.

use std::io;
use std::time::Duration;

use dormouse_qmp::scripted::{Greeting, Reply, ScriptedQemu, Step};
use dormouse_qmp::{
    Anomaly, Client, CloseReason, Config, Connection, EventStream, Incoming, QmpError, qapi_qmp,
};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout};

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}}}\r\n";

async fn connect(qemu: &ScriptedQemu) -> Connection {
    Connection::connect(qemu.path(), Config::default()).await.unwrap()
}

async fn next_event(events: &mut EventStream) -> String {
    match events.next().await {
        Incoming::Event(event) => event.name,
        other => panic!("{other:?}"),
    }
}

async fn is_running(client: &Client) -> bool {
    client.execute(qapi_qmp::query_status {}).await.unwrap().running
}

/// A scripted QEMU that treats one command in its own way.
fn qemu_that(command: &'static str, steps: Vec<Step>) -> ScriptedQemu {
    let script = move |it: &dormouse_qmp::scripted::Command| (it.name == command).then(|| steps.clone());
    ScriptedQemu::builder().on(script).start().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_life_from_greeting_to_quit() {
    let qemu = ScriptedQemu::start().unwrap();
    let Connection { client, mut events, version, .. } = connect(&qemu).await;
    assert!(version.at_least(10, 0));
    client.execute(qapi_qmp::stop {}).await.unwrap();
    assert!(!is_running(&client).await);
    client.execute(qapi_qmp::quit {}).await.unwrap();
    assert_eq!(next_event(&mut events).await, "STOP");
    assert_eq!(next_event(&mut events).await, "SHUTDOWN");
    for _ in 0..2 {
        assert_eq!(events.next().await, Incoming::Closed(CloseReason::Eof));
    }
    assert_eq!(client.close_reason(), Some(&CloseReason::Eof));
    let error = client.execute(qapi_qmp::stop {}).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_eof", false));
}

#[tokio::test(start_paused = true)]
async fn the_peer_of_the_socket_is_the_process_that_listens() {
    let peer = connect(&ScriptedQemu::start().unwrap()).await.peer;
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    assert_eq!((peer.uid, peer.gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
}

#[tokio::test(start_paused = true)]
async fn a_second_client_gets_no_greeting_until_the_first_leaves() {
    let qemu = ScriptedQemu::start().unwrap();
    let first = connect(&qemu).await;
    let busy = Connection::connect(qemu.path(), Config::default()).await.unwrap_err();
    assert_eq!((busy.reason(), busy.is_busy()), ("qmp_busy", true));
    assert!(is_running(&first.client).await, "the first is not disturbed");
    drop(first);
    assert!(is_running(&connect(&qemu).await.client).await);
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_never_greets_is_busy_and_one_that_speaks_something_else_is_not_qmp() {
    let reason = async |greeting| {
        let qemu = ScriptedQemu::builder().greeting(greeting).start().unwrap();
        Connection::connect(qemu.path(), Config::default()).await.unwrap_err().reason()
    };
    assert_eq!(reason(Greeting::Never).await, "qmp_busy");
    assert_eq!(reason(Greeting::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).await, "qmp_not_qmp");
}

#[tokio::test(start_paused = true)]
async fn a_negotiation_that_hangs_or_is_refused_ends_the_connection() {
    let reason = async |step: Step| {
        let qemu = qemu_that("qmp_capabilities", vec![step]);
        Connection::connect(qemu.path(), Config::default()).await.unwrap_err().reason()
    };
    assert_eq!(reason(Step::Hang).await, "qmp_unresponsive");
    assert_eq!(reason(Step::error("GenericError", "no")).await, "qmp_negotiation_refused");
    assert_eq!(reason(Step::Close).await, "qmp_eof");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_socket_or_has_no_listener_cannot_be_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let (file, dead) = (folder.path().join("file"), folder.path().join("dead.sock"));
    std::fs::write(&file, "").unwrap();
    drop(UnixListener::bind(&dead).unwrap());
    for (path, kind) in [
        (folder.path().join("missing"), io::ErrorKind::NotFound),
        (file, io::ErrorKind::ConnectionRefused),
        (dead, io::ErrorKind::ConnectionRefused),
    ] {
        let error = Connection::connect(&path, Config::default()).await.unwrap_err();
        assert_eq!(error.reason(), "qmp_connect_failed");
        assert!(matches!(error, QmpError::Connect { source, .. } if source.kind() == kind), "{path:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_busy_after_the_connect_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.sock");
    let listener = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let waiting =
        [tokio::net::UnixStream::connect(&path).await, tokio::net::UnixStream::connect(&path).await];
    assert!(waiting.iter().all(Result::is_ok));

    let began = Instant::now();
    let error = Connection::connect(&path, Config::default()).await.unwrap_err();
    assert!(error.is_busy());
    assert!(began.elapsed() >= Config::default().connect_deadline);
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_reads_nothing_more_passes_the_write_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("deaf.sock")).unwrap();
    let path = folder.path().join("deaf.sock");
    let connecting = tokio::spawn(async move { Connection::connect(path, Config::default()).await.unwrap() });
    let (deaf, _) = listener.accept().await.unwrap();
    for line in [GREETING, "{\"return\": {}, \"id\": 0}\r\n"] {
        deaf.writable().await.unwrap();
        assert_eq!(deaf.try_write(line.as_bytes()).unwrap(), line.len());
    }
    let client = connecting.await.unwrap().client;

    let began = Instant::now();
    let error = client.execute_raw("stop", json!({ "x": "x".repeat(8 << 20) })).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_unresponsive", true));
    assert_eq!(began.elapsed().as_secs(), Config::default().write_deadline.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_command_leaves_the_session_usable_and_its_late_reply_is_counted() {
    let qemu = qemu_that("stop", vec![Step::Delay(Duration::from_secs(40)), Step::Model]);
    let Connection { client, mut events, .. } = connect(&qemu).await;
    let error = client.execute(qapi_qmp::stop {}).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_outcome_unknown", true));
    assert!(!is_running(&client).await, "it did happen, later");
    assert_eq!(client.anomaly_counts().late_replies, 1);
    assert_eq!(next_event(&mut events).await, "STOP");
    assert!(matches!(events.next().await, Incoming::Anomaly(Anomaly::LateReply { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_slow_command_may_have_a_deadline_of_its_own() {
    let qemu = qemu_that("stop", vec![Step::Delay(Duration::from_secs(40)), Step::Model]);
    let client = connect(&qemu).await.client;
    client.with_reply_deadline(Duration::from_mins(1)).execute(qapi_qmp::stop {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_a_command_in_flight_never_breaks_the_session() {
    let qemu = qemu_that("stop", vec![Step::Delay(Duration::from_secs(1)), Step::Model]);
    let client = connect(&qemu).await.client;
    for _ in 0..3 {
        let dropped = timeout(Duration::from_millis(1), client.execute(qapi_qmp::stop {})).await;
        assert!(dropped.is_err());
    }
    assert!(!is_running(&client).await);
    // The first was in flight; the others still waited for their turn when they were dropped.
    assert_eq!(client.anomaly_counts().late_replies, 1);
    assert_eq!(qemu.commands().iter().filter(|command| command.name == "stop").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_event_a_bad_event_and_a_bad_line_leave_the_following_stop_intact() {
    let qemu = ScriptedQemu::start().unwrap();
    let Connection { client, mut events, .. } = connect(&qemu).await;
    qemu.emit("FROM_QEMU_11", json!({}));
    qemu.emit("SHUTDOWN", json!({ "guest": false, "reason": "solar-flare" }));
    qemu.send_raw(b"\xff\r\n");
    client.execute(qapi_qmp::stop {}).await.unwrap();
    assert_eq!(next_event(&mut events).await, "FROM_QEMU_11");
    assert_eq!(next_event(&mut events).await, "SHUTDOWN");
    assert!(matches!(events.next().await, Incoming::Anomaly(Anomaly::BadLine(_))));
    assert_eq!(next_event(&mut events).await, "STOP");
}

#[tokio::test(start_paused = true)]
async fn a_megabyte_of_garbage_is_one_bad_line() {
    let qemu = ScriptedQemu::start().unwrap();
    let client = connect(&qemu).await.client;
    let mut garbage = vec![0xff; 1 << 20];
    garbage.push(b'\n');
    qemu.send_raw(garbage);
    assert!(is_running(&client).await);
    assert_eq!(client.anomaly_counts().bad_lines, 1);
}

#[tokio::test(start_paused = true)]
async fn events_sent_while_nobody_is_connected_are_gone() {
    let qemu = ScriptedQemu::start().unwrap();
    assert!(!qemu.emit("STOP", Value::Null), "before the first client");
    drop(connect(&qemu).await);
    // Whether the scripted QEMU has noticed that it left or not, nobody reads this.
    qemu.emit("STOP", Value::Null);
    let Connection { client, mut events, .. } = connect(&qemu).await;
    assert!(is_running(&client).await);
    assert!(timeout(Duration::from_mins(1), events.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_event_storm_is_a_gap_of_known_size_and_delays_no_command() {
    let qemu = ScriptedQemu::start().unwrap();
    let config = Config { event_queue_length: 8, ..Config::default() };
    let Connection { client, mut events, .. } = Connection::connect(qemu.path(), config).await.unwrap();
    for number in 0..10_000 {
        qemu.emit("NIC_RX_FILTER_CHANGED", json!({ "path": number.to_string() }));
    }
    assert!(is_running(&client).await);
    for number in 0..8 {
        let Incoming::Event(event) = events.next().await else { panic!() };
        assert_eq!(event.data["path"], number.to_string());
    }
    assert_eq!(events.next().await, Incoming::Gap { missed: 10_000 - 8 });
    qemu.emit("STOP", Value::Null);
    assert_eq!(next_event(&mut events).await, "STOP");
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_even_when_the_session_ends_first() {
    let qemu = ScriptedQemu::start().unwrap();
    let config = Config { event_queue_length: 1, ..Config::default() };
    let Connection { client, mut events, .. } = Connection::connect(qemu.path(), config).await.unwrap();
    client.execute(qapi_qmp::stop {}).await.unwrap();
    client.execute(qapi_qmp::quit {}).await.unwrap();
    drop(qemu);
    assert_eq!(next_event(&mut events).await, "STOP");
    assert_eq!(events.next().await, Incoming::Gap { missed: 1 });
    assert_eq!(events.next().await, Incoming::Closed(CloseReason::Eof));
}

#[tokio::test(start_paused = true)]
async fn sigkill_in_the_middle_of_a_line_is_end_of_file_with_an_unknown_outcome() {
    let qemu = qemu_that("stop", vec![Step::Raw(b"{\"return\": {".to_vec()), Step::Close]);
    let Connection { client, mut events, .. } = connect(&qemu).await;
    let error = client.execute(qapi_qmp::stop {}).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_eof", true));
    assert!(matches!(events.next().await, Incoming::Anomaly(Anomaly::BadLine(_))));
    assert_eq!(events.next().await, Incoming::Closed(CloseReason::Eof));
}

#[tokio::test(start_paused = true)]
async fn what_qemu_said_before_it_left_is_read_although_nothing_can_be_written() {
    let qemu = ScriptedQemu::start().unwrap();
    let Connection { client, mut events, .. } = connect(&qemu).await;
    qemu.emit("SHUTDOWN", json!({ "guest": true, "reason": "guest-shutdown" }));
    qemu.disconnect();
    let error = client.execute(qapi_qmp::stop {}).await.unwrap_err();
    assert_eq!(error.reason(), "qmp_eof");
    assert_eq!(next_event(&mut events).await, "SHUTDOWN");
}

#[tokio::test(start_paused = true)]
async fn more_commands_than_the_queue_holds_are_refused_and_the_others_answered() {
    let qemu = ScriptedQemu::start().unwrap();
    let config = Config { queue_length: 4, ..Config::default() };
    let client = Connection::connect(qemu.path(), config).await.unwrap().client;
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(qapi_qmp::query_status {}).await })
        })
        .collect();
    let mut answered = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(error.reason(), "qmp_queue_full"),
        }
    }
    assert_eq!(answered, 5, "one in flight and four that wait");
    assert_eq!(qemu.commands().len(), answered);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_the_schema_can_be_asked_by_name_and_a_strange_return_is_told() {
    let qemu = qemu_that("query-status", vec![Step::Reply(Reply::Return(json!({ "status": "dreaming" })))]);
    let client = connect(&qemu).await.client;
    let raw = client.execute_raw("query-status", Value::Null).await.unwrap();
    assert_eq!(raw, json!({ "status": "dreaming" }));
    let error = client.execute(qapi_qmp::query_status {}).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_unexpected_return", true));
    let error = client.execute_raw("no-such-command", Value::Null).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_happened()), ("qmp_refused", false));
}

#[tokio::test(start_paused = true)]
async fn a_schema_of_236_kb_on_one_line_fits_the_default_limit() {
    let schema: Vec<_> = (0..1_200)
        .map(|number| json!({ "name": format!("c{number}"), "meta-type": "command", "arg-type": "0", "doc": "x".repeat(160) }))
        .collect();
    let qemu = qemu_that("query-qmp-schema", vec![Step::returns(schema.into())]);
    let client = connect(&qemu).await.client;
    let line = client.execute_raw("query-qmp-schema", Value::Null).await.unwrap().to_string();
    assert!(line.len() > 236_000);
    let schema = dormouse_qmp::Schema::probe(&client).await.unwrap();
    assert!(schema.has_command("c1199") && !schema.has_command("c1200"));
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_everything_closes_the_socket() {
    let qemu = ScriptedQemu::start().unwrap();
    let Connection { client, events, .. } = connect(&qemu).await;
    drop(client.clone());
    drop(events);
    assert!(is_running(&client).await, "a client is enough to keep it");
    drop(client);
    let Connection { client, mut events, .. } = connect(&qemu).await;
    drop(client);
    qemu.emit("STOP", Value::Null);
    assert_eq!(next_event(&mut events).await, "STOP", "events are enough, too");
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_qemus_fit_into_one_process() {
    // Three descriptors each, and the limit of open files is often 1024.
    let qemus: Vec<_> = (0..200).map(|_| ScriptedQemu::start().unwrap()).collect();
    let mut connections = Vec::new();
    for qemu in &qemus {
        connections.push(connect(qemu).await);
    }
    for connection in &connections {
        assert!(is_running(&connection.client).await);
    }
}
