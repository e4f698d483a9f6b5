//! When something happened, as one host knows it.

use std::fmt;

/// One boot of one host: the kernel's `/proc/sys/kernel/random/boot_id`.
///
/// `CLOCK_BOOTTIME` readings compare only within one boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub [u8; 16]);

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

impl fmt::Display for BootId {
    /// Writes 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl BootId {
    /// Reads a boot id from 32 hexadecimal digits, with or without the dashes of a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut digits = text.trim().chars().filter(|c| *c != '-');
        for byte in &mut bytes {
            let high = digits.next()?.to_digit(16)?;
            let low = digits.next()?.to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        digits.next().is_none().then_some(Self(bytes))
    }
}

/// A moment in the life of a host, and how far before it the thing observed may really have happened.
///
/// Durations are differences of `boottime_ns` within one boot; `wall_ns` only places them. The truth lies
/// in `[stamp - uncertainty_ns, stamp]`: an exact stamp has an uncertainty of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The boot in which `boottime_ns` was read.
    pub boot: BootId,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub boottime_ns: u64,
    /// Nanoseconds since the Unix epoch: the boot's anchor plus a boottime difference.
    pub wall_ns: i64,
    /// How much earlier than this stamp the thing may have happened, in nanoseconds.
    pub uncertainty_ns: u64,
}

impl Stamp {
    /// The same moment `ns` earlier, exact. Saturates at the start of the boot.
    #[must_use]
    pub fn earlier_by(self, ns: u64) -> Self {
        let ns = ns.min(self.boottime_ns);
        Self {
            boottime_ns: self.boottime_ns - ns,
            wall_ns: self.wall_ns.saturating_sub_unsigned(ns),
            uncertainty_ns: 0,
            ..self
        }
    }

    /// The same moment `ns` later, exact.
    #[must_use]
    pub fn later_by(self, ns: u64) -> Self {
        Self {
            boottime_ns: self.boottime_ns.saturating_add(ns),
            wall_ns: self.wall_ns.saturating_add_unsigned(ns),
            uncertainty_ns: 0,
            ..self
        }
    }

    /// The same moment, of which it is only known that it lies within `uncertainty_ns` before.
    #[must_use]
    pub fn uncertain_by(self, uncertainty_ns: u64) -> Self {
        Self { uncertainty_ns, ..self }
    }
}
