//! `dormouse ledger`: the fleet's ledger in PostgreSQL. And a host's ledger that is read without an agent.

mod check;
mod ingest;
mod migrate;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use dormouse_ledger::fleet::FleetError;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use crate::config::Config;
use crate::control::Questions;
use crate::ingest::IngestError;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(help = "The database: postgresql://USER:PASSWORD@HOST/NAME, or host=FOLDER dbname=NAME user=USER")]
    #[arg(long, global = true, env = "DORMOUSE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    #[arg(default_value = "host=/run/postgresql dbname=dormouse")]
    database: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the database to this program's schema version, or to another
    Migrate(migrate::Args),
    /// Store what hosts publish, until it is told to stop
    Ingest(ingest::Args),
    /// Name what holds an hour open
    Check(check::Args),
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Migrate(migrate) => migrate::run(migrate, &args.database, context).await,
        Command::Ingest(ingest) => ingest::run(ingest, args.database, context).await,
        Command::Check(check) => check::run(check, &args.database, context).await,
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        Self::with_reason(error.reason(), error.to_string())
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Ledger(error) => error.into(),
            IngestError::Unreachable(_) => Self::with_reason("FLEET_DATABASE", error.to_string()),
        }
    }
}

/// Questions to the ledger at `path`, by the billing rules of this machine's configuration.
pub(super) fn questions(path: PathBuf) -> Result<Questions, Failure> {
    Ok(Questions::new(path, Arc::new(Config::load_or_default(None)?)))
}
