//! A progress bar for what takes long, on standard error, where that is a terminal.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tonic::transport::Channel;

use super::table::printable;
use crate::proto::control_client::ControlClient;
use crate::proto::{Operation, SandboxKey, WatchRequest};
use crate::size::Size;

const REDRAW: Duration = Duration::from_millis(100);

const SPINNER: &str = "{spinner} {msg} {elapsed}";
const BAR: &str = "{spinner} {msg} [{bar:30}] {done}/{total} {elapsed}";

/// Whether a person looks on.
pub(super) fn is_shown() -> bool {
    io::stderr().is_terminal()
}

/// Waits for `call`, and shows meanwhile how far the operation is, as far as the agent tells it.
pub(super) async fn beside<T>(
    watcher: ControlClient<Channel>,
    key: SandboxKey,
    request_id: &str,
    call: impl Future<Output = T>,
) -> T {
    let bar = ProgressBar::new_spinner().with_message(format!("{}/{}", key.org, key.sandbox));
    bar.enable_steady_tick(REDRAW);
    let answer = tokio::select! {
        // What is to be seen is seen first; then the answer is waited for, whatever became of the watch.
        biased;
        answer = call => answer,
        never = follow(watcher, key, request_id, &bar) => match never {},
    };
    bar.finish_and_clear();
    answer
}

/// Shows every step of the operation. A watch that ends or fails costs the bar and nothing else.
async fn follow(
    mut watcher: ControlClient<Channel>,
    key: SandboxKey,
    request_id: &str,
    bar: &ProgressBar,
) -> std::convert::Infallible {
    if let Ok(events) = watcher.watch(WatchRequest { org: key.org, sandbox: key.sandbox }).await {
        let mut events = events.into_inner();
        while let Ok(Some(event)) = events.message().await {
            let operation = event.sandbox.and_then(|sandbox| sandbox.operation);
            if let Some(operation) = operation.filter(|operation| operation.request_id == request_id) {
                draw(bar, &operation);
            }
        }
    }
    std::future::pending().await
}

fn draw(bar: &ProgressBar, operation: &Operation) {
    let template = if operation.total_bytes == 0 { SPINNER } else { BAR };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let written = |bytes: fn(&ProgressState) -> u64| {
        move |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            // A bar that cannot be drawn is no reason to fail.
            let _ = write!(w, "{}", Size(bytes(state) >> 20 << 20));
        }
    };
    bar.set_style(
        style
            .with_key("done", written(ProgressState::pos))
            .with_key("total", written(|state| state.len().unwrap_or_default())),
    );
    bar.set_length(operation.total_bytes);
    bar.set_position(operation.done_bytes);
    bar.set_message(printable(&format!("{}: {}", operation.kind, operation.step)).into_owned());
}
