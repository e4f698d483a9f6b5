//! What a host signs: statements about its own record, each for its place in the chain.
//!
//! A statement names the event before its own by number and hash, so that it can be put nowhere else, and carries the
//! public key. Whose key that is, is for the reader to say. Nothing here appends an event.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::encode::from_hex;
use crate::host_key::HostKey;
use crate::outbox::{Head, RETENTION_EVENT, WATERMARK_EVENT};

/// What a statement says, apart from its place and its signature.
pub(crate) trait Claim {
    /// The type of the event that tells it.
    const EVENT_TYPE: &'static str;

    /// Its part of what is signed: each value in a line of its own.
    fn signed(&self) -> String;
}

/// That everything up to the end of an hour is in the events before this.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Complete {
    /// The end of the hour, in nanoseconds since the Unix epoch.
    pub(crate) hour_unix_ns: i64,
}

/// That the oldest events of the host can be had from it no more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NotKept {
    /// The last of them.
    pub(crate) through_seq: u64,
    /// When it was let go, in nanoseconds since the Unix epoch. Those before it went before that.
    pub(crate) since_unix_ns: i64,
}

impl Claim for Complete {
    const EVENT_TYPE: &'static str = WATERMARK_EVENT;

    fn signed(&self) -> String {
        self.hour_unix_ns.to_string()
    }
}

impl Claim for NotKept {
    const EVENT_TYPE: &'static str = RETENTION_EVENT;

    fn signed(&self) -> String {
        format!("{}\n{}", self.through_seq, self.since_unix_ns)
    }
}

/// A claim with its place and its signature: the data of an event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Statement<C> {
    #[serde(flatten)]
    pub(crate) claim: C,
    /// The number of the event before this one; 0 where there is none.
    pub(crate) host_seq: u64,
    /// The hash of that event, and so of the whole chain.
    pub(crate) root: String,
    /// The host's public key.
    pub(crate) key: String,
    /// The host's signature.
    pub(crate) signature: String,
}

impl<C: Claim> Statement<C> {
    /// A claim, signed for the place behind `prev`.
    pub(crate) fn sign(claim: C, source: &str, prev: Head, key: &HostKey) -> Self {
        let (host_seq, root) = (prev.host_seq, prev.hash.to_hex().to_string());
        let mut statement = Self { claim, host_seq, root, key: key.public(), signature: String::new() };
        statement.signature = key.sign(statement.signed_message(source).as_bytes());
        statement
    }

    /// Whether it is signed for this place in the chain: the number of its own event, and the hash of the one before.
    pub(crate) fn is_in_place(&self, host_seq: u64, prev_hash: &str) -> bool {
        self.host_seq.checked_add(1) == Some(host_seq) && self.root == prev_hash
    }

    /// Whether the signature is that of the key it names.
    pub(crate) fn is_signed(&self, source: &str) -> bool {
        let key = from_hex(&self.key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let signature = from_hex(&self.signature).map(|bytes| Signature::from_bytes(&bytes));
        match (key, signature) {
            (Some(key), Some(signature)) => {
                key.verify_strict(self.signed_message(source).as_bytes(), &signature).is_ok()
            }
            _ => false,
        }
    }

    fn signed_message(&self, source: &str) -> String {
        let Self { claim, host_seq, root, .. } = self;
        format!("{}\n{source}\n{}\n{host_seq}\n{root}\n", C::EVENT_TYPE, claim.signed())
    }
}
