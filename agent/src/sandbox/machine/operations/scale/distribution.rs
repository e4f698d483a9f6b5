//! How a size is divided among virtio-mem devices. Each takes whole blocks of its own size, which are powers of two.
//!
//! What is there stays where it is: a device grows or shrinks only as far as the others cannot take or give the
//! difference. The largest blocks come first, because smaller ones fit beside them and not the other way round.

use crate::sandbox::facts::MemoryDevice;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::size::Size;

/// What each device is to be asked for, in the order in which they are to be asked; only those whose request changes.
pub(super) fn distribute(
    memory_bytes: u64,
    base_bytes: u64,
    devices: &[MemoryDevice],
) -> Result<Vec<(String, u64)>, Refusal> {
    if devices.is_empty() {
        let message = "the sandbox has no virtio-mem device; start its QEMU with one to scale it";
        return Err(Refusal::new(Reason::NoMemoryDevice, message));
    }
    let max_bytes = devices.iter().fold(base_bytes, |sum, device| sum.saturating_add(device.max_bytes));
    let smallest = devices.iter().map(|device| device.block_bytes).min().unwrap_or(1).max(1);
    let refuse = |reason, message| {
        let refusal = Refusal::new(reason, message).with("min_bytes", base_bytes);
        Err(refusal.with("max_bytes", max_bytes).with("block_bytes", smallest))
    };
    let (asked, base, max) = (Size(memory_bytes), Size(base_bytes), Size(max_bytes));
    let Some(wanted_bytes) = memory_bytes.checked_sub(base_bytes).filter(|_| memory_bytes <= max_bytes)
    else {
        let message = format!("{asked} is out of bounds: this sandbox can have from {base} to {max}");
        return refuse(Reason::SizeOutOfBounds, message);
    };
    let order = by_block(devices);
    let shares = from_what_is_there(wanted_bytes, devices, &order)
        .or_else(|| from_nothing(wanted_bytes, devices, &order));
    let Some(shares) = shares else {
        let below = base_bytes + wanted_bytes / smallest * smallest;
        let message = format!(
            "{asked} does not come out even: above {base} memory comes in blocks of {}; {} and {} are nearest",
            Size(smallest),
            Size(below),
            Size(below.saturating_add(smallest).min(max_bytes))
        );
        return refuse(Reason::SizeMisaligned, message);
    };
    let changed = |(device, share): (&MemoryDevice, u64)| {
        (share != device.requested_bytes).then(|| (device.id.clone(), share))
    };
    Ok(devices.iter().zip(shares).filter_map(changed).collect())
}

/// The devices with the largest blocks first, otherwise as QEMU has them.
fn by_block(devices: &[MemoryDevice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..devices.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(devices[*index].block_bytes));
    order
}

/// Adds to what each was asked for, or takes from it, the last first.
fn from_what_is_there(wanted_bytes: u64, devices: &[MemoryDevice], order: &[usize]) -> Option<Vec<u64>> {
    let mut shares: Vec<u64> = devices.iter().map(|device| device.requested_bytes).collect();
    let asked_bytes: u64 = shares.iter().sum();
    if let Some(mut left) = asked_bytes.checked_sub(wanted_bytes) {
        let mut last_first = order.to_vec();
        last_first.reverse();
        last_first.sort_by_key(|index| std::cmp::Reverse(devices[*index].block_bytes));
        for index in last_first {
            let share = whole_blocks(left.min(shares[index]), &devices[index]);
            shares[index] -= share;
            left -= share;
        }
        return (left == 0).then_some(shares);
    }
    add(wanted_bytes - asked_bytes, shares, devices, order)
}

fn from_nothing(wanted_bytes: u64, devices: &[MemoryDevice], order: &[usize]) -> Option<Vec<u64>> {
    add(wanted_bytes, vec![0; devices.len()], devices, order)
}

fn add(mut left: u64, mut shares: Vec<u64>, devices: &[MemoryDevice], order: &[usize]) -> Option<Vec<u64>> {
    for index in order {
        let device = &devices[*index];
        let share = whole_blocks(left.min(device.max_bytes.saturating_sub(shares[*index])), device);
        shares[*index] += share;
        left -= share;
    }
    (left == 0).then_some(shares)
}

fn whole_blocks(bytes: u64, device: &MemoryDevice) -> u64 {
    bytes - bytes % device.block_bytes.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const BASE: u64 = 256 * MIB;

    fn device(id: usize, requested: u64, max: u64, block: u64) -> MemoryDevice {
        MemoryDevice {
            id: format!("vm{id}"),
            size_bytes: requested * MIB,
            requested_bytes: requested * MIB,
            max_bytes: max * MIB,
            block_bytes: block * MIB,
            address: 0,
            node: 0,
        }
    }

    fn divided(memory: u64, devices: &[MemoryDevice]) -> Result<Vec<(String, u64)>, Reason> {
        let shares = distribute(BASE + memory * MIB, BASE, devices).map_err(|refusal| refusal.reason)?;
        Ok(shares.into_iter().map(|(id, bytes)| (id, bytes / MIB)).collect())
    }

    fn named(shares: &[(&str, u64)]) -> Vec<(String, u64)> {
        shares.iter().map(|(id, mib)| ((*id).to_owned(), *mib)).collect()
    }

    #[test]
    fn one_after_the_other_is_filled_and_the_last_gives_back_first() {
        let empty = [device(0, 0, 1024, 2), device(1, 0, 1024, 2)];
        assert_eq!(divided(512, &empty), Ok(named(&[("vm0", 512)])));
        assert_eq!(divided(1536, &empty), Ok(named(&[("vm0", 1024), ("vm1", 512)])));
        let some = [device(0, 1024, 1024, 2), device(1, 512, 1024, 2)];
        assert_eq!(divided(1536, &some), Ok(named(&[])));
        assert_eq!(divided(1280, &some), Ok(named(&[("vm1", 256)])));
        assert_eq!(divided(256, &some), Ok(named(&[("vm0", 256), ("vm1", 0)])));
    }

    #[test]
    fn each_device_gets_whole_blocks_of_its_own() {
        let mixed = [device(0, 0, 1024, 2), device(1, 0, 1024, 128)];
        assert_eq!(divided(130, &mixed), Ok(named(&[("vm0", 2), ("vm1", 128)])));
        assert_eq!(divided(131, &mixed), Err(Reason::SizeMisaligned));
        // What the small blocks have goes over where it cannot be otherwise.
        let full = [device(0, 100, 100, 2), device(1, 0, 1024, 128)];
        assert_eq!(divided(130, &full), Ok(named(&[("vm0", 2), ("vm1", 128)])));
    }

    #[test]
    fn bounds_and_absent_devices_are_told() {
        assert_eq!(divided(0, &[]), Err(Reason::NoMemoryDevice));
        assert_eq!(divided(1026, &[device(0, 0, 1024, 2)]), Err(Reason::SizeOutOfBounds));
        let refusal = distribute(BASE - MIB, BASE, &[device(0, 0, 1024, 2)]).unwrap_err();
        assert_eq!(refusal.reason, Reason::SizeOutOfBounds);
        assert_eq!(refusal.metadata["max_bytes"], (BASE + 1024 * MIB).to_string());
    }

    fn devices() -> impl Strategy<Value = Vec<MemoryDevice>> {
        let one = (1..6_u32, 1..40_u64, 0..40_u64);
        prop::collection::vec(one, 1..4).prop_map(|devices| {
            let of = |(id, (power, max, asked)): (usize, (u32, u64, u64))| {
                let block = 1 << power;
                device(id, asked.min(max) * block, max * block, block)
            };
            devices.into_iter().enumerate().map(of).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_divided_adds_up_in_whole_blocks_and_only_what_cannot_is_refused(
            devices in devices(), wanted in 0..4000_u64
        ) {
            let max: u64 = devices.iter().map(|device| device.max_bytes).sum();
            match distribute(BASE + wanted * MIB, BASE, &devices) {
                Ok(shares) => {
                    let asked = |device: &MemoryDevice| {
                        let share = shares.iter().find(|(id, _)| *id == device.id);
                        share.map_or(device.requested_bytes, |(_, bytes)| *bytes)
                    };
                    prop_assert_eq!(devices.iter().map(asked).sum::<u64>(), wanted * MIB);
                    for device in &devices {
                        prop_assert!(asked(device) % device.block_bytes == 0);
                        prop_assert!(asked(device) <= device.max_bytes);
                    }
                }
                Err(refusal) if refusal.reason == Reason::SizeOutOfBounds => prop_assert!(wanted * MIB > max),
                Err(_) => prop_assert!(!possible(wanted * MIB, &devices)),
            }
        }
    }

    /// By trying everything.
    fn possible(wanted: u64, devices: &[MemoryDevice]) -> bool {
        let Some((first, rest)) = devices.split_first() else { return wanted == 0 };
        let most = first.max_bytes.min(wanted) / first.block_bytes;
        (0..=most).rev().any(|blocks| possible(wanted - blocks * first.block_bytes, rest))
    }
}
