//! What a batch of messages holds, before any database is asked: pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::event::decode_all;
use super::{Event, Rejection, WhyNot};

/// Messages, read. Each is an event to be stored, a rejection, or the repetition of an event before it.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// The messages, as they came.
    pub(super) messages: Vec<Cow<'a, [u8]>>,
    /// The events, each with the place of its message.
    pub(super) events: Vec<(usize, Event)>,
    /// What is not to be stored, with the place of its message and what could be read of it.
    pub(super) rejected: Vec<(usize, Option<Event>, Rejection)>,
    /// How many messages repeated one before them, byte for byte.
    pub(super) repeated: u64,
}

impl<'a> Batch<'a> {
    /// Reads messages, and judges what can be judged by looking at them alone.
    pub fn decode(messages: &'a [impl AsRef<[u8]>]) -> Self {
        Self::of(messages.iter().map(|message| Cow::Borrowed(message.as_ref())).collect())
    }

    fn of(messages: Vec<Cow<'a, [u8]>>) -> Self {
        let (mut decoded, mut rejected) = (Vec::with_capacity(messages.len()), Vec::new());
        for (place, event) in decode_all(&messages).into_iter().enumerate() {
            match event {
                Ok(event) => decoded.push((place, event)),
                Err(rejection) => rejected.push((place, None, rejection)),
            }
        }
        let verdicts = judge(&decoded);
        let mut batch = Self { messages, rejected, ..Self::default() };
        for ((place, event), verdict) in decoded.into_iter().zip(verdicts) {
            match verdict {
                Verdict::First => batch.events.push((place, event)),
                Verdict::Repetition => batch.repeated += 1,
                Verdict::Contradiction(rejection) => batch.rejected.push((place, Some(event), rejection)),
            }
        }
        batch
    }

    /// How many messages it was read from.
    pub fn messages_count(&self) -> usize {
        self.messages.len()
    }

    /// The events that are to be stored.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(_, event)| event)
    }

    /// What is not to be stored.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.iter().map(|(_, _, rejection)| rejection)
    }
}

impl From<Vec<Vec<u8>>> for Batch<'static> {
    /// The same of messages that the batch keeps: it may be read in one place and stored in another.
    fn from(messages: Vec<Vec<u8>>) -> Self {
        Self::of(messages.into_iter().map(Cow::Owned).collect())
    }
}

/// What an event is to those before it in the batch.
enum Verdict {
    First,
    Repetition,
    Contradiction(Rejection),
}

fn judge(events: &[(usize, Event)]) -> Vec<Verdict> {
    let mut by_id: HashMap<(&str, &str), &Event> = HashMap::with_capacity(events.len());
    let mut by_number: HashMap<(&str, i64), &str> = HashMap::with_capacity(events.len());
    let mut verdicts = Vec::with_capacity(events.len());
    for (_, event) in events {
        let verdict = match by_id.entry((&event.source, &event.id)) {
            Entry::Occupied(first) if first.get().payload_hash == event.payload_hash => Verdict::Repetition,
            Entry::Occupied(_) => Verdict::Contradiction(other_payload()),
            Entry::Vacant(free) => match by_number.entry((&event.source, event.host_seq)) {
                Entry::Occupied(holder) => {
                    let detail = format!("number {} is that of event {}", event.host_seq, holder.get());
                    Verdict::Contradiction(Rejection { why: WhyNot::NumberReused, detail })
                }
                Entry::Vacant(number) => {
                    number.insert(&event.id);
                    free.insert(event);
                    Verdict::First
                }
            },
        };
        verdicts.push(verdict);
    }
    verdicts
}

/// The rejection of an event whose id is taken by other bytes.
pub(super) fn other_payload() -> Rejection {
    let detail = "an event of this id with other bytes came first".to_owned();
    Rejection { why: WhyNot::OtherPayload, detail }
}
