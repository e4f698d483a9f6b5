//! How much each token asks: never more often, and never more at once, than it may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Limits;
use super::problem::{Problem, Reason};

const SECOND_NS: u64 = 1_000_000_000;

/// What is asked by each token. Only tokens that exist are counted, so there are no more entries than tokens.
#[derive(Clone, Default)]
pub(super) struct Traffic(Arc<Mutex<HashMap<String, Load>>>);

#[derive(Default)]
struct Load {
    /// When all that was asked so far is used up, at the allowed rate, in boottime.
    used_until_ns: u64,
    at_once: u64,
}

/// A request that is being answered.
pub(super) struct Presence {
    traffic: Traffic,
    token: String,
}

impl Traffic {
    fn loads(&self) -> MutexGuard<'_, HashMap<String, Load>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request in, or refuses it. `now_ns` is boottime.
    pub(super) fn enter(&self, token: &str, limits: &Limits, now_ns: u64) -> Result<Presence, Problem> {
        let mut loads = self.loads();
        let load = loads.entry(token.to_owned()).or_default();
        let refused = |detail: String| Err(Problem::new(Reason::RateLimited, detail));
        if load.at_once >= limits.requests_at_once {
            return refused(format!("{} requests of this token are not answered yet", load.at_once));
        }
        let used_until_ns = load.used_until_ns.max(now_ns) + SECOND_NS / limits.requests_per_second.max(1);
        if used_until_ns > now_ns + SECOND_NS {
            return refused(format!("this token may ask {} times a second", limits.requests_per_second));
        }
        load.used_until_ns = used_until_ns;
        load.at_once += 1;
        Ok(Presence { traffic: self.clone(), token: token.to_owned() })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(load) = self.traffic.loads().get_mut(&self.token) {
            load.at_once -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_asks_no_more_often_and_no_more_at_once_than_it_may_and_no_other_suffers() {
        let limits = Limits { requests_per_second: 4, requests_at_once: 2, deadline: Duration::MAX };
        let traffic = Traffic::default();
        let enter = |token: &str, now_ns| traffic.enter(token, &limits, now_ns).ok();
        let first = enter("a", 0);
        let second = enter("a", 0);
        assert!(first.is_some() && second.is_some() && enter("a", 0).is_none(), "two at once");
        assert!(enter("b", 0).is_some());
        drop((first, second));
        assert!(
            enter("a", 0).is_some() && enter("a", 0).is_some() && enter("a", 0).is_none(),
            "four a second"
        );
        assert!(enter("a", SECOND_NS / 4 - 1).is_none());
        assert!(enter("a", SECOND_NS / 4).is_some());
        assert_eq!((0..9).filter(|_| enter("a", 9 * SECOND_NS).is_some()).count(), 4);
    }
}
