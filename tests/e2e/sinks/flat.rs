//! The flat envelope in a real Redis: what a platform's consumer finds there, whatever befell the way to it.

use std::collections::BTreeMap;

use dormouse::config::{Sink, SinkForm, SinkKind};
use dormouse_tests::agent::Agent;
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::{DEADLINE, Stage, sink};
use dormouse_tests::wait::{self, unless};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::watched;
use crate::received::entries;

fn flat(server: &Server) -> Sink {
    let (form, vcpu_hour_microcents) = (SinkForm::Flat, 7_777_777);
    Sink { form, vcpu_hour_microcents, ..sink("flat", SinkKind::Redis, server.url()) }
}

/// What a consumer keeps that takes each id once, in the order in which it first saw it.
fn once(entries: &[Vec<u8>]) -> Vec<Value> {
    let (mut first, mut known) = (Vec::new(), BTreeMap::new());
    for bytes in entries {
        let entry: Value = serde_json::from_slice(bytes).unwrap();
        let id = entry["id"].as_str().unwrap().to_owned();
        match known.insert(id.clone(), bytes) {
            Some(before) => assert_eq!(before, bytes, "{id} was sent again with other bytes"),
            None => first.push(entry),
        }
    }
    first
}

fn sum(entries: &[Value], name: &str) -> u64 {
    entries.iter().map(|entry| entry["payload"][name].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn flat_ticks_keep_their_bytes_and_add_up_through_kills_of_redis_and_of_the_publisher() {
    let mut server = Server::start(Kind::Redis).await.unwrap();
    let mut stage = Stage::new(vec![flat(&server)]);
    stage.commit(700);
    stage.acknowledged("flat").await;
    server.kill9().await.unwrap();
    stage.commit(700);
    stage.fails("flat", "SINK_UNREACHABLE").await;
    server.restart().await.unwrap();
    stage.commit(700);
    // In the middle of whatever it does, and without a word of how far it came.
    drop(stage.publisher.take());
    stage.publish_again().await;
    server.signal(Signal::SIGSTOP).unwrap();
    stage.commit(700);
    stage.fails("flat", "SINK_").await;
    server.signal(Signal::SIGCONT).unwrap();
    stage.acknowledged("flat").await;
    let ticks = once(&entries(&server, "events:cell-a").await);
    assert_eq!(ticks.len(), 2_800);
    assert!(ticks.iter().all(|tick| tick["type"] == "usage_tick" && tick["plan"] == "pro"));
    assert_eq!(sum(&ticks, "interval_s"), 2_800);
    // Two vCPUs for 2,800 seconds, at 7.777777 cents for an hour of one.
    assert_eq!(sum(&ticks, "cost_cents"), 2 * 2_800 * 7_777_777 / 3_600 / 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platforms_consumer_is_told_a_life_from_created_to_stopped_in_order() {
    let server = Server::start(Kind::Redis).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sinks = format!(
        "host = \"h1\"\ncell = \"c1\"\n[[sinks]]\nname = \"flat\"\nkind = \"redis\"\nform = \"flat\"\nurl = \"{}\"\n",
        server.url()
    );
    let mut agent = Agent::start_with(folder.path(), &sinks).await.unwrap();
    let sandbox = watched(&agent, folder.path()).await;
    for does in [&["scale", "s1", "--memory", "512MiB"][..], &["hibernate", "s1"], &["wake", "s1"]] {
        agent.json(does).await.unwrap();
    }
    agent.kill9().await.unwrap();
    agent.restart().await.unwrap();
    agent.json(&["destroy", "s1"]).await.unwrap();
    drop(sandbox);
    let told = wait::until("the sandbox to be told as stopped", DEADLINE, async || {
        let told = once(&entries(&server, "events:c1").await);
        unless(told.iter().any(|entry| entry["type"] == "stopped"), || format!("{told:?}")).map(|()| told)
    })
    .await
    .unwrap();
    let of = |name: &str| told.iter().position(|entry| entry["type"] == name).unwrap();
    assert!(of("created") < of("scaled") && of("scaled") < of("hibernated") && of("hibernated") < of("woke"));
    assert_eq!(of("stopped"), told.len() - 1, "a consumer takes no ticks of what has stopped: {told:?}");
    let names = ["created", "scaled", "hibernated", "woke", "stopped"];
    assert!(names.iter().all(|name| told.iter().filter(|entry| entry["type"] == *name).count() == 1));
    for entry in &told {
        assert_eq!(
            (&entry["sandbox_id"], &entry["cell_id"], &entry["worker_id"]),
            (&"s1".into(), &"c1".into(), &"h1".into())
        );
    }
    assert_eq!(told[of("stopped")]["payload"]["reason"], "destroy");
    agent.stop().await.unwrap();
}
