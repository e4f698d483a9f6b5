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
