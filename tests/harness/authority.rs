//! An authority of a test's own, and what it signs: certificates for servers on this machine.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{Error, Result};

/// An authority, and the folder of what it signed. Dropping it removes the folder.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

impl Authority {
    /// An authority that nobody else knows.
    pub fn new() -> Result<Self> {
        let folder =
            tempfile::tempdir().map_err(Error::io("making a folder for", Path::new("certificates")))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let issuer = KeyPair::generate().and_then(|key| CertifiedIssuer::self_signed(params, key));
        let authority = Self { issuer: issuer.map_err(|error| refused(&error))?, folder };
        authority.write("ca.pem", &authority.issuer.pem())?;
        Ok(authority)
    }

    /// Its own certificate, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for `localhost`, and for no address.
    pub fn signs_for_localhost(&self) -> Result<Certificate> {
        let key = KeyPair::generate().map_err(|error| refused(&error))?;
        let params = CertificateParams::new(["localhost".to_owned()]).map_err(|error| refused(&error))?;
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| refused(&error))?;
        Ok(Certificate {
            cert_file: self.write("server.pem", &signed.pem())?,
            key_file: self.write("server.key", &key.serialize_pem())?,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
        Ok(path)
    }
}

fn refused(error: &rcgen::Error) -> Error {
    Error::Nonsense { from: "the authority of a test".to_owned(), answer: error.to_string() }
}
