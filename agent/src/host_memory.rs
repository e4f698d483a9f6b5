//! Whether the host has memory for a sandbox to grow or to be started. The decision is pure; [`HostMemory::read`] reads, and
//! [`HostMemoryGate`] brings the two together for all sandboxes of a host. It asks nobody how much a sandbox takes, and
//! gives no memory to anybody.
//!
//! What was plugged and not touched yet still counts as available: how far a host may be overcommitted that way is for
//! whoever places sandboxes to say.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

const MEMINFO: &str = "/proc/meminfo";
const PRESSURE: &str = "/proc/pressure/memory";

/// What the kernel says of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// `MemAvailable`: what can be had without swapping, in bytes.
    pub available_bytes: u64,
    /// The share of the last 10 s in which some task waited for memory, in hundredths of a per cent (PSI,
    /// `some avg10`). `None` where the kernel does not say.
    pub stalled_centipercent: Option<u32>,
}

/// What is kept for the host itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// What stays available whatever is asked, in bytes.
    pub available_bytes_min: u64,
    /// Above this share of stalled time nothing grows, in hundredths of a per cent. `None`: whatever it is.
    pub stalled_centipercent_max: Option<u32>,
}

/// Why a sandbox may not grow or be started, with the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// There is not enough.
    #[error(
        "the host has {available_bytes} bytes available, {promised_bytes} of them are promised to others and \
         {reserve_bytes} are its reserve: {wanted_bytes} more do not fit"
    )]
    NotEnough {
        /// What was asked for.
        wanted_bytes: u64,
        /// What can be had without swapping.
        available_bytes: u64,
        /// What was granted to others who have not taken it yet.
        promised_bytes: u64,
        /// What is kept for the host.
        reserve_bytes: u64,
    },
    /// There is enough, but what runs waits for memory already.
    #[error(
        "something on the host waited for memory for {stalled_centipercent} hundredths of a per cent of the \
         last 10 s; nothing grows or is started above {stalled_centipercent_max}"
    )]
    Stalled {
        /// What the kernel says.
        stalled_centipercent: u32,
        /// What is allowed.
        stalled_centipercent_max: u32,
    },
}

/// Why the host's memory is not known.
#[derive(Debug, thiserror::Error)]
pub enum HostMemoryError {
    /// The kernel does not say.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel says something else than proc(5) describes.
    #[error("{path} is not as proc(5) describes")]
    Malformed {
        /// The file.
        path: &'static str,
    },
}

/// Decides whether a sandbox may take `wanted_bytes`, when `promised_bytes` were granted to others who
/// have not taken them yet, so that `MemAvailable` still counts them.
pub fn admit(
    wanted_bytes: u64,
    promised_bytes: u64,
    memory: HostMemory,
    reserve: Reserve,
) -> Result<(), Denial> {
    let reserve_bytes = reserve.available_bytes_min;
    let free_bytes = memory.available_bytes.saturating_sub(promised_bytes).saturating_sub(reserve_bytes);
    if wanted_bytes > free_bytes {
        let available_bytes = memory.available_bytes;
        return Err(Denial::NotEnough { wanted_bytes, available_bytes, promised_bytes, reserve_bytes });
    }
    match (memory.stalled_centipercent, reserve.stalled_centipercent_max) {
        (Some(stalled_centipercent), Some(stalled_centipercent_max))
            if stalled_centipercent > stalled_centipercent_max =>
        {
            Err(Denial::Stalled { stalled_centipercent, stalled_centipercent_max })
        }
        _ => Ok(()),
    }
}

impl HostMemory {
    /// Reads it now. A kernel without PSI is no error.
    pub fn read() -> Result<Self, HostMemoryError> {
        let meminfo = std::fs::read_to_string(MEMINFO)
            .map_err(|source| HostMemoryError::Read { path: MEMINFO, source })?;
        let available_bytes =
            available_bytes(&meminfo).ok_or(HostMemoryError::Malformed { path: MEMINFO })?;
        // The file is there and cannot be read where PSI is switched off at boot.
        let stalled_centipercent = match std::fs::read_to_string(PRESSURE) {
            Ok(pressure) => {
                Some(stalled_centipercent(&pressure).ok_or(HostMemoryError::Malformed { path: PRESSURE })?)
            }
            Err(_) => None,
        };
        Ok(Self { available_bytes, stalled_centipercent })
    }
}

/// Lets sandboxes grow and start one after the other, each beside what the others were promised. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostMemoryGate {
    reserve: Reserve,
    promised_bytes: Arc<Mutex<u64>>,
}

/// Memory that a sandbox was promised. Dropped once it has it, or will not take it.
#[derive(Debug)]
pub struct Promise {
    bytes: u64,
    promised_bytes: Arc<Mutex<u64>>,
}

/// Why a sandbox may not grow or be started now.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The host has not enough.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// What the host has is not known.
    #[error(transparent)]
    Unknown(#[from] HostMemoryError),
}

impl HostMemoryGate {
    /// A gate that keeps this for the host.
    pub fn new(reserve: Reserve) -> Self {
        Self { reserve, promised_bytes: Arc::default() }
    }

    /// Promises so much, if the host has it.
    pub fn promise(&self, wanted_bytes: u64) -> Result<Promise, GateError> {
        self.promise_of(HostMemory::read()?, wanted_bytes).map_err(GateError::Denied)
    }

    /// Keeps so much for a sandbox that gives it back only to take it again. Nobody is asked: it has that much now.
    pub fn keep(&self, bytes: u64) -> Promise {
        let mut promised_bytes = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *promised_bytes = promised_bytes.saturating_add(bytes);
        Promise { bytes, promised_bytes: Arc::clone(&self.promised_bytes) }
    }

    fn promise_of(&self, memory: HostMemory, wanted_bytes: u64) -> Result<Promise, Denial> {
        let mut promised_bytes = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        admit(wanted_bytes, *promised_bytes, memory, self.reserve)?;
        *promised_bytes = promised_bytes.saturating_add(wanted_bytes);
        Ok(Promise { bytes: wanted_bytes, promised_bytes: Arc::clone(&self.promised_bytes) })
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised_bytes = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *promised_bytes = promised_bytes.saturating_sub(self.bytes);
    }
}

/// `MemAvailable:   123 kB`
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// `some avg10=0.12 avg60=...`: always with two decimals.
fn stalled_centipercent(pressure: &str) -> Option<u32> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = line.split_ascii_whitespace().find_map(|part| part.strip_prefix("avg10="))?;
    let (whole, hundredths) = average.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const RESERVE: Reserve = Reserve { available_bytes_min: GIB, stalled_centipercent_max: Some(500) };

    fn memory(available_bytes: u64, stalled_centipercent: Option<u32>) -> HostMemory {
        HostMemory { available_bytes, stalled_centipercent }
    }

    #[test]
    fn what_fits_beside_reserve_and_promises_is_admitted_to_the_byte() {
        let calm = memory(4 * GIB, Some(0));
        assert_eq!(admit(2 * GIB, GIB, calm, RESERVE), Ok(()));
        let denial = admit(2 * GIB + 1, GIB, calm, RESERVE).unwrap_err();
        assert_eq!(
            denial,
            Denial::NotEnough {
                wanted_bytes: 2 * GIB + 1,
                available_bytes: 4 * GIB,
                promised_bytes: GIB,
                reserve_bytes: GIB,
            }
        );
        assert_eq!(admit(0, u64::MAX, calm, RESERVE), Ok(()));
        assert!(admit(1, u64::MAX, calm, RESERVE).is_err());
    }

    #[test]
    fn a_host_that_waits_for_memory_grows_nothing() {
        assert_eq!(admit(1, 0, memory(4 * GIB, Some(500)), RESERVE), Ok(()));
        let denial = admit(1, 0, memory(4 * GIB, Some(501)), RESERVE).unwrap_err();
        assert_eq!(denial, Denial::Stalled { stalled_centipercent: 501, stalled_centipercent_max: 500 });
        assert_eq!(admit(1, 0, memory(4 * GIB, None), RESERVE), Ok(()));
        let whatever = Reserve { stalled_centipercent_max: None, ..RESERVE };
        assert_eq!(admit(1, 0, memory(4 * GIB, Some(10_000)), whatever), Ok(()));
    }

    #[test]
    fn a_promise_counts_until_it_is_dropped() {
        let gate = HostMemoryGate::new(RESERVE);
        let calm = memory(4 * GIB, None);
        let first = gate.promise_of(calm, 2 * GIB).unwrap();
        let denial = gate.promise_of(calm, 2 * GIB).unwrap_err();
        assert!(matches!(denial, Denial::NotEnough { promised_bytes, .. } if promised_bytes == 2 * GIB));
        let second = gate.clone().promise_of(calm, GIB).unwrap();
        drop(first);
        assert!(gate.promise_of(calm, 2 * GIB).is_ok());
        drop(second);
        assert!(gate.promise_of(calm, 3 * GIB).is_ok());
    }

    #[test]
    fn what_is_kept_for_one_is_no_others_to_take_whatever_the_host_has() {
        let gate = HostMemoryGate::new(RESERVE);
        let calm = memory(4 * GIB, None);
        let kept = gate.keep(8 * GIB);
        assert!(gate.promise_of(calm, 1).is_err());
        drop(kept);
        assert!(gate.promise_of(calm, 3 * GIB).is_ok());
    }

    #[test]
    fn the_kernel_s_files_are_read() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   123 kB\n"), Some(123 * 1024));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
        let pressure =
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00 total=1\n";
        assert_eq!(stalled_centipercent(pressure), Some(1234));
        assert_eq!(stalled_centipercent("full avg10=9.00\n"), None);
        assert!(HostMemory::read().unwrap().available_bytes > 0);
    }
}
