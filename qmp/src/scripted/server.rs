//! The task of one scripted QEMU: one client after the other, as QEMU serves them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Split};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, sleep, sleep_until};

use super::model::Reply;
use super::{COMMANDS_KEPT, Command, Greeting, Outgoing, Shared, State, Step, encode_event, encode_line};

/// Small, for thousands of instances in one process.
const READ_BYTES: usize = 512;

/// Serves until the machine has quit.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    while !shared.lock().machine.has_quit() {
        let Ok((stream, _)) = listener.accept().await else { return };
        let mut connection = Connection::new(stream, Arc::clone(&shared));
        let Err(Closed) = connection.run().await;
        shared.lock().connected = false;
    }
}

struct Connection {
    lines: Split<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    shared: Arc<Shared>,
}

/// The connection is over: the client left, the script or the handle closed it, or QEMU quit.
struct Closed;

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Connection {
    fn new(stream: UnixStream, shared: Arc<Shared>) -> Self {
        let (reader, writer) = stream.into_split();
        let lines = BufReader::with_capacity(READ_BYTES, reader).split(b'\n');
        Self { lines, writer, shared }
    }

    async fn run(&mut self) -> Result<Infallible, Closed> {
        self.greet().await?;
        loop {
            let due = self.shared.lock().machine.next_deadline().map(|due| self.shared.started_at + due);
            tokio::select! {
                line = self.lines.next_segment() => self.on_line(&line?.ok_or(Closed)?).await?,
                () = self.shared.changed.notified() => {}
                () = sleep_until(due.unwrap_or(self.shared.started_at)), if due.is_some() => {}
            }
            self.flush().await?;
        }
    }

    async fn greet(&mut self) -> Result<(), Closed> {
        let greeting = match &self.shared.greeting {
            Greeting::Normal => encode_line(&self.shared.lock().machine.model.greeting()),
            Greeting::Never => std::future::pending().await,
            Greeting::Raw(bytes) => bytes.clone(),
        };
        Ok(self.writer.write_all(&greeting).await?)
    }

    async fn on_line(&mut self, line: &[u8]) -> Result<(), Closed> {
        let (command, id) = match read_command(line) {
            Ok(read) => read,
            Err(desc) => {
                let reply = Reply::error("GenericError", desc);
                return Ok(self.writer.write_all(&encode_reply(reply, None)).await?);
            }
        };
        let steps = self.shared.lock().script(&command);
        for step in steps {
            match step {
                Step::Reply(reply) => self.answer(reply, &command, id.as_ref()).await?,
                Step::Model => {
                    let reply = self.shared.lock().ask_model(&command, self.shared.now());
                    self.answer(reply, &command, id.as_ref()).await?;
                }
                Step::Event(event) => self.writer.write_all(&encode_event(&event)).await?,
                Step::Raw(bytes) => self.writer.write_all(&bytes).await?,
                Step::Delay(delay) => sleep(delay).await,
                Step::Hang => std::future::pending().await,
                Step::Close => return Err(Closed),
            }
        }
        Ok(())
    }

    /// As QEMU does, the events that a command causes go before its reply.
    async fn answer(&mut self, reply: Reply, command: &Command, id: Option<&Value>) -> Result<(), Closed> {
        self.flush().await?;
        if command.name == "qmp_capabilities" && matches!(reply, Reply::Return(_)) {
            self.shared.lock().connected = true;
        }
        self.writer.write_all(&encode_reply(reply, id)).await?;
        if self.shared.lock().machine.has_quit() { Err(Closed) } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        let outbox = self.shared.lock().take_outbox(self.shared.now());
        for outgoing in outbox {
            match outgoing {
                Outgoing::Event(event) => self.writer.write_all(&encode_event(&event)).await?,
                Outgoing::Raw(bytes) => self.writer.write_all(&bytes).await?,
                Outgoing::Close => return Err(Closed),
            }
        }
        Ok(())
    }
}

impl State {
    fn script(&mut self, command: &Command) -> Vec<Step> {
        if self.connected {
            if self.commands.len() == COMMANDS_KEPT {
                self.commands.pop_front();
            }
            self.commands.push_back(command.clone());
        }
        (self.script)(command).unwrap_or_else(|| vec![Step::Model])
    }

    fn ask_model(&mut self, command: &Command, now: Duration) -> Reply {
        match (command.name.as_str(), self.connected) {
            ("qmp_capabilities", false) => Reply::Return(json!({})),
            ("qmp_capabilities", true) => Reply::error(
                "CommandNotFound",
                "Capabilities negotiation is already complete, command ignored",
            ),
            (_, false) => {
                Reply::error("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
            }
            (_, true) => self.machine.execute(command, now),
        }
    }

    /// What is to be sent by now; while nobody is connected it is gone.
    fn take_outbox(&mut self, now: Duration) -> Vec<Outgoing> {
        self.machine.advance(now);
        let events = self.machine.take_events().into_iter().map(Outgoing::Event);
        let outbox = events.chain(self.outbox.drain(..)).collect();
        if self.connected { outbox } else { Vec::new() }
    }
}

fn read_command(line: &[u8]) -> Result<(Command, Option<Value>), &'static str> {
    let Ok(mut line) = serde_json::from_slice::<Value>(line) else { return Err("JSON parse error") };
    let object = line.as_object_mut().ok_or("QMP input must be a JSON object")?;
    let Some(Value::String(name)) = object.remove("execute") else {
        return Err("QMP input lacks member 'execute'");
    };
    let arguments = object.remove("arguments").unwrap_or_default();
    Ok((Command { name, arguments }, object.remove("id")))
}

fn encode_reply(reply: Reply, id: Option<&Value>) -> Vec<u8> {
    let mut line = match reply {
        Reply::Return(value) => json!({ "return": value }),
        Reply::Error { class, desc } => json!({ "error": { "class": class, "desc": desc } }),
    };
    if let Some(id) = id {
        line["id"] = id.clone();
    }
    encode_line(&line)
}
