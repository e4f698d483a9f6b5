//! QEMU's arguments: which of them another process can repeat, and what to leave out for a wake. Pure.

use serde_json::Value;

use super::Words;

/// QEMU's options without an argument, from 7.2 to 10. Every other option takes the next word, whatever it
/// looks like: `-append -S` does not stop the guest.
const WITHOUT_ARGUMENT: &[&str] = &[
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "old-param",
    "one-insn-per-tb",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// What a wake must not repeat: how the guest was brought in last time, and going into the background, by
/// which the agent would lose sight of QEMU. `-pidfile` stays: whoever reads it finds the woken QEMU.
const LEFT_OUT: [&str; 4] = ["S", "daemonize", "incoming", "loadvm"];

/// Keys whose value is a file descriptor, or several.
const DESCRIPTOR_KEYS: [&str; 4] = ["fd", "fds", "vhostfd", "vhostfds"];

/// Beginnings of values that name a file descriptor.
const DESCRIPTOR_PATHS: [&str; 4] = ["fd:", "/dev/fdset/", "/dev/fd/", "/proc/self/fd/"];

/// Options whose value is the path of a file; the empty name is a disk image without an option.
const PATH_OPTIONS: [&str; 12] =
    ["", "bios", "cdrom", "dtb", "fda", "hda", "hdb", "hdc", "hdd", "initrd", "kernel", "pflash"];

/// Keys whose value is the path of a file.
const PATH_KEYS: [&str; 4] = ["file", "filename", "mem-path", "path"];

/// Whether another process can be started with `argv` (program first) and be the same machine. If not, the
/// reasons, each naming the argument.
pub fn repeatable(argv: &Words) -> Result<(), Vec<String>> {
    let words: Vec<&str> = argv.iter().collect();
    let options = options(&words);
    // `-daemonize` goes to `/` after the paths were opened: where they were relative to is not known any more.
    let daemonized = options.iter().any(|option| option.name == "daemonize");
    let reasons: Vec<String> = options
        .iter()
        .filter_map(|option| option.obstacle().or_else(|| option.relative_path().filter(|_| daemonized)))
        .collect();
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// The arguments (program first) that wake the machine of `argv`: without `-incoming`, `-loadvm`, `-S` and
/// `-daemonize`, and with `extra` at the end.
pub fn wake_argv(argv: &Words, extra: &[&str]) -> Words {
    without(argv, &LEFT_OUT).iter().chain(extra).collect()
}

/// `argv` (program first) without the options of these names and their arguments.
pub(super) fn without<'a>(argv: &'a Words, names: &[&str]) -> Vec<&'a str> {
    let words: Vec<&str> = argv.iter().collect();
    let kept = options(&words).into_iter().filter(|option| !names.contains(&option.name));
    words.iter().take(1).chain(kept.flat_map(|option| option.words)).copied().collect()
}

/// One option as it stands in the arguments. A disk image without an option has an empty name.
struct Opt<'words, 'a> {
    name: &'a str,
    value: Option<&'a str>,
    words: &'words [&'a str],
}

fn options<'words, 'a>(argv: &'words [&'a str]) -> Vec<Opt<'words, 'a>> {
    let mut rest = argv.get(1..).unwrap_or_default();
    let mut options = Vec::new();
    while let Some(word) = rest.first() {
        // QEMU takes one dash or two.
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty());
        let length = match name {
            Some(name) if !WITHOUT_ARGUMENT.contains(&name) => rest.len().min(2),
            _ => 1,
        };
        let (words, after) = rest.split_at(length);
        let value = if name.is_some() { words.get(1) } else { Some(word) };
        options.push(Opt { name: name.unwrap_or_default(), value: value.copied(), words });
        rest = after;
    }
    options
}

impl Opt<'_, '_> {
    /// Why another process cannot repeat this option.
    fn obstacle(&self) -> Option<String> {
        if LEFT_OUT.contains(&self.name) {
            return None;
        }
        let text = self.words.join(" ");
        let why = match self.name {
            "add-fd" => Some("hands over a file descriptor"),
            "snapshot" => Some("keeps what the guest writes in files that end with the process"),
            "preconfig" => Some("has the machine configured by QMP before it starts"),
            "chroot" => Some("changes the root of the file system"),
            "runas" => Some("changes the user"),
            _ => self.value.and_then(|value| value_obstacle(self.name, value)),
        };
        why.map(|why| format!("`{text}` {why}"))
    }
}

impl Opt<'_, '_> {
    /// Says that the option names a file by a relative path, where it does.
    fn relative_path(&self) -> Option<String> {
        let value = self.value?;
        let parts = value.split(',').map(|part| part.split_once('=').unwrap_or(("", part)));
        let relative = parts.into_iter().any(|(key, value)| {
            let leaf = key.rsplit('.').next().unwrap_or(key);
            let names_file = PATH_KEYS.contains(&leaf) || key.is_empty() && PATH_OPTIONS.contains(&self.name);
            // `nbd://...`, `file:...`: what is before the colon is a protocol.
            names_file && !value.starts_with('/') && !value.contains(':')
        });
        let text = self.words.join(" ");
        relative
            .then(|| format!("`{text}` is relative to a folder that -daemonize has left; name it in full"))
    }
}

fn value_obstacle(option: &str, value: &str) -> Option<&'static str> {
    // Free text, in which anything may stand.
    if matches!(option, "append" | "name" | "uuid") {
        return None;
    }
    if value.trim_start().starts_with('{')
        && let Ok(json) = serde_json::from_str(value)
    {
        return json_obstacle(&json);
    }
    value.split(',').find_map(|part| match part.split_once('=') {
        Some((key, value)) => pair_obstacle(option, key, value),
        None => pair_obstacle(option, "", part),
    })
}

fn pair_obstacle(option: &str, key: &str, value: &str) -> Option<&'static str> {
    // `backing.file.filename=...`: the last part is the key.
    let leaf = key.rsplit('.').next().unwrap_or(key);
    if DESCRIPTOR_KEYS.contains(&leaf) || DESCRIPTOR_PATHS.iter().any(|path| value.starts_with(path)) {
        return Some("names a file descriptor of the old process");
    }
    match (option, leaf, value) {
        ("drive", "snapshot", "on" | "yes" | "true" | "y") => {
            Some("keeps what the guest writes in a file that ends with the process")
        }
        ("run-with", "chroot", _) => Some("changes the root of the file system"),
        ("run-with", "user", _) => Some("changes the user"),
        _ => None,
    }
}

fn json_obstacle(json: &Value) -> Option<&'static str> {
    match json {
        Value::Object(members) => members.iter().find_map(|(key, value)| match value {
            Value::String(text) => pair_obstacle("", key, text),
            other => pair_obstacle("", key, "").or_else(|| json_obstacle(other)),
        }),
        Value::Array(items) => items.iter().find_map(json_obstacle),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Words {
        line.split(' ').collect()
    }

    #[test]
    fn an_ordinary_sandbox_can_be_repeated() {
        let line = "qemu -nodefaults -S -m 256M,slots=1,maxmem=3G -smp 2 -daemonize -pidfile /run/q.pid \
            -object memory-backend-file,id=m0,mem-path=/dev/shm/m0,share=on,size=256M -incoming fd:3 \
            -qmp unix:/run/a.qmp,server=on,wait=off -netdev tap,id=n0,ifname=t0 --append fd=3";
        assert_eq!(repeatable(&argv(line)), Ok(()));
    }

    #[test]
    fn what_only_the_old_process_had_is_named() {
        for option in [
            "-netdev tap,id=n0,fd=24",
            "-netdev tap,id=n0,fds=24:25,vhostfds=26:27",
            "-chardev socket,id=c0,fd=9",
            "-add-fd fd=3,set=1",
            "-blockdev driver=file,node-name=d0,filename=/dev/fdset/1",
            r#"-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/dev/fdset/2"}}"#,
            r#"-netdev {"type":"tap","id":"n0","fd":"24"}"#,
            r#"-netdev {"type":"tap","id":"n0","fd":24}"#,
            "-drive file=/proc/self/fd/5,if=virtio",
            "-kernel /dev/fd/7",
            "/dev/fdset/3",
            "-snapshot",
            "--snapshot",
            "-drive file=a.qcow2,snapshot=on",
            "-preconfig",
            "-runas nobody",
            "-run-with user=nobody",
            "-chroot /srv",
        ] {
            let line = argv(&format!("qemu -m 1G {option} -nographic"));
            let reasons = repeatable(&line).expect_err(option);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].starts_with(&format!("`{option}` ")), "{reasons:?}");
        }
    }

    #[test]
    fn a_relative_path_cannot_be_repeated_once_daemonize_has_left_its_folder() {
        let relative =
            ["-kernel vmlinuz", "-drive file=a.qcow2,if=virtio", "-object m,mem-path=ram", "a.img"];
        for option in relative {
            assert_eq!(repeatable(&argv(&format!("qemu {option}"))), Ok(()), "{option}");
            let reasons = repeatable(&argv(&format!("qemu -daemonize {option}"))).expect_err(option);
            assert!(reasons[0].starts_with(&format!("`{option}` is relative")), "{reasons:?}");
        }
        let full = "qemu -daemonize -kernel /boot/vmlinuz -drive file=nbd:localhost:1 -append root=x /a.img";
        assert_eq!(repeatable(&argv(full)), Ok(()));
    }

    #[test]
    fn every_obstacle_is_named_not_only_the_first() {
        assert_eq!(repeatable(&argv("qemu -snapshot -chroot /srv")).unwrap_err().len(), 2);
    }

    #[test]
    fn a_wake_leaves_out_how_the_guest_came_in_last_time() {
        let line = argv("qemu -m 1G -S --incoming file:/x -daemonize -loadvm s1 -smp 2");
        assert_eq!(
            wake_argv(&line, &["-incoming", "defer", "-S"]),
            argv("qemu -m 1G -smp 2 -incoming defer -S")
        );
    }

    #[test]
    fn a_second_wake_is_made_of_the_same_arguments_as_the_first() {
        let extra = ["-incoming", "defer", "-S"];
        let first = wake_argv(&argv("qemu -m 1G disk.img"), &extra);
        assert_eq!(wake_argv(&first, &extra), first);
    }

    #[test]
    fn the_argument_of_an_option_is_never_taken_for_an_option() {
        let line = argv("qemu -append -S -name -daemonize -incoming");
        assert_eq!(wake_argv(&line, &[]), argv("qemu -append -S -name -daemonize"));
        assert!(wake_argv(&Words::default(), &[]).is_empty());
    }
}
