//! The agent is killed at every place where something becomes durable or QEMU is told something, one after the other.
//!
//! Each time a sandbox lives a whole life. When the agent is gone it is started again, and the command that was under way
//! is asked for again under its request id, as a control plane would; where the agent says that it was interrupted, it is
//! asked for anew. Whatever the moment of the kill, the life must come out the same.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests, too")]

use std::path::Path;
use std::time::Duration;

use dormouse::clock::Clock;
use dormouse::control::client;
use dormouse::proto::control_client::ControlClient;
use dormouse::proto::{
    CommandHeader, CreateRequest, DestroyRequest, HibernateRequest, HibernationMethod, OrphansRequest,
    PauseRequest, ResumeRequest, SandboxKey, SandboxRequest, SandboxSpec, ScaleRequest, WakeRequest,
};
use dormouse_ledger::{Reader, SandboxFilter, SliceQuery, SliceRow};
use dormouse_tests::agent::Agent;
use dormouse_tests::argv::Spec;
use dormouse_tests::guest::Guest;
use dormouse_tests::scripted::{Options, Scripted};
use dormouse_tests::wait;
use tonic::transport::Channel;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// What every guest has, scripted or real.
const BASE_BYTES: u64 = 256 * MIB;

/// What a real guest holds meanwhile: little enough for its base memory.
const FILLED_MIB: u64 = 24;

/// A life has at least so many places; fewer means that they are not counted any more.
const PLACES_MIN: u64 = 40;

/// The same for a life that the agent starts.
const STARTED_PLACES_MIN: u64 = 30;

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    PowerCycle,
    Scale(u64),
    Pause,
    Resume,
    Hibernate(HibernationMethod),
    Wake,
    Destroy,
}

const fn life(method: HibernationMethod) -> [Step; 7] {
    [
        Step::Scale(512 * MIB),
        Step::Pause,
        Step::Resume,
        Step::Hibernate(method),
        Step::Wake,
        Step::Scale(256 * MIB),
        Step::Destroy,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_wherever_the_agent_is_killed_nothing_is_lost_and_nothing_is_billed_twice() {
    let mut killed = 0;
    for place in 1.. {
        let folder = tempfile::tempdir().unwrap();
        if !live_a_life_killed_at(place, folder.path()).await {
            break;
        }
        killed = place;
    }
    assert!(killed >= PLACES_MIN, "the agent was killed at {killed} places only");
    println!("killed at {killed} places, one after the other");
}

/// At these, with a real guest: from the beginning of its life to near the end.
const PLACES_WITH_A_GUEST: [u64; 12] = [3, 10, 17, 24, 31, 38, 45, 52, 59, 66, 73, 80];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_a_real_guest_keeps_its_memory_and_its_slices_say_what_qemu_did_wherever_the_agent_is_killed() {
    let mut killed = 0;
    for places in PLACES_WITH_A_GUEST.chunks(2) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (one, other) = tokio::join!(
            guest_lives_with_agent_killed_at(places[0], folders[0].path()),
            guest_lives_with_agent_killed_at(places[1], folders[1].path())
        );
        killed += usize::from(one) + usize::from(other);
    }
    assert_eq!(killed, PLACES_WITH_A_GUEST.len(), "some of the places were not reached");
}

/// The same life with a guest that runs. Each step is compared with what QEMU says of it, and each cut must lie between
/// when the step was first asked for and when it was done.
async fn guest_lives_with_agent_killed_at(place: u64, folder: &Path) -> bool {
    let mut agent = Agent::start_to_be_killed(folder, place).unwrap();
    let spec = Spec { disk: false, ..Spec::default() };
    let mut guest = Guest::boot(&spec, "sb1", &agent.run_dir(), folder).await.unwrap();
    let mut was_killed = false;
    attached(&mut agent, &mut was_killed).await;
    let sum = guest.fill(FILLED_MIB).await.unwrap();
    let (clock, _) = Clock::start(None).unwrap();
    let mut windows = Vec::new();
    // RAM stays in its files: that is the quickest.
    for (number, step) in life(HibernationMethod::Shared).into_iter().enumerate() {
        let asked_ns = clock.now().wall_ns;
        reach(&mut agent, &mut was_killed, number, step).await;
        windows.push((step, asked_ns..clock.now().wall_ns));
        match step {
            Step::Scale(bytes) => {
                let plugged = guest.monitor().plugged_bytes().await.unwrap();
                assert_eq!(plugged, bytes - BASE_BYTES, "killed at place {place}");
            }
            Step::Pause => assert_eq!(guest.monitor().run_state().await.unwrap(), "paused"),
            Step::Resume | Step::Wake => {
                assert_eq!(guest.monitor().run_state().await.unwrap(), "running");
                assert_eq!(guest.sum().await.unwrap(), sum, "killed at place {place}");
            }
            Step::Hibernate(_) | Step::Destroy => assert_eq!(guest.pids(), [], "killed at place {place}"),
            Step::Create | Step::PowerCycle => unreachable!("this guest is started by the test alone"),
        }
    }
    agent.stop().await.unwrap();
    let slices = came_out_right(place, &agent.state_dir().join("ledger.sqlite"));
    for (step, window) in windows {
        let is_it = |slice: &&SliceRow| match step {
            Step::Scale(bytes) => slice.memory_plugged_bytes == bytes - BASE_BYTES,
            Step::Pause => slice.state == "paused",
            Step::Resume | Step::Wake => slice.state == "running",
            Step::Hibernate(_) => slice.state == "hibernated",
            Step::Create | Step::PowerCycle | Step::Destroy => false,
        };
        let begins = slices.iter().filter(is_it).any(|slice| window.contains(&slice.start_unix_ns));
        let ends = slices.last().and_then(|last| last.end_unix_ns).is_some_and(|end| window.contains(&end));
        let shown = || slices.iter().map(line).collect::<Vec<_>>();
        assert!(begins || ends, "killed at place {place}: {step:?} is not in {:#?}", shown());
    }
    was_killed
}

/// A life that begins and goes on by QEMUs that the agent starts.
const STARTED_LIFE: [Step; 5] = [
    Step::Create,
    Step::Hibernate(HibernationMethod::MappedRam),
    Step::Wake,
    Step::PowerCycle,
    Step::Destroy,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_agent_is_killed_what_it_started_is_taken_up_again_and_nothing_is_left_over() {
    let mut killed = 0;
    for place in 1.. {
        let folder = tempfile::tempdir().unwrap();
        if !start_a_life_killed_at(place, folder.path()).await {
            break;
        }
        killed = place;
    }
    assert!(killed >= STARTED_PLACES_MIN, "the agent was killed at {killed} places only");
    println!("killed at {killed} places, one after the other");
}

async fn start_a_life_killed_at(place: u64, folder: &Path) -> bool {
    let mut agent = Agent::start_to_be_killed(folder, place).unwrap();
    let qmp = folder.join("guests/default/sb1.qmp");
    let qemu = Scripted::to_create(&Options::default(), "sb1", &qmp, folder).unwrap();
    let mut was_killed = false;
    answers(&mut agent, &mut was_killed).await;
    for (number, step) in STARTED_LIFE.into_iter().enumerate() {
        reach_of(&mut agent, &mut was_killed, number, step, Some(qemu.spec())).await;
        let running = qemu.pids().len();
        assert!(running <= 1, "killed at place {place}: {running} QEMU after {step:?}");
    }
    qemu.gone().await.unwrap_or_else(|error| panic!("killed at place {place}: {error}\n{}", agent.log()));
    let mut control = client(&agent.socket()).await.unwrap();
    let orphans = control.orphans(OrphansRequest {}).await.unwrap().into_inner().orphans;
    assert!(orphans.is_empty(), "killed at place {place}: {orphans:?}");
    agent.stop().await.unwrap();
    let reader = Reader::open(&agent.state_dir().join("ledger.sqlite")).unwrap();
    let audit = reader.audit().unwrap();
    assert!(audit.is_clean(), "killed at place {place}: {:?}", audit.violations);
    let sandboxes = reader.sandboxes(&SandboxFilter::default()).unwrap();
    assert!(sandboxes.iter().all(|sandbox| sandbox.ended_unix_ns.is_some()), "killed at place {place}");
    was_killed
}

/// Waits until the agent answers, whether it was killed on the way or not.
async fn answers(agent: &mut Agent, was_killed: &mut bool) {
    wait::until("the agent to answer", DEADLINE, async || {
        revive(agent, was_killed).await;
        client(&agent.socket()).await.map(drop).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
}

/// False when the agent came through without being killed: it has no such place.
async fn live_a_life_killed_at(place: u64, folder: &Path) -> bool {
    let mut agent = Agent::start_to_be_killed(folder, place).unwrap();
    let qemu = Scripted::start(&Options::default(), "sb1", &agent.run_dir(), folder).await.unwrap();
    let mut was_killed = false;
    attached(&mut agent, &mut was_killed).await;
    for (number, step) in life(HibernationMethod::MappedRam).into_iter().enumerate() {
        if matches!(step, Step::Destroy) {
            // A guest whose QEMU the agent has not found again is billed through what is known of it, and no further.
            attached(&mut agent, &mut was_killed).await;
        }
        reach(&mut agent, &mut was_killed, number, step).await;
    }
    qemu.gone().await.unwrap();
    agent.stop().await.unwrap();
    came_out_right(place, &agent.state_dir().join("ledger.sqlite"));
    was_killed
}

/// Starts the agent again if it was killed.
async fn revive(agent: &mut Agent, was_killed: &mut bool) {
    if agent.has_ended() {
        assert!(!*was_killed, "the agent ended by itself:\n{}", agent.log());
        *was_killed = true;
        agent.restart().await.unwrap();
    }
}

async fn attached(agent: &mut Agent, was_killed: &mut bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        revive(agent, was_killed).await;
        if let Ok(mut control) = client(&agent.socket()).await
            && let Ok(sandbox) = control.get(key()).await
            && sandbox.into_inner().connection == "connected"
        {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never attached:\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for a step until it is done, under the same request id until that is answered.
async fn reach(agent: &mut Agent, was_killed: &mut bool, number: usize, step: Step) {
    reach_of(agent, was_killed, number, step, None).await;
}

async fn reach_of(
    agent: &mut Agent,
    was_killed: &mut bool,
    number: usize,
    step: Step,
    spec: Option<&SandboxSpec>,
) {
    let mut attempt = 0;
    wait::until(&format!("{step:?}"), DEADLINE, async || {
        revive(agent, was_killed).await;
        let request_id = format!("step-{number}-{attempt}");
        match ask(agent, &request_id, step, spec).await {
            Ok(()) => Ok(()),
            Err(status) if is_done(&status, step, attempt) => Ok(()),
            Err(status) => {
                // Interrupted, or overtaken by what came of an earlier attempt: that request is answered for good.
                if matches!(status.code(), Code::Aborted | Code::FailedPrecondition | Code::Internal) {
                    attempt += 1;
                }
                Err(format!("{:?}: {}", status.code(), status.message()))
            }
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
}

/// Whether a refusal says that an earlier attempt of the same step had come to its end after all.
fn is_done(status: &Status, step: Step, attempt: u32) -> bool {
    let message = status.message();
    match step {
        Step::Destroy => status.code() == Code::NotFound,
        Step::Hibernate(_) => attempt > 0 && message.contains("hibernated"),
        Step::Create => attempt > 0 && status.code() == Code::AlreadyExists,
        // Killed between two QEMUs: there is none to go on with, and that is what is said.
        Step::PowerCycle => {
            message.contains("QEMU ended while the agent was not there") || status.code() == Code::NotFound
        }
        Step::Wake => attempt > 0 && message.contains("is running"),
        _ => false,
    }
}

async fn ask(agent: &Agent, request_id: &str, step: Step, spec: Option<&SandboxSpec>) -> Result<(), Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let mut control: ControlClient<Channel> = client(&agent.socket()).await.map_err(unreachable)?;
    let header =
        Some(CommandHeader { key: Some(key()), request_id: request_id.to_owned(), deadline_ms: 20_000 });
    let plain = SandboxRequest { header: header.clone() };
    match step {
        Step::Scale(memory_bytes) => {
            let memory_bytes = Some(memory_bytes);
            control.scale(ScaleRequest { header, memory_bytes, ..ScaleRequest::default() }).await
        }
        Step::Pause => control.pause(PauseRequest { header, reclaim: false }).await,
        Step::Resume => control.resume(ResumeRequest { header, prefetch: false }).await,
        Step::Hibernate(method) => {
            control.hibernate(HibernateRequest { header, method: method.into() }).await
        }
        Step::Create => {
            control.create(CreateRequest { header, spec: spec.cloned(), ..CreateRequest::default() }).await
        }
        Step::PowerCycle => control.power_cycle(plain).await,
        Step::Wake => control.wake(WakeRequest { header, cold: false }).await,
        Step::Destroy => control.destroy(DestroyRequest { header, graceful_ms: 0 }).await,
    }
    .map(drop)
}

fn key() -> SandboxKey {
    SandboxKey { org: "default".to_owned(), sandbox: "sb1".to_owned() }
}

/// The ledger holds one life, without a gap, in which everything happened once and nothing is lost.
fn came_out_right(place: u64, ledger: &Path) -> Vec<SliceRow> {
    let reader = Reader::open(ledger).unwrap();
    let audit = reader.audit().unwrap();
    assert!(audit.is_clean(), "killed at place {place}: {:?}", audit.violations);
    let sandboxes = reader.sandboxes(&SandboxFilter::default()).unwrap();
    assert_eq!(sandboxes.len(), 1, "killed at place {place}: {sandboxes:?}");
    assert!(sandboxes[0].ended_unix_ns.is_some(), "killed at place {place}: still open");
    let query = SliceQuery { limit: 10_000, ..SliceQuery::default() };
    let slices = reader.slices(&query).unwrap().rows;
    let of = |state: &str| slices.iter().filter(|slice| slice.state == state).count();
    let shown = || format!("killed at place {place}: {:#?}", slices.iter().map(line).collect::<Vec<_>>());
    assert!(of("paused") >= 1 && of("hibernated") >= 1 && of("waking") >= 1, "{}", shown());
    let plugged = |slice: &&SliceRow| slice.state == "running" && slice.memory_plugged_bytes == 256 * MIB;
    assert!(slices.iter().any(|slice| plugged(&slice)), "{}", shown());
    let (last, before) = slices.split_last().unwrap();
    // Only the end itself may have come unseen: QEMU quit, as it was told, while there was no agent.
    assert!(before.iter().all(|slice| slice.state != "lost"), "{}", shown());
    assert!(matches!(last.state.as_str(), "running" | "lost"), "{}", shown());
    assert_eq!(last.memory_plugged_bytes, 0, "{}", shown());
    slices
}

fn line(slice: &SliceRow) -> String {
    format!(
        "{} {} {} ns, {} MiB plugged, {} -> {:?} ({:?})",
        slice.seq,
        slice.state,
        slice.duration_ns,
        slice.memory_plugged_bytes / MIB,
        slice.opened_by,
        slice.closed_by,
        slice.command_id
    )
}
