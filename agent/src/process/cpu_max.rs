//! A limit on CPU time as cgroup v2 writes it in `cpu.max`: a quota in each period, both in microseconds. Pure.

use std::fmt;

/// The period that is written. With it every thousandth of a vCPU is a whole number of microseconds.
const PERIOD_US: u64 = 100_000;

/// The kernel takes no shorter quota.
const QUOTA_US_MIN: u64 = 1_000;

/// The least limit that can be written, in thousandths of a vCPU.
pub const VCPUS_MILLI_MIN: u32 = 10;

/// What is in `cpu.max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMax {
    /// `max`: as much as there is.
    Unlimited,
    /// So much time in each period.
    Limited {
        /// Microseconds of CPU time in each period.
        quota_us: u64,
        /// The period in microseconds.
        period_us: u64,
    },
}

impl CpuMax {
    /// The limit for so many thousandths of a vCPU. `None` is no limit.
    pub fn of_milli(milli: Option<u32>) -> Self {
        let limited = |milli: u32| Self::Limited {
            quota_us: (u64::from(milli) * PERIOD_US / 1000).max(QUOTA_US_MIN),
            period_us: PERIOD_US,
        };
        milli.map_or(Self::Unlimited, limited)
    }

    /// The limit in thousandths of a vCPU, rounded down: never more than the kernel gives. `None` is no limit.
    pub fn milli(self) -> Option<u32> {
        match self {
            Self::Unlimited => None,
            Self::Limited { quota_us, period_us } => {
                let milli = u128::from(quota_us) * 1000 / u128::from(period_us.max(1));
                Some(u32::try_from(milli).unwrap_or(u32::MAX))
            }
        }
    }

    /// Reads a line of `cpu.max`: `max 100000` or `150000 100000`. `None` where it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (quota, period_us) = (words.next()?, words.next()?.parse().ok()?);
        if words.next().is_some() || period_us == 0 {
            return None;
        }
        if quota == "max" {
            return Some(Self::Unlimited);
        }
        Some(Self::Limited { quota_us: quota.parse().ok()?, period_us })
    }
}

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => write!(f, "max {PERIOD_US}"),
            Self::Limited { quota_us, period_us } => write!(f, "{quota_us} {period_us}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_max_is_read_as_the_kernel_writes_it() {
        assert_eq!(CpuMax::parse("max 100000\n"), Some(CpuMax::Unlimited));
        let limited = CpuMax::Limited { quota_us: 150_000, period_us: 100_000 };
        assert_eq!(CpuMax::parse("150000 100000\n"), Some(limited));
        assert_eq!(limited.milli(), Some(1500));
        for nonsense in ["", "max", "1", "-1 100000", "1 0", "1.5 100000", "max 1 2", "min 100000"] {
            assert_eq!(CpuMax::parse(nonsense), None, "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_asked_is_what_is_written_and_what_is_read_again(milli in VCPUS_MILLI_MIN..=4_096_000) {
            let written = CpuMax::of_milli(Some(milli)).to_string();
            prop_assert_eq!(CpuMax::parse(&written).and_then(CpuMax::milli), Some(milli), "{}", written);
        }

        #[test]
        fn a_limit_is_never_read_as_more_than_the_kernel_gives(
            quota_us in prop_oneof![0..=10_000_000_u64, any::<u64>()], period_us in 1..=1_000_000_u64
        ) {
            let limit = CpuMax::Limited { quota_us, period_us };
            let milli = u128::from(limit.milli().unwrap());
            prop_assert!(milli * u128::from(period_us) <= u128::from(quota_us) * 1000);
            prop_assert_eq!(CpuMax::parse(&limit.to_string()), Some(limit));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[max0-9 .-]{0,30}") {
            let _ = CpuMax::parse(&text).map(CpuMax::milli);
        }
    }
}
