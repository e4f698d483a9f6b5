//! Usage as people and their programs get it: a server beside a ledger, a real browser, the README's own command lines,
//! the clients for Python and TypeScript, and whoever reads the specification.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::agent::Output;
use crate::{Error, Result, paths};

/// Where the README has servers listen.
const README_ADDRESS: &str = "127.0.0.1:7474";

/// A running `dormouse serve`. Dropping it kills it.
#[derive(Debug)]
pub struct Served {
    address: String,
    _child: Child,
}

impl Served {
    /// Starts it by a command line that does not say yet where it listens; returns when it listens.
    pub async fn start(mut serve: Command) -> Result<Self> {
        serve
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let cannot = Error::io("starting", Path::new("dormouse serve"));
        let mut child = serve.spawn().map_err(cannot)?;
        let said = match child.stderr.take() {
            Some(stderr) => BufReader::new(stderr).lines().next_line().await.ok().flatten(),
            None => None,
        };
        let said = said.unwrap_or_default();
        let Some(address) = said.strip_prefix("listening on http://") else {
            return Err(Error::Nonsense { from: "`dormouse serve`".to_owned(), answer: said });
        };
        Ok(Self { address: address.to_owned(), _child: child })
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same as a browser has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Walks through the pages in Chromium with scripts switched off, tags the sandbox, which must have ended, with team
/// `red & blue`, and looks at every page; returns the slices, the amount of the tag and the total that it read.
pub async fn walk(url: &str, token: &str, sandbox: &str) -> Result<Value> {
    let (root, pictures) = (paths::workspace(), paths::workspace().join("target/pages"));
    let script = root.join("tests/browser/pages.mjs");
    let arguments =
        [script.as_os_str(), url.as_ref(), token.as_ref(), sandbox.as_ref(), pictures.as_os_str()];
    run(Command::new("node").args(arguments)).await?.succeeded()?.json()
}

/// Asks everything with both clients, tagging the sandbox with team `red` in the end; returns what both say of it.
pub async fn clients(url: &str, [read, write]: [&str; 2], sandbox: &str) -> Result<String> {
    let script = paths::workspace().join("scripts/check-clients");
    let output = run(Command::new(script).args([url, read, write, sandbox])).await?.succeeded()?;
    Ok(output.stdout.trim().to_owned())
}

/// Asks whatever the server's specification allows, and much that it does not; returns what schemathesis reports, which
/// is an error if any answer is not as the specification says.
pub async fn specification(url: &str, token: &str, sandbox: &str) -> Result<String> {
    let script = paths::workspace().join("scripts/check-http");
    Ok(run(Command::new(script).args([url, token, sandbox])).await?.succeeded()?.stdout)
}

/// Runs every line of the README that begins with `curl`, with another address and a token; returns each line with what
/// was answered.
pub async fn curl_as_the_readme_does(address: &str, token: &str) -> Result<Vec<(String, Value)>> {
    let path = paths::workspace().join("README.md");
    let readme = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
    let mut answers = Vec::new();
    for line in readme.lines().filter_map(|line| line.strip_prefix("    ")) {
        if line.starts_with("curl ") {
            let line = line.replace(README_ADDRESS, address);
            let mut shell = Command::new("bash");
            let answer = run(shell.args(["-c", &line]).env("token", token)).await?.succeeded()?.json()?;
            answers.push((line, answer));
        }
    }
    Ok(answers)
}

/// What `scripts/install-deps` has installed of npm and of Python's packages.
fn tools() -> Result<PathBuf> {
    let tools = paths::workspace().join("target/tools");
    if tools.join("npm/node_modules").exists() {
        return Ok(tools);
    }
    Err(Error::Missing { path: tools, remedy: "scripts/install-deps" })
}

async fn run(command: &mut Command) -> Result<Output> {
    command.env("NODE_TOOLS", tools()?.join("npm")).stdin(Stdio::null()).kill_on_drop(true);
    let asked = format!("{:?}", command.as_std());
    let output = command.output().await.map_err(|source| Error::Io { what: asked.clone(), source })?;
    Ok(Output {
        asked,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
