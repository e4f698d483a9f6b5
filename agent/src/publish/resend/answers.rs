//! What of a request is sent again. Pure: time is an argument.

use std::collections::VecDeque;

/// A request is repeated until it is fulfilled, by every instance of the fleet's ledger: within this time one answer is
/// enough, in nanoseconds.
const ENOUGH_FOR_NS: u64 = 10_000_000_000;

/// The most events that one request is answered with. Whoever needs more asks for the rest.
const ANSWER_MAX: u64 = 20_000;

/// The most answers that are remembered. The one behind them is forgotten, and may be given once more.
const REMEMBERED_MAX: usize = 1_024;

/// A run of event numbers of this host, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first, from 1.
    pub first_seq: u64,
    /// The last.
    pub last_seq: u64,
}

impl Run {
    /// A run as somebody asks for it, if it is one.
    pub fn new(first_seq: u64, last_seq: u64) -> Option<Self> {
        (0 < first_seq && first_seq <= last_seq).then_some(Self { first_seq, last_seq })
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What is no longer kept.
    pub gone: Option<Run>,
    /// What is sent again.
    pub again: Option<Run>,
}

/// What was answered lately.
#[derive(Debug, Default)]
pub struct Answers {
    /// The oldest first, each with its time.
    recent: VecDeque<(u64, Run)>,
}

impl Answers {
    /// Answers a request: the outbox keeps the events behind `retained_after_seq`, and the sink has been sent those
    /// through `acknowledged_seq`. What is behind that is on its way, and needs no answer.
    pub fn to(&mut self, now_ns: u64, asked: Run, retained_after_seq: u64, acknowledged_seq: u64) -> Answer {
        while self.recent.front().is_some_and(|(at_ns, _)| now_ns >= at_ns.saturating_add(ENOUGH_FOR_NS)) {
            self.recent.pop_front();
        }
        if self.recent.iter().any(|(_, answered)| *answered == asked) {
            return Answer::default();
        }
        if self.recent.len() >= REMEMBERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((now_ns, asked));
        let Run { first_seq, last_seq } = asked;
        let kept_from = first_seq.max(retained_after_seq.saturating_add(1));
        let kept_to = last_seq.min(acknowledged_seq).min(kept_from.saturating_add(ANSWER_MAX - 1));
        Answer {
            gone: Run::new(first_seq, last_seq.min(retained_after_seq)),
            again: Run::new(kept_from, kept_to),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(first_seq: u64, last_seq: u64) -> Option<Run> {
        Run::new(first_seq, last_seq)
    }

    #[test]
    fn what_is_kept_and_was_sent_is_sent_again_and_what_is_gone_is_said() {
        for (asked, gone, again) in [
            ((1, 3), run(1, 3), None),
            ((3, 7), run(3, 4), run(5, 7)),
            ((5, 5), None, run(5, 5)),
            ((8, 12), None, run(8, 9)),
            ((10, 12), None, None),
            ((1, u64::MAX), run(1, 4), run(5, 9)),
        ] {
            let asked = run(asked.0, asked.1).expect("a run");
            assert_eq!(Answers::default().to(0, asked, 4, 9), Answer { gone, again }, "{asked:?}");
        }
        assert_eq!([run(0, 5), run(6, 5)], [None, None], "are no runs");
    }

    #[test]
    fn a_request_that_is_repeated_at_once_gets_one_answer_and_a_later_one_another() {
        let (mut answers, asked) = (Answers::default(), run(1, 2).expect("a run"));
        let answer = Answer { gone: None, again: Some(asked) };
        assert_eq!(answers.to(0, asked, 0, 9), answer);
        assert_eq!(answers.to(ENOUGH_FOR_NS - 1, asked, 0, 9), Answer::default());
        assert_eq!(answers.to(ENOUGH_FOR_NS, asked, 0, 9), answer);
    }

    proptest! {
        #[test]
        fn no_answer_is_beyond_what_was_asked_and_none_is_without_a_bound(
            asks in prop::collection::vec((1_u64..100_000, 0_u64..100_000), 1..3_000),
            retained in 0_u64..50_000, more in 0_u64..100_000,
        ) {
            let mut answers = Answers::default();
            for (now_ns, (first_seq, length)) in (0..).zip(asks) {
                let asked = Run { first_seq, last_seq: first_seq + length };
                let answer = answers.to(now_ns, asked, retained, retained + more);
                if let Some(again) = answer.again {
                    prop_assert!(asked.first_seq <= again.first_seq && again.last_seq <= asked.last_seq);
                    prop_assert!(retained < again.first_seq && again.last_seq <= retained + more);
                    prop_assert!(again.last_seq - again.first_seq < ANSWER_MAX);
                }
                prop_assert!(answers.recent.len() <= REMEMBERED_MAX);
            }
        }
    }
}
