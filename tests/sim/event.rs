//! What happens in a history, one moment after the other.

use dormouse::process::ProcessIdentity;
use dormouse::sandbox::machine::{Answer, QmpCommand, Token};
use serde_json::Value;

use crate::known::Of;
use crate::qemu::Later;

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// An action of the agent's has come to its end.
    Answer {
        epoch: u64,
        seat: usize,
        of: u64,
        token: Token,
        answer: Answer,
    },
    /// A line of QEMU's arrives.
    Told {
        epoch: u64,
        seat: usize,
        link: u64,
        name: &'static str,
        stamp_ns: i64,
        detail: Value,
        known: Vec<(Of, u64)>,
    },
    /// Events were lost.
    Gap {
        epoch: u64,
        seat: usize,
        link: u64,
    },
    /// QEMU reads a command.
    Takes {
        epoch: u64,
        seat: usize,
        link: u64,
        token: Token,
        ask: Ask,
    },
    /// Its reply arrives.
    Reply {
        epoch: u64,
        seat: usize,
        link: u64,
        token: Token,
        answer: Answer,
        known: Vec<(Of, u64)>,
    },
    /// The agent waits no longer for the reply.
    Overdue {
        epoch: u64,
        seat: usize,
        link: u64,
        token: Token,
    },
    /// The agent connects.
    Connects {
        epoch: u64,
        seat: usize,
        attempt: u64,
        token: Token,
    },
    /// A survey's second half; the first is here.
    Surveys {
        epoch: u64,
        seat: usize,
        attempt: u64,
        token: Token,
        status: (&'static str, u64),
        link: Option<u64>,
    },
    /// The connection's end is seen.
    Closed {
        epoch: u64,
        seat: usize,
        link: u64,
    },
    /// The kernel takes a limit on CPU time of a process, and what is answered of it, after how long.
    Limits {
        epoch: u64,
        seat: usize,
        of: u64,
        token: Token,
        process: ProcessIdentity,
        limit_milli: Option<u32>,
    },
    /// What the kernel made of it is read.
    Limited {
        epoch: u64,
        seat: usize,
        of: u64,
        token: Token,
        answer: Answer,
        at: u64,
    },
    /// The process's end is seen.
    Exited {
        epoch: u64,
        seat: usize,
        process: ProcessIdentity,
    },
    /// QEMU does something by itself.
    Qemu {
        guest: usize,
        process: ProcessIdentity,
        later: Later,
    },
    Commit {
        epoch: u64,
    },
    Seal {
        epoch: u64,
    },
    Tick {
        epoch: u64,
    },
    Prove {
        epoch: u64,
    },
    Discover {
        epoch: u64,
    },
    NoticeStep {
        epoch: u64,
    },
    /// Somebody asks for something.
    Ask,
    /// Something goes wrong.
    Trouble,
    /// The agent is killed in the middle of something short.
    Kill {
        epoch: u64,
    },
    /// The agent starts, in this boot.
    Restart {
        boot: usize,
    },
    /// The host is there again.
    Boot,
    /// Somebody starts a QEMU of a guest's name after a boot.
    CreatedAgain {
        guest: usize,
    },
}

/// What is asked of QEMU.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Command(QmpCommand),
    Survey,
}

/// An event in the queue: ordered by its time and number alone.
#[derive(Debug)]
pub(crate) struct Slot(pub(crate) Event);

impl PartialEq for Slot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}
