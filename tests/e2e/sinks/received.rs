//! What servers have received.

use std::collections::BTreeMap;

use async_nats::jetstream;
use dormouse_ledger::OutboxRow;
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::DEADLINE;
use redis::streams::StreamRangeReply;
use redis::{AsyncCommands, AsyncConnectionConfig};
use serde_json::Value;

/// The events that a server holds, in the order in which it stored them.
pub(crate) async fn received(server: &Server, kind: Kind) -> Vec<Vec<u8>> {
    match kind {
        Kind::Nats => from_stream(&server.url()).await,
        Kind::Redis => entries(server, "dormouse:events").await,
    }
}

async fn from_stream(url: &str) -> Vec<Vec<u8>> {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream("DORMOUSE").await.unwrap();
    let (first, last) = (stream.cached_info().state.first_sequence, stream.cached_info().state.last_sequence);
    let mut events = Vec::new();
    for sequence in first..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.subject.as_str(), "dormouse.events.cell-a.host-1");
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let id = format!("{}/{}", event["source"].as_str().unwrap(), event["id"].as_str().unwrap());
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), id);
        events.push(message.payload.to_vec());
    }
    events
}

/// The entries of a stream of Redis.
pub(crate) async fn entries(server: &Server, stream: &str) -> Vec<Vec<u8>> {
    let client = redis::Client::open(server.url()).unwrap();
    // All of a stream takes longer on a busy machine than the client would wait.
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    let range: StreamRangeReply = connection.xrange_all(stream).await.unwrap();
    range.ids.iter().map(|entry| entry.get("event").unwrap()).collect()
}

/// Every event was delivered, its first delivery in the order of the outbox, and a repeat has the same bytes.
pub(crate) fn assert_delivered(received: &[Vec<u8>], events: &[OutboxRow]) {
    let mut first: Vec<&[u8]> = Vec::new();
    let mut by_id: BTreeMap<String, &[u8]> = BTreeMap::new();
    for bytes in received {
        let id = serde_json::from_slice::<Value>(bytes).unwrap()["id"].as_str().unwrap().to_owned();
        if let Some(known) = by_id.get(&id) {
            assert!(*known == &bytes[..], "{id} was sent again with other bytes");
        } else {
            by_id.insert(id, bytes);
            first.push(bytes);
        }
    }
    assert_eq!(first.len(), events.len(), "events that arrived");
    let place = first.iter().zip(events).position(|(got, event)| *got != &event.payload[..]);
    assert_eq!(place, None, "the place of the first event out of order");
}
