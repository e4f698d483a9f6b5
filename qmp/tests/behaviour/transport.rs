//! The tokio transport against the scripted QEMU.

use dormouse_qmp::scripted::ScriptedQemu;
use dormouse_qmp::{CloseReason, Config, Connection, Incoming, qapi_qmp};

#[tokio::test(start_paused = true)]
async fn a_life_from_greeting_to_quit() {
    let qemu = ScriptedQemu::start().unwrap();
    let Connection { client, mut events, peer, version } =
        Connection::connect(qemu.path(), Config::default()).await.unwrap();
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    assert!(version.at_least(10, 0));

    client.execute(qapi_qmp::stop {}).await.unwrap();
    let status = client.execute(qapi_qmp::query_status {}).await.unwrap();
    assert_eq!(status.status, qapi_qmp::RunState::paused);
    client.execute(qapi_qmp::quit {}).await.unwrap();

    let Incoming::Event(stop) = events.next().await else { panic!() };
    let Incoming::Event(shutdown) = events.next().await else { panic!() };
    assert_eq!((stop.name.as_str(), shutdown.name.as_str()), ("STOP", "SHUTDOWN"));
    assert_eq!(events.next().await, Incoming::Closed(CloseReason::Eof));
}
