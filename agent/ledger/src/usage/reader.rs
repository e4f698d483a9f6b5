//! A host's answers about usage.

use dormouse_metering::Stamp;

use super::breakdown::breakdown;
use super::drilldown::drilldown;
use super::figures::each_slice;
use super::host::HostFigures;
use super::listing;
use super::{
    Breakdown, BreakdownQuery, Cancel, CursorKey, Drilldown, DrilldownQuery, SandboxEntry, SlicePlace,
    SlicesIn, SlicesOf, TagKey, UsageLedger,
};
use crate::{
    Editor, LedgerError, OutboxStanding, Reader, Role, SandboxFilter, SandboxKey, SliceCursor, SliceQuery,
    SliceRow, TagSet, TagsNow, Token,
};

const CURSOR_KEY: &str = "SELECT key FROM cursor_key";
const ORGS: &str = "SELECT DISTINCT org FROM sandboxes ORDER BY org";

impl Reader {
    /// Asks for what the figures of one moment answer.
    fn of_figures<T>(
        &mut self,
        cancel: &Cancel,
        question: impl FnOnce(&HostFigures<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.until(cancel, |reader| reader.answer(|conn| question(&HostFigures { conn, cancel })))
    }
}

impl UsageLedger for Reader {
    fn is_spent(&self) -> bool {
        false
    }

    fn cursor_key(&mut self) -> Result<CursorKey, LedgerError> {
        self.answer(|conn| Ok(CursorKey(conn.query_row(CURSOR_KEY, [], |row| row.get(0))?)))
    }

    fn open_until(&mut self) -> Result<Option<Stamp>, LedgerError> {
        self.proof_of_life()
    }

    fn bearer(&mut self, presented: &str) -> Result<Option<Token>, LedgerError> {
        self.token_of(presented)
    }

    fn token(&mut self, id: &str) -> Result<Option<Token>, LedgerError> {
        Self::token(self, id)
    }

    fn outbox_standing(&mut self) -> Result<OutboxStanding, LedgerError> {
        Self::outbox_standing(self)
    }

    fn breakdown(&mut self, query: &BreakdownQuery, cancel: &Cancel) -> Result<Breakdown, LedgerError> {
        self.of_figures(cancel, |figures| breakdown(figures, query, cancel))
    }

    fn drilldown(
        &mut self,
        query: &DrilldownQuery,
        cancel: &Cancel,
    ) -> Result<Option<Drilldown>, LedgerError> {
        self.of_figures(cancel, |figures| drilldown(figures, query, cancel))
    }

    fn sandbox_entries(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<SandboxEntry>, LedgerError> {
        self.of_figures(cancel, |figures| listing::sandbox_entries(figures.conn, org, after, limit))
    }

    fn sandbox_entry(&mut self, org: &str, sandbox: &str) -> Result<Option<SandboxEntry>, LedgerError> {
        Self::sandbox_entry(self, org, sandbox)
    }

    fn slices_of(&mut self, query: &SlicesOf, cancel: &Cancel) -> Result<Option<Vec<SliceRow>>, LedgerError> {
        let SlicesOf { org, sandbox, window, after, limit, open_until } = query;
        let place = |SlicePlace { generation, seq, .. }: SlicePlace| {
            let key = SandboxKey { org: org.clone(), sandbox: sandbox.clone(), generation };
            SliceCursor { key, seq }
        };
        let filter = SandboxFilter {
            org: Some(org.clone()),
            sandbox: Some(sandbox.clone()),
            ..SandboxFilter::default()
        };
        let asked = SliceQuery {
            sandboxes: filter,
            window: window.clone(),
            after: after.map(place),
            limit: *limit,
            now: *open_until,
        };
        self.until(cancel, |reader| {
            if reader.sandbox_entry(org, sandbox)?.is_none() {
                return Ok(None);
            }
            Ok(Some(reader.slices(&asked)?.rows))
        })
    }

    fn each_slice(
        &mut self,
        query: &SlicesIn,
        cancel: &Cancel,
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        self.of_figures(cancel, |figures| each_slice(figures, query, each))
    }

    fn orgs(&mut self) -> Result<Vec<String>, LedgerError> {
        self.answer(|conn| {
            Ok(conn.prepare_cached(ORGS)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })
    }

    fn tags(&mut self, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError> {
        Self::tags(self, org, sandbox)
    }

    fn tag_keys(
        &mut self,
        org: &str,
        after: &str,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Vec<TagKey>, LedgerError> {
        self.of_figures(cancel, |figures| listing::tag_keys(figures.conn, org, after, limit))
    }

    fn set_tags(&mut self, set: &TagSet) -> Result<TagsNow, LedgerError> {
        Editor::open(self.path())?.set_tags(set)
    }

    fn create_token(
        &mut self,
        org: &str,
        role: Role,
        at_unix_ns: i64,
    ) -> Result<(Token, String), LedgerError> {
        Editor::open(self.path())?.create_token(org, role, at_unix_ns)
    }

    fn tokens(&mut self) -> Result<Vec<Token>, LedgerError> {
        self.all_tokens()
    }

    fn revoke_token(&mut self, id: &str, at_unix_ns: i64) -> Result<bool, LedgerError> {
        Editor::open(self.path())?.revoke_token(id, at_unix_ns)
    }
}
