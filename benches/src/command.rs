//! From a gRPC command to its durable reply, the whole agent in this process, beside the least that could be done:
//! one QMP round trip by a bare socket and one durable commit of a plain row.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dormouse::clock::Clock;
use dormouse::config::Config;
use dormouse::control::{self, Serving};
use dormouse::host;
use dormouse::proto::{AttachRequest, CommandHeader, PauseRequest, ResumeRequest, SandboxKey, ScaleRequest};
use dormouse_ledger::Ledger;
use dormouse_qmp::scripted::{Model, ScriptedQemu, VirtioMem};
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::qmp::Bare;
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size, life};

type Client = dormouse::proto::control_client::ControlClient<Channel>;

const BASE_BYTES: u64 = 256 << 20;
const GIB: u64 = 1 << 30;

/// Pause and resume in turn, then scale up and down in turn.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let place = |name: &str| folder.path().join(name);
    // QEMU is another process in real life: it has a runtime of its own.
    let qemu_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (_ours, _theirs) = {
        let _entered = qemu_runtime.enter();
        (scripted(&place("ours.qmp"))?, scripted(&place("theirs.qmp"))?)
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut agent = Agent::start(&runtime, folder.path())?;
    let mut least = Least::begin(&place("theirs.qmp"), &place("plain.sqlite"))?;
    agent.attach(&runtime, &place("ours.qmp"))?;
    let (mut toggled, mut scaled, mut least_times) = (Vec::new(), Vec::new(), Vec::new());
    let turns = size.pick(4, 300);
    for turn in 0..turns {
        toggled.push(agent.toggle(&runtime, turn)?);
        least_times.push(least.toggle(turn)?);
    }
    for turn in 0..turns / 3 {
        scaled.push(agent.scale(&runtime, turn)?);
    }
    agent.stop(&runtime);
    let [toggled, scaled, least] = [toggled, scaled, least_times].map(Latencies::new);
    let times = toggled.p50().as_secs_f64() / least.p50().as_secs_f64();
    Ok(vec![
        Row::latency("command: pause or resume, gRPC to durable reply", &toggled),
        Row::latency("  beside: bare round trip and one plain commit", &least),
        Row::single("  p50 of it in those of the least", "times", times, Some(Goal::AtMost(3.0))),
        Row::latency("command: scale, with a guest that needs 1 ms", &scaled),
    ])
}

/// A guest that plugs at once, and whose size events nothing holds up: what is measured is the agent.
fn scripted(path: &Path) -> Result<ScriptedQemu, Error> {
    let standard = Model::default();
    let virtio_mem = VirtioMem { resize_delay: Duration::from_millis(1), ..standard.virtio_mem };
    let model = Model {
        virtio_mem,
        size_event_interval: Duration::from_millis(1),
        memory_base_bytes: BASE_BYTES,
        ..standard
    };
    Ok(ScriptedQemu::builder().path(path).model(model).start()?)
}

/// The agent, without a process of its own.
struct Agent {
    running: host::Running,
    client: Client,
    stop: tokio::sync::oneshot::Sender<()>,
    ledger: Ledger,
    requests: u32,
}

impl Agent {
    fn start(runtime: &Runtime, folder: &Path) -> Result<Self, Error> {
        let config = Config {
            state_dir: folder.join("state"),
            run_dir: folder.join("run"),
            socket: folder.join("control"),
            ..Config::default()
        };
        std::fs::create_dir_all(&config.state_dir)?;
        let ledger = Ledger::open(&config.ledger_path(), &life::host())?;
        runtime.block_on(async {
            let entrance = control::Entrance::open(&config).await?;
            let running = host::start(&config, &ledger).await?;
            let (clock, _) = Clock::start(None)?;
            let client = control::client(&config.socket);
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let (host, writer) = (running.handle.clone(), ledger.writer());
            let serving = Serving {
                host,
                config: Arc::new(config.clone()),
                clock,
                ledger: writer,
                metrics: Arc::default(),
            };
            tokio::spawn(control::serve(entrance, serving, async {
                let _ = stopped.await;
            }));
            let client = client.await?;
            Ok(Self { running, client, stop, ledger, requests: 0 })
        })
    }

    fn header(&mut self) -> CommandHeader {
        self.requests += 1;
        let key = Some(SandboxKey { org: "default".to_owned(), sandbox: "measured".to_owned() });
        CommandHeader { key, request_id: format!("request-{}", self.requests), deadline_ms: 20_000 }
    }

    fn attach(&mut self, runtime: &Runtime, qmp: &Path) -> Result<(), Error> {
        let request = AttachRequest {
            header: Some(self.header()),
            qmp_path: qmp.display().to_string(),
            plan: "default".to_owned(),
            tags: HashMap::default(),
        };
        runtime.block_on(self.client.attach(request))?;
        Ok(())
    }

    fn toggle(&mut self, runtime: &Runtime, turn: u32) -> Result<Duration, Error> {
        let header = Some(self.header());
        let watch = Stopwatch::start();
        if turn.is_multiple_of(2) {
            runtime.block_on(self.client.pause(PauseRequest { header, reclaim: false }))?;
        } else {
            runtime.block_on(self.client.resume(ResumeRequest { header, prefetch: false }))?;
        }
        Ok(watch.wall())
    }

    fn scale(&mut self, runtime: &Runtime, turn: u32) -> Result<Duration, Error> {
        let memory_bytes = Some(BASE_BYTES + GIB * u64::from(1 - turn % 2));
        let request = ScaleRequest { header: Some(self.header()), memory_bytes, ..ScaleRequest::default() };
        let watch = Stopwatch::start();
        runtime.block_on(self.client.scale(request))?;
        Ok(watch.wall())
    }

    fn stop(self, runtime: &Runtime) {
        let _ = self.stop.send(());
        runtime.block_on(self.running.stop());
        drop(self.ledger);
    }
}

/// The least that could be done.
struct Least {
    qemu: Bare,
    plain: Connection,
}

impl Least {
    fn begin(qmp: &Path, database: &Path) -> Result<Self, Error> {
        let plain = Connection::open(database)?;
        plain.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE rows (id INTEGER PRIMARY KEY, row TEXT)",
        )?;
        Ok(Self { qemu: Bare::connect(qmp)?, plain })
    }

    fn toggle(&mut self, turn: u32) -> Result<Duration, Error> {
        let command =
            if turn.is_multiple_of(2) { "{\"execute\":\"stop\"}" } else { "{\"execute\":\"cont\"}" };
        let watch = Stopwatch::start();
        self.qemu.ask(command)?;
        self.plain.prepare_cached("INSERT INTO rows (row) VALUES (?1)")?.execute(["an outcome"])?;
        Ok(watch.wall())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_from_a_command_to_its_durable_reply_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 4);
    }
}
