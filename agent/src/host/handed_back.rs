//! Whether a sandbox whose socket is found was handed back by a detach: discovery leaves it alone until its QEMU is
//! another one, or somebody asks for it.

use dormouse_ledger::{LedgerError, Reader, SandboxFilter, SandboxRow, SliceCursor, SliceQuery};
use dormouse_metering::Cause;

use crate::process::Process;
use crate::sandbox::actor::Attachment;
use crate::sandbox::command::SandboxKey;

/// Slices read at once, on the way to a life's last.
const PAGE: usize = 1000;

/// True when the last life of that name ended by a detach and the QEMU that it had still lives.
pub(super) fn is_handed_back(reader: &Reader, key: &SandboxKey) -> Result<bool, LedgerError> {
    let filter = SandboxFilter {
        org: Some(key.org.clone()),
        sandbox: Some(key.sandbox.clone()),
        ..SandboxFilter::default()
    };
    let Some(last) = reader.sandboxes(&filter)?.pop() else { return Ok(false) };
    if last.ended_unix_ns.is_none() || !qemu_lives(&last) {
        return Ok(false);
    }
    Ok(last_cause(reader, &last)?.as_deref() == Some(Cause::Detach.as_str()))
}

fn qemu_lives(row: &SandboxRow) -> bool {
    let identity = Attachment::from_json(&row.attachment).and_then(|attachment| attachment.process());
    identity.is_some_and(|identity| matches!(Process::find_by(identity), Ok(Some(_))))
}

/// What closed the last slice of a life.
fn last_cause(reader: &Reader, row: &SandboxRow) -> Result<Option<String>, LedgerError> {
    let mut after = Some(SliceCursor { key: row.key.clone(), seq: 0 });
    let mut cause = None;
    while after.is_some() {
        let sandboxes = SandboxFilter {
            org: Some(row.key.org.clone()),
            sandbox: Some(row.key.sandbox.clone()),
            generation: Some(row.key.generation),
            live_only: false,
        };
        let page = reader.slices(&SliceQuery { sandboxes, window: None, after, limit: PAGE, now: None })?;
        cause = page.rows.last().and_then(|slice| slice.closed_by.clone()).or(cause);
        after = page.next;
    }
    Ok(cause)
}
