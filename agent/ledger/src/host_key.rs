//! The host's Ed25519 key, with which it signs for its record.
//!
//! It lies beside the ledger in `host.key`, readable by the agent alone, and never leaves the host. Its public half is in
//! every watermark; who wants to be sure of it notes it elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};

use crate::LedgerError;
use crate::encode::hex;

const NAME: &str = "host.key";
const MODE: u32 = 0o600;

/// The key of this host.
pub(crate) struct HostKey(SigningKey);

impl HostKey {
    /// Reads the key in a folder, or makes one where there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, LedgerError> {
        let path = folder.join(NAME);
        let failed =
            |error: io::Error| LedgerError::Unwritable { why: format!("{}: {error}", path.display()) };
        match fs::read(&path) {
            Ok(bytes) => {
                let secret = <[u8; 32]>::try_from(&bytes[..])
                    .map_err(|_| LedgerError::corrupt(format!("{} holds no key", path.display())))?;
                if fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
                    tracing::warn!(path = %path.display(), "the host's key can be read by others: set its mode to 0600");
                }
                Ok(Self(SigningKey::from_bytes(&secret)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::create(folder, &path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The key appears under its name once it is whole and on the disk.
    fn create(folder: &Path, path: &Path) -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(io::Error::from)?;
        let partial: PathBuf = folder.join(format!("{NAME}.partial"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&partial)?;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(&secret)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// The public half, in hexadecimal.
    pub(crate) fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// A signature, in hexadecimal.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        hex(&self.0.sign(message).to_bytes())
    }
}
