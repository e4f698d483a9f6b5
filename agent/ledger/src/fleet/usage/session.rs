//! A transaction, asked from a thread that may block.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures_executor::block_on;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Row, Statement, Transaction};

use crate::LedgerError;
use crate::fleet::FleetError;

/// The statements that a connection has prepared, by their text.
#[derive(Default)]
pub(super) struct Statements(Mutex<HashMap<&'static str, Statement>>);

/// The values of a statement's parameters.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement, its values, and whom each row of its answer is given to.
pub(super) struct Question<'a> {
    pub(super) sql: &'static str,
    pub(super) values: Values<'a>,
    pub(super) each: &'a mut dyn FnMut(&Row) -> Result<(), LedgerError>,
}

/// A transaction. Dropping it without `commit` rolls it back.
pub(super) struct Session<'a> {
    tx: Transaction<'a>,
    statements: &'a Statements,
}

/// What PostgreSQL said, as questions about usage tell it.
pub(super) fn failed(error: tokio_postgres::Error) -> LedgerError {
    if error.code() == Some(&SqlState::QUERY_CANCELED) {
        return LedgerError::Cancelled;
    }
    LedgerError::Fleet(FleetError::Database(error))
}

impl<'a> Session<'a> {
    /// Everything that is read is as of one moment.
    pub(super) fn reading(client: &'a mut Client, statements: &'a Statements) -> Result<Self, LedgerError> {
        let begin =
            client.build_transaction().read_only(true).isolation_level(IsolationLevel::RepeatableRead);
        Ok(Self { tx: block_on(begin.start()).map_err(failed)?, statements })
    }

    pub(super) fn writing(client: &'a mut Client, statements: &'a Statements) -> Result<Self, LedgerError> {
        Ok(Self { tx: block_on(client.transaction()).map_err(failed)?, statements })
    }

    pub(super) fn commit(self) -> Result<(), LedgerError> {
        block_on(self.tx.commit()).map_err(failed)
    }

    fn prepared(&self, sql: &'static str) -> Result<Statement, LedgerError> {
        let mut known = self.statements.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known.get(sql) {
            return Ok(statement.clone());
        }
        let statement = block_on(self.tx.prepare(sql)).map_err(failed)?;
        known.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) fn query(&self, sql: &'static str, values: Values<'_>) -> Result<Vec<Row>, LedgerError> {
        let statement = self.prepared(sql)?;
        block_on(self.tx.query(&statement, values)).map_err(failed)
    }

    /// Asks several things at once: PostgreSQL works on while the rows that have come are read.
    pub(super) fn ask(&self, questions: Vec<Question<'_>>) -> Result<(), LedgerError> {
        let statements = questions.iter().map(|question| self.prepared(question.sql));
        let statements = statements.collect::<Result<Vec<_>, _>>()?;
        let answers = statements.iter().zip(questions).map(|(statement, question)| async move {
            let values = question.values.iter().copied();
            let mut rows = pin!(self.tx.query_raw(statement, values).await.map_err(failed)?);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                (question.each)(&row)?;
            }
            Ok(())
        });
        block_on(try_join_all(answers)).map(drop)
    }

    pub(super) fn execute(&self, sql: &'static str, values: Values<'_>) -> Result<u64, LedgerError> {
        let statement = self.prepared(sql)?;
        block_on(self.tx.execute(&statement, values)).map_err(failed)
    }

    /// Calls `each` with the rows of an answer as they come, so many at a time, however many there are.
    pub(super) fn each(
        &self,
        sql: &'static str,
        values: Values<'_>,
        rows_at_once: i32,
        mut each: impl FnMut(&Row) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let statement = self.prepared(sql)?;
        let portal = block_on(self.tx.bind(&statement, values)).map_err(failed)?;
        loop {
            let rows = block_on(self.tx.query_portal(&portal, rows_at_once)).map_err(failed)?;
            rows.iter().try_for_each(&mut each)?;
            if i32::try_from(rows.len()).is_ok_and(|count| count < rows_at_once) {
                return Ok(());
            }
        }
    }
}
