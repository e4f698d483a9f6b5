//! What the kernel gives a sandbox: the host's memory, CPU time, and memory written out or read back. All of it may block,
//! and none of it here.

use std::path::PathBuf;

use ractor::ActorRef;

use super::act::{answer_to, with_cause};
use super::disk::blocking;
use super::{Message, State};
use crate::host_memory::{Denial, GateError, Promise};
use crate::process::cpu_group::CpuGroupError;
use crate::process::paging::{self, Ram};
use crate::process::{Advice, CpuMax, Watch};
use crate::sandbox::machine::{Answer, Token};
use crate::sandbox::refusal::{Reason, Refusal};

impl State {
    /// Promises memory of the host until the command under way has its reply.
    pub(super) fn promise_memory(&mut self, token: Token, wanted_bytes: u64, myself: &ActorRef<Message>) {
        let answer = match self.environment.host_memory.promise(wanted_bytes) {
            Ok(promise) => {
                self.hold_promise(promise);
                Answer::Promised
            }
            Err(error) => Answer::Failed(short_of_memory(&error)),
        };
        answer_to(token, myself)(answer);
    }

    /// Keeps memory of the host until the command under way has its reply.
    pub(super) fn keep_memory(&mut self, bytes: u64) {
        let promise = self.environment.host_memory.keep(bytes);
        self.hold_promise(promise);
    }

    fn hold_promise(&mut self, promise: Promise) {
        let request_id = self.machine.underway().map(|(command, _)| command.request_id.clone());
        self.promised = request_id.map(|request_id| Box::new((request_id, promise)));
    }

    /// Limits QEMU's CPU time.
    pub(super) fn limit_vcpus(&self, token: Token, limit_milli: Option<u32>, myself: &ActorRef<Message>) {
        let reply = answer_to(token, myself);
        let Some(process) = self.process.as_ref().map(Watch::process) else {
            return reply(Answer::Failed(no_process()));
        };
        let (groups, process) = (self.environment.cpu_groups.clone(), process.clone());
        blocking(reply, move || {
            let limited = groups.set_limit(process.pid(), CpuMax::of_milli(limit_milli));
            match limited {
                // What was written is its own: its pid has not come to be another's.
                Ok(limit) if process.is_alive() => Answer::VcpusLimited(limit.milli()),
                Ok(_) => Answer::Failed(no_process()),
                Err(error) => Answer::Failed(no_group(&error)),
            }
        });
    }

    /// Advises the kernel about the guest's memory.
    pub(super) fn advise(&self, token: Token, advice: Advice, myself: &ActorRef<Message>) {
        let reply = answer_to(token, myself);
        let Some(process) = self.process.as_ref().map(Watch::process) else {
            return reply(Answer::Failed(no_process()));
        };
        let backends = self.machine.core().survey.iter().flat_map(|survey| &survey.backends);
        let ram: Vec<Ram> = backends
            .map(|backend| Ram {
                size_bytes: backend.size_bytes,
                path: backend.path.as_ref().map(PathBuf::from),
            })
            .collect();
        let process = process.clone();
        blocking(reply, move || match paging::advise(&process, &ram, advice) {
            Ok(paging) => Answer::Advised(Box::new(paging)),
            Err(error) => Answer::Failed(Refusal::new(Reason::QemuFailed, with_cause(&error))),
        });
    }
}

fn no_process() -> Refusal {
    Refusal::new(Reason::QemuDied, "there is no process of QEMU any more")
}

fn short_of_memory(error: &GateError) -> Refusal {
    let refusal = Refusal::new(Reason::HostMemoryShort, with_cause(error));
    match error {
        GateError::Denied(Denial::NotEnough {
            wanted_bytes,
            available_bytes,
            promised_bytes,
            reserve_bytes,
        }) => refusal
            .with("wanted_bytes", wanted_bytes)
            .with("available_bytes", available_bytes)
            .with("promised_bytes", promised_bytes)
            .with("reserve_bytes", reserve_bytes),
        GateError::Denied(Denial::Stalled { stalled_centipercent, stalled_centipercent_max }) => refusal
            .with("stalled_centipercent", stalled_centipercent)
            .with("stalled_centipercent_max", stalled_centipercent_max),
        GateError::Unknown(_) => refusal,
    }
}

fn no_group(error: &CpuGroupError) -> Refusal {
    let advice = match error {
        CpuGroupError::Unread(_) => return Refusal::new(Reason::OutcomeUnknown, with_cause(error)),
        CpuGroupError::None { .. } => "run its QEMU in a systemd unit or scope of its own",
        CpuGroupError::NoController { .. } => "run its QEMU in a systemd unit of its own, with CPUWeight=100",
        CpuGroupError::Shared { .. } => "run its QEMU in a unit or scope that holds nothing else",
        CpuGroupError::Threaded { .. } => {
            "whoever made the groups limits it: under libvirt, `virsh schedinfo`"
        }
        CpuGroupError::Malformed { .. } => "see that scale.cgroup_dir is where cgroup v2 is mounted",
        CpuGroupError::Kernel { .. } => {
            "give the agent the drop-in limits-and-reclaim.conf, or set CPUQuota= on the unit of its QEMU"
        }
    };
    Refusal::new(Reason::CgroupUnsuitable, format!("{}: {advice}", with_cause(error)))
}
