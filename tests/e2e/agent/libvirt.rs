//! A sandbox under libvirt: a real domain of libvirt's own QEMU driver, with a second monitor for Dormouse.
//!
//! `virt-qemu-run` is libvirt's driver without a daemon: the domain is defined, started and watched by libvirt, and
//! nothing of the machine's own libvirt is touched.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Stdio;

use dormouse_tests::wait;
use tokio::process::{Child, Command};

use crate::scene::{DEADLINE, Scene};

/// `nobody`, as whom libvirt needs no users of its own.
const NOBODY: u32 = 65_534;

const DOMAIN: &str = "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>sb-1</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:SOCKET,server=on,wait=off'/>
  </qemu:commandline>
</domain>
";

/// A domain that libvirt has started; `None` where there is no libvirt.
fn domain(folder: &Path, socket: &Path) -> Option<Child> {
    let root = folder.join("libvirt");
    std::fs::create_dir(&root).unwrap();
    let xml = root.join("sb-1.xml");
    std::fs::write(&xml, DOMAIN.replace("SOCKET", &socket.display().to_string())).unwrap();
    let mut command = Command::new("virt-qemu-run");
    command.arg("--root").arg(&root).arg(&xml).env("HOME", &root).env("XDG_RUNTIME_DIR", &root);
    if nix::unistd::Uid::effective().is_root() {
        for path in [folder, &root] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let log = std::fs::File::create(folder.join("libvirt.log")).unwrap();
    command.arg("--verbose").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    match command.kill_on_drop(true).spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("virt-qemu-run: {error}"),
    }
}

#[tokio::test]
async fn a_libvirt_domain_is_driven_over_a_second_monitor_and_libvirt_sees_what_becomes_of_it() {
    let scene = Scene::new().await;
    let socket = scene.folder().join("libvirt/sb-1.qmp");
    let Some(mut libvirt) = domain(scene.folder(), &socket) else {
        eprintln!("SKIPPED: there is no virt-qemu-run here; scripts/install-deps installs it");
        return;
    };
    let said = || std::fs::read_to_string(scene.folder().join("libvirt.log")).unwrap();
    wait::until("libvirt to have started its domain", DEADLINE, async || {
        wait::unless(said().contains("guest running"), said)
    })
    .await
    .unwrap();
    // Libvirt's user is another than the agent's, so the socket is named instead of found.
    let qmp = socket.display().to_string();
    wait::until("the domain to be attached", DEADLINE, async || {
        let attached = scene.agent.cli(&["attach", "sb-1", "--qmp", &qmp]).await;
        attached.and_then(dormouse_tests::agent::Output::succeeded).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    assert_eq!(scene.does(&["pause", "sb-1"]).await["sandbox"]["state"], "paused");
    assert_eq!(scene.does(&["resume", "sb-1"]).await["sandbox"]["state"], "running");
    // What libvirt has handed over as open descriptors, no command line can bring back.
    scene.refused(&["hibernate", "sb-1"], "METHOD_UNSUITABLE", "FAILED_PRECONDITION").await;
    assert!(libvirt.try_wait().unwrap().is_none(), "libvirt holds its domain");
    scene.does(&["destroy", "sb-1"]).await;
    wait::until("libvirt to see that its domain has ended", DEADLINE, async || {
        let log = std::fs::read_to_string(scene.folder().join("libvirt/log/qemu/sb-1.log"));
        let log = log.map_err(|error| error.to_string())?;
        wait::unless(log.contains("shutting down, reason="), || log.clone())
    })
    .await
    .unwrap();
    scene.audits_clean().await;
}
