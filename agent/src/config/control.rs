//! Who may command the agent: the listener beside the unix socket, roles, and who has which.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::section::section;

section! {
    /// Who may command the agent, and how much at once.
    Control {
        /// What a caller on the unix socket may do whom no grant names: `none`, `read`, `operate` or `admin`. Who
        /// gets that far, the socket's mode and group decide.
        socket_role: Role = Role::Admin,
        /// How many calls may be under way at once, streams included. The next one is told to try again.
        requests_max: u64 = 2_048,
        /// How many connections each listener holds at once. The next one waits.
        connections_max: u64 = 256,
    }
    sections {
        /// The TCP listener. There is none unless all four are set, and none without mutual TLS: a caller shows a
        /// certificate of `client_ca`, and a grant must name it. PEM files, which SIGHUP (`systemctl reload`) has read again.
        tls: Tls = Tls::default(),
        /// Who has which role: the first grant that names the caller counts. Each names one of `user`, `group`,
        /// `uri` and `common_name`.
        grants: Vec<Grant> = Vec::new(),
    }
}

section! {
    /// The TCP listener.
    Tls {
        /// Where to listen, such as `"[::]:7443"`.
        listen: Option<SocketAddr> = None,
        /// The agent's own certificate, and those between it and its authority.
        certificate: Option<PathBuf> = None,
        /// The certificate's key.
        key: Option<PathBuf> = None,
        /// The authorities whose certificates callers may show.
        client_ca: Option<PathBuf> = None,
    }
    sections {}
}

section! {
    /// A role, and whom it is given to.
    Grant {
        /// A user on the unix socket, by name or number.
        user: Option<String> = None,
        /// A group on the unix socket, by name or number, whether it is the caller's first or a further one.
        group: Option<String> = None,
        /// A URI in the certificate's subject alternative names. `*` stands for any characters.
        uri: Option<String> = None,
        /// The common name of the certificate's subject. `*` stands for any characters.
        common_name: Option<String> = None,
        /// `none`; `read`: list, get, watch, slices, usage; `operate`: also scale, pause, resume, hibernate, wake,
        /// reboot, destroy; `admin`: everything.
        role: Role = Role::Read,
        /// The one org whose sandboxes the caller sees and touches. Not set: every org.
        org: Option<String> = None,
    }
    sections {}
}

/// What a caller may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing.
    None,
    /// Ask.
    Read,
    /// Change sandboxes, and end them.
    Operate,
    /// Take sandboxes under care, and hand them back.
    Admin,
}

impl Role {
    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}
