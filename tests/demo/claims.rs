//! What must be so, and whether it is.

use serde::Serialize;

/// A sentence that is true or not, and what was found.
#[derive(Debug, Serialize)]
pub(crate) struct Claim {
    /// What must be so.
    pub(crate) text: String,
    /// Whether it is.
    pub(crate) holds: bool,
    /// What was found, as evidence or as the reason why it does not hold.
    pub(crate) found: String,
    /// Whether people are told of it even where it holds.
    #[serde(skip)]
    pub(crate) is_headline: bool,
}

/// All claims of a demo, in the order in which they were judged.
#[derive(Debug, Default)]
pub(crate) struct Claims(Vec<Claim>);

impl Claims {
    /// Adds a claim with what was found.
    pub(crate) fn judge(&mut self, claim: impl Into<String>, holds: bool, found: impl Into<String>) {
        self.0.push(Claim { text: claim.into(), holds, found: found.into(), is_headline: true });
    }

    /// Adds one of the many claims that are of interest only where they do not hold: that two things are equal.
    pub(crate) fn equal<T: PartialEq + std::fmt::Display>(
        &mut self,
        claim: impl Into<String>,
        found: &T,
        expected: &T,
    ) {
        let equal = found == expected;
        let text = if equal { found.to_string() } else { format!("{found}, and not {expected}") };
        self.0.push(Claim { text: claim.into(), holds: equal, found: text, is_headline: false });
    }

    /// Adds a claim that was judged elsewhere: the evidence, or why it does not hold.
    pub(crate) fn outcome(&mut self, claim: impl Into<String>, outcome: Result<String, String>) {
        let holds = outcome.is_ok();
        self.judge(claim, holds, outcome.unwrap_or_else(|why| why));
    }

    /// Every claim.
    pub(crate) fn all(&self) -> &[Claim] {
        &self.0
    }

    /// Those that do not hold.
    pub(crate) fn broken(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter().filter(|claim| !claim.holds)
    }
}
