//! Where a ledger is: a host's in a file, a fleet's in PostgreSQL; and how it is reached.

use std::path::PathBuf;

use dormouse_ledger::usage::UsageLedger;
use dormouse_ledger::{LedgerError, Reader};
use tokio::runtime::Handle;

use crate::database::Database;

const SQLITE: &str = "sqlite:";
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where a ledger is.
#[derive(Clone, Debug)]
pub enum LedgerAddress {
    /// A host's: the path of its file.
    Sqlite(PathBuf),
    /// A fleet's.
    Postgres(Box<Database>),
}

impl LedgerAddress {
    /// Reads `sqlite:PATH`, a URL of PostgreSQL, or the `key=value` form of one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(SQLITE).filter(|path| !path.is_empty()) {
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        let is_postgres = POSTGRES.iter().any(|prefix| text.starts_with(prefix)) || text.starts_with("host=");
        if !is_postgres {
            return Err("a ledger is written sqlite:PATH or postgres://USER@HOST/DATABASE".to_owned());
        }
        let database = Database { url: text.to_owned(), ..Database::default() };
        database.check().map_err(|error| error.to_string())?;
        Ok(Self::Postgres(Box::new(database)))
    }

    /// The same, and a path without a prefix is a host's.
    pub fn parse_or_file(text: &str) -> Result<Self, String> {
        let is_file = !text.contains(':') && !text.starts_with("host=") && !text.is_empty();
        if is_file { Ok(Self::Sqlite(PathBuf::from(text))) } else { Self::parse(text) }
    }

    /// Opens the ledger. Blocks, so it is for threads of a runtime that may.
    pub fn open(&self) -> Result<Box<dyn UsageLedger>, LedgerError> {
        match self {
            Self::Sqlite(path) => Ok(Box::new(Reader::open(path)?)),
            Self::Postgres(database) => Ok(Box::new(Handle::current().block_on(database.reader())?)),
        }
    }

    /// Opens the ledger and asks it something, from anywhere in a runtime.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn UsageLedger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let address = self.clone();
        match tokio::task::spawn_blocking(move || question(address.open()?.as_mut())).await {
            Ok(answer) => answer,
            // Nobody aborts it.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_a_file_or_a_database_and_a_password_is_never_told() {
        let sqlite = LedgerAddress::parse("sqlite:/var/lib/x").unwrap();
        assert!(matches!(sqlite, LedgerAddress::Sqlite(path) if path.as_os_str() == "/var/lib/x"));
        for url in
            ["postgres://u:secret@h/d", "postgresql://u:secret@h:1/d", "host=/run/x dbname=d password=secret"]
        {
            let address = LedgerAddress::parse_or_file(url).unwrap();
            assert!(matches!(address, LedgerAddress::Postgres(_)), "{url}");
            assert!(!format!("{address:?}").contains("secret"), "{url}");
        }
        for wrong in ["", "sqlite:", "/var/lib/x", "mysql://h/d", "postgres://h:port/d", "host=x unknown=y"] {
            assert!(LedgerAddress::parse(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(LedgerAddress::parse_or_file("x.sqlite"), Ok(LedgerAddress::Sqlite(_))));
    }
}
