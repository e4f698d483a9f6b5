//! The demo's ledger in a browser: how to see it, and the server that shows it.

use std::path::Path;

use dormouse_tests::{Error, paths};
use tokio::process::Command;

use crate::failure::Result;

/// Where `dormouse serve` listens if nobody says otherwise.
const ADDRESS: &str = "http://127.0.0.1:7474";

/// The command that serves a ledger, as its parts.
pub(crate) fn command(ledger: &Path) -> Result<Vec<String>> {
    let program = paths::dormouse()?;
    let ledger = format!("sqlite:{}", ledger.display());
    Ok(vec![program.display().to_string(), "serve".to_owned(), "--ledger".to_owned(), ledger])
}

/// What people have to do to see it.
pub(crate) fn invitation(command: &[String], token: &str) -> String {
    format!(
        "See the timeline, tag the sandbox and read its usage by tag in a browser:\n\n  {}\n\n\
         serves {ADDRESS} (`make demo DEMO_FLAGS=--serve` does at once); sign in with this token:\n\n  {token}",
        command.join(" ")
    )
}

/// Serves the ledger until the server ends.
pub(crate) async fn serve(ledger: &Path) -> Result<()> {
    let command = command(ledger)?;
    let mut served = Command::new(&command[0]);
    served.args(&command[1..]).kill_on_drop(true);
    served.status().await.map_err(Error::io("running", Path::new(&command[0])))?;
    Ok(())
}
