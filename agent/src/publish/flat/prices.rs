//! What quantities cost, in whole cents. Pure, and in integers.

use dormouse_metering::Quantities;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::publish::sink::SinkError;

/// One GiB, or a thousand thousandths of a vCPU, for one hour, of which one costs a millionth of a cent.
const HOUR_NS: u128 = 3_600_000_000_000;
const MICRO: u128 = 1_000_000;
const GIB: u128 = 1 << 30;
const MILLI: u128 = 1_000;
/// GiB and thousandths of a vCPU divide this: `GIB * GIB_IN_COMMON == MILLI * MILLI_IN_COMMON`.
const GIB_IN_COMMON: u128 = 125;
const MILLI_IN_COMMON: u128 = 1 << 27;

/// Prices of an hour, in millionths of a cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prices {
    /// Of one GiB of memory.
    memory_gib: u64,
    /// Of one vCPU.
    vcpu: u64,
    /// Of one GiB of disk above the free allowance.
    disk_gib: u64,
}

impl From<&config::Sink> for Prices {
    fn from(sink: &config::Sink) -> Self {
        Self {
            memory_gib: sink.memory_gib_hour_microcents,
            vcpu: sink.vcpu_hour_microcents,
            disk_gib: sink.disk_gib_hour_microcents,
        }
    }
}

impl Prices {
    /// What quantities cost together, floored once.
    pub(super) fn cents(&self, held: &Quantities) -> Result<u128, SinkError> {
        self.sum(held)
            .ok_or_else(|| SinkError::NoEvents("the cost of a life is too large to be told".to_owned()))
    }

    /// Each quantity is divided before it is multiplied, whole cents and rest apart, so that 128 bits hold any life.
    fn sum(&self, held: &Quantities) -> Option<u128> {
        let (gib, milli) = (GIB * HOUR_NS * MICRO, MILLI * HOUR_NS * MICRO);
        let mut cents = 0_u128;
        let mut rest = 0_u128;
        for (quantity, price, unit, in_common) in [
            (held.memory_byte_ns, self.memory_gib, gib, GIB_IN_COMMON),
            (held.disk_overage_byte_ns, self.disk_gib, gib, GIB_IN_COMMON),
            (held.vcpu_milli_ns, self.vcpu, milli, MILLI_IN_COMMON),
        ] {
            let (quantity, price) = (u128::try_from(quantity).ok()?, u128::from(price));
            let of_rest = (quantity % unit).checked_mul(price)?;
            cents = cents.checked_add((quantity / unit).checked_mul(price)?)?.checked_add(of_rest / unit)?;
            rest = rest.checked_add((of_rest % unit).checked_mul(in_common)?)?;
        }
        cents.checked_add(rest / (gib * GIB_IN_COMMON))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantities(memory_byte_ns: i128, vcpu_milli_ns: i128, disk_overage_byte_ns: i128) -> Quantities {
        Quantities { memory_byte_ns, vcpu_milli_ns, disk_overage_byte_ns, ..Quantities::default() }
    }

    #[test]
    fn two_gib_two_vcpus_and_disk_for_half_an_hour_cost_what_the_table_says() {
        let prices = Prices { memory_gib: 1_500_000, vcpu: 2_250_000, disk_gib: 10_000 };
        let half_hour = 1_800_000_000_000_i128;
        let held = quantities((2 << 30) * half_hour, 2_000 * half_hour, (100 << 30) * half_hour);
        // 1.5 + 2.25 + 0.5 cents.
        assert_eq!(prices.cents(&held).expect("it fits"), 4);
        let twice = quantities((4 << 30) * half_hour, 4_000 * half_hour, (200 << 30) * half_hour);
        assert_eq!(prices.cents(&twice).expect("it fits"), 8);
    }

    #[test]
    fn a_tebibyte_for_a_hundred_years_fits_at_ten_thousand_times_the_price() {
        let prices = Prices { memory_gib: 15_000_000_000, vcpu: 0, disk_gib: 0 };
        let hours = 876_600_u128;
        let held = quantities((1_i128 << 40) * 3_600_000_000_000 * 876_600, 0, 0);
        assert_eq!(prices.cents(&held).expect("it fits"), 1_024 * hours * 15_000);
    }

    proptest! {
        #[test]
        fn what_is_floored_is_the_exact_sum(
            held_memory in 0_u64..1 << 60, held_vcpu in 0_u64..1 << 50, held_disk in 0_u64..1 << 60,
            memory_gib in 0_u64..10_000_000, vcpu in 0_u64..10_000_000, disk_gib in 0_u64..1_000_000,
        ) {
            let prices = Prices { memory_gib, vcpu, disk_gib };
            let held = quantities(held_memory.into(), held_vcpu.into(), held_disk.into());
            let of = |quantity: u64, price: u64| u128::from(quantity) * u128::from(price);
            let exact = (of(held_memory, memory_gib) + of(held_disk, disk_gib)) * GIB_IN_COMMON
                + of(held_vcpu, vcpu) * MILLI_IN_COMMON;
            prop_assert_eq!(prices.cents(&held).expect("it fits"), exact / (GIB * GIB_IN_COMMON * HOUR_NS * MICRO));
        }
    }
}
