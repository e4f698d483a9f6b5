//! Hibernating and waking without Dormouse: by the same QMP commands and syncs, and as it is commonly done.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dormouse_tests::guest::Guest;

use crate::Error;
use crate::qmp::Bare;
use crate::stopwatch::Stopwatch;

/// As the common way has it.
const FIXED_PAUSE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(100);

/// Between two attempts to connect to a QEMU that starts: what Dormouse has.
const CONNECT_PAUSE: Duration = Duration::from_millis(1);

/// No QEMU takes longer to listen or to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// A way to hibernate and wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// RAM stays in its files, which are synced.
    Shared,
    /// RAM goes into the state file.
    MappedRam,
    /// savevm and loadvm through the human monitor, a fixed pause, and polling.
    Common,
}

/// A guest in the hands of a program that knows its command line.
pub(crate) struct Hand {
    argv: Vec<String>,
    qmp: PathBuf,
    ram: Vec<PathBuf>,
    folder: PathBuf,
    pid: i32,
    /// The QEMU that was started here; the first was not.
    child: Option<Child>,
    connection: Option<Bare>,
}

impl Hand {
    /// Takes a guest over. Its state goes into `folder`.
    pub(crate) fn of(guest: &Guest, folder: &Path) -> Result<Self, Error> {
        let pid = guest.pids().first().ok_or("the guest has no QEMU")?.as_raw();
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let argv = words.split_terminator('\0').map(str::to_owned).collect();
        let ram = std::fs::read_dir(&guest.places().memory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        let (qmp, folder) = (guest.places().qmp.clone(), folder.to_owned());
        Ok(Self { argv, qmp, ram, folder, pid, child: None, connection: None })
    }

    /// From the first command until QEMU is gone.
    pub(crate) fn hibernate(&mut self, way: Way) -> Result<Duration, Error> {
        // It has been connected, as Dormouse has.
        let mut qemu = self.connection.take().map_or_else(|| Bare::connect(&self.qmp), Ok)?;
        let watch = Stopwatch::start();
        qemu.ask(r#"{"execute":"stop"}"#)?;
        if way == Way::Common {
            human(&mut qemu, "savevm hibernated")?;
            pause(FIXED_PAUSE);
            stands_still(&mut qemu)?;
            qemu.ask(r#"{"execute":"quit"}"#)?;
            self.gone_by_polling()?;
            return Ok(watch.wall());
        }
        let draft = self.folder.join("state.tmp");
        transfer(&mut qemu, way, "migrate", &draft)?;
        if way == Way::Shared {
            self.ram.iter().try_for_each(|path| File::open(path)?.sync_all())?;
        }
        File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, self.folder.join("state"))?;
        File::open(&self.folder)?.sync_all()?;
        qemu.ask(r#"{"execute":"quit"}"#)?;
        match &mut self.child {
            Some(child) => drop(child.wait()?),
            None => self.gone_by_polling()?,
        }
        Ok(watch.wall())
    }

    /// From starting QEMU until it has continued the guest.
    pub(crate) fn wake(&mut self, way: Way) -> Result<Duration, Error> {
        let watch = Stopwatch::start();
        let (program, words) = self.argv.split_first().ok_or("no command line")?;
        let added: &[&str] = if way == Way::Common { &["-S"] } else { &["-S", "-incoming", "defer"] };
        let mut command = Command::new(program);
        command.args(words).args(added).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        self.pid = child.id().cast_signed();
        self.child = Some(child);
        let between = if way == Way::Common { POLL } else { CONNECT_PAUSE };
        let mut qemu = loop {
            match Bare::connect(&self.qmp) {
                Ok(qemu) => break qemu,
                Err(error) if watch.wall() > PATIENCE => return Err(error),
                Err(_) => pause(between),
            }
        };
        if way == Way::Common {
            human(&mut qemu, "loadvm hibernated")?;
            pause(FIXED_PAUSE);
            stands_still(&mut qemu)?;
        } else {
            transfer(&mut qemu, way, "migrate-incoming", &self.folder.join("state"))?;
        }
        qemu.ask(r#"{"execute":"cont"}"#)?;
        self.connection = Some(qemu);
        Ok(watch.wall())
    }

    fn gone_by_polling(&mut self) -> Result<(), Error> {
        let watch = Stopwatch::start();
        loop {
            let gone = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => !Path::new(&format!("/proc/{}", self.pid)).exists(),
            };
            if gone {
                return Ok(());
            }
            if watch.wall() > PATIENCE {
                return Err("QEMU does not end".into());
            }
            pause(POLL);
        }
    }
}

fn transfer(qemu: &mut Bare, way: Way, command: &str, path: &Path) -> Result<(), Error> {
    let capabilities = [("x-ignore-shared", Way::Shared), ("mapped-ram", Way::MappedRam)]
        .map(|(name, of)| serde_json::json!({ "capability": name, "state": way == of }));
    let set = serde_json::json!({
        "execute": "migrate-set-capabilities",
        "arguments": { "capabilities": capabilities },
    });
    qemu.ask(&set.to_string())?;
    let uri = format!("file:{}", path.display());
    qemu.ask(&serde_json::json!({ "execute": command, "arguments": { "uri": uri } }).to_string())?;
    loop {
        let reply = qemu.reply(r#"{"execute":"query-migrate"}"#)?;
        let reply: serde_json::Value = serde_json::from_str(&reply)?;
        match reply["return"]["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed") => return Err(format!("{command}: {reply}").into()),
            _ => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the pauses of others are what is measured")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Polls until QEMU neither saves nor restores.
fn stands_still(qemu: &mut Bare) -> Result<(), Error> {
    while qemu.reply(r#"{"execute":"query-status"}"#)?.contains("-vm\"") {
        pause(POLL);
    }
    Ok(())
}

/// The human monitor says nothing when all is well.
fn human(qemu: &mut Bare, line: &str) -> Result<(), Error> {
    let command = serde_json::json!({
        "execute": "human-monitor-command",
        "arguments": { "command-line": line },
    });
    let reply: serde_json::Value = serde_json::from_str(&qemu.reply(&command.to_string())?)?;
    match reply["return"].as_str() {
        Some("") => Ok(()),
        said => Err(format!("{line}: {said:?}").into()),
    }
}
