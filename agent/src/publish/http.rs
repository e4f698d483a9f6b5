//! HTTP: batches of `CloudEvents` (`application/cloudevents-batch+json`), one request at a time.
//!
//! Success is a status of 2xx. An answer in JSON may still name events that were not stored, whatever the status:
//! `{"errors": [{"id": "...", "message": "..."}]}`. Those before the first that it names count as stored, and the rest is
//! sent again.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use dormouse_ledger::OutboxRow;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::access::{self, Credentials};
use super::sink::{Delivered, Sink, SinkError, chain};
use crate::config;
use crate::words::counted;

const BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// An endpoint for batches.
pub(super) struct Http {
    config: config::Sink,
    client: Option<Https>,
}

/// What an answer may say of single events.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    errors: Vec<EventError>,
}

#[derive(Deserialize)]
struct EventError {
    id: Option<String>,
    #[serde(default)]
    message: String,
}

impl Http {
    /// The sink of a host's events; connects when there are some.
    pub(super) fn new(config: config::Sink) -> Self {
        Self { config, client: None }
    }

    fn connector(&self) -> Result<Https, SinkError> {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(access::files(&self.config).config()?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(https))
    }

    fn request(&self, events: &[OutboxRow]) -> Result<Request<Full<Bytes>>, SinkError> {
        let wrong = |why: &dyn std::error::Error| SinkError::Misconfigured(why.to_string());
        let mut request =
            Request::post(&self.config.url).body(Full::new(batch(events))).map_err(|error| wrong(&error))?;
        request.headers_mut().insert(CONTENT_TYPE, BATCH);
        let authorization = match access::credentials(&self.config)? {
            Credentials::None => return Ok(request),
            Credentials::Password(user, password) => {
                format!("Basic {}", BASE64.encode(format!("{}:{password}", user.unwrap_or_default())))
            }
            Credentials::Token(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::try_from(authorization).map_err(|error| wrong(&error))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(request)
    }

    async fn post(&self, client: &Https, events: &[OutboxRow]) -> Result<Delivered, SinkError> {
        let answer = client.request(self.request(events)?).await;
        let (head, body) = answer.map_err(|error| SinkError::Unreachable(chain(&error)))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| SinkError::Unreachable(error.to_string()))?.to_bytes();
        Ok(judge(&Response::from_parts(head, body), events))
    }
}

impl Sink for Http {
    async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
        // Whatever goes wrong before it is put back: its connections end.
        let client = match self.client.take().map_or_else(|| self.connector(), Ok) {
            Ok(client) => client,
            Err(failure) => return Delivered::failed(failure),
        };
        let delivered = self.post(&client, events).await.unwrap_or_else(Delivered::failed);
        if delivered.failure.is_none() {
            self.client = Some(client);
        }
        delivered
    }
}

/// The events as they are, in one JSON array.
fn batch(events: &[OutboxRow]) -> Bytes {
    let bytes = events.iter().map(|event| event.payload.len() + 1).sum::<usize>() + 1;
    let mut batch = Vec::with_capacity(bytes);
    for event in events {
        batch.push(if batch.is_empty() { b'[' } else { b',' });
        batch.extend_from_slice(&event.payload);
    }
    batch.push(b']');
    batch.into()
}

fn judge(answer: &Response<Bytes>, events: &[OutboxRow]) -> Delivered {
    let status = answer.status();
    let content_type =
        answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told = serde_json::from_slice::<Answer>(answer.body());
    match (told, status.is_success()) {
        (Ok(Answer { errors }), _) if !errors.is_empty() => {
            let place = |error: &EventError| {
                let id = error.id.as_ref()?;
                events.iter().position(|event| event.event_id == *id)
            };
            // An error that names none of these events may be about any of them.
            let places: Option<Vec<usize>> = errors.iter().map(place).collect();
            let stored = places.and_then(|places| places.into_iter().min()).unwrap_or(0);
            let (count, first) = (errors.len(), &errors[0].message);
            let why = format!("{status} with errors for {}; the first: {first}", counted(count, "event"));
            Delivered { stored, failure: Some(SinkError::Refused(why)) }
        }
        (Err(error), true) if content_type.contains("json") && !answer.body().is_empty() => {
            Delivered::failed(SinkError::Refused(format!(
                "{status} with an answer that cannot be read: {error}"
            )))
        }
        (_, true) => Delivered::all(events),
        (_, false) => Delivered::failed(SinkError::Refused(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_or_a_user_is_shown_as_http_wants_it_and_never_logged() {
        // Two variables that cargo sets for every test.
        let named = |name: &str| Some(name.to_owned());
        let of = |sink: config::Sink| {
            let url = "http://127.0.0.1/events".to_owned();
            let request = Http::new(config::Sink { url, ..sink }).request(&[]).expect("a right request");
            request.headers()[AUTHORIZATION].clone()
        };
        let token = of(config::Sink { token_env: named("CARGO_PKG_NAME"), ..config::Sink::default() });
        assert_eq!(token, "Bearer dormouse");
        assert!(token.is_sensitive());
        let user = of(config::Sink {
            user_env: named("CARGO_PKG_NAME"),
            password_env: named("CARGO_PKG_NAME"),
            ..config::Sink::default()
        });
        assert_eq!(user, "Basic ZG9ybW91c2U6ZG9ybW91c2U=");
    }
}
