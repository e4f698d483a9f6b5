//! The configuration: one TOML file, in which every key has a default.
//!
//! - `sections`, `control`, `billing`, `sinks`: the keys, their defaults and what they mean, in one place.
//! - `known`: refuses keys that do not exist, and names the nearest that does.
//! - `check`: what values must be. `example`: the file that shows everything.
//!
//! Nothing here reads the environment: environment variables are for secrets, of which only the names are configured.

mod billing;
mod check;
mod control;
mod error;
mod example;
mod known;
pub(crate) mod section;
mod sections;
mod sinks;

use std::fs;
use std::path::{Path, PathBuf};

pub use billing::{Basis, Billed, Billing, PolicyTable};
pub use control::{Control, Grant, Role, Tls};
pub use error::{ConfigError, Place, Problem};
pub(crate) use known::wrong_keys;
pub use sections::{
    Config, Deadlines, FileMode, Hibernation, Http, Launch, Log, LogFormat, Metering, Metrics,
    MetricsAddress, Qmp, Starter, Telemetry,
};
pub use sinks::{Outbox, Sink, SinkForm, SinkKind};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dormouse/dormouse.toml";

impl Config {
    /// Reads the configuration at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    /// Reads the configuration at `path`, or, without one, the file at [`DEFAULT_PATH`], or, where there is
    /// none, takes the defaults.
    pub fn load_or_default(path: Option<&Path>) -> Result<Self, ConfigError> {
        match path {
            Some(path) => Self::load(path),
            None if Path::new(DEFAULT_PATH).exists() => Self::load(Path::new(DEFAULT_PATH)),
            None => Ok(Self::default()),
        }
    }

    /// Reads the configuration from its TOML text. The error holds everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let table = known::parse(text).map_err(|problem| vec![problem])?;
        let unknown = known::unknown_keys(text, table.get_ref());
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let config: Self = toml::from_str(text).map_err(|error| vec![Problem::of_toml(text, &error)])?;
        let wrong = check::wrong_values(&config);
        if wrong.is_empty() {
            return Ok(config);
        }
        Err(wrong
            .into_iter()
            .map(|(key, message)| Problem {
                place: known::place_of(text, table.get_ref(), key),
                message: format!("{key} {message}"),
            })
            .collect())
    }

    /// Every key with its default, explained, as a TOML file.
    pub fn example() -> String {
        example::render(&Self::default())
    }

    /// This configuration, explained, as a TOML file.
    pub fn to_toml(&self) -> String {
        example::render(self)
    }

    /// The name of this host: the configured one, or the machine's hostname.
    pub fn host_name(&self) -> Result<String, ConfigError> {
        const HOSTNAME: &str = "/proc/sys/kernel/hostname";
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        let hostname = fs::read_to_string(HOSTNAME)
            .map_err(|source| ConfigError::Unreadable { path: PathBuf::from(HOSTNAME), source })?;
        let hostname = hostname.trim().to_owned();
        crate::ids::check_id(&hostname)
            .map_err(|why| ConfigError::HostName { hostname: hostname.clone(), why })?;
        Ok(hostname)
    }

    /// The folder of snapshots: the configured one, or `snapshots` in the state folder.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.hibernation.dir.clone().unwrap_or_else(|| self.state_dir.join("snapshots"))
    }

    /// The file of the ledger.
    pub fn ledger_path(&self) -> PathBuf {
        self.state_dir.join("ledger.sqlite")
    }

    /// This configuration with what it leaves open filled in from this machine.
    pub fn effective(&self) -> Result<Self, ConfigError> {
        let mut effective = self.clone();
        effective.host = Some(self.host_name()?);
        effective.hibernation.dir = Some(self.snapshot_dir());
        Ok(effective)
    }
}

#[cfg(test)]
mod tests;
