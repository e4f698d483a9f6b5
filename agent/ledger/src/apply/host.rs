//! The host's clock and its proof of life.

use dormouse_metering::Stamp;

use super::Apply;
use crate::encode::int;
use crate::{Anchor, LedgerError};

const ANCHOR: &str = "INSERT INTO anchors (boot, boottime_ns, wall_ns, stepped_ns) VALUES (?1, ?2, ?3, ?4)";

/// A proof never goes back within a boot.
const PROOF: &str = "INSERT INTO proof_of_life (id, boot, boottime_ns, wall_ns) VALUES (1, ?1, ?2, ?3) \
     ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, boottime_ns = excluded.boottime_ns, \
     wall_ns = excluded.wall_ns WHERE boot <> excluded.boot OR boottime_ns < excluded.boottime_ns";

impl Apply<'_> {
    pub(super) fn anchor(&self, anchor: &Anchor) -> Result<(), LedgerError> {
        let boottime_ns = int("boottime_ns", anchor.boottime_ns)?;
        self.conn.prepare_cached(ANCHOR)?.execute((
            anchor.boot.0,
            boottime_ns,
            anchor.wall_ns,
            anchor.stepped_ns,
        ))?;
        Ok(())
    }

    pub(super) fn proof_of_life(&self, stamp: Stamp) -> Result<(), LedgerError> {
        let boottime_ns = int("boottime_ns", stamp.boottime_ns)?;
        self.conn.prepare_cached(PROOF)?.execute((stamp.boot.0, boottime_ns, stamp.wall_ns))?;
        Ok(())
    }
}
