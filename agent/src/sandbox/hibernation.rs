//! Which way of hibernating suits a sandbox, and why.
//!
//! | method | needs |
//! |---|---|
//! | shared | QEMU 8.2 or later, and all RAM in files with `share=on` |
//! | mapped-ram | QEMU 9.0 or later |
//! | internal | a qcow2 image behind every writable disk |
//!
//! `auto` takes the first of these that the sandbox allows, in the configured order: by default the cheapest.
//! `shared` needs 8.1 where there is virtio-mem, because QEMU 7.2 loses plugged memory with it, and `file:`
//! migration came with 8.2.

use super::command::{Method, MethodChoice};
use super::facts::{QemuVersion, Survey};
use super::refusal::{Reason, Refusal};
use crate::process;

const SHARED_SINCE: QemuVersion = QemuVersion { major: 8, minor: 2, micro: 0 };

/// The methods, the cheapest first: the order in which `auto` tries them by default.
pub const CHEAPEST_FIRST: [Method; 3] = [Method::Shared, Method::MappedRam, Method::Internal];

/// Chooses a method, and says in a sentence why.
pub fn choose(survey: &Survey, choice: MethodChoice, order: &[Method]) -> Result<(Method, String), Refusal> {
    let again = match &survey.command_line {
        Ok(command_line) => process::repeatable(&command_line.argv).map_err(|why| why.join("; ")),
        Err(why) => Err(why.clone()),
    };
    if let Err(why) = again {
        let message = format!("its QEMU could not be started again: {why}");
        return Err(Refusal::new(Reason::MethodUnsuitable, message));
    }
    match choice {
        MethodChoice::Named(method) => match obstacle(survey, method) {
            None => Ok((method, format!("{} as asked", method.as_str()))),
            Some(why) => {
                let message = format!("{} does not suit this sandbox: {why}", method.as_str());
                Err(Refusal::new(Reason::MethodUnsuitable, message).with("method", method.as_str()))
            }
        },
        MethodChoice::Auto => auto(survey, order),
    }
}

fn auto(survey: &Survey, order: &[Method]) -> Result<(Method, String), Refusal> {
    let mut passed_over = Vec::new();
    for method in order.iter().copied() {
        match obstacle(survey, method) {
            None if passed_over.is_empty() => {
                return Ok((method, format!("{}, the cheapest", method.as_str())));
            }
            None => return Ok((method, format!("{}: not {}", method.as_str(), passed_over.join(", not ")))),
            Some(why) => passed_over.push(format!("{} ({why})", method.as_str())),
        }
    }
    let message = format!("no way of hibernating suits this sandbox: not {}", passed_over.join(", not "));
    Err(Refusal::new(Reason::MethodUnsuitable, message))
}

fn obstacle(survey: &Survey, method: Method) -> Option<String> {
    match method {
        Method::Shared => shared_obstacle(survey),
        Method::MappedRam => (!survey.capabilities.mapped_ram)
            .then(|| format!("QEMU {} has no mapped-ram, 9.0 has", survey.version)),
        Method::Internal => internal_obstacle(survey),
    }
}

fn shared_obstacle(survey: &Survey) -> Option<String> {
    if survey.version < SHARED_SINCE || !survey.capabilities.ignore_shared {
        return Some(format!("QEMU {} is older than {SHARED_SINCE}", survey.version));
    }
    if survey.backends.is_empty() {
        return Some("its RAM is in no file".to_owned());
    }
    let private = survey.backends.iter().find(|backend| !backend.share || backend.path.is_none())?;
    Some(format!("memory backend {} is not a file with share=on", private.id))
}

fn internal_obstacle(survey: &Survey) -> Option<String> {
    if !survey.capabilities.snapshot_jobs {
        return Some(format!("QEMU {} has no snapshot-save", survey.version));
    }
    let mut writable = survey.disks.iter().filter(|disk| !disk.read_only).peekable();
    if writable.peek().is_none() {
        return Some("it has no writable disk".to_owned());
    }
    let other = writable.find(|disk| disk.format != "qcow2")?;
    Some(format!("disk {} is {}, not qcow2", other.node, other.format))
}
