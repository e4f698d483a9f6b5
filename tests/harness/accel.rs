//! KVM or emulation: what a real boot on this machine has shown.

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::{Error, Result, paths};

/// How this machine runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualization; a boot has proved that it works.
    Kvm,
    /// Emulation, where KVM is absent or runs no guest.
    Tcg,
}

impl Accel {
    /// The argument of `-accel`, and how people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The argument of `-cpu`. Under emulation each feature beyond the oldest costs time.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "max",
            Self::Tcg => "qemu64",
        }
    }
}

/// Asks scripts/probe-accel, once per process; the script boots a guest, once per boot of this machine.
pub async fn probed() -> Result<Accel> {
    static PROBED: OnceCell<Accel> = OnceCell::const_new();
    PROBED.get_or_try_init(probe).await.copied()
}

async fn probe() -> Result<Accel> {
    let script = paths::workspace().join("scripts/probe-accel");
    let output = Command::new(&script).output().await.map_err(Error::io("running", &script))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    match answer.trim() {
        "kvm" => Ok(Accel::Kvm),
        "tcg" => Ok(Accel::Tcg),
        _ => {
            let answer = format!("{answer}{}", String::from_utf8_lossy(&output.stderr));
            Err(Error::Nonsense { from: "scripts/probe-accel".to_owned(), answer })
        }
    }
}
