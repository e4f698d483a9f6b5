//! From a gRPC command to its durable reply, the whole agent in this process, beside the least that could be done:
//! one QMP round trip by a bare socket and one durable commit of a plain row.

use std::path::Path;
use std::time::Duration;

use dormouse::config::Config;
use dormouse::proto::{PauseRequest, ResumeRequest, ScaleRequest};
use dormouse_qmp::scripted::{Model, ScriptedQemu, VirtioMem};
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};

use crate::agent::Agent;
use crate::qmp::Bare;
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::{self, Stopwatch};
use crate::{Error, Size};

pub(crate) const SANDBOX: &str = "measured";
const BASE_BYTES: u64 = 256 << 20;
const GIB: u64 = 1 << 30;

/// Pause and resume in turn, then scale up and down in turn.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let place = |name: &str| folder.path().join(name);
    // QEMU is another process in real life: it has a runtime of its own.
    let qemu_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (ours, _theirs) = {
        let _entered = qemu_runtime.enter();
        (scripted(&place("ours.qmp"))?, scripted(&place("theirs.qmp"))?)
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut agent = Agent::start(&runtime, folder.path(), Config::default())?;
    let mut least = Least::begin(&place("theirs.qmp"), &place("plain.sqlite"))?;
    agent.attach(&runtime, SANDBOX, &place("ours.qmp"))?;
    let (mut toggled, mut toggled_least) = (Vec::new(), Vec::new());
    let turns = size.pick(4, 300);
    for turn in 0..turns {
        toggled.push(toggle(&mut agent, &runtime, turn)?);
        toggled_least.push(least.toggle(turn)?);
    }
    let (mut scaled, mut scaled_least, mut waited) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..turns {
        scaled.push(scale(&mut agent, &runtime, turn)?);
        scaled_least.push(least.scale(turn)?);
    }
    ours.with_model(|model| model.virtio_mem.resize_delay = Duration::from_millis(1));
    for turn in 0..turns / 3 {
        waited.push(scale(&mut agent, &runtime, turn)?);
    }
    agent.stop(&runtime);
    let mut rows = beside("command: pause or resume, gRPC to durable reply", toggled, toggled_least);
    rows.extend(beside("command: scale, a guest that answers at once", scaled, scaled_least));
    rows.push(Row::latency("command: scale, with a guest that needs 1 ms", &Latencies::new(waited)));
    Ok(rows)
}

fn beside(what: &str, ours: Vec<Duration>, least: Vec<Duration>) -> Vec<Row> {
    let (ours, least) = (Latencies::new(ours), Latencies::new(least));
    let times = ours.p50().as_secs_f64() / least.p50().as_secs_f64();
    vec![
        Row::latency(what, &ours),
        Row::latency("  beside: bare round trip and one plain commit", &least),
        Row::single("  p50 of it in those of the least", "times", times, Some(Goal::AtMost(3.0))),
    ]
}

/// A guest that plugs at once, and whose size events nothing holds up: what is measured is the agent.
pub(crate) fn scripted(path: &Path) -> Result<ScriptedQemu, Error> {
    let standard = Model::default();
    let virtio_mem = VirtioMem { resize_delay: Duration::ZERO, ..standard.virtio_mem };
    let model = Model {
        virtio_mem,
        size_event_interval: Duration::from_micros(1),
        memory_base_bytes: BASE_BYTES,
        wall_at_start_unix_ns: stopwatch::wall_unix_ns(),
        ..standard
    };
    Ok(ScriptedQemu::builder().path(path).model(model).start()?)
}

fn toggle(agent: &mut Agent, runtime: &Runtime, turn: u32) -> Result<Duration, Error> {
    let header = Some(agent.header(SANDBOX));
    let watch = Stopwatch::start();
    if turn.is_multiple_of(2) {
        runtime.block_on(agent.client.pause(PauseRequest { header, reclaim: false }))?;
    } else {
        runtime.block_on(agent.client.resume(ResumeRequest { header, prefetch: false }))?;
    }
    Ok(watch.wall())
}

pub(crate) fn scale(agent: &mut Agent, runtime: &Runtime, turn: u32) -> Result<Duration, Error> {
    let memory_bytes = Some(BASE_BYTES + GIB * u64::from(1 - turn % 2));
    let header = Some(agent.header(SANDBOX));
    let request = ScaleRequest { header, memory_bytes, ..ScaleRequest::default() };
    let watch = Stopwatch::start();
    runtime.block_on(agent.client.scale(request))?;
    Ok(watch.wall())
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
        self.measure(if turn.is_multiple_of(2) { "{\"execute\":\"stop\"}" } else { "{\"execute\":\"cont\"}" })
    }

    fn scale(&mut self, turn: u32) -> Result<Duration, Error> {
        let value = GIB * u64::from(1 - turn % 2);
        self.measure(&format!(
            "{{\"execute\":\"qom-set\",\"arguments\":{{\"path\":\"/machine/peripheral/vm0\",\
             \"property\":\"requested-size\",\"value\":{value}}}}}"
        ))
    }

    fn measure(&mut self, command: &str) -> Result<Duration, Error> {
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
        assert_eq!(run(Size::Small).unwrap().len(), 7);
    }
}
