//! Something happened in QEMU: as it was sent, and decoded where the schema knows it.
//!
//! The raw event is always handed on. QEMU is often younger than the schema this crate was built with (9.1),
//! so that a name or a value it does not know is ordinary, and must neither end the session nor be lost.

use qapi_qmp::Event as TypedEvent;
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde_json::{Map, Value, json};

/// One event as QEMU sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// When it happened by QEMU's wall clock, in ns since the unix epoch, at a resolution of 1 µs. `None` when
    /// QEMU could not tell (it says -1 then) or said something that is no time. An event may be delivered
    /// later than younger ones of other kinds: QEMU throttles some of them.
    pub timestamp_unix_ns: Option<i64>,
    /// The event's data; `Null` if it has none.
    pub data: Value,
}

/// What the schema makes of an [`Event`].
#[derive(Debug, Clone)]
pub enum Decoded {
    /// An event of the schema. Its own timestamp field is always zero: read [`Event::timestamp_unix_ns`].
    Known(Box<TypedEvent>),
    /// The schema has no event of this name.
    Unknown,
    /// The schema has the name, but the data is not what it says.
    Undecodable {
        /// What does not fit.
        error: String,
    },
}

impl Event {
    /// Decodes the data by the schema of qapi-qmp.
    pub fn decode(&self) -> Decoded {
        // A timestamp of -1 is legal on the wire and has no place in the generated type: ours stands in.
        let mut fields = json!({ "event": self.name, "timestamp": { "seconds": 0, "microseconds": 0 } });
        if !self.data.is_null() {
            fields["data"] = self.data.clone();
        }
        match TypedEvent::deserialize(fields) {
            Ok(event) => Decoded::Known(Box::new(event)),
            Err(_) if !schema_has_event(&self.name) => Decoded::Unknown,
            Err(error) => Decoded::Undecodable { error: error.to_string() },
        }
    }

    pub(crate) fn from_wire(name: String, mut object: Map<String, Value>) -> Self {
        let timestamp_unix_ns = object.get("timestamp").and_then(unix_ns);
        Self { name, timestamp_unix_ns, data: object.remove("data").unwrap_or_default() }
    }
}

impl Decoded {
    /// Whether QEMU should be asked for its state, because what changed cannot be read from this event.
    pub fn asks_for_resync(&self) -> bool {
        !matches!(self, Self::Known(_))
    }
}

fn unix_ns(timestamp: &Value) -> Option<i64> {
    let seconds = timestamp.get("seconds")?.as_i64().filter(|seconds| *seconds >= 0)?;
    let micros = timestamp.get("microseconds")?.as_i64().filter(|micros| (0..1_000_000).contains(micros))?;
    seconds.checked_mul(1_000_000_000)?.checked_add(micros * 1_000)
}

/// Asks the generated type itself, so that no list of names has to be kept beside it: an event of this name and
/// nothing else always fails to decode, and how it fails says whether the name is known.
fn schema_has_event(name: &str) -> bool {
    let name_only = MapDeserializer::new(std::iter::once(("event", name)));
    !matches!(TypedEvent::deserialize(name_only), Err(NameProbe::UnknownName))
}

#[derive(Debug, thiserror::Error)]
enum NameProbe {
    #[error("unknown event name")]
    UnknownName,
    #[error("known event name, missing fields")]
    MissingFields,
}

impl serde::de::Error for NameProbe {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self::MissingFields
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::UnknownName
    }
}
