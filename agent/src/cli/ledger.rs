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
use crate::database::{Database, OpenError};
use crate::tls::ClientFiles;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(help = "The database: postgresql://USER:PASSWORD@HOST/NAME, or host=FOLDER dbname=NAME user=USER")]
    #[arg(long, global = true, env = "DORMOUSE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    #[arg(default_value = "host=/run/postgresql dbname=dormouse")]
    database: String,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(subcommand)]
    command: Command,
}

/// For PostgreSQL and the queue alike.
#[derive(clap::Args, Debug)]
struct TlsArgs {
    /// The authorities that servers' certificates are checked against, in PEM [default: those of the system]
    #[arg(long = "ca-file", global = true, env = "DORMOUSE_CA_FILE", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate that servers are shown, with its chain, in PEM
    #[arg(
        long = "cert-file",
        global = true,
        env = "DORMOUSE_CERT_FILE",
        value_name = "FILE",
        requires = "key"
    )]
    cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(
        long = "key-file",
        global = true,
        env = "DORMOUSE_KEY_FILE",
        value_name = "FILE",
        requires = "cert"
    )]
    key: Option<PathBuf>,
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
    let TlsArgs { ca, cert, key } = args.tls;
    let files = ClientFiles { ca_file: ca, cert_file: cert, key_file: key };
    let database = Database { url: args.database, login: None, files };
    match args.command {
        Command::Migrate(migrate) => migrate::run(migrate, &database, context).await,
        Command::Ingest(ingest) => ingest::run(ingest, database, context).await,
        Command::Check(check) => check::run(check, &database, context).await,
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        Self::with_reason(error.reason(), error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Ledger(error) => error.into(),
            OpenError::Unreachable(_) => Self::with_reason("FLEET_DATABASE", error.to_string()),
        }
    }
}

/// Questions to the ledger at `path`, by the billing rules of this machine's configuration.
pub(super) fn questions(path: PathBuf) -> Result<Questions, Failure> {
    Ok(Questions::new(path, Arc::new(Config::load_or_default(None)?)))
}
