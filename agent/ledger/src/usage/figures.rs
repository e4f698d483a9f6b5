//! What usage reads of a ledger, as of one moment: the only place where a host's and a fleet's differ.

use std::collections::HashMap;
use std::ops::Range;

use dormouse_metering::{OpenSlice, Stamp};

use super::tagged::Spans;
use super::totals::Piece;
use super::{Amount, Cancel, Rules, SlicesIn};
use crate::{LedgerError, SandboxKey, SliceRow};

/// How many instants are asked for at once. What is known at them is kept meanwhile: some megabytes.
const INSTANTS_AT_ONCE: usize = 1 << 15;

/// A part of a sandbox's life that is summed by itself: one generation on a host, all that happened on one host in a
/// fleet.
pub(crate) struct Life {
    /// Its key in the ledger.
    pub(crate) pk: i64,
    pub(crate) sandbox: String,
    /// The generation, or the first of several.
    pub(crate) generation: i64,
    /// Whether all there is of it is final. In a fleet's ledger it always is.
    pub(crate) has_ended: bool,
    pub(crate) open: Option<OpenSlice>,
}

impl Life {
    pub(crate) fn key(&self, org: &str) -> SandboxKey {
        let (sandbox, generation) = (self.sandbox.clone(), self.generation);
        SandboxKey { org: org.to_owned(), sandbox, generation }
    }
}

/// A life, and ascending instants at which something about it is asked.
pub(crate) type Asked<'a> = (&'a Life, Vec<i64>);

/// Answers as of one moment. What is not final is only known to the host itself.
pub(crate) trait Figures {
    /// The lives of an org's sandboxes, or of one's, with time at an instant or later; by sandbox and age.
    fn lives(&self, org: &str, sandbox: Option<&str>, from_unix_ns: i64) -> Result<Vec<Life>, LedgerError>;

    /// What the closed slices of lives amount to before each of their instants.
    fn before(&self, asked: &[Asked<'_>], rules: &Rules) -> Result<Vec<Vec<Amount>>, LedgerError>;

    /// What is not final of a life, counted until a moment.
    fn not_final(&self, org: &str, life: &Life, until: Option<Stamp>) -> Result<Vec<Piece>, LedgerError>;

    /// The first and the last closed slice of a life with time in a window.
    fn ends(&self, life: &Life, window: &Range<i64>) -> Result<Vec<Piece>, LedgerError>;

    /// Calls `each` with the slices of a life that a window touches, in order; what is open ends at the moment beside it.
    fn each_slice(
        &self,
        org: &str,
        life: &Life,
        within: (&Range<i64>, Option<Stamp>),
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError>;

    /// Every value that a tag of this key ever had, by sandbox and time.
    fn tag_spans(&self, org: &str, key: &str) -> Result<HashMap<String, Spans>, LedgerError>;
}

/// What is asked of an org until when, and by which rules.
pub(super) struct Terms<'a> {
    pub(super) org: &'a str,
    pub(super) until: Option<Stamp>,
    pub(super) rules: &'a Rules,
    pub(super) cancel: &'a Cancel,
}

/// Calls `each` with every life, its instants, and what it amounts to between each two neighbours of them.
pub(super) fn each_amounts<'a>(
    figures: &dyn Figures,
    terms: &Terms<'_>,
    lives: impl Iterator<Item = Asked<'a>>,
    mut each: impl FnMut(&Asked<'a>, Vec<Amount>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut lives = lives.peekable();
    while lives.peek().is_some() {
        let (mut some, mut instants) = (Vec::new(), 0);
        while let Some(asked) =
            lives.next_if(|(_, at)| instants == 0 || instants + at.len() <= INSTANTS_AT_ONCE)
        {
            instants += asked.1.len();
            some.push(asked);
        }
        for (asked, before) in some.iter().zip(figures.before(&some, terms.rules)?) {
            terms.cancel.check()?;
            let (life, at) = asked;
            let not_final = figures.not_final(terms.org, life, terms.until)?;
            let mut amounts = Vec::with_capacity(before.len());
            for (instants, before) in at.windows(2).zip(before.windows(2)) {
                let mut amount = before[1].since(before[0]);
                for piece in &not_final {
                    amount.add(piece.amount(&(instants[0]..instants[1]), terms.rules)?)?;
                }
                amounts.push(amount);
            }
            each(asked, amounts)?;
        }
    }
    Ok(())
}

/// Calls `each` with the slices of an org that a window touches, by sandbox and time.
pub(crate) fn each_slice(
    figures: &dyn Figures,
    query: &SlicesIn,
    each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    for life in figures.lives(&query.org, None, query.window.start)? {
        figures.each_slice(&query.org, &life, (&query.window, query.open_until), each)?;
    }
    Ok(())
}
