//! Speaking to QEMU.
