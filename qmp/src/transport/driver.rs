//! The task behind one connection: it executes what the session asks for, and decides nothing itself.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep_until};

use super::client::{Client, Placed, Request};
use super::events::{EventStream, Incoming, Position};
use super::shared::Shared;
use crate::config::Config;
use crate::error::QmpError;
use crate::queue::{Receiver, Sender, TrySendError, bounded};
use crate::session::{CloseReason, Output, Session};
use crate::version::Version;

pub(super) struct Driver {
    stream: UnixStream,
    session: Session,
    /// The origin of the session's time.
    connected_at: Instant,
    unwritten: Vec<u8>,
    /// When `unwritten` must be gone.
    write_until: Option<Instant>,
    write_deadline: Duration,
    requests: Receiver<Box<Request>>,
    clients_gone: bool,
    replies: HashMap<u64, oneshot::Sender<Placed>>,
    events: Sender<Box<Incoming>>,
    /// Where in the stream of events the next one comes.
    position: Position,
    /// Events dropped since the last one that found room.
    missed: u64,
    version: Option<Version>,
    shared: Arc<Shared>,
}

/// What a socket is ready for.
enum Ready {
    ToRead,
    ToWrite,
}

/// Read at once. It lives on the stack and never across an await, so that an idle connection holds no buffer.
const READ_BYTES: usize = 16 * 1024;

impl Driver {
    pub(super) fn new(stream: UnixStream, config: &Config) -> (Self, Client, EventStream) {
        let (requests_tx, requests) = bounded(config.queue_length + 1);
        let (events, events_rx) = bounded(config.event_queue_length.max(1));
        let shared = Arc::new(Shared::default());
        let driver = Self {
            stream,
            session: Session::new(config, Duration::ZERO),
            connected_at: Instant::now(),
            unwritten: Vec::new(),
            write_until: None,
            write_deadline: config.write_deadline,
            requests,
            clients_gone: false,
            replies: HashMap::new(),
            events,
            position: Position::default(),
            missed: 0,
            version: None,
            shared: Arc::clone(&shared),
        };
        let client = Client::new(requests_tx, Arc::clone(&shared), config.reply_deadline);
        (driver, client, EventStream::new(events_rx, shared))
    }

    /// Runs until commands can be sent.
    pub(super) async fn negotiate(&mut self) -> Result<Version, QmpError> {
        loop {
            self.step().await;
            if let Some(close) = self.shared.close.get() {
                return Err(QmpError::Closed { close: close.clone(), in_flight: false });
            }
            if let Some(version) = self.version.take() {
                return Ok(version);
            }
        }
    }

    /// Runs until the session ends. Boxed: an async function keeps room for its arguments twice.
    pub(super) async fn run(mut self: Box<Self>) {
        while self.shared.close.get().is_none() {
            self.step().await;
        }
        let (events, missed) = (self.events.clone(), self.missed);
        drop(self);
        if missed > 0 {
            // Fails when the consumer has gone away, and then nobody misses anything.
            Box::pin(events.room()).await;
            let _ = events.try_send(Box::new(Incoming::Gap { missed }));
        }
    }

    /// Waits for one thing to happen, and acts on it.
    async fn step(&mut self) {
        self.rest();
        let session_deadline = self.session.next_deadline().map(|deadline| self.connected_at + deadline);
        let deadline = [session_deadline, self.write_until].into_iter().flatten().min();
        tokio::select! {
            // Polled: a future of the stream's own would take 150 bytes of every idle connection.
            ready = poll_fn(|context| poll_ready(&self.stream, !self.unwritten.is_empty(), context)) => match ready {
                Ok(Ready::ToRead) => self.read(),
                Ok(Ready::ToWrite) => {}
                Err(error) => self.session.close(CloseReason::Io { kind: error.kind() }),
            },
            request = self.requests.recv(), if !self.clients_gone => match request {
                Some(request) => self.submit(*request),
                None => self.clients_gone = true,
            },
            // Boxed, as what follows: a connection keeps room for whatever it may ever wait for.
            () = async { Box::pin(sleep_until(deadline.unwrap_or(self.connected_at))).await }, if deadline.is_some() => {
                self.tick();
            }
            () = async { Box::pin(self.events.room()).await }, if self.missed > 0 => self.report_gap(),
            () = async { Box::pin(self.events.closed()).await }, if self.clients_gone => {
                self.session.close(CloseReason::Released);
            }
        }
        self.execute_outputs();
        self.write();
        self.execute_outputs();
    }

    /// Gives back what the last command needed, once nobody waits for anything: most connections are idle.
    fn rest(&mut self) {
        if self.replies.is_empty() && self.unwritten.is_empty() {
            self.replies.shrink_to_fit();
            self.unwritten.shrink_to_fit();
            self.session.rest();
        }
    }

    fn now(&self) -> Duration {
        self.connected_at.elapsed()
    }

    fn read(&mut self) {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => self.session.close(CloseReason::Eof),
            Ok(length) => {
                self.withdraw_abandoned();
                self.session.receive(&bytes[..length], self.now());
            }
            Err(error) => self.close_unless_blocked(&error),
        }
    }

    fn submit(&mut self, request: Request) {
        let Request { command, arguments, reply_deadline, reply } = request;
        if reply.is_closed() {
            return;
        }
        self.withdraw_abandoned();
        match self.session.submit(&command, arguments, reply_deadline, self.now()) {
            Ok(id) => {
                self.replies.insert(id, reply);
            }
            // A caller that has gone away needs no answer.
            Err(error) => drop(reply.send((Err(error), self.position))),
        }
    }

    /// Before the session may send the next command: those whose callers have gone away must not be sent.
    fn withdraw_abandoned(&mut self) {
        let session = &mut self.session;
        self.replies.retain(|id, reply| {
            if reply.is_closed() {
                session.withdraw(*id);
            }
            !reply.is_closed()
        });
    }

    fn tick(&mut self) {
        if self.write_until.is_some_and(|deadline| deadline <= Instant::now()) {
            self.session.close(CloseReason::Unresponsive);
        }
        self.withdraw_abandoned();
        self.session.tick(self.now());
    }

    fn write(&mut self) {
        while !self.unwritten.is_empty() && !self.session.is_closed() {
            match self.stream.try_write(&self.unwritten) {
                Ok(length) => drop(self.unwritten.drain(..length)),
                // What QEMU said before it left is still to be read: end of file closes the session.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.unwritten.clear(),
                Err(error) => return self.close_unless_blocked(&error),
            }
        }
        if self.unwritten.is_empty() {
            self.write_until = None;
        }
    }

    fn close_unless_blocked(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::ConnectionReset => self.session.close(CloseReason::Eof),
            kind => self.session.close(CloseReason::Io { kind }),
        }
    }

    fn execute_outputs(&mut self) {
        while let Some(output) = self.session.next_output() {
            match output {
                Output::Write(bytes) => {
                    self.write_until.get_or_insert_with(|| Instant::now() + self.write_deadline);
                    self.unwritten.extend_from_slice(&bytes);
                }
                Output::Ready(version) => self.version = Some(version),
                Output::Reply { id, reply } => {
                    if let Some(caller) = self.replies.remove(&id) {
                        // A caller that has gone away needs no answer.
                        drop(caller.send((reply, self.position)));
                    }
                }
                Output::Event(event) => self.forward(Incoming::Event(event)),
                Output::Anomaly(anomaly) => {
                    tracing::debug!(%anomaly, "QMP anomaly");
                    self.shared.anomaly_counts.store(self.session.anomaly_counts());
                    self.forward(Incoming::Anomaly(anomaly));
                }
                // It is set here alone, and this is the last output.
                Output::Closed(close) => drop(self.shared.close.set(close)),
            }
        }
    }

    fn forward(&mut self, incoming: Incoming) {
        // What is younger than a gap must not overtake it.
        if self.missed > 0 {
            self.report_gap();
        }
        if self.missed > 0 || self.events.try_send(Box::new(incoming)).is_err() {
            self.missed += 1;
        } else {
            self.position.0 += 1;
        }
    }

    fn report_gap(&mut self) {
        match self.events.try_send(Box::new(Incoming::Gap { missed: self.missed })) {
            Err(TrySendError::Full(_)) => {}
            Ok(()) => {
                self.missed = 0;
                self.position.0 += 1;
            }
            // Without a consumer nobody misses anything.
            Err(TrySendError::Closed(_)) => self.missed = 0,
        }
    }
}

/// Ready to be read, or to be written where that is wanted.
fn poll_ready(stream: &UnixStream, to_write: bool, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
    if let Poll::Ready(to_read) = stream.poll_read_ready(context) {
        return Poll::Ready(to_read.map(|()| Ready::ToRead));
    }
    if !to_write {
        return Poll::Pending;
    }
    Poll::Ready(ready!(stream.poll_write_ready(context)).map(|()| Ready::ToWrite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_connection_keeps_no_room_for_what_it_may_ever_wait_for() {
        let (stream, _qemu) = UnixStream::pair().unwrap();
        let (driver, _client, _events) = Driver::new(stream, &Config::default());
        // With what tokio keeps of each task, 384 bytes.
        assert!(size_of_val(&Box::new(driver).run()) <= 272);
    }
}
