//! What has ended is told as ended: by whoever asks for it, and to whoever would end it once more.

use dormouse::control;
use dormouse::proto::{CommandHeader, DestroyRequest, SandboxKey, command_reply};
use dormouse_tests::scripted::Options;

use crate::scene::Scene;

/// How often it is tried to come just when QEMU has died.
const ROUNDS: usize = 20;

fn destroy(id: &str) -> DestroyRequest {
    let key = Some(SandboxKey { org: "default".to_owned(), sandbox: id.to_owned() });
    DestroyRequest { header: Some(CommandHeader { key, ..CommandHeader::default() }), graceful_ms: 0 }
}

#[tokio::test]
async fn to_destroy_what_dies_by_itself_is_done_or_unchanged_and_never_refused() {
    let scene = Scene::new().await;
    let client = control::client(&scene.agent.socket()).await.unwrap();
    for round in 0..ROUNDS {
        let id = format!("s{round}");
        let qemu = scene.sandbox(&id, &Options::default()).await;
        let ended = async {
            let mut client = client.clone();
            let mut told = command_reply::Result::Done;
            // The first may have been the one that ended it.
            while told == command_reply::Result::Done {
                let reply = client.destroy(destroy(&id)).await;
                told = reply.unwrap_or_else(|status| panic!("{id}: {status}")).into_inner().result();
            }
            told
        };
        let (killed, told) = tokio::join!(qemu.kill9(), ended);
        killed.unwrap();
        assert_eq!(told, command_reply::Result::Unchanged, "{id}");
        let slices = scene.slices(&id).await;
        assert!(
            slices.last().is_some_and(|last| last["final"] == true),
            "answered before it was durable: {slices:?}"
        );
    }
    scene.audits_clean().await;
}

#[tokio::test]
async fn whoever_asks_for_what_has_ended_is_told_when_and_why() {
    let scene = Scene::new().await;
    let died = scene.sandbox("died", &Options::default()).await;
    died.kill9().await.unwrap();
    let _destroyed = scene.sandbox("destroyed", &Options::default()).await;
    scene.does(&["destroy", "destroyed", "--request-id", "d1"]).await;
    let _detached = scene.sandbox("detached", &Options::default()).await;
    scene.does(&["detach", "detached", "--request-id", "d2"]).await;
    for (id, cause, command, why) in [
        ("died", "death", None, "its QEMU ended without a word"),
        ("destroyed", "destroy", Some("d1"), "it was destroyed (request d1)"),
        ("detached", "detach", Some("d2"), "it was handed back (request d2)"),
    ] {
        let ended_ns = scene.last_slice(id).await["end_unix_ns"].as_i64().unwrap();
        for asked in ["show", "pause", "wake"] {
            let error = scene.refused(&[asked, id], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
            let message = format!("default/{id} has ended at {}: {why}", dormouse_ledger::rfc3339(ended_ns));
            assert_eq!(error["message"], message, "{asked}");
            let told = ["ended_unix_ns", "ended_by", "ended_by_command_id"]
                .map(|name| error["metadata"][name].as_str());
            assert_eq!(told, [Some(ended_ns.to_string().as_str()), Some(cause), command]);
        }
        let shown = scene.agent.cli(&["show", id]).await.unwrap();
        assert_eq!((shown.code, shown.stdout.as_str()), (1, ""));
        assert!(shown.stderr.contains(why) && shown.stderr.contains("dormouse slices"), "{shown:?}");
    }
    let unknown = scene.refused(&["show", "nobody"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    assert!(unknown["message"].as_str().unwrap().starts_with("no sandbox default/nobody"), "{unknown}");
}
