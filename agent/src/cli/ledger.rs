//! A ledger that is read without an agent.

use std::path::PathBuf;
use std::sync::Arc;

use super::failure::Failure;
use crate::config::Config;
use crate::control::Questions;

/// Questions to the ledger at `path`, by the billing rules of this machine's configuration.
pub(super) fn questions(path: PathBuf) -> Result<Questions, Failure> {
    Ok(Questions::new(path, Arc::new(Config::load_or_default(None)?)))
}
