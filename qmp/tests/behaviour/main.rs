//! What dormouse-qmp promises. A test's name is the sentence that it proves.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests, too")]

mod codec;
mod events;
mod fuzz_corpus;
mod schema;
mod scripted;
mod session;
mod support;
mod transcripts;
mod transport;
