//! `dormouse scale`: changes what a sandbox holds.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::ScaleRequest;
use crate::size;

#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("dimension").required(true).multiple(true)))]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Base and plugged memory together: 512MiB, 2GiB, 1.5GiB, or bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse, group = "dimension")]
    memory: Option<u64>,

    /// CPU time, in vCPUs: 2, 1.5, 0.25. At most as many as its QEMU was started with
    #[arg(long, value_name = "NUMBER", value_parser = size::parse_vcpus_milli, group = "dimension")]
    vcpus: Option<u32>,

    /// The new, larger size of a disk, by the name of its node: disk0=20GiB. May be repeated
    #[arg(long, value_name = "NODE=SIZE", value_parser = parse_disk, group = "dimension")]
    disk: Vec<(String, u64)>,

    /// Take memory away also where the guest says that it needs it
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Args { asked, memory: memory_bytes, vcpus: vcpus_milli, disk, force } = args;
    let disks: std::collections::HashMap<_, _> = disk.iter().cloned().collect();
    if disks.len() < disk.len() {
        return Err(Failure::usage("--disk names a disk twice: give each once"));
    }
    let call = async |mut agent: Agent, header| {
        agent.scale(ScaleRequest { header: Some(header), memory_bytes, vcpus_milli, disks, force }).await
    };
    context.carry_out_long(&asked, call).await
}

fn parse_disk(text: &str) -> Result<(String, u64), String> {
    let (node, bytes) = text.split_once('=').filter(|(node, _)| !node.is_empty()).ok_or_else(|| {
        format!("{text:?} names no disk and size: write disk0=20GiB; `dormouse show ID` names the disks")
    })?;
    Ok((node.to_owned(), size::parse(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_name_and_a_size() {
        assert_eq!(parse_disk("disk0=2GiB"), Ok(("disk0".to_owned(), 2 << 30)));
        for nonsense in ["disk0", "=2GiB", "disk0=", "disk0=2GB"] {
            assert!(parse_disk(nonsense).is_err(), "{nonsense}");
        }
    }
}
