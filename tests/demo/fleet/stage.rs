//! What the fleet's demo happens on: two agents, NATS, PostgreSQL, an ingest, the guests. No process outlives it.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Stdio;

use dormouse_tests::agent::{Agent, Output};
use dormouse_tests::guest::Guest;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::{Error, paths};
use tokio::process::{Child, Command};

use crate::failure::{Failure, Result};
use crate::folder::{Folder, Root};

/// Both hosts, each with the guest that it begins with.
pub(crate) const HOSTS: [&str; 2] = ["host-a", "host-b"];
/// The guests: the first one moves.
pub(crate) const GUESTS: [&str; 2] = ["sb-1", "sb-2"];
/// The database in which the fleet's ledger is.
const DATABASE: &str = "fleet";

const ROOTS: [Root; 2] =
    [Root { name: HOSTS[0], guests: &[GUESTS[0]] }, Root { name: HOSTS[1], guests: &[GUESTS[1]] }];
const LONGEST_SOCKET: &str = "host-a/guest/sb-1.console";

/// The folder and all that runs. Agents first: one in the middle of something could start a QEMU after the guests' end.
pub(crate) struct Stage {
    agents: Vec<Agent>,
    guests: Vec<Guest>,
    ingest: Option<Child>,
    nats: Option<Server>,
    postgres: Option<Postgres>,
    folder: Folder,
}

impl Stage {
    /// Takes the folder, and empties it of what an earlier demo has left.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = Folder::take(folder, &ROOTS, LONGEST_SOCKET)?;
        Ok(Self { agents: Vec::new(), guests: Vec::new(), ingest: None, nats: None, postgres: None, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn start_servers(&mut self) -> Result<()> {
        let (nats, postgres) = tokio::join!(Server::start(Kind::Nats), Postgres::start(Durability::Durable));
        (self.nats, self.postgres) = (Some(nats?), Some(postgres?));
        Ok(self.postgres()?.create(DATABASE).await?)
    }

    pub(crate) async fn start_agents(&mut self) -> Result<()> {
        let url = self.nats()?.url();
        for host in HOSTS {
            let (root, sockets) = (self.folder().join(host), self.folder.sockets().join(host));
            let more = format!(
                "cell = \"demo\"\nhost = \"{host}\"\n[[sinks]]\nname = \"fleet\"\nkind = \"nats\"\nurl = \"{url}\"\n\
                 timeout_ms = 2000\nbackoff_max_ms = 1000\n"
            );
            fs::create_dir_all(&sockets).map_err(Error::io("creating", &sockets))?;
            self.agents.push(Agent::start_apart(&root, &sockets, &more).await?);
        }
        Ok(())
    }

    /// Starts storing what comes, until it is killed.
    pub(crate) fn start_ingest(&mut self) -> Result<()> {
        let (nats, log) = (self.nats()?.url(), self.folder().join("ingest.log"));
        let mut ingest = self.ledger_command(&["ingest", "--nats", &nats])?;
        let opened = OpenOptions::new().create(true).append(true).open(&log);
        ingest.stdout(Stdio::null()).stderr(opened.map_err(Error::io("opening", &log))?);
        self.ingest = Some(ingest.spawn().map_err(Error::io("starting ingest, see", &log))?);
        Ok(())
    }

    /// Runs `dormouse ledger <arguments>` to its end.
    pub(crate) async fn ledger(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.ledger_command(arguments)?.output().await;
        let output = output.map_err(Error::io("running", Path::new("dormouse ledger")))?;
        Ok(Output {
            asked: format!("dormouse ledger {}", arguments.join(" ")),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            // A signal ends a program without a code.
            code: output.status.code().unwrap_or(-1),
        })
    }

    fn ledger_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(paths::dormouse()?);
        command.arg("ledger").args(arguments).env("DORMOUSE_DATABASE_URL", self.postgres()?.url(DATABASE));
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// What the fleet's ledger answers to a question with one row of one text.
    pub(crate) async fn fleet(&self, question: &str) -> Result<String> {
        let client = self.postgres()?.connect(DATABASE).await?;
        let asked = client.query_one(question, &[]).await;
        let row = asked.map_err(|error| Error::Nonsense {
            from: format!("PostgreSQL, asked {question:?},"),
            answer: error.to_string(),
        })?;
        Ok(row.try_get::<_, Option<String>>(0).ok().flatten().unwrap_or_default())
    }

    pub(crate) fn enter(&mut self, guests: [Guest; 2]) {
        self.guests = guests.into();
    }

    pub(crate) fn agent(&mut self, host: usize) -> Result<&mut Agent> {
        self.agents.get_mut(host).ok_or_else(|| not_there("an agent"))
    }

    pub(crate) fn guest(&mut self, guest: usize) -> Result<&mut Guest> {
        self.guests.get_mut(guest).ok_or_else(|| not_there("a guest"))
    }

    /// The folder of a host's guests' own files.
    pub(crate) fn guest_folder(&self, host: usize) -> std::path::PathBuf {
        self.folder.sockets().join(HOSTS[host]).join("guest")
    }

    pub(crate) fn nats(&self) -> Result<&Server> {
        self.nats.as_ref().ok_or_else(|| not_there("NATS"))
    }

    pub(crate) fn nats_mut(&mut self) -> Result<&mut Server> {
        self.nats.as_mut().ok_or_else(|| not_there("NATS"))
    }

    pub(crate) fn postgres(&self) -> Result<&Postgres> {
        self.postgres.as_ref().ok_or_else(|| not_there("PostgreSQL"))
    }

    pub(crate) fn postgres_mut(&mut self) -> Result<&mut Postgres> {
        self.postgres.as_mut().ok_or_else(|| not_there("PostgreSQL"))
    }

    /// Kills the ingest without warning.
    pub(crate) async fn kill_ingest(&mut self) -> Result<()> {
        let Some(mut ingest) = self.ingest.take() else { return Err(not_there("the ingest")) };
        Ok(ingest.kill().await.map_err(Error::io("killing the ingest of", self.folder()))?)
    }

    /// Ends every process and deletes the guests' own files.
    pub(crate) async fn clear(&mut self) {
        for mut agent in self.agents.drain(..) {
            // One that is gone already is as good.
            let _ = agent.kill9().await;
        }
        self.guests.clear();
        (self.ingest, self.nats, self.postgres) = (None, None, None);
        for host in 0..HOSTS.len() {
            // Nothing of it is left to whom it might matter that this fails.
            let _ = fs::remove_dir_all(self.guest_folder(host));
        }
    }
}

fn not_there(who: &str) -> Failure {
    Error::Ended { what: who.to_owned(), how: "is not there".to_owned() }.into()
}
