//! `dormouse ledger migrate`: brings the database to a version of the schema.

use dormouse_ledger::fleet::{VERSION, migrate};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::database::Database;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The version to go to, up or down; going down deletes what its tables hold [default: the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<i32>,
}

pub(super) async fn run(args: Args, database: &Database, context: &Context) -> Result<Exit, Failure> {
    let to = args.to.unwrap_or(VERSION);
    let before = migrate(&mut database.connect().await?, to).await?;
    if context.json {
        output::print_json(&json!({"from": before, "to": to}))?;
    } else if before == to {
        eprintln!("the schema has version {to} already");
    } else {
        eprintln!("the schema went from version {before} to {to}");
    }
    Ok(Exit::Done)
}
