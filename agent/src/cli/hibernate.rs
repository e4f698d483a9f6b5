//! `dormouse hibernate`: writes a sandbox's state to disk and ends its QEMU.

use clap::ValueEnum;

use super::target::Asked;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// How to save
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// The cheapest that the sandbox's QEMU, memory and disks allow
    Auto,
    /// RAM stays in its files, only device state is written
    Shared,
    /// RAM is written to a file at fixed offsets
    MappedRam,
    /// RAM is written into a qcow2 image
    Internal,
}
