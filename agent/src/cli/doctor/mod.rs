//! `dormouse doctor`: looks at the host, and says of each thing whether it is well and what to do where it is not.
//!
//! `kernel` asks the kernel what it can do, `host` looks at KVM, QEMU, the clock and the agent, `files` at folders,
//! disks and keys. Nothing is changed, and nothing is written.

mod files;
mod host;
mod kernel;

use std::path::PathBuf;

use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::Config;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration [default: /etc/dormouse/dormouse.toml if it exists, else the defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Well,
    /// Something that is possible elsewhere is not possible here.
    Less,
    /// Something will not work.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    what: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it; empty where it is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

impl Finding {
    fn well(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Well, found: found.into(), next: String::new() }
    }

    fn less(what: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Less, found: found.into(), next: next.into() }
    }

    fn wrong(what: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, ..Self::less(what, found, next) }
    }
}

pub(super) async fn run(args: &Args, socket: Option<PathBuf>, json: bool) -> Result<Exit, Failure> {
    let mut config = Config::load_or_default(args.config.as_deref())?.effective()?;
    if let Some(socket) = socket {
        config.socket = socket;
    }
    let mut findings = host::findings();
    findings.extend(kernel::findings());
    findings.extend(files::findings(&config));
    findings.extend(host::agent(&config.socket).await);
    if json {
        let document = serde_json::to_value(&findings)
            .map_err(|error| Failure::new(format!("JSON cannot be written: {error}")))?;
        output::print_json(&document)?;
    } else {
        output::print(&findings.iter().map(line).collect::<String>())?;
    }
    let wrong = findings.iter().any(|finding| finding.verdict == Verdict::Wrong);
    Ok(if wrong { Exit::Anomaly } else { Exit::Done })
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Well => "well ",
        Verdict::Less => "less ",
        Verdict::Wrong => "WRONG",
    };
    let next =
        if finding.next.is_empty() { String::new() } else { format!("       next: {}\n", finding.next) };
    format!("{mark}  {}: {}\n{next}", finding.what, finding.found)
}
