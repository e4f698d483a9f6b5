//! `dormouse serve`: serves usage and tags over HTTP, from a ledger.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::failure::Failure;
use crate::address::LedgerAddress;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::{self, OpenUntil, Site};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(
        help = "The ledger: sqlite:PATH, of a host, which an agent may be writing; or postgres://..., of a fleet"
    )]
    #[arg(long, value_name = "LEDGER", value_parser = LedgerAddress::parse)]
    #[arg(env = "DORMOUSE_DATABASE_URL", hide_env_values = true)]
    ledger: LedgerAddress,

    /// The address and port to listen on [default: http.listen of the configuration, or 127.0.0.1:7474]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// The configuration, for the rules of billing [default: /etc/dormouse/dormouse.toml, or else the defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = Config::load_or_default(args.config.as_deref())?;
    let address = args.listen.or(config.http.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7474)));
    let (clock, _) = Clock::start(None).map_err(|error| Failure::new(error.to_string()))?;
    let cannot = |error: std::io::Error| Failure::new(format!("{address} cannot be listened on: {error}"));
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let listens_on = listener.local_addr().map_err(cannot)?;
    let site = Site::new(args.ledger, &config, clock, OpenUntil::Known);
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return Err(Failure::new("signals cannot be waited for"));
    };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    eprintln!("listening on http://{listens_on}");
    http::serve(listener, site, shutdown).await?;
    Ok(Exit::Done)
}
