//! The flat envelope: what stands around every payload. Pure.

use std::borrow::Cow;

use dormouse_ledger::OutboxRow;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::publish::sink::SinkError;

/// What is taken from a frozen event.
#[derive(Deserialize)]
pub(super) struct Told<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    org: Option<Cow<'a, str>>,
    /// Not told by events from before plans were.
    #[serde(borrow)]
    plan: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl<'a> Told<'a> {
    /// Reads an event of the outbox.
    pub(super) fn read(event: &'a OutboxRow) -> Result<Self, SinkError> {
        serde_json::from_slice(&event.payload).map_err(|error| unreadable(&event.event_id, &error))
    }

    /// Reads its data.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, SinkError> {
        serde_json::from_str(self.data.get()).map_err(|error| unreadable(&self.id, &error))
    }
}

fn unreadable(id: &str, error: &serde_json::Error) -> SinkError {
    SinkError::NoEvents(format!("event {id}: {error}"))
}

/// The host, in the platform's words.
pub(super) struct Worker {
    pub(super) cell_id: String,
    pub(super) worker_id: String,
}

/// A flat event. Its fields are part of the format, in this order.
#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    name: &'a str,
    sandbox_id: &'a str,
    org_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    worker_id: &'a str,
    cell_id: &'a str,
    payload: &'a Value,
    timestamp: &'a str,
}

impl Worker {
    /// The bytes of a flat event.
    pub(super) fn entry(
        &self,
        told: &Told<'_>,
        name: &str,
        id: &str,
        payload: &Value,
    ) -> Result<Vec<u8>, SinkError> {
        let envelope = Envelope {
            id,
            name,
            sandbox_id: told.subject.as_deref().unwrap_or_default(),
            org_id: told.org.as_deref().unwrap_or_default(),
            plan: told.plan.as_deref(),
            worker_id: &self.worker_id,
            cell_id: &self.cell_id,
            payload,
            timestamp: &told.time,
        };
        serde_json::to_vec(&envelope).map_err(|error| unreadable(id, &error))
    }
}
