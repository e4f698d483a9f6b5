//! Why the demo could not go on.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the demo's steps return.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why the demo could not go on. What merely is not as it should be is a claim that does not hold instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The folder has something else in it.
    #[error("{} is not empty, and no demo has made it: give another --folder", .0.display())]
    NotOurs(PathBuf),
    /// The folder is in use.
    #[error("another demo runs in {}: wait for its end, or give another --folder", .0.display())]
    Busy(PathBuf),
    /// Someone does not want it to go on.
    #[error("ended by {0}; no process is left behind")]
    Interrupted(&'static str, u8),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(io::Error),
    /// The command line printed something else than it should.
    #[error("`{asked}` printed no {what}")]
    Absent {
        /// The command.
        asked: String,
        /// What was looked for.
        what: &'static str,
    },
    /// The harness could not do its part.
    #[error(transparent)]
    Harness(#[from] dormouse_tests::Error),
}

impl Failure {
    /// How the program ends: as shells say it of a signal, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Interrupted(_, number) => ExitCode::from(128 + number),
            _ => ExitCode::FAILURE,
        }
    }
}
