//! The fleet's PostgreSQL: how it is found, and how it is spoken to.

use std::fmt;
use std::time::Duration;

use dormouse_ledger::LedgerError;
use dormouse_ledger::fleet::{FleetError, FleetLedger, FleetReader};
use tokio::runtime::Handle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::ClientFiles;

/// How long PostgreSQL may take to take a connection, where its URL does not say.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

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

impl From<OpenError> for LedgerError {
    fn from(error: OpenError) -> Self {
        Self::Fleet(match error {
            OpenError::Ledger(error) => error,
            OpenError::Unreachable(why) => FleetError::Unreachable { why },
        })
    }
}

/// A database, and how it is spoken to.
#[derive(Clone, Default)]
pub struct Database {
    /// How it is found, as libpq writes it: a URL or `key=value`. `sslmode` is `disable`, `prefer` (the default), `require`
    /// or `verify-full`; whatever it is, a server that speaks TLS is who its certificate says. A unix socket needs none.
    pub url: String,
    /// The user, where that is not in the URL, and the password.
    pub login: Option<(Option<String>, String)>,
    /// What TLS to it consists of.
    pub files: ClientFiles,
}

impl fmt::Debug for Database {
    /// Without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What goes over a connection.
#[derive(Clone)]
enum Speech {
    Plain,
    Tls(MakeRustlsConnect),
}

impl Database {
    /// Opens the fleet's ledger by a connection of its own, which a task drives.
    pub async fn open(&self) -> Result<FleetLedger, OpenError> {
        FleetLedger::open(self.connect().await?).await.map_err(OpenError::Ledger)
    }

    /// Opens the fleet's ledger for questions, by a connection of its own, which a task drives.
    pub async fn reader(&self) -> Result<FleetReader, OpenError> {
        let (config, speech) = self.parts()?;
        let client = connected(&config, &speech).await?;
        let (token, runtime) = (client.cancel_token(), Handle::current());
        let cancel_query = move || drop(runtime.spawn(cancelled(token.clone(), speech.clone())));
        FleetReader::open(client, cancel_query).await.map_err(OpenError::Ledger)
    }

    /// A connection, driven by a task of its own.
    pub async fn connect(&self) -> Result<Client, OpenError> {
        let (config, speech) = self.parts()?;
        connected(&config, &speech).await
    }

    /// Whether it could be found, as far as its URL says.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        self.config().map(drop)
    }

    fn config(&self) -> Result<Config, OpenError> {
        // Certificates are checked in full wherever TLS is spoken, so that both words mean the same.
        let url = self.url.replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = url.parse().map_err(unreachable)?;
        if let Some((user, password)) = &self.login {
            config.password(password);
            if let Some(user) = user {
                config.user(user);
            }
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_DEADLINE);
        }
        Ok(config)
    }

    fn parts(&self) -> Result<(Config, Speech), OpenError> {
        let config = self.config()?;
        let is_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        if is_local || config.get_ssl_mode() == SslMode::Disable {
            return Ok((config, Speech::Plain));
        }
        let tls = self.files.config().map_err(|error| OpenError::Unreachable(error.to_string()))?;
        Ok((config, Speech::Tls(MakeRustlsConnect::new(tls))))
    }
}

fn unreachable(error: tokio_postgres::Error) -> OpenError {
    OpenError::Unreachable(FleetError::from(error).to_string())
}

async fn connected(config: &Config, speech: &Speech) -> Result<Client, OpenError> {
    match speech {
        Speech::Plain => {
            let (client, connection) = config.connect(NoTls).await.map_err(unreachable)?;
            Ok(driven(client, connection))
        }
        Speech::Tls(tls) => {
            let (client, connection) = config.connect(tls.clone()).await.map_err(unreachable)?;
            Ok(driven(client, connection))
        }
    }
}

/// Asks PostgreSQL to give up what runs on a connection.
async fn cancelled(token: CancelToken, speech: Speech) {
    let asked = match speech {
        Speech::Plain => token.cancel_query(NoTls).await,
        Speech::Tls(tls) => token.cancel_query(tls).await,
    };
    if let Err(error) = asked {
        tracing::warn!(%error, "PostgreSQL could not be asked to give up a question");
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
