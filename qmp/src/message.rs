//! One line, one message: what QEMU can say, and how a command is written.
//!
//! Never ends a session: a line that is no message is a [`BadLine`], and the caller reads on.

use qapi_spec::ErrorClass;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::codec::BadLine;
use crate::event::Event;
use crate::version::Version;

/// What one line from QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line of every connection.
    Greeting(Version),
    /// A command was carried out.
    Return {
        /// The command's id; `None` if it is missing or not one of ours.
        id: Option<u64>,
        /// What it returned.
        value: Value,
    },
    /// A command was refused, or QEMU could not read one.
    Error {
        /// The command's id; `None` if it is missing or not one of ours.
        id: Option<u64>,
        /// QEMU's class.
        class: ErrorClass,
        /// QEMU's words.
        desc: String,
    },
    /// Something happened.
    Event(Event),
}

impl Message {
    /// Reads one line. `Ok(None)` is a blank line, which says nothing.
    pub fn parse(line: &[u8]) -> Result<Option<Self>, BadLine> {
        let text = std::str::from_utf8(line)
            .map_err(|error| BadLine::NotUtf8 { valid_up_to: error.valid_up_to() })?
            .trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| BadLine::NotJson { error: error.to_string() })?;
        let Value::Object(object) = value else { return Err(not_message("not an object")) };
        Self::from_object(object).map(Some)
    }

    fn from_object(mut object: Map<String, Value>) -> Result<Self, BadLine> {
        let id = object.get("id").and_then(Value::as_u64);
        if let Some(name) = object.remove("event") {
            let Value::String(name) = name else { return Err(not_message("an event's name is not text")) };
            Ok(Self::Event(Event::from_wire(name, object)))
        } else if let Some(value) = object.remove("return") {
            Ok(Self::Return { id, value })
        } else if let Some(error) = object.remove("error") {
            let WireError { class, desc } = read(error)?;
            // QEMU asks clients to treat a class they do not know as the generic one.
            let class = ErrorClass::deserialize(class).unwrap_or(ErrorClass::GenericError);
            Ok(Self::Error { id, class, desc })
        } else if let Some(greeting) = object.remove("QMP") {
            let WireGreeting { version } = read(greeting)?;
            Ok(Self::Greeting(version))
        } else {
            Err(not_message("neither greeting, return, error nor event"))
        }
    }
}

/// Writes a command as one line, newline included. Arguments that are none are left out: QEMU reads its monitor a byte at a
/// time, about 2 us each, so that the words `"arguments":{}` would cost 30 us of a round trip of 200.
pub fn encode_command(id: u64, name: &str, arguments: Value) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("execute".into(), name.into());
    let none = arguments.is_null() || arguments.as_object().is_some_and(Map::is_empty);
    if !none {
        object.insert("arguments".into(), arguments);
    }
    object.insert("id".into(), id.into());
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

#[derive(Deserialize)]
struct WireError {
    class: Value,
    desc: String,
}

#[derive(Deserialize)]
struct WireGreeting {
    version: Version,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, BadLine> {
    T::deserialize(value).map_err(|error| not_message(&error.to_string()))
}

fn not_message(error: &str) -> BadLine {
    BadLine::NotMessage { error: error.to_owned() }
}
