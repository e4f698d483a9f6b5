//! KVM, QEMU, the clock, and whether an agent answers.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Command;

use nix::libc;

use super::Finding;
use crate::proto::RejectedReply;
use crate::words::counted;

/// The oldest QEMU that hibernates by every method.
const QEMU_MAJOR_ALL: u32 = 9;
/// The oldest QEMU that is driven at all.
const QEMU_MAJOR_MIN: u32 = 7;

/// How many files that are not taken are shown each by itself.
const REJECTED_SHOWN_MAX: usize = 10;

pub(super) fn findings() -> Vec<Finding> {
    vec![kvm(), qemu("qemu-system-x86_64"), clock()]
}

fn kvm() -> Finding {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::well("KVM", "/dev/kvm can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::wrong("KVM", format!("/dev/kvm: {error}"), "add the agent's user to the group kvm")
        }
        Err(error) => {
            let next = "load kvm_intel or kvm_amd, or switch virtualization on in the firmware; without it guests are emulated";
            Finding::less("KVM", format!("/dev/kvm: {error}"), next)
        }
    }
}

fn qemu(program: &str) -> Finding {
    let output = match Command::new(program).arg("--version").output() {
        Ok(output) => output,
        Err(error) => return Finding::wrong(program, error.to_string(), "install qemu-system-x86"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().next().unwrap_or_default().to_owned();
    match qemu_major(&line) {
        Some(major) if major >= QEMU_MAJOR_ALL => Finding::well(program, line),
        Some(major) if major >= QEMU_MAJOR_MIN => {
            let next =
                "install 9.0 or later to hibernate by mapped-ram, 8.2 or later by shared with virtio-mem";
            Finding::less(program, line, next)
        }
        _ => Finding::wrong(
            program,
            line,
            "install QEMU 7.2 or later; 9.0 or later to hibernate by every method",
        ),
    }
}

/// The first number behind `version`.
fn qemu_major(line: &str) -> Option<u32> {
    let (_, version) = line.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

/// Whether somebody keeps the clock right, as the kernel was told.
fn clock() -> Finding {
    // SAFETY: an all-zero `timex` is a valid one, and asks without changing anything.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into `timex`, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        let error = io::Error::last_os_error();
        return Finding::less(
            "clock",
            format!("the kernel does not say: {error}"),
            "let the agent call adjtimex",
        );
    }
    if timex.status & libc::STA_UNSYNC != 0 || state == libc::TIME_ERROR {
        let next = "run chrony, ntpd or systemd-timesyncd: durations stay exact, but slices are placed by this clock";
        return Finding::less("clock", "nobody keeps it in step with others", next);
    }
    Finding::well("clock", format!("kept in step, to {} us", timex.maxerror))
}

/// Whether an agent answers on the control socket, and what it finds in its watched folder and does not take.
pub(super) async fn agent(socket: &Path) -> Vec<Finding> {
    let what = format!("agent on {}", socket.display());
    let mut findings = Vec::new();
    let agent = match crate::control::client(socket).await {
        Ok(mut client) => match client.list(crate::proto::ListRequest::default()).await {
            Ok(reply) => {
                let sandboxes = reply.into_inner().sandboxes.len();
                let orphans = client.orphans(crate::proto::OrphansRequest {}).await;
                let orphans = orphans.map_or(0, |reply| reply.into_inner().orphans.len());
                let rejected = client.rejected(crate::proto::RejectedRequest {}).await;
                findings = rejected.map_or_else(|_| Vec::new(), |reply| judge_rejected(reply.into_inner()));
                judge_agent(what, sandboxes, orphans)
            }
            Err(status) => Finding::less(what, status.message(), "ask for a grant in [[control.grants]]"),
        },
        Err(_) => Finding::less(what, "nobody answers", "start it: `systemctl start dormouse`"),
    };
    findings.insert(0, agent);
    findings
}

/// Each of the first, and how many there are beside.
fn judge_rejected(reply: RejectedReply) -> Vec<Finding> {
    let RejectedReply { files, total } = reply;
    let mut findings: Vec<Finding> = files
        .into_iter()
        .take(REJECTED_SHOWN_MAX)
        .map(|file| {
            let found = format!("not taken as a sandbox: {} [{}]", file.message, file.reason);
            Finding::less(file.path, found, file.next)
        })
        .collect();
    let more = total.saturating_sub(u64::try_from(findings.len()).unwrap_or(u64::MAX));
    if more > 0 {
        let found = format!("{} not taken", counted(more, "more file"));
        findings.push(Finding::less("watched folder", found, "look at `dormouse ls --rejected`"));
    }
    findings
}

fn judge_agent(what: String, sandboxes: usize, orphans: usize) -> Finding {
    let sandboxes = counted(sandboxes, "sandbox");
    if orphans == 0 {
        return Finding::well(what, sandboxes);
    }
    let orphans = counted(orphans, "QEMU");
    let found = format!("{sandboxes}, and {orphans} that it started and no sandbox claims");
    Finding::less(what, found, "look at `dormouse ls --orphans`; `dormouse destroy-orphan PID` ends one")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::proto::RejectedFile;

    #[test]
    fn a_qemu_that_no_sandbox_claims_is_worth_a_look() {
        let verdict = |orphans| judge_agent("agent".to_owned(), 3, orphans).verdict;
        assert_eq!((verdict(0), verdict(1)), (Verdict::Well, Verdict::Less));
    }

    #[test]
    fn what_is_not_taken_is_shown_with_its_reason_and_many_are_counted() {
        let file = |number: usize| RejectedFile {
            path: format!("/run/{number}.qmp"),
            reason: "FILE_OPEN_TO_ALL".to_owned(),
            message: "everybody may write to it".to_owned(),
            next: "chmod o-w".to_owned(),
        };
        let findings = judge_rejected(RejectedReply { files: (0..12).map(file).collect(), total: 1012 });
        assert_eq!(findings.len(), REJECTED_SHOWN_MAX + 1);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Less));
        assert_eq!((findings[0].what.as_str(), findings[0].next.as_str()), ("/run/0.qmp", "chmod o-w"));
        assert!(findings[0].found.contains("[FILE_OPEN_TO_ALL]"), "{}", findings[0].found);
        assert_eq!(findings[REJECTED_SHOWN_MAX].found, "1002 more files not taken");
        assert!(judge_rejected(RejectedReply::default()).is_empty());
    }

    #[test]
    fn one_sandbox_and_one_qemu_are_told_as_one() {
        let found = |sandboxes, orphans| judge_agent(String::new(), sandboxes, orphans).found;
        assert_eq!((found(1, 0), found(2, 0)), ("1 sandbox".into(), "2 sandboxes".into()));
        assert_eq!(found(0, 1), "0 sandboxes, and 1 QEMU that it started and no sandbox claims");
        assert_eq!(found(1, 2), "1 sandbox, and 2 QEMUs that it started and no sandbox claims");
    }

    #[test]
    fn the_version_of_qemu_is_read_from_its_own_words() {
        assert_eq!(qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(qemu_major("QEMU emulator version 7.2.22"), Some(7));
        assert_eq!(qemu_major("something else"), None);
    }
}
