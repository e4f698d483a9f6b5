//! A PostgreSQL of its own, on a unix socket in a folder of its own.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, User, chown, geteuid};
use tokio_postgres::{Client, NoTls};

use crate::{Error, Result, process, wait};

const START_DEADLINE: Duration = Duration::from_mins(1);

/// Whether commits reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production: what is committed survives a crash of the server.
    Durable,
    /// Faster, for tests in which nothing crashes.
    Volatile,
}

/// What a server shows who it is with, as files in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// A server. Dropping it ends the server and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    folder: tempfile::TempDir,
    durability: Durability,
    /// Where it listens beside its socket, by TLS alone.
    port: Option<u16>,
    child: Child,
}

impl Postgres {
    /// Creates a database cluster under /tmp and starts a server on it; returns when it answers.
    pub async fn start(durability: Durability) -> Result<Self> {
        Self::launch_in_a_folder(durability, None).await
    }

    /// The same, listening on a port of the loopback device as well, where it wants TLS and a password.
    pub async fn start_with_tls(durability: Durability, certificate: &Certificate) -> Result<Self> {
        Self::launch_in_a_folder(durability, Some(certificate)).await
    }

    async fn launch_in_a_folder(durability: Durability, certificate: Option<&Certificate>) -> Result<Self> {
        let parent = Path::new("/tmp");
        let folder = tempfile::tempdir_in(parent).map_err(Error::io("creating a folder in", parent))?;
        let path = folder.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            .map_err(Error::io("opening", path))?;
        if let Some(user) = server_user()? {
            chown(path, Some(user.uid), Some(user.gid))
                .map_err(|errno| Error::io("giving away", path)(errno.into()))?;
        }
        let made = program("initdb", path)?
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(path.join("data"))
            .stdout(Stdio::null())
            .status()
            .map_err(Error::io("starting initdb in", path))?;
        if !made.success() {
            let how = format!("ended with {made}: {}", process::tail(&path.join("log")));
            return Err(Error::Ended { what: "initdb".to_owned(), how });
        }
        let port = match certificate {
            Some(certificate) => {
                keep_certificate(path, certificate)?;
                Some(super::free_port()?)
            }
            None => None,
        };
        let child = launch(path, durability, port)?;
        let server = Self { folder, durability, port, child };
        server.answers().await?;
        Ok(server)
    }

    /// How clients find a database on this server.
    pub fn url(&self, database: &str) -> String {
        let port = self.port.map_or_else(String::new, |port| format!(" port={port}"));
        format!("host={} user=postgres dbname={database}{port}", self.folder.path().display())
    }

    /// The port on which it speaks TLS; 0 where it does not.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or_default()
    }

    /// A connection to a database, driven by a task of its own.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.url(database)).await.map_err(|error| refused("connecting", &error))
    }

    /// Creates an empty database.
    pub async fn create(&self, database: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        let created = client.batch_execute(&format!("CREATE DATABASE {database}")).await;
        created.map_err(|error| refused("CREATE DATABASE", &error))
    }

    /// Kills every process of the server without warning, as a power cut would, and waits until they are gone.
    pub fn kill9(&mut self) -> Result<()> {
        // It leads a process group of its own, in which all its backends are.
        let group = i32::try_from(self.child.id()).map_err(std::io::Error::other);
        group
            .and_then(|group| killpg(Pid::from_raw(group), Signal::SIGKILL).map_err(Into::into))
            .map_err(Error::io("killing PostgreSQL in", self.folder.path()))?;
        self.child.wait().map_err(Error::io("waiting for PostgreSQL in", self.folder.path()))?;
        Ok(())
    }

    /// Sends a signal to every process of the server: SIGSTOP keeps connections open and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let group = i32::try_from(self.child.id()).map_err(std::io::Error::other);
        group
            .and_then(|group| killpg(Pid::from_raw(group), signal).map_err(Into::into))
            .map_err(Error::io("signalling PostgreSQL in", self.folder.path()))
    }

    /// Starts the server again on what the last one left; returns when it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = launch(self.folder.path(), self.durability, self.port)?;
        let answered = wait::until("a new PostgreSQL to answer", START_DEADLINE, async || -> Result<()> {
            let ended =
                self.child.try_wait().map_err(Error::io("waiting for PostgreSQL in", self.folder.path()))?;
            if ended.is_some() {
                // It has found a backend of the old one that was not gone yet.
                self.child = launch(self.folder.path(), self.durability, self.port)?;
            }
            self.connect("postgres").await.map(drop)
        });
        answered.await.map_err(|error| self.did_not_start(&error))
    }

    fn did_not_start(&self, error: &dyn std::fmt::Display) -> Error {
        let log = process::tail(&self.folder.path().join("log"));
        Error::Ended { what: "PostgreSQL did not start:".to_owned(), how: format!("{error}\n{log}") }
    }

    async fn answers(&self) -> Result<()> {
        let answered = wait::until("PostgreSQL to answer", START_DEADLINE, async || {
            self.connect("postgres").await.map(drop)
        });
        answered.await.map_err(|error| self.did_not_start(&error))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown: it ends its children and frees its shared memory.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let _ = self.child.wait();
    }
}

/// Connects, and drives the connection in a task.
pub async fn connect(url: &str) -> std::result::Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its errors come back from the client's own calls.
    tokio::spawn(connection);
    Ok(client)
}

fn refused(what: &str, error: &tokio_postgres::Error) -> Error {
    let said = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    Error::Nonsense { from: format!("PostgreSQL, at {what},"), answer: said }
}

/// What a server by TLS needs, in its folder and its own: it accepts no key that others can read.
fn keep_certificate(folder: &Path, certificate: &Certificate) -> Result<()> {
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    let read = |path: &Path| std::fs::read(path).map_err(Error::io("reading", path));
    for (name, bytes) in [
        ("server.pem", read(&certificate.cert_file)?),
        ("server.key", read(&certificate.key_file)?),
        ("hba.conf", hba.as_bytes().to_vec()),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(Error::io("writing", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .map_err(Error::io("closing", &path))?;
        if let Some(user) = server_user()? {
            chown(&path, Some(user.uid), Some(user.gid))
                .map_err(|errno| Error::io("giving away", &path)(errno.into()))?;
        }
    }
    Ok(())
}

fn launch(folder: &Path, durability: Durability, port: Option<u16>) -> Result<Child> {
    let mut server = program("postgres", folder)?;
    server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    server.args(["-c", "max_wal_size=4GB", "-c", "shared_buffers=256MB"]);
    if let Some(port) = port {
        server.args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string(), "-c", "ssl=on"]);
        for (key, file) in
            [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("hba_file", "hba.conf")]
        {
            server.arg("-c").arg(format!("{key}={}", folder.join(file).display()));
        }
    } else {
        server.args(["-c", "listen_addresses="]);
    }
    if durability == Durability::Volatile {
        server.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"]);
    }
    server.spawn().map_err(Error::io("starting PostgreSQL in", folder))
}

/// A program of PostgreSQL, to be run as somebody who is not root, with its messages in the folder's log.
fn program(name: &str, folder: &Path) -> Result<Command> {
    let path = installed(name)?;
    let log = folder.join("log");
    let log =
        std::fs::File::options().append(true).create(true).open(&log).map_err(Error::io("opening", &log))?;
    let mut command = Command::new(path);
    command.current_dir(folder).stdin(Stdio::null()).stderr(log).env("LC_ALL", "C");
    if let Some(user) = server_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    // Ctrl-C in the terminal is for the test, whose end ends the server.
    command.process_group(0);
    Ok(command)
}

/// PostgreSQL refuses to run as root. Where the test is root, the server is its package's user, or nobody.
fn server_user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let found = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    found.map(Some).ok_or(Error::Missing { path: "user postgres".into(), remedy: "make deps" })
}

/// Debian keeps the programs of each version in a folder of its own, most of them not in PATH.
fn installed(name: &str) -> Result<PathBuf> {
    let versions = ["18", "17", "16", "15"];
    let places = versions.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")));
    let missing = Error::Missing { path: places[3].clone(), remedy: "make deps" };
    places.into_iter().find(|place| place.exists()).ok_or(missing)
}
