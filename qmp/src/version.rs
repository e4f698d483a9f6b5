//! Which QEMU this is.

use serde::Deserialize;

/// QEMU's version, as its greeting says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "WireVersion")]
pub struct Version {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2; 50 and above for development versions.
    pub micro: u32,
    /// The packager's own words, such as `Debian 1:10.0.2+ds-2`; often empty.
    pub package: String,
}

impl Version {
    /// Whether this is `major.minor` or younger. Prefer [`crate::Schema`] to ask for a feature.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[derive(Deserialize)]
struct WireVersion {
    qemu: WireTriple,
    package: String,
}

#[derive(Deserialize)]
struct WireTriple {
    major: u32,
    minor: u32,
    micro: u32,
}

impl From<WireVersion> for Version {
    fn from(wire: WireVersion) -> Self {
        let WireTriple { major, minor, micro } = wire.qemu;
        Self { major, minor, micro, package: wire.package }
    }
}
