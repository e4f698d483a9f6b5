//! The bounds within which one connection works.

use std::time::Duration;

/// Deadlines and limits. The defaults suit a loaded host: a deadline that is too tight makes false alarms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// For the socket to take the connection. Default 5 s.
    pub connect_deadline: Duration,
    /// From the connection to QEMU's greeting; passing it in silence means that another client has the
    /// socket. Default 5 s.
    pub greeting_deadline: Duration,
    /// From the greeting to the answer to `qmp_capabilities`. Default 5 s.
    pub negotiate_deadline: Duration,
    /// For QEMU to take what is written to it. Default 5 s.
    pub write_deadline: Duration,
    /// For a command to be answered once it is written, and before that for its turn to come: a command is
    /// over after twice this at the latest. Default 30 s.
    pub reply_deadline: Duration,
    /// The longest line, newline not counted; a schema is 236 KB. Default 4 MiB.
    pub line_limit_bytes: usize,
    /// How many commands may wait behind the one in flight. Default 32.
    pub queue_length: usize,
    /// How many events may wait for their consumer; more become a gap. Default 1024.
    pub event_queue_length: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(5),
            greeting_deadline: Duration::from_secs(5),
            negotiate_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(5),
            reply_deadline: Duration::from_secs(30),
            line_limit_bytes: 4 * 1024 * 1024,
            queue_length: 32,
            event_queue_length: 1024,
        }
    }
}
