//! What a crowd of sandboxes costs: resident memory and processor time of an agent that holds many idle ones, and
//! whether hung ones among them hold up commands to the others. The agents are real ones, in processes of their own;
//! the QEMUs are scripted, in this one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dormouse::control;
use dormouse::proto::{AttachRequest, CommandHeader, PauseRequest, ResumeRequest, SandboxKey};
use dormouse_qmp::scripted::{Model, ScriptedQemu, Step};
use dormouse_tests::agent::Agent;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::report::{Goal, Latencies, Row, ratio};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

type Client = dormouse::proto::control_client::ControlClient<Channel>;

/// Enough for 10,000 sandboxes in either process.
const DESCRIPTORS: u64 = 65_536;

/// Descriptors that a sandbox may take, in either process.
const DESCRIPTORS_EACH: u64 = 3;

/// Attaches that are under way at once.
const ATTACHES: usize = 64;

/// Callers who give commands at once.
const CALLERS: usize = 4;

/// How long an agent is left alone before it idles, and how long it is watched idling: small and full.
const SETTLE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(20));
const IDLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// An agent with its sandboxes.
struct Crowd {
    agent: Agent,
    client: Client,
    sandboxes: Vec<ScriptedQemu>,
    hang: Arc<AtomicBool>,
    requests: usize,
}

/// Idle ones, and hung ones among others.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    // Whoever may not raise it measures fewer: the rows say how many.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
    let qemu_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows = idle(size, &runtime, &qemu_runtime)?;
    rows.extend(hung(size, &runtime, &qemu_runtime)?);
    Ok(rows)
}

fn idle(size: Size, runtime: &Runtime, qemu_runtime: &Runtime) -> Result<Vec<Row>, Error> {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = usize::try_from(descriptors.saturating_sub(1_000) / DESCRIPTORS_EACH)?;
    let count = size.pick(20, 10_000).min(most);
    let folder = crate::folder()?;
    let mut crowd = runtime.block_on(Crowd::start(folder.path()))?;
    let before_bytes = crowd.resident_bytes()?;
    runtime.block_on(crowd.attach(qemu_runtime, count, 0))?;
    let each_bytes = crowd.resident_bytes()?.saturating_sub(before_bytes) / u64::try_from(count)?;
    // What attaching has left to do is not idling.
    runtime.block_on(async { tokio::time::sleep(size.pick(SETTLE.0, SETTLE.1)).await });
    let (watch, cpu_before) = (Stopwatch::start(), crowd.cpu()?);
    runtime.block_on(async { tokio::time::sleep(size.pick(IDLE.0, IDLE.1)).await });
    let busy = crowd.cpu()?.saturating_sub(cpu_before).as_secs_f64() / watch.wall().as_secs_f64() * 100.0;
    let kib = ratio(each_bytes, 1 << 10);
    Ok(vec![
        Row::single(
            format!("crowd: resident of each of {count} idle sandboxes"),
            "KiB",
            kib,
            Some(Goal::AtMost(16.0)),
        ),
        Row::single("  one core, while they idle", "%", busy, Some(Goal::AtMost(1.0))),
    ])
}

/// Two agents in turn, round by round: the machine's moods meet both.
fn hung(size: Size, runtime: &Runtime, qemu_runtime: &Runtime) -> Result<Vec<Row>, Error> {
    let (count, hung) = (size.pick(20, 1_000), size.pick(2, 50));
    let (well_folder, sick_folder) = (crate::folder()?, crate::folder()?);
    let mut well = runtime.block_on(Crowd::start(well_folder.path()))?;
    let mut sick = runtime.block_on(Crowd::start(sick_folder.path()))?;
    runtime.block_on(well.attach(qemu_runtime, count, hung))?;
    runtime.block_on(sick.attach(qemu_runtime, count, hung))?;
    sick.hang.store(true, Ordering::SeqCst);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..size.pick(2, 20) {
        // Each round the hung ones are asked, too, and do not answer.
        let asked = sick.ask_hung(runtime, hung);
        without.extend(runtime.block_on(well.round(hung, size.pick(8, 100)))?);
        with.extend(runtime.block_on(sick.round(hung, size.pick(8, 100)))?);
        asked.abort();
    }
    let (without, with) = (Latencies::new(without), Latencies::new(with));
    let times = with.p99().as_secs_f64() / without.p99().as_secs_f64();
    Ok(vec![
        Row::latency(format!("crowd: pause or resume, {hung} of {count} hung, to the others"), &with),
        Row::latency("  beside: none hung", &without),
        Row::single("  p99 of it in those without", "times", times, Some(Goal::AtMost(1.2))),
    ])
}

impl Crowd {
    async fn start(folder: &Path) -> Result<Self, Error> {
        // A socket's path must be short: the folder of benches may be deep.
        let agent = Agent::start_apart(folder, folder, "[qmp]\nreply_ms = 600000\n").await?;
        let client = control::client(&agent.socket()).await?;
        Ok(Self { agent, client, sandboxes: Vec::new(), hang: Arc::default(), requests: 0 })
    }

    /// Attaches so many; the first `may_hang` of them never answer once `hang` is set.
    async fn attach(&mut self, qemu_runtime: &Runtime, count: usize, may_hang: usize) -> Result<(), Error> {
        for number in 0..count {
            let _entered = qemu_runtime.enter();
            let hang = Arc::clone(&self.hang);
            let hangs = move || number < may_hang && hang.load(Ordering::Relaxed);
            let qemu = ScriptedQemu::builder()
                .path(self.qmp(number))
                .model(Model::default())
                .on(move |_| hangs().then(|| vec![Step::Hang]))
                .start()?;
            self.sandboxes.push(qemu);
        }
        let mut attaches = JoinSet::new();
        for number in 0..count {
            if attaches.len() == ATTACHES {
                attaches.join_next().await.transpose()?.transpose()?;
            }
            let request = AttachRequest {
                header: Some(self.header(number)),
                qmp_path: self.qmp(number).display().to_string(),
                ..AttachRequest::default()
            };
            let mut client = self.client.clone();
            attaches.spawn(async move { client.attach(request).await.map(drop) });
        }
        while let Some(attached) = attaches.join_next().await {
            attached??;
        }
        Ok(())
    }

    fn qmp(&self, number: usize) -> PathBuf {
        self.agent.state_dir().join(format!("{number}.sock"))
    }

    fn header(&mut self, number: usize) -> CommandHeader {
        self.requests += 1;
        let key = Some(SandboxKey { org: "default".to_owned(), sandbox: format!("sb-{number}") });
        CommandHeader { key, request_id: format!("request-{}", self.requests), deadline_ms: 60_000 }
    }

    /// Gives a command to each of the hung ones; nobody waits for what becomes of it.
    fn ask_hung(&mut self, runtime: &Runtime, hung: usize) -> tokio::task::JoinHandle<()> {
        let requests: Vec<_> = (0..hung).map(|number| pause(self.header(number))).collect();
        let client = self.client.clone();
        runtime.spawn(async move {
            let mut asked = JoinSet::new();
            for request in requests {
                let mut client = client.clone();
                asked.spawn(async move { client.pause(request).await.map(drop) });
            }
            asked.join_all().await;
        })
    }

    /// Some callers pause and resume, each another of the sandboxes that are well. How long each command took.
    async fn round(&mut self, hung: usize, turns: usize) -> Result<Vec<Duration>, Error> {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let number = hung + caller % (self.sandboxes.len() - hung);
            let headers: Vec<_> = (0..turns).map(|_| self.header(number)).collect();
            let mut client = self.client.clone();
            callers.spawn(async move {
                let mut times = Vec::new();
                for (turn, header) in headers.into_iter().enumerate() {
                    let watch = Stopwatch::start();
                    if turn.is_multiple_of(2) {
                        client.pause(pause(header)).await?;
                    } else {
                        client.resume(ResumeRequest { header: Some(header), prefetch: false }).await?;
                    }
                    times.push(watch.wall());
                }
                Ok::<_, tonic::Status>(times)
            });
        }
        let mut times = Vec::new();
        while let Some(caller) = callers.join_next().await {
            times.extend(caller??);
        }
        Ok(times)
    }

    fn proc(&self, file: &str) -> Result<String, Error> {
        let pid = self.agent.pid().ok_or("the agent has ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    fn resident_bytes(&self) -> Result<u64, Error> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib << 10)
    }

    /// Processor time of the agent so far.
    fn cpu(&self) -> Result<Duration, Error> {
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no process name")?;
        // `utime` and `stime` are the 14th and the 15th field; the first two are before the parenthesis.
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.ok_or("no clock tick")?;
        Ok(Duration::from_millis(ticks * 1_000 / u64::try_from(per_second)?))
    }
}

fn pause(header: CommandHeader) -> PauseRequest {
    PauseRequest { header: Some(header), reclaim: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 5);
    }
}
