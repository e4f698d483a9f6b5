//! `dormouse agent`: runs the agent.

use std::path::PathBuf;

use super::exit::Exit;
use super::failure::Failure;
use crate::config::{Config, LogFormat};
use crate::run;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration [default: /etc/dormouse/dormouse.toml if it exists, else the defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Args, socket: Option<PathBuf>, json: bool) -> Result<Exit, Failure> {
    let mut config = Config::load_or_default(args.config.as_deref())?.effective()?;
    if let Some(socket) = socket {
        config.socket = std::path::absolute(&socket).map_err(|error| {
            Failure::usage(format!("the path {} leads nowhere: {error}", socket.display()))
        })?;
    }
    if json {
        config.log.format = LogFormat::Json;
    }
    run::agent(config).await.map_err(|error| Failure::new(error.to_string()))?;
    Ok(Exit::Done)
}
