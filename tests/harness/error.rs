//! Why a test could not go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the harness returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a test could not go on. The text is all that the reader of a failed test gets, so it says what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that a make target prepares is absent.
    #[error("{} is missing: run `{remedy}`", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
    },
    /// Something awaited did not come true in time.
    #[error("waited {} s for {what}: {last}", after.as_secs_f32())]
    Deadline {
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
        /// Why the last attempt was no success.
        last: String,
    },
    /// QEMU refused a command of the harness's own monitor.
    #[error("QEMU refused {command}: {reply}")]
    Refused {
        /// The QMP command.
        command: String,
        /// The `error` member of QEMU's reply.
        reply: serde_json::Value,
    },
    /// A program ended otherwise than it should have.
    #[error("{what} {how}")]
    Ended {
        /// Which program.
        what: String,
        /// Its exit status and the end of what it printed.
        how: String,
    },
    /// Someone answered something that makes no sense.
    #[error("{from} answered {answer:?}")]
    Nonsense {
        /// Who answered.
        from: String,
        /// What came.
        answer: String,
    },
    /// A file, a socket or a process could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was done and to which file when the system refused.
    pub fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}
