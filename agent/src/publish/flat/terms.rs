//! By what flat events are counted: what is billed, and what it costs. Agreed in the ledger before any event is told by
//! it: a changed configuration holds for the events that come, and those that are there are told as they were.

use dormouse_ledger::usage::Rules;
use dormouse_ledger::{Class, Ledger, LedgerError, Reader, Record, SinkTerms};
use serde::{Deserialize, Serialize};

use super::prices::Prices;
use crate::config::{self, Billing};
use crate::publish::sink::SinkError;

/// The terms of one time.
pub(in crate::publish) struct Terms {
    pub(super) rules: Rules,
    pub(super) prices: Prices,
}

/// As they are in the ledger.
#[derive(Serialize, Deserialize)]
struct Stored {
    billing: Billing,
    prices: Prices,
}

impl From<Stored> for Terms {
    fn from(Stored { billing, prices }: Stored) -> Self {
        Self { rules: billing.rules(), prices }
    }
}

/// Every event's terms.
pub(in crate::publish) struct Agreed(Vec<(u64, Terms)>);

/// Makes the terms of the configuration those of a sink, for the events that come. Where they are, nothing is written.
pub(in crate::publish) fn agree(
    ledger: &Ledger,
    sink: &config::Sink,
    billing: &Billing,
) -> Result<(), LedgerError> {
    let stored = Stored { billing: billing.clone(), prices: Prices::from(sink) };
    // Strings, numbers and booleans: they have a JSON form.
    let terms = serde_json::to_value(stored).unwrap_or_default();
    if ledger.reader()?.sink_terms(&sink.name)?.last().is_some_and(|(_, last)| *last == terms) {
        return Ok(());
    }
    let agreed = SinkTerms { sink: sink.name.clone(), terms };
    ledger.writer().write(Class::Intent, vec![Record::SinkTerms(agreed)]).map(drop)
}

impl Agreed {
    /// Reads what was agreed for a sink.
    pub(super) fn read(reader: &Reader, sink: &str) -> Result<Self, LedgerError> {
        let stored = reader.sink_terms(sink)?.into_iter();
        // What cannot be read was written by another version, which alone can tell its events.
        let known = stored.map_while(|(from_seq, terms)| {
            let stored: Option<Stored> = serde_json::from_value(terms).ok();
            stored.map(|stored| (from_seq, stored.into()))
        });
        Ok(Self(known.collect()))
    }

    /// The terms of an event, by its number.
    pub(super) fn at(&self, host_seq: u64) -> Result<&Terms, SinkError> {
        let until = self.0.partition_point(|(from_seq, _)| *from_seq <= host_seq);
        let terms = until.checked_sub(1).and_then(|at| self.0.get(at));
        terms
            .map(|(_, terms)| terms)
            .ok_or_else(|| SinkError::NoEvents("no terms are agreed for it".to_owned()))
    }
}
