//! `dormouse check-config`: says whether a configuration is right, and what is in effect.

use std::path::PathBuf;

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

pub(super) fn run(args: &Args, socket: Option<PathBuf>, json: bool) -> Result<Exit, Failure> {
    let mut config = Config::load_or_default(args.config.as_deref())?.effective()?;
    if let Some(socket) = socket {
        config.socket = socket;
    }
    if json {
        let config = serde_json::to_value(&config)
            .map_err(|error| Failure::new(format!("JSON cannot be written: {error}")))?;
        output::print_json(&config)?;
    } else {
        output::print(&config.to_toml())?;
    }
    Ok(Exit::Done)
}
