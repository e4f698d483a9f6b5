//! The control socket: one agent listens on it, and a dead agent's leftover is no obstacle.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::config::FileMode;

/// A listener that does not accept within this is there all the same.
const PROBE_MS: u64 = 1_000;

/// Why the control socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("another agent listens on {0}: stop it, or configure another `socket`")]
    Taken(PathBuf),
    /// There is something else.
    #[error("{0} exists and is no socket: remove it, or configure another `socket`")]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on the unix socket `path`, with the file mode `mode` and the group with the number `group`, or the agent's
/// own. A socket on which nobody listens any more is replaced. The folder must exist.
pub(super) async fn bind(
    path: &Path,
    mode: FileMode,
    group: Option<u32>,
) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    remove_stale(path).await?;
    // Between the two calls the mode is what the umask leaves, which lets nobody but the owner connect unless the
    // umask is looser than 0022.
    let listener = UnixListener::bind(path).map_err(failed)?;
    if group.is_some() {
        chown(path, None, group).map_err(failed)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode.0)).map_err(failed)?;
    Ok(listener)
}

async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = tokio::time::timeout(Duration::from_millis(PROBE_MS), UnixStream::connect(path)).await;
    match probe {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(SocketError::Taken(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: FileMode = FileMode(0o600);

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        drop(bind(&path, MODE, None).await.expect("the first listener"));
        assert!(path.exists());
        let _again = bind(&path, MODE, None).await.expect("the second listener");
        assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_socket_that_somebody_listens_on_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let _first = bind(&path, MODE, None).await.expect("the first listener");
        assert!(matches!(bind(&path, MODE, None).await, Err(SocketError::Taken(_))));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(bind(&path, MODE, None).await, Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    }

    #[tokio::test]
    async fn a_missing_folder_is_an_error_that_names_the_socket() {
        let error = bind(Path::new("/nowhere/control.sock"), MODE, None).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on /nowhere/control.sock: "), "{error}");
    }
}
