//! The harness's own way to ask QEMU: QMP by hand, on a socket that Dormouse never uses.
//!
//! Each command is a connection of its own. That is slow, and works whether or not another QEMU has taken the socket
//! over since the last one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::{Error, Result, wait};

const DEADLINE: Duration = Duration::from_secs(10);

/// A QMP socket of some QEMU, now or later.
#[derive(Debug, Clone)]
pub struct Monitor {
    socket: PathBuf,
}

impl Monitor {
    /// The monitor behind `socket`. Nothing is connected yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends one command, `{}` for no arguments, and returns the `return` member of the reply.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let exchange = self.exchange(command, arguments);
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| Error::Deadline {
            what: format!("the reply to {command}"),
            after: DEADLINE,
            last: format!("nothing came from {}", self.socket.display()),
        })?
    }

    /// QEMU's run state, for example `running`.
    pub async fn run_state(&self) -> Result<String> {
        let reply = self.execute("query-status", json!({})).await?;
        Ok(reply["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Bytes of virtio-mem that the guest has plugged.
    pub async fn plugged_bytes(&self) -> Result<u64> {
        let reply = self.execute("query-memory-devices", json!({})).await?;
        Ok(reply[0]["data"]["size"].as_u64().unwrap_or_default())
    }

    /// Asks for `bytes` of virtio-mem and waits until the guest has plugged or unplugged exactly that.
    pub async fn resize(&self, bytes: u64) -> Result<()> {
        let request =
            json!({ "path": "/machine/peripheral/vm0", "property": "requested-size", "value": bytes });
        self.execute("qom-set", request).await?;
        wait::until(&format!("{bytes} plugged bytes"), Duration::from_secs(30), async || {
            let plugged = self.plugged_bytes().await.map_err(|error| error.to_string())?;
            wait::unless(plugged == bytes, || format!("{plugged} bytes are plugged"))
        })
        .await
    }

    async fn exchange(&self, command: &str, arguments: Value) -> Result<Value> {
        let failed = |what: &str| Error::io(&format!("{what} for {command}"), &self.socket);
        let mut stream =
            BufReader::new(UnixStream::connect(&self.socket).await.map_err(failed("connecting"))?);
        let negotiate = json!({ "execute": "qmp_capabilities" });
        let command_line = json!({ "execute": command, "arguments": arguments });
        stream
            .write_all(format!("{negotiate}\n{command_line}\n").as_bytes())
            .await
            .map_err(failed("writing"))?;
        let mut replies = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.map_err(failed("reading"))? == 0 {
                let what = format!("QEMU, asked {command},");
                return Err(Error::Ended { what, how: "closed the connection".to_owned() });
            }
            let message: Value = serde_json::from_str(&line)
                .map_err(|_| Error::Nonsense { from: "QEMU".to_owned(), answer: line.clone() })?;
            if let Some(error) = message.get("error") {
                return Err(Error::Refused { command: command.to_owned(), reply: error.clone() });
            }
            // The first reply is to the negotiation; the greeting and events are no replies.
            if let Some(reply) = message.get("return") {
                replies += 1;
                if replies == 2 {
                    return Ok(reply.clone());
                }
            }
        }
    }
}
