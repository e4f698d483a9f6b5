//! The exit codes, in the one table that `--help`, the man pages and the code share.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked is done.
    Done,
    /// It was refused or failed.
    Failed,
    /// An anomaly was found.
    Anomaly,
    /// The command line is wrong.
    Usage,
    /// The agent cannot be reached.
    Unreachable,
    /// The configuration is wrong.
    Config,
}

/// Every exit code with its meaning. The codes above 2 are those of sysexits.h.
pub const EXIT_CODES: [(Exit, u8, &str); 6] = [
    (Exit::Done, 0, "done"),
    (Exit::Failed, 1, "failed or refused: the message gives the reason code and what to do"),
    (Exit::Anomaly, 2, "an anomaly was found (audit, doctor, verify, ledger)"),
    (Exit::Usage, 64, "the command line is wrong"),
    (Exit::Unreachable, 69, "the agent cannot be reached"),
    (Exit::Config, 78, "the configuration is wrong"),
];

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        EXIT_CODES.into_iter().find_map(|(exit, code, _)| (exit == self).then_some(code)).unwrap_or(1)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as text, for the end of `--help`.
pub(super) fn table() -> String {
    let lines = EXIT_CODES.map(|(_, code, meaning)| format!("  {code:>2}  {meaning}\n"));
    format!("Exit codes:\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_has_its_documented_code() {
        let codes = [Exit::Done, Exit::Failed, Exit::Anomaly, Exit::Usage, Exit::Unreachable, Exit::Config]
            .map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 64, 69, 78]);
        assert!(table().contains("  69  the agent cannot be reached\n"));
    }
}
