//! What is suppressed by the word of those who asked: told that it is so, they are billed nothing but the disk from then on;
//! told that it is not, everything again. Between being asked and being answered it may be either; and where nobody was ever
//! answered, because the agent was killed, until somebody is.

use dormouse::sandbox::command::{Outcome, Request};
use dormouse::sandbox::refusal::Refusal;
use dormouse_ledger::SandboxKey;

use crate::ledger::Intent;
use crate::world::World;

/// A suppression that was begun or taken back, by whoever was told so.
#[derive(Debug)]
pub(crate) struct Told {
    id: String,
    key: SandboxKey,
    /// When it was asked for to be durable: nothing is done before that.
    begun: u64,
    answered: u64,
    suppressed: bool,
}

/// From when to when it is known whether a life was suppressed; `None` where either may be so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) suppressed: Option<bool>,
}

impl World {
    /// Somebody is answered. One that is refused, or was so already, has changed nothing.
    pub(crate) fn told_of_suppression(&mut self, number: usize, id: &str, result: &Result<Outcome, Refusal>) {
        let Some(intent) = self.ledger.commands.get(id) else { return };
        let suppressed = match &intent.command.request {
            Request::Suppress { .. } => true,
            Request::Unsuppress => false,
            _ => return,
        };
        if result.is_err() || self.suppressions.iter().any(|told| told.id == id) {
            return;
        }
        let guest = &self.guests[number].key;
        let (org, sandbox) = (guest.org.clone(), guest.sandbox.clone());
        let key = SandboxKey { org, sandbox, generation: intent.generation };
        let told = Told { id: id.to_owned(), key, begun: intent.asked, answered: self.now, suppressed };
        self.suppressions.push(told);
    }

    /// A life in stretches, from its beginning, when nothing is suppressed.
    pub(crate) fn suppressed_stretches(&self, key: &SandboxKey) -> Vec<Stretch> {
        let (mut from, mut suppressed) = (0, false);
        let mut stretches = Vec::new();
        let mut told: Vec<&Told> = self.suppressions.iter().filter(|told| told.key == *key).collect();
        told.sort_by_key(|told| told.begun);
        for (index, one) in told.iter().enumerate() {
            stretches.push(Stretch { from, to: one.begun, suppressed: Some(suppressed) });
            // One is begun only once the one before has come to its end, though whoever asked for that may be told of it later.
            let next = told.get(index + 1).map_or(u64::MAX, |next| next.begun);
            let done = one.answered.min(next);
            let while_asked = Some(suppressed).filter(|_| suppressed == one.suppressed);
            stretches.push(Stretch { from: one.begun, to: done, suppressed: while_asked });
            (from, suppressed) = (done, one.suppressed);
        }
        stretches.push(Stretch { from, to: u64::MAX, suppressed: Some(suppressed) });
        for asked in self.asked_in_vain(key) {
            let since = told.iter().filter(|told| told.begun > asked).map(|told| told.answered);
            let until = since.min().unwrap_or(u64::MAX);
            stretches = stretches.into_iter().flat_map(|stretch| unknown_in(stretch, asked, until)).collect();
        }
        stretches.retain(|stretch| stretch.from < stretch.to);
        stretches
    }

    /// When somebody asked for it who was never answered, though the ledger knows that it was asked.
    fn asked_in_vain(&self, key: &SandboxKey) -> Vec<u64> {
        let of_it = |intent: &Intent| {
            let command = &intent.command;
            let suppresses = matches!(command.request, Request::Suppress { .. } | Request::Unsuppress);
            let answered = self.suppressions.iter().any(|told| told.id == command.request_id);
            let of_life = command.key.org == key.org && command.key.sandbox == key.sandbox;
            let failed = matches!(intent.outcome, Some(Err(_)));
            suppresses && !answered && !failed && of_life && intent.generation == key.generation
        };
        let intents = self.ledger.commands.values().filter(|intent| of_it(intent));
        // Its id may have been used before, and refused.
        intents.map(|intent| intent.asked).collect()
    }
}

/// A stretch of which a part is not known.
fn unknown_in(stretch: Stretch, from: u64, to: u64) -> [Stretch; 3] {
    let (start, end) = (from.clamp(stretch.from, stretch.to), to.clamp(stretch.from, stretch.to));
    [
        Stretch { to: start, ..stretch },
        Stretch { from: start, to: end, suppressed: None },
        Stretch { from: end, ..stretch },
    ]
}
