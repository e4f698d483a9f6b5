//! What dormouse-qmp promises. A test's name is the sentence that it proves.

// Clippy allows this in test functions; the functions that tests share are tests, too.
#![allow(clippy::unwrap_used)]

mod codec;
mod events;
mod fuzz_corpus;
mod schema;
mod scripted;
mod session;
mod support;
mod transcripts;
mod transport;
