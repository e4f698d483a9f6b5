//! A real HTTP server that stores batches, refuses them, or stores a part.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::post;
use dormouse::config::SinkKind;
use dormouse_tests::wait::{self, unless};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::received::assert_delivered;
use dormouse_tests::stage::{DEADLINE, Stage, sink};

const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

/// What the server does with the next batches, and what it has stored.
#[derive(Default)]
struct Endpoint {
    /// One for each batch; those after are stored.
    behaviour: Vec<Behaviour>,
    stored: Vec<Vec<u8>>,
    refused: usize,
}

#[derive(Clone, Copy)]
enum Behaviour {
    /// Stores nothing and says so.
    Fails,
    /// Stores all but the events from this one on, and answers 200 with an error for each of them.
    StoresUntil(usize),
    /// Stores nothing, and answers 200 with something that cannot be read.
    Babbles,
}

type Shared = Arc<Mutex<Endpoint>>;

async fn take(
    State(endpoint): State<Shared>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, [(HeaderName, &'static str); 1], String) {
    assert_eq!(headers["content-type"], "application/cloudevents-batch+json");
    let events: Vec<Box<RawValue>> = serde_json::from_str(&body).unwrap();
    let bytes = |event: &RawValue| event.get().as_bytes().to_vec();
    let mut endpoint = endpoint.lock().unwrap();
    let behaviour = endpoint.behaviour.pop();
    endpoint.refused += usize::from(behaviour.is_some());
    match behaviour {
        None => endpoint.stored.extend(events.iter().map(|event| bytes(event))),
        Some(Behaviour::Fails) => return (StatusCode::SERVICE_UNAVAILABLE, JSON, String::new()),
        Some(Behaviour::Babbles) => return (StatusCode::OK, JSON, "{\"errors\":".to_owned()),
        Some(Behaviour::StoresUntil(first)) => {
            endpoint.stored.extend(events[..first].iter().map(|event| bytes(event)));
            let error = |event: &RawValue| {
                let id = serde_json::from_str::<Value>(event.get()).unwrap()["id"].clone();
                json!({"id": id, "message": "no room"})
            };
            let errors: Vec<Value> = events[first..].iter().map(|event| error(event)).collect();
            return (StatusCode::OK, JSON, json!({"errors": errors}).to_string());
        }
    }
    (StatusCode::NO_CONTENT, JSON, String::new())
}

async fn serve(behaviour: Vec<Behaviour>) -> (String, Shared) {
    let shared = Shared::new(Mutex::new(Endpoint { behaviour, ..Endpoint::default() }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let app = Router::new().route("/events", post(take)).with_state(Arc::clone(&shared));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, shared)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_with_errors_for_single_events_is_no_success_and_what_it_stored_is_not_lost() {
    let behaviour = vec![Behaviour::StoresUntil(0), Behaviour::Fails, Behaviour::StoresUntil(70)];
    let (url, endpoint) = serve(behaviour).await;
    let mut stage = Stage::new(vec![sink("http", SinkKind::Http, url)]);
    stage.commit(1_000);
    stage.acknowledged("http").await;
    let endpoint = endpoint.lock().unwrap();
    assert_eq!(endpoint.refused, 3);
    assert_delivered(&endpoint.stored, &stage.events());
    assert_eq!(endpoint.stored.len(), 1_000, "the 70 that were stored were not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_told_and_asked_again_with_the_same_bytes() {
    let (url, endpoint) = serve(vec![Behaviour::Babbles; 4]).await;
    let mut stage = Stage::new(vec![sink("http", SinkKind::Http, url)]);
    stage.commit(10);
    wait::until("refusals", DEADLINE, async || {
        let refused = endpoint.lock().unwrap().refused;
        unless(refused > 2, || format!("{refused} so far"))
    })
    .await
    .unwrap();
    stage.acknowledged("http").await;
    assert_eq!(stage.standing().sinks[0].error, None);
    let stored = endpoint.lock().unwrap().stored.clone();
    // An answer that cannot be read was given for batches that were not stored.
    assert_delivered(&stored, &stage.events());
}
