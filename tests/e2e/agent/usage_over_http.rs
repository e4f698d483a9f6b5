//! Usage over HTTP, by the agent itself and by `dormouse serve` beside it.

use dormouse_tests::people::Served;
use dormouse_tests::scripted::Options;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::Scene;

/// What a server answers, which must be with this status.
pub(crate) async fn ask(
    address: &str,
    method: &str,
    target: &str,
    token: &str,
    body: &str,
    status: u16,
) -> Value {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {target}: {text}");
    serde_json::from_str(body).unwrap()
}

/// Where the agent says that it listens.
pub(crate) fn address_in(log: &str) -> String {
    let (_, rest) = log.split_once("listens_on=").unwrap_or_else(|| panic!("{log}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn the_agent_and_a_server_beside_it_tell_the_same_usage_over_http() {
    let scene = Scene::with("[http]\nlisten = \"127.0.0.1:0\"\n").await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let ledger = scene.agent.state_dir().join("ledger.sqlite");
    let ledger = ledger.to_str().unwrap();
    let created =
        scene.does(&["token", "create", "--org", "default", "--role", "write", "--ledger", ledger]).await;
    let token = created["token"].as_str().unwrap();
    let agent = address_in(&scene.agent.log());
    let put = ask(&agent, "PUT", "/api/sandboxes/s1/tags", token, r#"{"team":"red"}"#, 200).await;
    assert_eq!(put["tags"], json!({"team": "red"}));
    assert_eq!(scene.view("s1").await["tags"], json!({"team": "red"}));
    scene.does(&["tag", "s1", "team=blue"]).await;
    let usage = ask(&agent, "GET", "/api/usage?groupBy=tag:team", token, "", 200).await;
    assert_eq!(usage["items"][0]["value"], "blue", "{usage}");
    assert!(usage["total"]["memoryGbSeconds"].as_f64().unwrap() > 0.0, "an open slice counts");

    scene.does(&["destroy", "s1"]).await;
    scene.last_slice("s1").await;
    drop(qemu);
    let serve = scene.agent.command(&["serve", "--ledger", &format!("sqlite:{ledger}")]).unwrap();
    let beside = Served::start(serve).await.unwrap();
    let answers = [&agent, beside.address()];
    let window = ask(&agent, "GET", "/api/sandboxes/s1/usage", token, "", 200).await;
    let (from, to) = (&window["firstStartedAt"], &window["lastEndedAt"]);
    let target =
        format!("/api/sandboxes/s1/usage?from={}&to={}", from.as_str().unwrap(), to.as_str().unwrap());
    // Once the agent has proved that it lives after the end, both know as much.
    scene.until_proven_after(crate::scene::now_unix_ns()).await;
    let mut told = Vec::new();
    for address in answers {
        told.push(ask(address, "GET", &target, token, "", 200).await);
        let sandbox = ask(address, "GET", "/api/sandboxes/s1", token, "", 200).await;
        assert_eq!(sandbox["lifecycle"], "ended", "stopped before it was destroyed, and no longer so");
        assert!(sandbox["endedAt"].is_string(), "{sandbox}");
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0]["memoryByteNanoseconds"], window["memoryByteNanoseconds"]);
    assert_ne!(told[0]["memoryByteNanoseconds"], "0", "a sandbox that has ended was used all the same");
    let id = created["id"].as_str().unwrap();
    scene.agent.cli(&["token", "revoke", id, "--ledger", ledger]).await.unwrap().succeeded().unwrap();
    for address in answers {
        let refused = ask(address, "GET", &target, token, "", 401).await;
        assert_eq!(refused["reason"], "UNAUTHENTICATED");
    }
    scene.audits_clean().await;
}
