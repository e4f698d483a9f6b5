//! `dormouse verify`: holds a host's exported events against their chain, hashes and signatures. It asks no agent.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use dormouse_ledger::{Verification, VerifyReport};
use serde_json::json;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The events, one a line, as `dormouse outbox --export` prints them
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The host's public key, in hexadecimal [default: the one that the first watermark names]
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let unreadable =
        |error: io::Error| Failure::new(format!("{} cannot be read: {error}", args.file.display()));
    let file = BufReader::new(File::open(&args.file).map_err(unreadable)?);
    let mut verification = Verification::new(args.key);
    for line in file.split(b'\n') {
        verification.line(&line.map_err(unreadable)?);
    }
    let report = verification.report();
    if context.json {
        output::print_json(&json!(report))?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(if report.anomalies_total == 0 { Exit::Done } else { Exit::Anomaly })
}

fn describe(report: &VerifyReport) -> String {
    let seq = |seq: Option<u64>| seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
    let mut lines: Vec<String> = report
        .anomalies
        .iter()
        .map(|anomaly| format!("line {}: {} {}", anomaly.line, anomaly.code, anomaly.message))
        .collect();
    lines.push(format!(
        "{} of {}, {} to {}; {} signed right, through event {}",
        counted(report.events, "event"),
        report.source.as_deref().unwrap_or("no host"),
        seq(report.first_seq),
        seq(report.last_seq),
        counted(report.watermarks, "watermark"),
        seq(report.signed_through_seq),
    ));
    lines.extend(report.keys.iter().map(|key| format!("signed by {key}")));
    lines.push(match report.anomalies_total {
        0 => "everything holds\n".to_owned(),
        count => format!("{}\n", counted(count, "anomaly")),
    });
    lines.join("\n")
}
