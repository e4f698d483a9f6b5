//! Who may do what: the rule of every call, the grants of the configuration, and the judgement.
//!
//! Nothing here does any IO but the look-up of users and groups at the start; what a call is answered is a value.

use std::net::IpAddr;
use std::sync::Arc;

use nix::unistd::{Group, User};

use crate::config::{Control, Grant, Role};
use crate::sandbox::refusal::{Reason, Refusal};

/// Whose sandboxes a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that it names or may see: a caller who is bound to an org gets only that org's.
    Org,
    /// The host's: not for a caller who is bound to an org.
    Host,
}

/// What a call needs.
#[derive(Debug)]
pub(super) struct Rule {
    /// The path of the method.
    pub(super) path: &'static str,
    /// The least role.
    pub(super) role: Role,
    /// Whose sandboxes it is about.
    pub(super) scope: Scope,
}

macro_rules! rules {
    ($($service:literal { $($role:ident $scope:ident: $($method:literal),+;)* })*) => {
        /// The rule of every call. A method without one is not served.
        pub(super) const RULES: &[Rule] = &[$($($(Rule {
            path: concat!("/", $service, "/", $method),
            role: Role::$role,
            scope: Scope::$scope,
        },)+)*)*];
    };
}

rules! {
    "dormouse.control.v1.Control" {
        Read Org: "List", "Get", "Watch", "Slices", "Usage", "GetTags";
        // They walk everybody's slices and events.
        Read Host: "Audit", "Outbox", "ExportEvents";
        Operate Org: "Scale", "Pause", "Resume", "Hibernate", "Wake", "Reboot", "Destroy", "SetTags";
        Admin Org: "Detach";
        // It names any socket on the host, and so any org's QEMU.
        Admin Host: "Attach";
        // Nobody who is bound to an org frees that org's time.
        Admin Host: "Suppress", "Unsuppress";
        Operate Org: "PowerCycle";
        // It names programs, files and arguments on the host, and so anything that the agent's user may do.
        Admin Host: "Create", "DestroyOrphan";
        Read Host: "Orphans", "Rejected";
    }
    // Whether the agent serves, and what its interface looks like, only callers with a role learn.
    "grpc.health.v1.Health" { Read Org: "Check", "Watch"; }
    "grpc.reflection.v1.ServerReflection" { Read Org: "ServerReflectionInfo"; }
}

/// What a caller needs who asks for a method that does not exist.
pub(super) const ANY: Rule = Rule { path: "a method", role: Role::Read, scope: Scope::Org };

/// The rule of the method with this path.
pub(super) fn rule(path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.path == path)
}

/// What the other end of a connection has shown of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A process on this host, as the kernel knows it.
    Process {
        /// Its user.
        uid: u32,
        /// Its groups, the first one and the others.
        gids: Vec<u32>,
    },
    /// A certificate that was checked.
    Certificate {
        /// The URIs in its subject alternative names.
        uris: Vec<String>,
        /// The common name of its subject.
        common_name: Option<String>,
    },
    /// Nothing.
    Nothing {
        /// Where it calls from.
        address: IpAddr,
    },
}

/// Who calls, and what they may do. Established once for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// What the ledger calls them: `uid:1000`, `uri:spiffe://...`, `cn:...`, `ip:...`.
    pub(super) who: String,
    /// What they may do; `None` where nobody knows who they are.
    pub(super) role: Option<Role>,
    /// The one org that they see and touch.
    pub(super) org: Option<String>,
}

/// Who makes a call that may be made, for those who carry it out.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    /// Who asks.
    pub(super) caller: Arc<Caller>,
    /// The path of the method.
    pub(super) path: &'static str,
}

/// The longest name of a caller, in characters.
const WHO_CHARS_MAX: usize = 256;

impl Caller {
    /// Whether the caller may make a call. The refusal is for the caller, and for the ledger.
    pub(super) fn may(&self, call: &Rule) -> Result<(), Refusal> {
        let Some(role) = self.role else {
            let message = "nobody knows who asks: show a certificate that the agent's client_ca signed";
            return Err(Refusal::new(Reason::CallerUnknown, message));
        };
        if role < call.role {
            let (has, needs) = (role.as_str(), call.role.as_str());
            let message = format!(
                "{} needs role {needs} and {} has {has}: a grant in [[control.grants]] gives it",
                call.path, self.who
            );
            let refusal = Refusal::new(Reason::RoleInsufficient, message);
            return Err(refusal.with("role", has).with("needs", needs));
        }
        match &self.org {
            Some(org) if call.scope == Scope::Host => {
                let message =
                    format!("{} is about the whole host and {} is bound to org {org}", call.path, self.who);
                Err(Refusal::new(Reason::OrgBound, message).with("org", org))
            }
            _ => Ok(()),
        }
    }
}

/// Why the grants of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such user or group.
    #[error(
        "the {kind} {name:?} of a grant or of `socket_group` does not exist: correct it, or add the {kind}"
    )]
    NoSuch {
        /// `user` or `group`.
        kind: &'static str,
        /// What the configuration says.
        name: String,
    },
    /// They cannot be looked up.
    #[error("the {kind} {name:?} cannot be looked up: {errno}")]
    LookUp {
        /// `user` or `group`.
        kind: &'static str,
        /// What the configuration says.
        name: String,
        /// What the system said.
        errno: nix::errno::Errno,
    },
}

/// Whom a grant names.
#[derive(Debug)]
enum Named {
    User(u32),
    Group(u32),
    Uri(String),
    CommonName(String),
}

/// The grants of a configuration, in order.
#[derive(Debug)]
pub(super) struct Access {
    grants: Vec<(Named, Role, Option<String>)>,
    socket_role: Role,
}

impl Access {
    /// The grants of a configuration. Users and groups are looked up now, once.
    pub(super) fn new(control: &Control) -> Result<Self, AccessError> {
        let grants = control
            .grants
            .iter()
            .map(|grant| named(grant).map(|named| named.map(|named| (named, grant.role, grant.org.clone()))));
        // The check of the configuration has seen to it that each names somebody.
        let grants = grants.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        Ok(Self { grants, socket_role: control.socket_role })
    }

    /// Who has shown these credentials: the first grant that names them counts.
    pub(super) fn caller(&self, credentials: &Credentials) -> Caller {
        let granted = self
            .grants
            .iter()
            .find_map(|(named, role, org)| names(named, credentials).map(|who| (who, *role, org.clone())));
        let (who, role, org) = match (granted, credentials) {
            (Some((who, role, org)), _) => (who, Some(role), org),
            (None, Credentials::Process { uid, .. }) => (format!("uid:{uid}"), Some(self.socket_role), None),
            (None, Credentials::Certificate { uris, common_name }) => {
                let uri = uris.first().map(|uri| format!("uri:{uri}"));
                let who = uri.or_else(|| common_name.as_ref().map(|name| format!("cn:{name}")));
                (who.unwrap_or_else(|| "certificate without a name".to_owned()), Some(Role::None), None)
            }
            (None, Credentials::Nothing { address }) => (format!("ip:{address}"), None, None),
        };
        Caller { who: who.chars().take(WHO_CHARS_MAX).collect(), role, org }
    }
}

/// What the ledger calls the caller, where the grant names them.
fn names(named: &Named, credentials: &Credentials) -> Option<String> {
    match (named, credentials) {
        (Named::User(user), Credentials::Process { uid, .. }) => (user == uid).then(|| format!("uid:{uid}")),
        (Named::Group(group), Credentials::Process { uid, gids }) => {
            gids.contains(group).then(|| format!("uid:{uid}"))
        }
        (Named::Uri(pattern), Credentials::Certificate { uris, .. }) => {
            uris.iter().find(|uri| fits(pattern, uri)).map(|uri| format!("uri:{uri}"))
        }
        (Named::CommonName(pattern), Credentials::Certificate { common_name, .. }) => {
            common_name.as_ref().filter(|name| fits(pattern, name)).map(|name| format!("cn:{name}"))
        }
        _ => None,
    }
}

fn named(grant: &Grant) -> Result<Option<Named>, AccessError> {
    let Grant { user, group, uri, common_name, role: _, org: _ } = grant;
    Ok(match (user, group, uri, common_name) {
        (Some(user), ..) => Some(Named::User(uid_of(user)?)),
        (_, Some(group), ..) => Some(Named::Group(gid_of(group)?)),
        (_, _, Some(uri), _) => Some(Named::Uri(uri.clone())),
        (.., Some(name)) => Some(Named::CommonName(name.clone())),
        _ => None,
    })
}

fn uid_of(name: &str) -> Result<u32, AccessError> {
    id_of("user", name, |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// The number of a group, by its name or number.
pub(super) fn gid_of(name: &str) -> Result<u32, AccessError> {
    id_of("group", name, |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn id_of(
    kind: &'static str,
    name: &str,
    look_up: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, AccessError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = look_up(name).map_err(|errno| AccessError::LookUp { kind, name: name.to_owned(), errno })?;
    found.ok_or_else(|| AccessError::NoSuch { kind, name: name.to_owned() })
}

/// Whether a text fits a pattern, in which each `*` stands for any characters.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The earliest place leaves the most for what follows.
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
pub(super) mod tests;
