//! A real agent with a sink: what was removed is told all the same, and the command line says how far the sink is.

use std::path::Path;

use dormouse_tests::agent::Agent;
use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::wait::{self, unless};
use serde_json::Value;

use crate::received::received;
use dormouse_tests::stage::DEADLINE;

/// A sandbox `s1` in the folder that the agent watches, and attached.
pub(crate) async fn watched(agent: &Agent, work_dir: &Path) -> Scripted {
    let sandbox = Scripted::start(&Options::default(), "s1", &agent.run_dir(), work_dir).await.unwrap();
    wait::until("the sandbox", DEADLINE, async || {
        agent.json(&["show", "s1"]).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    sandbox
}

async fn until_fleet(agent: &Agent, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until("the sink to stand as wanted", DEADLINE, async || {
        let outbox = agent.json(&["outbox"]).await.map_err(|error| error.to_string())?;
        unless(wanted(&outbox["sinks"][0]), || outbox.to_string()).map(|()| outbox)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_a_sandbox_that_was_removed_while_the_sink_was_down_is_sent() {
    let mut server = Server::start(Kind::Redis).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sinks = format!(
        "[[sinks]]\nname = \"fleet\"\nkind = \"redis\"\nurl = \"{}\"\ntimeout_ms = 1000\nbackoff_max_ms = 200\n",
        server.url()
    );
    server.kill9().await.unwrap();
    let mut agent = Agent::start_with(folder.path(), &sinks).await.unwrap();
    let sandbox = watched(&agent, folder.path()).await;
    agent.json(&["destroy", "s1"]).await.unwrap();
    drop(sandbox);
    let down = until_fleet(&agent, |sink| !sink["error"].is_null() && sink["lag_events"] != 0).await;
    assert!(down["sinks"][0]["lag_age_ns"].as_u64().unwrap() > 0, "{down}");
    assert!(down["sinks"][0]["error"].as_str().unwrap().contains("SINK_UNREACHABLE"), "{down}");
    agent.kill9().await.unwrap();
    agent.restart().await.unwrap();
    server.restart().await.unwrap();
    wait::until("a watermark", DEADLINE, async || {
        let exported = agent.cli(&["outbox", "--export"]).await.map_err(|error| error.to_string())?.stdout;
        unless(exported.contains("dev.dormouse.watermark.v1"), || exported.clone())
    })
    .await
    .unwrap();
    let up = until_fleet(&agent, |sink| sink["lag_events"] == 0).await;
    assert!(up["sinks"][0]["error"].is_null(), "{up}");

    let exported = agent.cli(&["outbox", "--export"]).await.unwrap().succeeded().unwrap().stdout;
    let received = received(&server, Kind::Redis).await;
    let received: Vec<_> = received.iter().map(|event| str::from_utf8(event).unwrap()).collect();
    assert_eq!(exported.lines().collect::<Vec<_>>(), received, "what is exported is what was sent");
    let kinds: Vec<Value> = received.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(kinds.iter().any(|event| event["data"]["kind"] == "destroy"), "{kinds:?}");
    let last = kinds.iter().rev().find(|event| event["type"] == "dev.dormouse.slice.v1").unwrap();
    assert_eq!(last["data"]["closed_by"], "destroy");
    assert_eq!(agent.json(&["audit"]).await.unwrap()["clean"], true);

    let file = folder.path().join("events");
    std::fs::write(&file, &exported).unwrap();
    let verified = agent.json(&["verify", file.to_str().unwrap()]).await.unwrap();
    assert_eq!(verified["anomalies_total"], 0, "{verified}");
    assert_ne!(verified["watermarks"], 0, "the hours before this one are complete: {verified}");
    std::fs::write(&file, exported.replace("destroy", "destroi")).unwrap();
    assert_eq!(agent.cli(&["verify", file.to_str().unwrap()]).await.unwrap().code, 2);
    agent.stop().await.unwrap();
}
