//! `dormouse backup`: copies the ledger while it is being written.

use std::path::PathBuf;

use dormouse_ledger::Ledger;
use serde_json::json;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::Config;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The copy; it must not exist, and appears under its name once it is whole and on the disk
    #[arg(value_name = "FILE")]
    copy: PathBuf,
    /// The ledger to copy [default: as configured]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let ledger = match args.ledger {
        Some(ledger) => ledger,
        None => Config::load_or_default(None)?.effective()?.ledger_path(),
    };
    Ledger::backup_of(&ledger, &args.copy)?;
    if context.json {
        let copied = json!({"ledger": ledger.display().to_string(), "copy": args.copy.display().to_string()});
        output::print_json(&copied)?;
    } else {
        eprintln!("{} is copied to {}", ledger.display(), args.copy.display());
    }
    Ok(Exit::Done)
}
