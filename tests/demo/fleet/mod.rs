//! `make demo-fleet`: two hosts, their guests, and one ledger for both, while each part of it is broken once.
//!
//! - [`life`] is the script: what happens, in order. [`breaks`] are the misfortunes in it.
//! - [`stage`] is what it happens on; [`sums`] holds the fleet's ledger against the hosts' own.

mod breaks;
mod life;
mod stage;
mod sums;

use std::path::Path;

use dormouse_ledger::SliceRow;
use serde_json::{Value, json};

use crate::claims::Claims;
use crate::failure::Result;
use crate::story::Story;
use crate::verdict;
use stage::Stage;

/// A demo of a fleet, from its beginning to its report.
pub(crate) struct FleetDemo {
    pub(crate) stage: Stage,
    story: Story,
    claims: Claims,
    json: bool,
    /// Of both hosts.
    slices: Vec<SliceRow>,
    check: Value,
}

impl FleetDemo {
    /// A demo in `folder`, in which nothing has happened yet.
    pub(crate) fn new(folder: &Path, json: bool) -> Result<Self> {
        let (story, claims) = (Story::new(json), Claims::default());
        Ok(Self { stage: Stage::new(folder)?, story, claims, json, slices: Vec::new(), check: Value::Null })
    }

    /// Tells the end, and whether all of it is so.
    pub(crate) fn report(&mut self, ended: Result<()>) -> Result<bool> {
        if ended.is_err() {
            self.story.failed();
        }
        let holds = ended.is_ok() && self.claims.broken().next().is_none();
        let document = json!({
            "holds": holds,
            "error": ended.as_ref().err().map(ToString::to_string),
            "folder": self.stage.folder(),
            "duration_ms": u64::try_from(self.story.elapsed().as_millis()).unwrap_or(u64::MAX),
            "steps": self.story.steps(),
            "claims": self.claims.all(),
            "slices": self.slices,
            "check": self.check,
        });
        verdict::tell(&self.story, &self.claims, &document, self.stage.folder(), self.json)?;
        ended.map(|()| holds)
    }
}
