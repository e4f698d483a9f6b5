//! The certificates of the TCP listener, which can be read again while it listens.
//!
//! ```text
//!   files ── read, and they can be used ──▶ in force for every connection from then on
//!     ▲ │ not                                   │
//!     │ └──▶ those in force stay                │ asked to read them again
//!     └─────────────────────────────────────────┘
//! ```
//!
//! Connections that stand go on as they began, until they are an hour old. Sessions of before are not resumed: each set has
//! its own. It never looks at the files unasked, because they are replaced one after the other.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use dormouse_metering::Stamp;
use tokio_rustls::TlsAcceptor;

use super::tls::{Files, TlsError};

/// The certificates of a listener. Cheap to clone; all clones share those in force.
#[derive(Clone)]
pub struct Certificates(Arc<Shared>);

struct Shared {
    files: Files,
    in_force: RwLock<TlsAcceptor>,
}

impl Certificates {
    /// Those of these files.
    pub(super) fn read(files: Files) -> Result<Self, TlsError> {
        let in_force = RwLock::new(files.read()?.acceptor);
        Ok(Self(Arc::new(Shared { files, in_force })))
    }

    /// Reads the files again and says through when the agent's own certificate is valid, in words. An error changes nothing:
    /// where the files cannot be used, or the certificate is not valid now, those of before stay in force. Reads files.
    pub fn read_again(&self, now: Stamp) -> Result<String, TlsError> {
        let read = self.0.files.read()?;
        let until = read.validity.not_after.to_string();
        if !read.is_valid_at(now.wall_ns) {
            let path = self.0.files.certificate.clone();
            return Err(TlsError::NotValidNow { path, from: read.validity.not_before.to_string(), until });
        }
        *self.0.in_force.write().unwrap_or_else(PoisonError::into_inner) = read.acceptor;
        Ok(until)
    }

    /// The file of the agent's own certificate.
    pub fn path(&self) -> &Path {
        &self.0.files.certificate
    }

    /// What makes TLS out of the next connection.
    pub(super) fn in_force(&self) -> TlsAcceptor {
        self.0.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
