//! From the death of a QEMU to the word of it: a watcher of the agent, over gRPC, beside whoever waits on a pidfd in this
//! process. What is killed is a scripted QEMU in a process of its own, and both watch the same one.

use std::time::Duration;

use dormouse::config::Config;
use dormouse::process::Process;
use dormouse::proto::{WatchEvent, WatchRequest};
use dormouse_tests::scripted::{Options, Scripted};
use nix::sys::signal::{Signal, kill};
use tokio::runtime::Builder;
use tonic::Streaming;

use crate::agent::Agent;
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

/// One after the other.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut agent = Agent::start(&runtime, folder.path(), Config::default())?;
    let mut events = runtime.block_on(agent.client.watch(WatchRequest::default()))?.into_inner();
    let (mut told, mut kernel) = (Vec::new(), Vec::new());
    for turn in 0..size.pick(2, 100) {
        let id = format!("mortal-{turn}");
        let qemu =
            runtime.block_on(Scripted::start(&Options::default(), &id, folder.path(), folder.path()))?;
        agent.attach(&runtime, &id, qemu.qmp())?;
        let (by_agent, by_kernel) = runtime.block_on(die(&qemu, &id, &mut events))?;
        told.push(by_agent);
        kernel.push(by_kernel);
    }
    agent.stop(&runtime);
    let (told, kernel) = (Latencies::new(told), Latencies::new(kernel));
    let p99_ms = told.p99().as_secs_f64() * 1e3;
    Ok(vec![
        Row::latency("death: from SIGKILL to the word of it over gRPC", &told),
        Row::latency("  beside: a pidfd that is waited on", &kernel),
        Row::single("  p99", "ms", p99_ms, Some(Goal::AtMost(10.0))),
    ])
}

/// Kills it; returns how long it took until the agent, and until the kernel said so.
async fn die(
    qemu: &Scripted,
    id: &str,
    events: &mut Streaming<WatchEvent>,
) -> Result<(Duration, Duration), Error> {
    let pid = qemu.pids().first().copied().ok_or("the scripted QEMU does not run")?;
    let process = Process::open(pid.as_raw())?;
    let watch = Stopwatch::start();
    kill(pid, Signal::SIGKILL)?;
    let by_kernel = async {
        process.exited().await;
        Ok(watch.wall())
    };
    let by_agent = async {
        while let Some(event) = events.message().await? {
            let of_it = event.sandbox.and_then(|sandbox| sandbox.key).is_some_and(|key| key.sandbox == id);
            if of_it && event.kind == "ended" {
                return Ok(watch.wall());
            }
        }
        Err::<Duration, Error>("the agent has stopped telling".into())
    };
    tokio::try_join!(by_agent, by_kernel)
}
