//! One event, as the host froze it: from bytes to what it tells, or to why it is not believed.

use std::borrow::Cow;

use blake3::Hash;
use dormouse_metering::BillingState;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::encode::from_hex;
use crate::hashes::{INPUTS_AT_ONCE, hash_all};
use crate::statement::{Claim, Complete, NotKept, Statement};
use crate::{LIFECYCLE_EVENT, RETENTION_EVENT, SLICE_EVENT, SliceRow, WATERMARK_EVENT};

/// What every host's `source` begins with.
const SOURCE_PREFIX: &str = "//dormouse/";

/// A slice that amounts to more byte-nanoseconds is none: 131,072 of them still add up in 128 bits.
const AMOUNT_MAX: i128 = 1 << 109;

const HOUR_NS: i64 = 3_600 * 1_000_000_000;

/// One event of one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `//dormouse/<cell>/<host>`.
    pub source: String,
    /// Unique for the source.
    pub id: String,
    /// The number on the host, contiguous from 1.
    pub host_seq: i64,
    /// BLAKE3 of the whole event's bytes: what tells a repetition from another event of the same id.
    pub payload_hash: [u8; 32],
    /// What it says that the event before it hashes to.
    pub prev_hash: Option<[u8; 32]>,
    /// The API key by which the sandbox was made, where the platform says so.
    pub api_key: Option<String>,
    /// What it tells.
    pub told: Told,
}

/// What an event tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A closed, final slice.
    Slice(Box<SliceRow>),
    /// Something else that happened to a sandbox.
    Lifecycle(Lifecycle),
    /// That an hour has been sent.
    Watermark(Watermark),
    /// That the oldest events can be had from the host no more.
    Retention(Retention),
}

impl Told {
    /// What the host signed for it, where it is a statement about its own record.
    pub(super) fn seal(&self) -> Option<&Seal> {
        match self {
            Self::Watermark(it) => Some(&it.seal),
            Self::Retention(it) => Some(&it.seal),
            Self::Slice(_) | Self::Lifecycle(_) => None,
        }
    }
}

/// What a lifecycle event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// The org id.
    pub org: String,
    /// The sandbox id.
    pub sandbox: String,
    /// The generation of the sandbox.
    pub generation: i64,
    /// What happened.
    pub kind: String,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: i64,
    /// The event's data, as JSON.
    pub json: String,
}

/// A host's word that it has sent everything up to an hour, signed by the key that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The end of the hour, in nanoseconds since the Unix epoch.
    pub complete_through_unix_ns: i64,
    /// Its place in the chain. The number there is of the last event that belongs to the hour; 0 where none does.
    pub seal: Seal,
}

/// A host's word that it no longer keeps its oldest events, signed by the key that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last event that it no longer keeps.
    pub through_seq: i64,
    /// When it let that one go, in nanoseconds since the Unix epoch.
    pub since_unix_ns: i64,
    /// Its place in the chain.
    pub seal: Seal,
}

/// What a host signs a statement with, for a place in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The number of the event before the statement.
    pub host_seq: i64,
    /// The hash of that event, and so of all before it.
    pub chain_hash: [u8; 32],
    /// The key that signed. Whether it is the host's is for the ledger to say.
    pub public_key: [u8; 32],
    /// The signature.
    pub signature: [u8; 64],
}

/// Why an event is not stored. The names are what the table `quarantine` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WhyNot {
    /// It is no event of a kind that is known here, or says what cannot be.
    Undecodable,
    /// Its data is not what its `payloadhash` was made of.
    Altered,
    /// An event of this id with other bytes is stored.
    OtherPayload,
    /// Another event of the host is stored under this number.
    NumberReused,
    /// It claims time of a sandbox that a stored slice has.
    Overlap,
    /// A watermark or a retention whose signature is not of what it says.
    Forged,
    /// A watermark or a retention that is signed by another key than the host's.
    OtherKey,
}

impl WhyNot {
    /// The stable code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "UNDECODABLE",
            Self::Altered => "ALTERED",
            Self::OtherPayload => "OTHER_PAYLOAD",
            Self::NumberReused => "NUMBER_REUSED",
            Self::Overlap => "OVERLAP",
            Self::Forged => "FORGED",
            Self::OtherKey => "OTHER_KEY",
        }
    }
}

/// An event that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind.
    pub why: WhyNot,
    /// What is wrong, for people.
    pub detail: String,
}

impl Rejection {
    pub(super) fn undecodable(detail: impl Into<String>) -> Self {
        Self { why: WhyNot::Undecodable, detail: detail.into() }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    org: Option<String>,
    #[serde(borrow)]
    hostseq: Cow<'a, str>,
    #[serde(borrow)]
    payloadhash: Cow<'a, str>,
    #[serde(borrow)]
    prevhash: Option<Cow<'a, str>>,
    apikey: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct LifecycleData {
    org: String,
    sandbox: String,
    generation: i64,
    kind: String,
    unix_ns: i64,
}

/// Events, each as [`Event::decode`] reads it: hashed side by side, which takes a third of the time.
pub(super) fn decode_all(messages: &[Cow<'_, [u8]>]) -> Vec<Result<Event, Rejection>> {
    let mut events = Vec::with_capacity(messages.len());
    for together in messages.chunks(INPUTS_AT_ONCE / 2) {
        let envelopes: Vec<_> = together.iter().map(|bytes| (bytes, parse::<Envelope<'_>>(bytes))).collect();
        let read = envelopes.iter().filter_map(|(bytes, envelope)| Some((bytes, envelope.as_ref().ok()?)));
        let inputs: Vec<&[u8]> =
            read.flat_map(|(bytes, envelope)| [envelope.data.get().as_bytes(), bytes]).collect();
        let mut hashes = hash_all(&inputs).into_iter();
        for (bytes, envelope) in envelopes {
            events.push(envelope.and_then(|envelope| {
                let own = hashes.next().zip(hashes.next()).unwrap_or_else(|| envelope.hashes(bytes));
                Event::read(bytes, envelope, own)
            }));
        }
    }
    events
}

impl Envelope<'_> {
    /// Of the data and of all.
    fn hashes(&self, bytes: &[u8]) -> (Hash, Hash) {
        (blake3::hash(self.data.get().as_bytes()), blake3::hash(bytes))
    }
}

impl Event {
    /// Reads an event from its bytes, and judges what can be judged by looking at it alone.
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        let envelope: Envelope<'_> = parse(bytes)?;
        let hashes = envelope.hashes(bytes);
        Self::read(bytes, envelope, hashes)
    }

    fn read(
        bytes: &[u8],
        envelope: Envelope<'_>,
        (of_data, of_all): (Hash, Hash),
    ) -> Result<Self, Rejection> {
        let Envelope {
            specversion,
            id,
            source,
            event_type,
            org,
            hostseq,
            payloadhash,
            prevhash,
            apikey,
            data,
        } = envelope;
        require(specversion == "1.0", || format!("specversion is {specversion:?}, not 1.0"))?;
        require(source.starts_with(SOURCE_PREFIX), || format!("source {source:?} is no host's"))?;
        require(!id.is_empty(), || "the id is empty".to_owned())?;
        let host_seq = hostseq.parse().ok().filter(|number| (1..i64::MAX).contains(number));
        let host_seq = host_seq
            .ok_or_else(|| Rejection::undecodable(format!("hostseq {hostseq:?} is no number from 1")))?;
        if *of_data.to_hex() != *payloadhash {
            let detail = format!("the data hashes to {of_data}, not to {payloadhash}");
            return Err(Rejection { why: WhyNot::Altered, detail });
        }
        let told = match event_type.as_ref() {
            SLICE_EVENT => Told::Slice(Box::new(slice(data, &id, org.as_deref())?)),
            LIFECYCLE_EVENT => Told::Lifecycle(lifecycle(data)?),
            WATERMARK_EVENT => Told::Watermark(watermark(data, &source, host_seq, prevhash.as_deref())?),
            RETENTION_EVENT => Told::Retention(retention(data, &source, host_seq, prevhash.as_deref())?),
            other => return Err(Rejection::undecodable(format!("the type {other:?} is not known here"))),
        };
        // PostgreSQL has no text with NUL in it. JSON has it as an escape only.
        let has_nul = bytes.contains(&b'\\') && bytes.windows(6).any(|six| six == br"\u0000");
        require(!has_nul, || "a text holds NUL".to_owned())?;
        let prev_hash = match prevhash.as_deref() {
            None => None,
            Some(text) => {
                let hash = from_hex(text);
                Some(hash.ok_or_else(|| Rejection::undecodable(format!("prevhash {text:?} is no hash")))?)
            }
        };
        Ok(Self {
            source: source.into_owned(),
            id: id.into_owned(),
            host_seq,
            payload_hash: *of_all.as_bytes(),
            prev_hash,
            api_key: apikey,
            told,
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Rejection> {
    serde_json::from_slice(bytes).map_err(|error| Rejection::undecodable(error.to_string()))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Rejection> {
    require_or(holds, || Rejection::undecodable(otherwise()))
}

fn require_or(holds: bool, otherwise: impl FnOnce() -> Rejection) -> Result<(), Rejection> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn slice(data: &RawValue, id: &str, org: Option<&str>) -> Result<SliceRow, Rejection> {
    let row: SliceRow = parse(data.get().as_bytes())?;
    let expected = format!("{}:{}:{}", row.sandbox, row.generation, row.seq);
    require(id == expected, || format!("the id {id:?} is not that of slice {expected}"))?;
    require(org.is_none_or(|org| org == row.org), || format!("the data is of org {:?}", row.org))?;
    require(row.is_final, || "the slice is not final".to_owned())?;
    require(row.closed_by.is_some(), || "the slice says not why it closed".to_owned())?;
    let known = BillingState::ALL.iter().any(|state| state.name() == row.state);
    require(known, || format!("there is no billing state {:?}", row.state))?;
    let numbers = [
        row.seq,
        row.duration_ns,
        row.memory_base_bytes,
        row.memory_plugged_bytes,
        row.memory_requested_bytes,
        row.disk_bytes,
    ];
    let storable = numbers.iter().all(|number| i64::try_from(*number).is_ok());
    require(storable && row.seq > 0, || "a number is too large to be stored, or seq is 0".to_owned())?;
    let held = row.memory_base_bytes.max(row.memory_plugged_bytes).max(row.memory_requested_bytes);
    let amount = i128::from(row.duration_ns) * i128::from(held.max(row.vcpus_milli.into()));
    require(amount <= AMOUNT_MAX, || format!("it amounts to {amount} byte-ns"))?;
    let (start_ns, end_ns) = (row.start_unix_ns, row.end_unix_ns.unwrap_or(i64::MIN));
    require(0 <= start_ns && start_ns <= end_ns, || format!("it lies from {start_ns} to {end_ns}"))?;
    require(end_ns <= (start_ns / HOUR_NS + 1).saturating_mul(HOUR_NS), || "it crosses an hour".to_owned())?;
    let span_ns = end_ns.abs_diff(start_ns);
    let holds = span_ns == row.duration_ns || span_ns == 0 || row.duration_ns == 0;
    require(holds, || format!("it lasted {} ns of {span_ns} ns", row.duration_ns))?;
    Ok(row)
}

fn lifecycle(data: &RawValue) -> Result<Lifecycle, Rejection> {
    let LifecycleData { org, sandbox, generation, kind, unix_ns } = parse(data.get().as_bytes())?;
    Ok(Lifecycle { org, sandbox, generation, kind, unix_ns, json: data.get().to_owned() })
}

fn watermark(
    data: &RawValue,
    source: &str,
    host_seq: i64,
    prev_hash: Option<&str>,
) -> Result<Watermark, Rejection> {
    let (Complete { hour_unix_ns }, seal) = statement(data, source, host_seq, prev_hash)?;
    require(hour_unix_ns % HOUR_NS == 0, || format!("{hour_unix_ns} is no full hour"))?;
    Ok(Watermark { complete_through_unix_ns: hour_unix_ns, seal })
}

fn retention(
    data: &RawValue,
    source: &str,
    host_seq: i64,
    prev_hash: Option<&str>,
) -> Result<Retention, Rejection> {
    let (NotKept { through_seq, since_unix_ns }, seal) = statement(data, source, host_seq, prev_hash)?;
    let through = i64::try_from(through_seq).ok().filter(|through| (1..host_seq).contains(through));
    let through_seq = through
        .ok_or_else(|| Rejection::undecodable(format!("{through_seq} is no number before {host_seq}")))?;
    Ok(Retention { through_seq, since_unix_ns, seal })
}

/// Signed, and for its own place in the chain: else anyone could call an hour complete, or an event lost.
fn statement<C: Claim + DeserializeOwned>(
    data: &RawValue,
    source: &str,
    host_seq: i64,
    prev_hash: Option<&str>,
) -> Result<(C, Seal), Rejection> {
    let data: Statement<C> = parse(data.get().as_bytes())?;
    let forged = |detail: &str| Rejection { why: WhyNot::Forged, detail: detail.to_owned() };
    let own_seq = u64::try_from(host_seq).unwrap_or_default();
    let is_in_place = prev_hash.is_some_and(|prev_hash| data.is_in_place(own_seq, prev_hash));
    require_or(is_in_place, || forged("it is signed for another place in the chain"))?;
    let bytes = (from_hex(&data.root), from_hex(&data.key), from_hex(&data.signature));
    let (Some(chain_hash), Some(public_key), Some(signature)) = bytes else {
        return Err(forged("its root, key or signature is no hexadecimal of the right length"));
    };
    require_or(data.is_signed(source), || forged("the signature is not of what it says"))?;
    Ok((data.claim, Seal { host_seq: host_seq - 1, chain_hash, public_key, signature }))
}
