//! The hash of what is not final yet of a life: its open slice, and what is pending.
//!
//! A closed slice is told by an event, whose hash shows a flipped bit. What is open is told by none: a bit flipped
//! there would be billed. So its hash lies beside it, and is looked at whenever it is read.

use blake3::{Hash, Hasher};
use dormouse_metering::{CommandId, Fault, OpenSlice};

/// A hash under way. What is pending is added in its order, as it is stored.
pub(crate) struct Standing(Hasher);

impl Standing {
    /// Begins with the open slice, if there is one.
    pub(crate) fn behind(open: Option<&OpenSlice>) -> Self {
        let mut standing = Self(Hasher::new());
        if let Some(open) = open {
            standing.open(open);
        }
        standing
    }

    fn open(&mut self, open: &OpenSlice) {
        let OpenSlice { seq, state, beneath, shape, start, boot, start_boottime_ns } = open;
        for number in [
            *seq,
            shape.vcpus_milli.into(),
            shape.memory_base_bytes,
            shape.memory_plugged_bytes,
            shape.memory_requested_bytes,
            shape.disk_bytes,
            start.unix_ns.cast_unsigned(),
            start.uncertainty_ns,
            *start_boottime_ns,
        ] {
            self.0.update(&number.to_le_bytes());
        }
        self.0.update(&boot.0);
        self.text(state.name());
        self.text(state.fault().map_or("", Fault::as_str));
        self.text(start.cause.as_str());
        self.text(start.command.as_ref().map_or("", CommandId::as_str));
        // Older versions knew of none, and their hashes stand.
        if let Some(beneath) = beneath {
            self.text(&beneath.to_string());
        }
    }

    /// Adds an observation that is pending.
    pub(crate) fn pending(&mut self, observation: &str) {
        self.text(observation);
    }

    fn text(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }

    /// The hash of it all.
    pub(crate) fn hash(&self) -> Hash {
        self.0.finalize()
    }
}
