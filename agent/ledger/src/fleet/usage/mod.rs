//! A fleet's answers about usage. What is summed and paged, and how, is `crate::usage`'s, as for a host.
//!
//! A fleet's ledger has what hosts have sent: every slice in it is final, and what is open on a host is not known here
//! until it is cut, at the latest at the end of the hour. Tags are the fleet's own, because no event carries them.
//!
//! Calls block until PostgreSQL has answered, so they are not for a runtime's own threads. Whoever opens a connection
//! drives it, and lends the means to cancel what runs on it.

mod figures;
mod listing;
mod rows;
mod session;
mod tags;
mod tokens;

use std::sync::Arc;

use dormouse_metering::Stamp;
use tokio_postgres::Client;

use super::{FleetError, migrations};
use crate::usage::breakdown::breakdown;
use crate::usage::drilldown::drilldown;
use crate::usage::figures::each_slice;
use crate::usage::{
    Breakdown, BreakdownQuery, Cancel, CursorKey, Drilldown, DrilldownQuery, SandboxEntry, SlicesIn,
    SlicesOf, TagKey, UsageLedger,
};
use crate::{LedgerError, OutboxStanding, Role, SliceRow, TagSet, TagsNow, Token};

use figures::FleetFigures;
use session::{Session, Statements};

/// Of the connection: answers take milliseconds, in which compiling a plan never pays; and what nobody waits for any
/// more, and nobody cancelled, ends as well.
const SETTINGS: &str = "SET jit = off; SET statement_timeout = '1min'; \
     SET idle_in_transaction_session_timeout = '10min'";

const CURSOR_KEY: &str = "SELECT key FROM cursor_key";

/// Answers from a fleet's ledger, by one connection.
pub struct FleetReader {
    client: Client,
    statements: Statements,
    cancel_query: Arc<dyn Fn() + Send + Sync>,
    is_spent: bool,
}

impl FleetReader {
    /// Takes a connection, which somebody must drive, to a database of this program's schema version. `cancel_query`
    /// asks PostgreSQL to cancel what runs on it, and returns at once.
    pub async fn open(
        client: Client,
        cancel_query: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, FleetError> {
        client.batch_execute(migrations::SEARCH_PATH).await?;
        migrations::require_current(&client).await?;
        client.batch_execute(SETTINGS).await?;
        Ok(Self {
            client,
            statements: Statements::default(),
            cancel_query: Arc::new(cancel_query),
            is_spent: false,
        })
    }

    /// Asks something as of one moment.
    fn ask<T>(
        &mut self,
        cancel: &Cancel,
        question: impl FnOnce(&Session<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let cancel_query = Arc::clone(&self.cancel_query);
        let (answer, was_cancelled) = cancel.ending(
            move || cancel_query(),
            || {
                let session = Session::reading(&mut self.client, &self.statements)?;
                let answer = question(&session)?;
                session.commit()?;
                Ok(answer)
            },
        );
        self.is_spent |= was_cancelled;
        answer
    }

    /// Asks something short.
    fn ask_shortly<T>(
        &mut self,
        question: impl FnOnce(&Session<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.ask(&Cancel::default(), question)
    }

    /// Makes a change durable, whole or not at all.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&Session<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let session = Session::writing(&mut self.client, &self.statements)?;
        let changed = change(&session)?;
        session.commit()?;
        Ok(changed)
    }
}

impl UsageLedger for FleetReader {
    fn is_spent(&self) -> bool {
        self.is_spent || self.client.is_closed()
    }

    fn cursor_key(&mut self) -> Result<CursorKey, LedgerError> {
        let corrupt = || LedgerError::corrupt("the key of cursors is not what was written");
        self.ask_shortly(|session| {
            let row = session.query(CURSOR_KEY, &[])?.into_iter().next().ok_or_else(corrupt)?;
            row.get::<_, &[u8]>(0).try_into().map(CursorKey).map_err(|_| corrupt())
        })
    }

    fn open_until(&mut self) -> Result<Option<Stamp>, LedgerError> {
        Ok(None)
    }

    fn bearer(&mut self, presented: &str) -> Result<Option<Token>, LedgerError> {
        self.ask_shortly(|session| tokens::bearer(session, presented))
    }

    fn token(&mut self, id: &str) -> Result<Option<Token>, LedgerError> {
        self.ask_shortly(|session| tokens::valid(session, id))
    }

    fn outbox_standing(&mut self) -> Result<OutboxStanding, LedgerError> {
        Ok(OutboxStanding::default())
    }

    fn breakdown(&mut self, query: &BreakdownQuery, cancel: &Cancel) -> Result<Breakdown, LedgerError> {
        self.ask(cancel, |session| breakdown(&FleetFigures { session }, query, cancel))
    }

    fn drilldown(
        &mut self,
        query: &DrilldownQuery,
        cancel: &Cancel,
    ) -> Result<Option<Drilldown>, LedgerError> {
        self.ask(cancel, |session| drilldown(&FleetFigures { session }, query, cancel))
    }

    fn sandbox_entries(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<SandboxEntry>, LedgerError> {
        self.ask(cancel, |session| listing::sandbox_entries(session, org, after, limit))
    }

    fn sandbox_entry(&mut self, org: &str, sandbox: &str) -> Result<Option<SandboxEntry>, LedgerError> {
        self.ask_shortly(|session| listing::sandbox_entry(session, org, sandbox))
    }

    fn slices_of(&mut self, query: &SlicesOf, cancel: &Cancel) -> Result<Option<Vec<SliceRow>>, LedgerError> {
        self.ask(cancel, |session| listing::slices_of(&FleetFigures { session }, query))
    }

    fn each_slice(
        &mut self,
        query: &SlicesIn,
        cancel: &Cancel,
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.ask(cancel, |session| each_slice(&FleetFigures { session }, query, each))
    }

    fn orgs(&mut self) -> Result<Vec<String>, LedgerError> {
        self.ask_shortly(listing::orgs)
    }

    fn tags(&mut self, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError> {
        self.ask_shortly(|session| tags::now(session, org, sandbox))
    }

    fn tag_keys(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<TagKey>, LedgerError> {
        self.ask(cancel, |session| listing::tag_keys(session, org, after, limit))
    }

    fn set_tags(&mut self, set: &TagSet) -> Result<TagsNow, LedgerError> {
        self.change(|session| tags::replace(session, set))
    }

    fn create_token(
        &mut self,
        org: &str,
        role: Role,
        at_unix_ns: i64,
    ) -> Result<(Token, String), LedgerError> {
        self.change(|session| tokens::create(session, org, role, at_unix_ns))
    }

    fn tokens(&mut self) -> Result<Vec<Token>, LedgerError> {
        self.ask_shortly(tokens::all)
    }

    fn revoke_token(&mut self, id: &str, at_unix_ns: i64) -> Result<bool, LedgerError> {
        self.change(|session| tokens::revoke(session, id, at_unix_ns))
    }
}
