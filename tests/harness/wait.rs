//! Waiting, with a deadline, for what cannot be awaited.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, Result};

const PAUSE: Duration = Duration::from_millis(20);

/// Tries until `attempt` succeeds or `deadline` has passed; then the error names `what` and the reason that the last
/// attempt gave.
pub async fn until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut attempt: impl AsyncFnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = "not one attempt was finished".to_owned();
    loop {
        match tokio::time::timeout_at(end, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason.to_string(),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= end {
            return Err(Error::Deadline { what: what.to_owned(), after: deadline, last });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Turns a condition into what [`until`] tries: `unless(size == wanted, || format!("size is {size}"))`.
pub fn unless<R: Display>(condition: bool, reason: impl FnOnce() -> R) -> std::result::Result<(), R> {
    if condition { Ok(()) } else { Err(reason()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_names_what_was_awaited_and_the_last_reason() {
        let mut tries = 0;
        let error = until("the moon", Duration::from_millis(100), async || {
            tries += 1;
            unless(false, || format!("try {tries}"))
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), format!("waited 0.1 s for the moon: try {tries}"));
        assert!(tries > 1);
    }

    #[tokio::test]
    async fn an_attempt_that_never_ends_is_cut_off_at_the_deadline() {
        let started = Instant::now();
        until("nothing", Duration::from_millis(100), async || {
            std::future::pending::<std::result::Result<(), String>>().await
        })
        .await
        .unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
