//! Usage as people and their programs get it: the pages in a real browser, the clients for Python
//! and TypeScript, and all that the specification allows.

use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::{paths, people};
use serde_json::Value;

use crate::scene::Scene;
use crate::usage_over_http::{address_in, ask};

/// A sink that nobody runs, so that the outbox lags.
const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:0\"\nrequests_per_second = 1000\n\
     [[sinks]]\nname = \"fleet\"\nurl = \"nats://127.0.0.1:9\"\n";

/// An agent with a sandbox that has lived its whole life, and one that lives.
struct Lived {
    scene: Scene,
    address: String,
    read: String,
    write: String,
    _living: Scripted,
}

impl Lived {
    async fn new() -> Self {
        let scene = Scene::with(CONFIG).await;
        let ended = scene.sandbox("ended", &Options::default()).await;
        let living = scene.sandbox("living", &Options::default()).await;
        for command in [
            &["scale", "ended", "--memory", "1GiB"][..],
            &["pause", "ended"],
            &["resume", "ended"],
            &["hibernate", "ended"],
            &["wake", "ended"],
            &["scale", "ended", "--memory", "512MiB"],
            &["destroy", "ended"],
            &["pause", "living"],
        ] {
            scene.does(command).await;
        }
        scene.last_slice("ended").await;
        drop(ended);
        scene.until_proven_after(crate::scene::now_unix_ns()).await;
        let address = address_in(&scene.agent.log());
        let (read, write) = (token(&scene, "read").await, token(&scene, "write").await);
        Self { scene, address, read, write, _living: living }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The exact memory of the sandbox that has ended, as the API tells it.
    async fn memory_of_ended(&self) -> String {
        let usage = ask(&self.address, "GET", "/api/sandboxes/ended/usage", &self.read, "", 200).await;
        usage["memoryByteNanoseconds"].as_str().unwrap().to_owned()
    }
}

async fn token(scene: &Scene, role: &str) -> String {
    let ledger = scene.agent.state_dir().join("ledger.sqlite");
    let ledger = ledger.to_str().unwrap();
    let created =
        scene.does(&["token", "create", "--org", "default", "--role", role, "--ledger", ledger]).await;
    created["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_life_is_seen_tagged_and_summed_up_in_a_browser_by_keyboard_and_without_scripts() {
    let lived = Lived::new().await;
    let read = people::walk(&lived.url(), &lived.write, "ended").await.unwrap();
    // What the page says is what the API says, to the last digit, and the tag is in the ledger.
    assert_eq!(read["amount"], lived.memory_of_ended().await.as_str(), "{read}");
    assert_ne!(read["amount"], "0", "{read}");
    let tags = ask(&lived.address, "GET", "/api/sandboxes/ended/tags", &lived.read, "", 200).await;
    assert_eq!(tags["tags"]["team"], "red & blue");
    let slices: Vec<&str> = read["slices"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for words in
        ["it was found", "it was paused", "disk only: the guest was stopped by command", "it was destroyed"]
    {
        assert!(slices.iter().any(|slice| slice.contains(words)), "{words}: {slices:#?}");
    }
    lived.scene.audits_clean().await;
}

#[tokio::test]
async fn the_clients_for_python_and_typescript_hold_their_types_and_say_what_the_server_says() {
    let lived = Lived::new().await;
    let said = people::clients(&lived.url(), [&lived.read, &lived.write], "ended").await.unwrap();
    let memory = lived.memory_of_ended().await;
    assert_eq!(said, format!("ended {memory} byte-nanoseconds, team=red {memory}"));
}

#[tokio::test]
async fn whatever_the_specification_allows_and_much_that_it_does_not_is_answered_as_it_says() {
    let lived = Lived::new().await;
    let report = people::specification(&lived.url(), &lived.write, "ended").await.unwrap();
    for said in ["Selected: 8/8", "Tested: 8", "No issues found"] {
        assert!(report.contains(said), "{said}: {report}");
    }
    lived.scene.audits_clean().await;
}

#[test]
fn the_clients_know_every_reason_that_there_is() {
    for file in ["python/dormouse_usage/problem.py", "typescript/src/problem.ts"] {
        let text = std::fs::read_to_string(paths::workspace().join("packaging/clients").join(file)).unwrap();
        for reason in dormouse::http::Reason::ALL {
            assert!(text.contains(&format!("\"{}\"", reason.as_str())), "{file} lacks {}", reason.as_str());
        }
    }
}
