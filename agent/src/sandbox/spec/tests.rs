use super::*;

/// A small sandbox, of which nothing is needed on the host.
pub(in crate::sandbox) fn small() -> SandboxSpec {
    SandboxSpec {
        qemu: None,
        machine: "q35".to_owned(),
        cpu: None,
        accel: None,
        memory_bytes: 256 << 20,
        memory_max_bytes: 256 << 20,
        memory_shared: false,
        vcpus: 2,
        disks: Vec::new(),
        kernel: None,
        initrd: None,
        append: None,
        extra_arguments: Vec::new(),
    }
}

fn places() -> Places {
    Places { program: "/usr/bin/qemu".into(), qmp: "/run/a,b.qmp".into(), memory: "/ram".into() }
}

fn made_of(spec: &SandboxSpec) -> String {
    argv(spec, &places(), "acme/sb-1").join(" ")
}

#[test]
fn a_small_sandbox_has_memory_processors_and_a_socket_of_the_agents_own() {
    assert_eq!(
        made_of(&small()),
        "/usr/bin/qemu -nodefaults -no-user-config -name acme/sb-1 -display none -machine q35,memory-backend=ram0 \
         -smp 2 -m 256M -object memory-backend-ram,id=ram0,size=256M,reserve=off -accel kvm -accel tcg \
         -action panic=pause -device pvpanic-pci -qmp unix:/run/a,,b.qmp,server=on,wait=off"
    );
}

#[test]
fn memory_that_can_grow_is_a_virtio_mem_device_of_the_difference_in_files_where_it_is_shared() {
    let spec = SandboxSpec { memory_max_bytes: 2 << 30, memory_shared: true, ..small() };
    let made = made_of(&spec);
    for part in [
        "-m 256M,slots=1,maxmem=2048M",
        "-object memory-backend-file,id=ram0,size=256M,mem-path=/ram/ram0.ram,share=on",
        "-object memory-backend-file,id=vmem0,size=1792M,mem-path=/ram/vmem0.ram,share=on",
        "-device virtio-mem-pci,memdev=vmem0,id=vm0,block-size=2M",
    ] {
        assert!(made.contains(part), "{part} is not in {made}");
    }
}

#[test]
fn disks_have_names_that_stay_and_what_is_extra_comes_last() {
    let disk =
        |path: &str, format, read_only| DiskSpec { path: path.into(), format, size_bytes: None, read_only };
    let spec = SandboxSpec {
        disks: vec![disk("/d/a,b.qcow2", DiskFormat::Qcow2, false), disk("/dev/vg/b", DiskFormat::Raw, true)],
        kernel: Some("/boot/vmlinuz".into()),
        append: Some("quiet x=1".to_owned()),
        accel: Some("tcg".to_owned()),
        extra_arguments: vec!["-device".to_owned(), "virtio-rng-pci".to_owned()],
        ..small()
    };
    let made = made_of(&spec);
    for part in [
        "-blockdev driver=qcow2,node-name=disk0,file.driver=file,file.filename=/d/a,,b.qcow2 \
         -device virtio-blk-pci,drive=disk0,id=vd0",
        "-blockdev driver=raw,node-name=disk1,read-only=on,file.driver=file,file.filename=/dev/vg/b",
        "-accel tcg",
        "-kernel /boot/vmlinuz -append quiet x=1",
    ] {
        assert!(made.contains(part), "{part} is not in {made}");
    }
    assert!(made.ends_with("server=on,wait=off -device virtio-rng-pci"), "{made}");
}

#[test]
fn what_the_agent_makes_can_be_started_again() {
    let spec = SandboxSpec { memory_max_bytes: 1 << 30, memory_shared: true, ..small() };
    assert_eq!(crate::process::repeatable(&argv(&spec, &places(), "acme/sb-1").into()), Ok(()));
}

#[test]
fn what_cannot_be_is_refused_with_what_to_write_instead() {
    assert_eq!(small().check(), Ok(()));
    let disk = |path: &str, size_bytes| DiskSpec {
        path: path.into(),
        format: DiskFormat::Raw,
        size_bytes,
        read_only: false,
    };
    for (spec, part) in [
        (SandboxSpec { memory_bytes: 0, ..small() }, "blocks of 2MiB"),
        (SandboxSpec { memory_bytes: 3 << 20, ..small() }, "blocks of 2MiB"),
        (SandboxSpec { memory_max_bytes: 2 << 20, ..small() }, "less than memory"),
        (SandboxSpec { vcpus: 0, ..small() }, "write 1 to"),
        (SandboxSpec { disks: vec![disk("a.img", None)], ..small() }, "write it in full"),
        (SandboxSpec { disks: vec![disk("/a.img", Some(100))], ..small() }, "multiple of 512"),
        (SandboxSpec { append: Some("quiet".to_owned()), ..small() }, "go with a kernel"),
        (SandboxSpec { cpu: Some(String::new()), ..small() }, "is empty"),
        (SandboxSpec { extra_arguments: vec!["a\0".to_owned()], ..small() }, "NUL"),
        (SandboxSpec { kernel: Some("vmlinuz".into()), ..small() }, "kernel vmlinuz is not absolute"),
    ] {
        let why = spec.check().unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}
