//! The rules that hold the house together, checked on its own text: who may import whom, which words have no place
//! here, and that the papers name what exists. Each test's name is the sentence that it proves; a failure lists the
//! places as `file:line`.
//!
//! `layers` has the arrows of ARCHITECTURE.md, `words` the style, `papers` the documents. [`tree`] reads the files.

mod layers;
mod papers;
mod tree;
mod words;

/// The invariants that have no test yet. ARCHITECTURE.md says `not yet` in their line. Taken off one by one; an
/// invariant listed here that has a test is a failure too.
const INVARIANTS_NOT_YET: &[&str] = &[];

/// Fails with every finding on a line of its own.
#[track_caller]
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} found:\n{}", findings.len(), findings.join("\n"));
}
