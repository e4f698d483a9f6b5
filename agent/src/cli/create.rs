//! `dormouse create`: starts a sandbox from a spec.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::config::section::{Section, section};
use crate::config::wrong_keys;
use crate::proto::{CreateRequest, DiskSpec, SandboxSpec};
use crate::size;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// What the sandbox is made of, in TOML: memory, vcpus, disks, kernel and more; --help has all keys
    #[arg(long, value_name = "FILE", long_help = KEYS_HELP)]
    spec: PathBuf,
}

section! {
    /// What the file may say. Sizes are written as people write them; what is not given is as the agent has it.
    SpecFile {
        org: Option<String> = None,
        plan: String = String::new(),
        tags: BTreeMap<String, String> = BTreeMap::new(),
        qemu: String = String::new(),
        machine: String = String::new(),
        cpu: String = String::new(),
        accel: String = String::new(),
        memory: String = String::new(),
        memory_max: String = String::new(),
        memory_shared: bool = false,
        vcpus: u32 = 1,
        kernel: String = String::new(),
        initrd: String = String::new(),
        append: String = String::new(),
        extra_arguments: Vec<String> = Vec::new(),
    }
    sections {
        disks: Vec<DiskFile> = Vec::new(),
    }
}

section! {
    /// A disk in it.
    DiskFile {
        path: String = String::new(),
        format: String = String::new(),
        size: String = String::new(),
        read_only: bool = false,
    }
    sections {}
}

const KEYS_HELP: &str = "\
What the sandbox is made of, in TOML. Paths are absolute, on the agent's host:

memory = \"512MiB\"         what it boots with, a multiple of 2MiB
memory_max = \"4GiB\"       what it can be scaled to, by a virtio-mem device [default: memory]
memory_shared = false     memory in files, which hibernation by `shared` needs
vcpus = 2                 [default: 1]
machine = \"q35\"           machine type, with its options
cpu, accel, qemu          processor, accelerator, program [default: QEMU's, KVM or else TCG, as configured]
kernel, initrd, append    what it boots, where that is not on a disk
extra_arguments = []      of QEMU, word by word, after all others
org, plan, tags           whose it is, how it is billed, and its tags at first
[[disks]]                 by virtio-blk, in order:
path = \"/srv/sb.qcow2\"
format = \"qcow2\"          or raw
size = \"20GiB\"            where there is no image, one of this size is made
read_only = false";

pub(super) async fn run(mut args: Args, context: &Context) -> Result<Exit, Failure> {
    let path = args.spec.display();
    let text = std::fs::read_to_string(&args.spec)
        .map_err(|error| Failure::usage(format!("the spec {path} cannot be read: {error}")))?;
    let file = read(&text).map_err(|why| Failure::usage(format!("{path}:{why}")))?;
    if let Some(org) = &file.org {
        let target = &mut args.asked.target;
        if target.org != "default" && target.org != *org {
            let told = format!("--org says {}, and {path} says {org}: leave one out", target.org);
            return Err(Failure::usage(told));
        }
        target.org.clone_from(org);
    }
    let (plan, tags) = (file.plan.clone(), file.tags.clone().into_iter().collect());
    let spec = spec(file).map_err(|why| Failure::usage(format!("{path}: {why}")))?;
    let call = async |mut agent: Agent, header| {
        agent.create(CreateRequest { header: Some(header), spec: Some(spec), plan, tags }).await
    };
    context.carry_out_long(&args.asked, call).await
}

fn read(text: &str) -> Result<SpecFile, String> {
    if let Some(problem) = wrong_keys(text, SpecFile::KEYS) {
        let place = problem.place.map_or_else(String::new, |place| format!("{place}: "));
        return Err(format!("{place}{}", problem.message));
    }
    toml::from_str(text).map_err(|error| format!(" {error}"))
}

fn spec(file: SpecFile) -> Result<SandboxSpec, String> {
    let bytes = |key: &str, text: &str| match text {
        "" => Ok(0),
        text => size::parse(text).map_err(|why| format!("{key}: {why}")),
    };
    let disk = |disk: DiskFile| {
        let DiskFile { path, format, size, read_only } = disk;
        Ok(DiskSpec { size_bytes: bytes("size", &size)?, path, format, read_only })
    };
    Ok(SandboxSpec {
        memory_bytes: bytes("memory", &file.memory)?,
        memory_max_bytes: bytes("memory_max", &file.memory_max)?,
        disks: file.disks.into_iter().map(disk).collect::<Result<_, String>>()?,
        qemu: file.qemu,
        machine: file.machine,
        cpu: file.cpu,
        accel: file.accel,
        memory_shared: file.memory_shared,
        vcpus: file.vcpus,
        kernel: file.kernel,
        initrd: file.initrd,
        append: file.append,
        extra_arguments: file.extra_arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_with_sizes_as_people_write_them() {
        let text = "memory = \"512MiB\"\nmemory_max = \"2G\"\norg = \"acme\"\n[tags]\nteam = \"x\"\n\
                    [[disks]]\npath = \"/d.qcow2\"\nsize = \"1GiB\"\n";
        let file = read(text).unwrap();
        assert_eq!((file.org.as_deref(), file.tags["team"].as_str()), (Some("acme"), "x"));
        let made = spec(file).unwrap();
        assert_eq!((made.memory_bytes, made.memory_max_bytes), (512 << 20, 2 << 30));
        assert_eq!((made.disks[0].path.as_str(), made.disks[0].size_bytes), ("/d.qcow2", 1 << 30));
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_with_its_place_and_the_nearest_one() {
        let why = read("memory = \"1GiB\"\nmemory_mux = \"2GiB\"\n").unwrap_err();
        assert_eq!(why, "2:1: unknown key `memory_mux`: did you mean `memory_max`?");
        let why = read("[[disks]]\npth = \"/d\"\n").unwrap_err();
        assert_eq!(why, "2:1: unknown key `disks.pth`: did you mean `disks.path`?");
        assert!(spec(read("memory = \"1 GB\"\n").unwrap()).unwrap_err().starts_with("memory: "));
    }
}
