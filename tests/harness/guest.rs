//! A real Linux guest on a real QEMU, from boot to drop.
//!
//! ```no_run
//! # async fn example(run_dir: &std::path::Path, work_dir: &std::path::Path) -> dormouse_tests::Result<()> {
//! use dormouse_tests::{argv::Spec, guest::Guest};
//!
//! let mut guest = Guest::boot(&Spec::default(), "sandbox-1", run_dir, work_dir).await?;
//! guest.monitor().resize(1 << 30).await?;
//! let filled = guest.fill(512).await?;
//! assert_eq!(guest.sum().await?, filled);
//! # Ok(()) }
//! ```

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::argv::{self, Places, Spec};
use crate::console::Console;
use crate::monitor::Monitor;
use crate::{Error, Result, accel, paths, process, wait};

/// Between two questions whether the guest is there.
const BOOT_PATIENCE: Duration = Duration::from_millis(500);
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The kernel accepts no longer path for a unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A guest, whichever QEMU process runs it at the moment.
#[derive(Debug)]
pub struct Guest {
    marker: String,
    places: Places,
    monitor: Monitor,
    console: Console,
    /// Waits for the QEMU that booted it, so that it leaves no zombie. After a hibernation another may run the guest, which
    /// is nobody's child here.
    first: JoinHandle<std::io::Result<ExitStatus>>,
}

impl Guest {
    /// Boots a guest and returns when it answers. Dormouse's socket is `<run_dir>/<id>.qmp`; everything else of the guest is
    /// in `work_dir`, under its id.
    pub async fn boot(spec: &Spec, id: &str, run_dir: &Path, work_dir: &Path) -> Result<Self> {
        let mut guest = Self::launch(spec, id, run_dir, work_dir).await?;
        let booted = tokio::select! {
            answer = guest.console.ask_every(BOOT_PATIENCE, "ping", BOOT_DEADLINE) => answer.map(drop),
            _ = &mut guest.first => Err(Error::Ended { what: "QEMU".to_owned(), how: "ended".to_owned() }),
        };
        booted.map_err(|error| guest.last_words(&error))?;
        Ok(guest)
    }

    /// Starts QEMU and returns at once: the guest is at the beginning of its boot.
    pub async fn launch(spec: &Spec, id: &str, run_dir: &Path, work_dir: &Path) -> Result<Self> {
        let places = places(id, run_dir, work_dir)?;
        std::fs::create_dir_all(&places.memory).map_err(Error::io("creating", &places.memory))?;
        if spec.disk {
            create_disk(&places.disk).await?;
        }
        let marker = format!("guest={id}-{}", process::nonce());
        let image = paths::guest_image()?;
        let arguments = argv::arguments(spec, &places, accel::probed().await?, &image, &marker);
        let program = paths::qemu(spec.version)?;
        let stderr = std::fs::File::create(&places.stderr).map_err(Error::io("creating", &places.stderr))?;
        // A group of its own: what a terminal sends to the test or to the agent is not meant for the guest.
        let mut first = Command::new(&program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::io("starting", &program))?;
        let monitor = Monitor::new(&places.monitor);
        let console = Console::new(&places.console);
        let first = tokio::spawn(async move { first.wait().await });
        Ok(Self { marker, places, monitor, console, first })
    }

    /// Fills `mib` MiB of the guest's memory with new random data, and returns the sum of it.
    pub async fn fill(&mut self, mib: u64) -> Result<String> {
        // Measured under emulation: 70 to 90 MiB a second on a busy machine.
        let deadline = ANSWER_DEADLINE + Duration::from_millis(100 * mib);
        let answer = self.console.ask(&format!("fill {mib}"), deadline).await?;
        let complete = answer.starts_with(&format!("{mib}:"));
        if complete {
            Ok(answer)
        } else {
            Err(Error::Nonsense { from: "the guest, told to fill,".to_owned(), answer })
        }
    }

    /// Lets the guest sum up again what it was filled with. Equal to what [`Guest::fill`] returned, unless memory was lost.
    pub async fn sum(&mut self) -> Result<String> {
        self.console.ask("sum", ANSWER_DEADLINE).await
    }

    /// Lets the guest free what it was filled with, so that memory can be unplugged.
    pub async fn free(&mut self) -> Result<()> {
        self.console.ask("free", ANSWER_DEADLINE).await.map(drop)
    }

    /// Waits until a guest that has begun anew answers.
    pub async fn booted(&mut self) -> Result<()> {
        self.console.ask_every(BOOT_PATIENCE, "ping", BOOT_DEADLINE).await.map(drop)
    }

    /// The memory that the guest's kernel says it has.
    pub async fn mem_total_kib(&mut self) -> Result<u64> {
        self.number("mem").await
    }

    /// Seconds since the guest booted, as its own clock counts them.
    pub async fn uptime_s(&mut self) -> Result<u64> {
        self.number("uptime").await
    }

    /// Lets the guest's kernel panic.
    pub async fn panic(&mut self) -> Result<()> {
        self.console.tell("panic").await
    }

    /// Lets the guest switch itself off.
    pub async fn power_off(&mut self) -> Result<()> {
        self.console.tell("poweroff").await
    }

    /// The harness's own QMP, which works on whichever QEMU runs the guest.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The sockets and files of this guest.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Every QEMU process of this guest: one while it is awake, none while it is hibernated or gone.
    pub fn pids(&self) -> Vec<Pid> {
        process::with_argument(&self.marker)
    }

    /// Kills QEMU as the kernel's OOM killer would, and waits until it is gone.
    pub async fn kill9(&self) -> Result<()> {
        process::kill_with_argument(&self.marker);
        self.gone(ANSWER_DEADLINE).await
    }

    /// Waits until no QEMU runs this guest.
    pub async fn gone(&self, deadline: Duration) -> Result<()> {
        wait::until("QEMU to be gone", deadline, async || {
            let pids = self.pids();
            wait::unless(pids.is_empty(), || format!("{pids:?} still run"))
        })
        .await
    }

    async fn number(&mut self, question: &str) -> Result<u64> {
        let answer = self.console.ask(question, ANSWER_DEADLINE).await?;
        answer
            .parse()
            .map_err(|_| Error::Nonsense { from: format!("the guest, asked {question:?},"), answer })
    }

    /// A guest that did not boot has usually said why.
    fn last_words(&self, error: &Error) -> Error {
        let printed = [process::tail(&self.places.stderr), process::tail(&self.places.log)].join("\n");
        Error::Ended { what: "the guest did not boot:".to_owned(), how: format!("{error}\n{printed}") }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        process::kill_with_argument(&self.marker);
    }
}

fn places(id: &str, run_dir: &Path, work_dir: &Path) -> Result<Places> {
    let of_guest = |kind: &str| work_dir.join(format!("{id}.{kind}"));
    let places = Places {
        qmp: run_dir.join(format!("{id}.qmp")),
        monitor: of_guest("monitor"),
        console: of_guest("console"),
        log: of_guest("log"),
        stderr: of_guest("stderr"),
        disk: of_guest("qcow2"),
        memory: of_guest("memory"),
    };
    for socket in [&places.qmp, &places.monitor, &places.console] {
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let source = std::io::Error::other("longer than the path of a unix socket can be");
            return Err(Error::io("using", socket)(source));
        }
    }
    Ok(places)
}

async fn create_disk(path: &Path) -> Result<()> {
    let program = paths::qemu_img()?;
    let arguments =
        ["create".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str(), "1G".as_ref()];
    let output =
        Command::new(&program).args(arguments).output().await.map_err(Error::io("running", &program))?;
    if output.status.success() {
        return Ok(());
    }
    let how = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Err(Error::Ended { what: "qemu-img".to_owned(), how })
}
