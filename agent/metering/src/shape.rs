//! What a sandbox holds at an instant.

/// What a sandbox holds: vCPUs, memory and disk.
///
/// Memory is kept in its three parts, because the basis of a bill (plugged, requested, or the greater or
/// lesser of the two) is chosen when usage is computed, not when it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// vCPUs in thousandths: 2 vCPUs are 2000.
    pub vcpus_milli: u32,
    /// Memory that is always there, in bytes (`base-memory` of `query-memory-size-summary`).
    pub memory_base_bytes: u64,
    /// Memory plugged by virtio-mem, in bytes (the devices' `size`, summed).
    pub memory_plugged_bytes: u64,
    /// Memory asked of virtio-mem, in bytes (the devices' `requested-size`, summed).
    pub memory_requested_bytes: u64,
    /// Virtual size of the writable disks, in bytes, summed.
    pub disk_bytes: u64,
}
