//! Whether what lies in the folder is a sandbox.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dormouse_ledger::validate_tags;
use nix::libc;
use nix::unistd::Uid;

use super::SandboxFile;
use crate::ids::check_id;

/// How long a `<sandbox>.toml` may be, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why something is not taken as a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Its name is no id.
    #[error("the name is no sandbox id: it {0}")]
    Name(&'static str),
    /// It is a symbolic link, behind which anything may come to lie.
    #[error("it is a symbolic link")]
    Symlink,
    /// It is no socket.
    #[error("it is no socket")]
    NotSocket,
    /// It is no plain file.
    #[error("it is no plain file")]
    NotFile,
    /// It belongs to somebody who has no say here.
    #[error("it belongs to user {uid}, who is neither root nor the agent's user nor the folder's owner")]
    ForeignOwner {
        /// The owner.
        uid: u32,
    },
    /// Anybody on the host may use or change it.
    #[error("everybody may write to it (mode {mode:o}); take that away with chmod o-w")]
    OthersMayWrite {
        /// Its permissions.
        mode: u32,
    },
    /// It is too long.
    #[error("it has {bytes} bytes, more than {FILE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// It does not say what a sandbox's file says.
    #[error("{0}")]
    Toml(String),
    /// The org in it is no id.
    #[error("the org {org:?} {why}")]
    Org {
        /// What it says.
        org: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The plan in it is no id.
    #[error("the plan {plan:?} {why}")]
    Plan {
        /// What it says.
        plan: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tag in it is not allowed.
    #[error("{0}")]
    Tags(String),
    /// It names another org than when the sandbox appeared.
    #[error("org {org:?} is not the sandbox's, which is {was:?}; an org cannot change while QEMU lives")]
    OrgChanged {
        /// What it says now.
        org: String,
        /// What it said before.
        was: String,
    },
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

impl Rejection {
    /// Every stable code.
    pub const REASONS: [&'static str; 10] = [
        "FILE_NAME_INVALID",
        "FILE_IS_LINK",
        "FILE_NOT_SOCKET",
        "FILE_NOT_PLAIN",
        "FILE_FOREIGN_OWNER",
        "FILE_OPEN_TO_ALL",
        "FILE_TOO_LONG",
        "FILE_MALFORMED",
        "FILE_ORG_CHANGED",
        "FILE_UNREADABLE",
    ];

    /// The stable code, one of [`Self::REASONS`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Name(_) => "FILE_NAME_INVALID",
            Self::Symlink => "FILE_IS_LINK",
            Self::NotSocket => "FILE_NOT_SOCKET",
            Self::NotFile => "FILE_NOT_PLAIN",
            Self::ForeignOwner { .. } => "FILE_FOREIGN_OWNER",
            Self::OthersMayWrite { .. } => "FILE_OPEN_TO_ALL",
            Self::TooLong { .. } => "FILE_TOO_LONG",
            Self::Toml(_) | Self::Org { .. } | Self::Plan { .. } | Self::Tags(_) => "FILE_MALFORMED",
            Self::OrgChanged { .. } => "FILE_ORG_CHANGED",
            Self::Io(_) => "FILE_UNREADABLE",
        }
    }

    /// What to do about it. Whatever it is, the file is looked at again once it was changed.
    pub const fn next(&self) -> &'static str {
        match self {
            Self::Name(_) => "give the socket another name in QEMU's -qmp: letters, digits, `-`, `_` and `.`",
            Self::Symlink => "put the socket or file itself there",
            Self::NotSocket => "remove it, and give its path in QEMU's -qmp",
            Self::NotFile => "put a plain file there, or none",
            Self::ForeignOwner { .. } => "chown it to the agent's user or to the folder's owner",
            Self::OthersMayWrite { .. } => "chmod o-w",
            Self::TooLong { .. } => "write less into it",
            Self::Toml(_) | Self::Org { .. } | Self::Plan { .. } | Self::Tags(_) => "correct it",
            Self::OrgChanged { .. } => "name the org that it had; another one begins with another QEMU",
            Self::Io(_) => "let the agent's user read it",
        }
    }
}

/// Whose sockets and files are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owners {
    agent: u32,
    folder: u32,
}

/// What tells a socket from one that was made in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketId {
    device: u64,
    inode: u64,
    /// Not every file system knows it.
    made: Option<SystemTime>,
}

/// What is wrong, and with which file.
pub(super) type Refused = (PathBuf, Rejection);

impl Owners {
    pub(super) fn of(folder: &Metadata) -> Self {
        Self { agent: Uid::effective().as_raw(), folder: folder.uid() }
    }

    fn check(self, meta: &Metadata) -> Result<(), Rejection> {
        let uid = meta.uid();
        if uid != 0 && uid != self.agent && uid != self.folder {
            return Err(Rejection::ForeignOwner { uid });
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o002 != 0 { Err(Rejection::OthersMayWrite { mode }) } else { Ok(()) }
    }
}

/// The socket at `path`, or `None` where there is nothing.
pub(super) fn socket(path: &Path, owners: Owners) -> Result<Option<SocketId>, Refused> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err((path.to_owned(), Rejection::Io(error))),
    };
    let kind = meta.file_type();
    let checked = if kind.is_symlink() {
        Err(Rejection::Symlink)
    } else if kind.is_socket() {
        owners.check(&meta)
    } else {
        Err(Rejection::NotSocket)
    };
    checked.map_err(|why| (path.to_owned(), why))?;
    Ok(Some(SocketId { device: meta.dev(), inode: meta.ino(), made: meta.created().ok() }))
}

/// What the file at `path` says of its sandbox, or `None` where there is no file.
pub(super) fn sandbox_file(path: &Path, owners: Owners) -> Result<Option<SandboxFile>, Refused> {
    let refused = |why| (path.to_owned(), why);
    let Some(text) = read(path, owners).map_err(refused)? else {
        return Ok(None);
    };
    let file = SandboxFile::parse(&text).map_err(|why| refused(Rejection::Toml(why)))?;
    if let Some(org) = &file.org {
        check_id(org).map_err(|why| refused(Rejection::Org { org: org.clone(), why }))?;
    }
    if let Some(plan) = &file.plan {
        check_id(plan).map_err(|why| refused(Rejection::Plan { plan: plan.clone(), why }))?;
    }
    validate_tags(&file.tags).map_err(|error| refused(Rejection::Tags(error.to_string())))?;
    Ok(Some(file))
}

fn read(path: &Path, owners: Owners) -> Result<Option<String>, Rejection> {
    // Not to follow a link, and not to wait for the writer of a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                Some(libc::ELOOP) => Err(Rejection::Symlink),
                // What open(2) says of a socket.
                Some(libc::ENXIO) => Err(Rejection::NotFile),
                _ => Err(Rejection::Io(error)),
            };
        }
    };
    let meta = file.metadata().map_err(Rejection::Io)?;
    if !meta.is_file() {
        return Err(Rejection::NotFile);
    }
    owners.check(&meta)?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(Rejection::TooLong { bytes: meta.len() });
    }
    text(file).map(Some).map_err(Rejection::Io)
}

/// It may have grown since its length was asked.
fn text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
