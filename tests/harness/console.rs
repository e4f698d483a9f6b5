//! Asking the guest itself, over its second serial port: the protocol of scripts/guest-init.
//!
//! The guest outlives the QEMU that runs it. So a lost connection or a lost answer is normal: the question is asked
//! again under the same tag, and the guest does nothing twice.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::{Error, Result, wait};

/// After this long without an answer the question is asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The guest's end of the line.
#[derive(Debug)]
pub struct Console {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Console {
    /// The console behind `socket`. Nothing is connected yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), stream: None }
    }

    /// Sends `question` (a command and its argument), and returns what the guest answers.
    pub async fn ask(&mut self, question: &str, deadline: Duration) -> Result<String> {
        self.ask_every(PATIENCE, question, deadline).await
    }

    /// The same, and asks again after another `patience`: a guest that boots hears nothing of what it is asked before
    /// it has a console.
    pub async fn ask_every(
        &mut self,
        patience: Duration,
        question: &str,
        deadline: Duration,
    ) -> Result<String> {
        let tag = fresh_tag();
        let what = format!("the guest to answer {question:?}");
        wait::until(&what, deadline, async || {
            let answer = tokio::time::timeout(patience, self.ask_once(&tag, question)).await;
            let answer = answer.unwrap_or_else(|_| {
                let last = "it is silent".to_owned();
                Err(Error::Deadline { what: "the guest".to_owned(), after: patience, last })
            });
            if answer.is_err() {
                self.stream = None;
            }
            answer
        })
        .await
    }

    /// Sends `command`, which the guest does not answer.
    pub async fn tell(&mut self, command: &str) -> Result<()> {
        let line = format!("\n{} {command}\n", fresh_tag());
        let socket = self.socket.clone();
        self.connected().await?.write_all(line.as_bytes()).await.map_err(Error::io("writing to", &socket))
    }

    async fn ask_once(&mut self, tag: &str, question: &str) -> Result<String> {
        let socket = self.socket.clone();
        let command = question.split(' ').next().unwrap_or_default();
        let expected = format!("{tag} {command} ");
        let stream = self.connected().await?;
        // The newline in front ends whatever half a line an earlier connection has left.
        let line = format!("\n{tag} {question}\n");
        stream.write_all(line.as_bytes()).await.map_err(Error::io("writing to", &socket))?;
        loop {
            let mut bytes = Vec::new();
            if stream.read_until(b'\n', &mut bytes).await.map_err(Error::io("reading", &socket))? == 0 {
                return Err(Error::Ended { what: "the console".to_owned(), how: "was closed".to_owned() });
            }
            // Anything else is the end of the boot or the answer to a question that was given up.
            if let Some(answer) = String::from_utf8_lossy(&bytes).strip_prefix(&expected) {
                return Ok(answer.trim().to_owned());
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut BufReader<UnixStream>> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(
                UnixStream::connect(&self.socket).await.map_err(Error::io("connecting to", &self.socket))?,
            ),
        };
        Ok(self.stream.insert(stream))
    }
}

/// Unlike any tag before, those of other processes of the harness included: the guest repeats its last answer to a tag
/// that it knows.
fn fresh_tag() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
