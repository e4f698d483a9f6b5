//! The fleet's PostgreSQL: how it is found, and how it is spoken to.

use dormouse_ledger::fleet::{FleetError, FleetLedger};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::ClientFiles;

/// Why the fleet's ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database refuses, and would again.
    #[error(transparent)]
    Ledger(#[from] FleetError),
    /// The database cannot be reached.
    #[error("PostgreSQL cannot be reached: {0}")]
    Unreachable(String),
}

/// A database, and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// How it is found, as libpq writes it: a URL or `key=value`. `sslmode` is `disable`, `prefer` (the default), `require`
    /// or `verify-full`; whatever it is, a server that speaks TLS is who its certificate says. A unix socket needs none.
    pub url: String,
    /// The user, where that is not in the URL, and the password.
    pub login: Option<(Option<String>, String)>,
    /// What TLS to it consists of.
    pub files: ClientFiles,
}

impl Database {
    /// Opens the fleet's ledger by a connection of its own, which a task drives.
    pub async fn open(&self) -> Result<FleetLedger, OpenError> {
        FleetLedger::open(self.connect().await?).await.map_err(OpenError::Ledger)
    }

    /// A connection, driven by a task of its own.
    pub async fn connect(&self) -> Result<Client, OpenError> {
        let unreachable =
            |error: tokio_postgres::Error| OpenError::Unreachable(FleetError::from(error).to_string());
        // Certificates are checked in full wherever TLS is spoken, so that both words mean the same.
        let url = self.url.replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = url.parse().map_err(unreachable)?;
        if let Some((user, password)) = &self.login {
            config.password(password);
            if let Some(user) = user {
                config.user(user);
            }
        }
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        if is_local || config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(unreachable)?;
            return Ok(driven(client, connection));
        }
        let tls = self.files.config().map_err(|error| OpenError::Unreachable(error.to_string()))?;
        let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await.map_err(unreachable)?;
        Ok(driven(client, connection))
    }
}

/// A client whose connection is driven by a task of its own.
fn driven<S, T>(client: Client, connection: Connection<S, T>) -> Client
where
    Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        // Whoever uses the client learns of it as well.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    client
}
