//! Sending commands.

use std::sync::Arc;
use std::time::Duration;

use qapi_qmp::QmpCommand;
use serde_json::Value;
use tokio::sync::oneshot;

use super::events::Position;
use super::shared::Shared;
use crate::error::QmpError;
use crate::queue::{Sender, TrySendError};
use crate::session::{AnomalyCounts, CloseReason};

/// Sends commands to one QEMU. Cheap to clone; every clone speaks on the same connection.
///
/// Dropping the future of a command is safe at any time. A command that has not been written is then never
/// written; one that has been is carried out, and its reply is counted as late and dropped.
#[derive(Debug, Clone)]
pub struct Client {
    requests: Sender<Box<Request>>,
    shared: Arc<Shared>,
    reply_deadline: Duration,
}

/// A reply, and where among the events it came.
pub(super) type Placed = (Result<Value, QmpError>, Position);

/// A command on its way to the driver.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: String,
    pub(super) arguments: Value,
    pub(super) reply_deadline: Duration,
    pub(super) reply: oneshot::Sender<Placed>,
}

impl Client {
    pub(super) fn new(requests: Sender<Box<Request>>, shared: Arc<Shared>, reply_deadline: Duration) -> Self {
        Self { requests, shared, reply_deadline }
    }

    /// The same connection with another reply deadline, for commands known to be slow.
    #[must_use]
    pub fn with_reply_deadline(&self, reply_deadline: Duration) -> Self {
        Self { reply_deadline, ..self.clone() }
    }

    /// Carries out a command of the schema and decodes what it returns.
    pub async fn execute<C: QmpCommand>(&self, command: C) -> Result<C::Ok, QmpError> {
        let name = || C::NAME.to_owned();
        let arguments = serde_json::to_value(command)
            .map_err(|source| QmpError::Arguments { command: name(), source })?;
        let value = self.execute_raw(C::NAME, arguments).await?;
        serde_json::from_value(value).map_err(|source| QmpError::UnexpectedReturn { command: name(), source })
    }

    /// Carries out a command by name, for what the schema does not have. `arguments` is an object, or `Null`.
    pub async fn execute_raw(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_placed(command, arguments).await.0
    }

    /// Like [`Client::execute_raw`], and says where among the events the reply came: what
    /// [`EventStream::next_before`](super::EventStream::next_before) that position returns, QEMU sent before it.
    pub async fn execute_placed(
        &self,
        command: &str,
        arguments: Value,
    ) -> (Result<Value, QmpError>, Position) {
        let (reply, answer) = oneshot::channel();
        let command = command.to_owned();
        let request =
            Request { command: command.clone(), arguments, reply_deadline: self.reply_deadline, reply };
        match self.requests.try_send(Box::new(request)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return (Err(QmpError::QueueFull { command }), Position::default()),
            Err(TrySendError::Closed(_)) => return (Err(self.closed(false)), Position::default()),
        }
        // The driver answers everything it took before it ends. What it had not taken was never written, unless
        // the runtime itself is shutting down and took the driver away.
        answer.await.unwrap_or_else(|_| {
            let in_flight = self.shared.close.get().is_none();
            (Err(self.closed(in_flight)), Position::default())
        })
    }

    /// Why the session ended; `None` while it lasts.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.shared.close.get()
    }

    /// What went wrong on the wire since the connection, by kind.
    pub fn anomaly_counts(&self) -> AnomalyCounts {
        self.shared.anomaly_counts.load()
    }

    fn closed(&self, in_flight: bool) -> QmpError {
        let close = self.shared.close.get().cloned().unwrap_or(CloseReason::Released);
        QmpError::Closed { close, in_flight }
    }
}
