//! Sandboxes, how they are found again, and what happened to them beside their slices.

use rusqlite::OptionalExtension;

use dormouse_metering::Stamp;

use super::Apply;
use crate::encode::int;
use crate::outbox::Draft;
use crate::{AttachmentUpdate, LedgerError, LifecycleEvent, PluggedByDevice, SandboxKey, SandboxSeen};

const FIND: &str =
    "SELECT pk, created_unix_ns, plan FROM sandboxes WHERE org = ?1 AND sandbox = ?2 AND generation = ?3";

const SEEN: &str = "INSERT INTO sandboxes (org, sandbox, generation, plan, lifecycle, created_unix_ns) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const ATTACHMENT: &str = "INSERT INTO attachments (sandbox_pk, attachment) VALUES (?1, ?2) \
     ON CONFLICT (sandbox_pk) DO UPDATE SET attachment = excluded.attachment, \
     unheard_boot = NULL, unheard_boottime_ns = NULL, unheard_unix_ns = NULL";

const UNHEARD: &str = "UPDATE attachments SET unheard_boot = ?2, unheard_boottime_ns = ?3, unheard_unix_ns = ?4 \
     WHERE sandbox_pk = ?1 AND unheard_boot IS NULL";

const NOBODY_HEARD: &str = "UPDATE attachments SET unheard_boot = ?1, unheard_boottime_ns = ?2, unheard_unix_ns = ?3 \
     WHERE unheard_boot IS NULL AND sandbox_pk IN (SELECT pk FROM sandboxes WHERE ended_unix_ns IS NULL)";

const PLUGGED: &str = "UPDATE attachments SET plugged_by_device = ?2 WHERE sandbox_pk = ?1";

const STANDS: &str = "UPDATE sandboxes SET lifecycle = coalesce(?2, lifecycle), plan = coalesce(?3, plan) \
     WHERE pk = ?1 AND (lifecycle <> coalesce(?2, lifecycle) OR plan <> coalesce(?3, plan))";

/// The row of a sandbox.
struct Known {
    /// Its key in the file.
    pk: i64,
    created_unix_ns: i64,
    /// Its plan as it is now: events that are committed now carry it.
    plan: String,
}

impl Apply<'_> {
    fn find(&self, key: &SandboxKey) -> Result<Option<Known>, LedgerError> {
        let mut find = self.conn.prepare_cached(FIND)?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Known { pk: row.get(0)?, created_unix_ns: row.get(1)?, plan: row.get(2)? })
        };
        Ok(find.query_row((&key.org, &key.sandbox, key.generation), row).optional()?)
    }

    /// The row of a sandbox that must be known.
    fn known(&self, key: &SandboxKey) -> Result<Known, LedgerError> {
        self.find(key)?.ok_or_else(|| LedgerError::UnknownSandbox(key.clone()))
    }

    /// The key in the file of a sandbox that must be known.
    pub(super) fn pk(&self, key: &SandboxKey) -> Result<i64, LedgerError> {
        self.known(key).map(|known| known.pk)
    }

    pub(super) fn sandbox_seen(&self, seen: &SandboxSeen) -> Result<(), LedgerError> {
        let key = &seen.key;
        match self.find(key)? {
            Some(known) if known.created_unix_ns == seen.created_unix_ns => return Ok(()),
            Some(_) => return Err(LedgerError::Conflict { what: format!("creation of sandbox {key}") }),
            None => {}
        }
        let mut insert = self.conn.prepare_cached(SEEN)?;
        let pk = insert.insert(rusqlite::params![
            key.org,
            key.sandbox,
            key.generation,
            seen.plan,
            seen.lifecycle,
            seen.created_unix_ns
        ])?;
        self.conn.prepare_cached(ATTACHMENT)?.execute((pk, seen.attachment.to_string()))?;
        Ok(())
    }

    pub(super) fn attachment(&mut self, update: &AttachmentUpdate) -> Result<(), LedgerError> {
        let pk = self.pk(&update.key)?;
        if let Some(attachment) = &update.attachment {
            self.conn.prepare_cached(ATTACHMENT)?.execute((pk, attachment.to_string()))?;
        }
        if update.lifecycle.is_some() || update.plan.is_some() {
            self.conn.prepare_cached(STANDS)?.execute((pk, &update.lifecycle, &update.plan))?;
            self.lives.forget_one(&update.key);
        }
        Ok(())
    }

    /// The first stamp counts: nothing was heard in between.
    pub(super) fn unheard(&self, key: &SandboxKey, since: Stamp) -> Result<(), LedgerError> {
        let boottime_ns = int("boottime", since.boottime_ns)?;
        let values = (self.pk(key)?, since.boot.0, boottime_ns, since.wall_ns);
        self.conn.prepare_cached(UNHEARD)?.execute(values)?;
        Ok(())
    }

    pub(super) fn nobody_heard(&self, since: Stamp) -> Result<(), LedgerError> {
        let values = (since.boot.0, int("boottime", since.boottime_ns)?, since.wall_ns);
        self.conn.prepare_cached(NOBODY_HEARD)?.execute(values)?;
        Ok(())
    }

    pub(super) fn plugged_by_device(
        &self,
        key: &SandboxKey,
        plugged: &PluggedByDevice,
    ) -> Result<(), LedgerError> {
        let values = (self.pk(key)?, serde_json::json!(plugged).to_string());
        self.conn.prepare_cached(PLUGGED)?.execute(values)?;
        Ok(())
    }

    pub(super) fn lifecycle(&mut self, event: &LifecycleEvent) -> Result<(), LedgerError> {
        let plan = self.known(&event.key)?.plan;
        Draft::lifecycle(event, &plan, self.head.host_seq + 1)?.append(self.conn, self.host, self.head)
    }
}
