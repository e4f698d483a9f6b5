//! Real servers that events are published to, from the distribution's packages: each started privately, on a free port of
//! the loopback device, with a folder of its own.
//!
//! Dropping a server kills it and removes its folder.

pub mod network;
pub mod postgres;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::{Error, Result, process, wait};
use network::Network;

const DEADLINE: Duration = Duration::from_secs(20);

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `nats-server` with `JetStream` on disk.
    Nats,
    /// `redis-server` with an append-only file that is synced before each answer.
    Redis,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
        }
    }

    fn arguments(self, address: Ipv4Addr, port: u16, folder: &Path) -> Vec<String> {
        let folder = folder.display().to_string();
        let (address, port) = (address.to_string(), port.to_string());
        let arguments: &[&str] = match self {
            Self::Nats => &["--addr", &address, "--port", &port, "--jetstream", "--store_dir", &folder],
            Self::Redis => &[
                "--bind",
                &address,
                "--protected-mode",
                "no",
                "--port",
                &port,
                "--dir",
                &folder,
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ],
        };
        arguments.iter().map(|&argument| argument.to_owned()).collect()
    }

    /// What is said to a server, and what it answers once it serves.
    const fn greeting(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Nats => (b"", b"INFO {"),
            Self::Redis => (b"PING\r\n", b"+PONG"),
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Redis => "redis",
        }
    }
}

/// A server.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    port: u16,
    folder: TempDir,
    more: Vec<String>,
    child: Child,
    /// Its own, or the loopback device. After the child: what is in it goes first.
    network: Option<Network>,
}

impl Server {
    /// Starts a server; returns when it serves.
    pub async fn start(kind: Kind) -> Result<Self> {
        Self::start_with(kind, &[]).await
    }

    /// The same, with more arguments.
    pub async fn start_with(kind: Kind, more: &[&str]) -> Result<Self> {
        Self::launch(kind, more, None).await
    }

    /// Starts a server in a network of its own, which can be cut.
    pub async fn start_in(kind: Kind, network: Network) -> Result<Self> {
        Self::launch(kind, &[], Some(network)).await
    }

    async fn launch(kind: Kind, more: &[&str], network: Option<Network>) -> Result<Self> {
        let folder =
            tempfile::tempdir().map_err(Error::io("making a folder for", Path::new(kind.program())))?;
        let port = free_port()?;
        let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
        let child = spawn(kind, network.as_ref(), port, &folder, &more)?;
        let server = Self { kind, port, folder, more, child, network };
        server.serves().await?;
        Ok(server)
    }

    /// Where it listens: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("{}://{}:{}", self.kind.scheme(), self.address(), self.port)
    }

    /// Its own network, if it has one.
    pub const fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    fn address(&self) -> Ipv4Addr {
        address(self.network.as_ref())
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it without warning.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await.map_err(Error::io("killing", Path::new(self.kind.program())))
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        let what = || format!("{} to end", self.kind.program());
        ended
            .map_err(|_| Error::Deadline { what: what(), after: DEADLINE, last: self.log() })?
            .map(drop)
            .map_err(Error::io("waiting for", Path::new(self.kind.program())))
    }

    /// Sends it a signal: SIGSTOP keeps its connections open and answers nothing, SIGCONT ends that.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid else { return Ok(()) };
        let failed =
            |errno: nix::Error| Error::io("signalling", Path::new(self.kind.program()))(errno.into());
        kill(Pid::from_raw(pid), signal).map_err(failed)
    }

    /// Starts it again on what it left, on the same port; returns when it serves.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.kind, self.network.as_ref(), self.port, &self.folder, &self.more)?;
        self.serves().await
    }

    async fn serves(&self) -> Result<()> {
        let served = wait::until(self.kind.program(), DEADLINE, async || self.greets().await).await;
        served.map_err(|error| Error::Ended {
            what: format!("{} did not start:", self.kind.program()),
            how: format!("{error}\n{}", self.log()),
        })
    }

    async fn greets(&self) -> std::io::Result<()> {
        let (said, expected) = self.kind.greeting();
        let mut stream = TcpStream::connect((self.address(), self.port)).await?;
        stream.write_all(said).await?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).await?;
        // A server that wants to know who asks serves, too.
        let serves = answer == expected || answer.starts_with(b"-NOAU");
        if serves { Ok(()) } else { Err(std::io::Error::other("it does not serve yet")) }
    }

    fn log(&self) -> String {
        process::tail(&log_path(&self.folder))
    }
}

fn log_path(folder: &TempDir) -> PathBuf {
    folder.path().join("server.log")
}

/// A port of the loopback device that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let port = || TcpListener::bind(("127.0.0.1", 0))?.local_addr().map(|address| address.port());
    port().map_err(Error::io("finding a free port on", Path::new("127.0.0.1")))
}

fn address(network: Option<&Network>) -> Ipv4Addr {
    network.map_or(Ipv4Addr::LOCALHOST, Network::address)
}

fn spawn(
    kind: Kind,
    network: Option<&Network>,
    port: u16,
    folder: &TempDir,
    more: &[String],
) -> Result<Child> {
    // Debian keeps servers where only root looks for programs.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let log = std::fs::File::create(log_path(folder)).map_err(Error::io("creating", &log_path(folder)))?;
    let mut command = Command::new("/usr/bin/env");
    command.env("PATH", path).args(network.into_iter().flat_map(Network::prefix)).arg(kind.program());
    command.args(kind.arguments(address(network), port, folder.path())).args(more);
    command
        .stdin(Stdio::null())
        .stderr(log.try_clone().map_err(Error::io("opening", &log_path(folder)))?)
        .stdout(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("starting", Path::new(kind.program())))
}
