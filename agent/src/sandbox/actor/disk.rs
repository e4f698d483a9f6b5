//! Snapshots, as the machine wants them made, checked and removed. All of it blocks, and none of it here.

use std::path::PathBuf;
use std::time::Duration;

use dormouse_metering::Stamp;
use dormouse_qmp::{Client, QmpError};
use ractor::ActorRef;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::act::{AnswerTo, answer_to, with_cause};
use super::{Message, State};
use crate::failpoint;
use crate::sandbox::command::Method;
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::{Answer, Check, Input, SnapshotRemoval, Token, internal_tag};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::{
    Contents, Damaged, Draft, DraftSpec, Manifest, SnapshotError, begin_writing_out, to_the_end,
};

/// Between two looks at a job that nobody waits for.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(500);

/// How long a turn lasts at the longest: who takes more goes on beside the next, so that no sick one holds the others up.
const TURN_MAX: Duration = Duration::from_secs(10);

/// A turn to be saved that is waited for or taken. Dropping it gives it back.
pub(super) struct Turn {
    _waits: JoinSet<()>,
    /// What was begun last to write out.
    writing_out: Option<JoinHandle<()>>,
}

/// Waits for the sandbox's turn to be saved, and makes a place for its snapshot.
pub(super) fn prepare(state: &mut State, token: Token, method: Method, myself: &ActorRef<Message>) {
    let core = state.machine.core();
    let Some(Ok(command_line)) = core.survey.as_ref().map(|survey| &survey.command_line) else {
        let refusal = Refusal::new(Reason::Bug, "a sandbox without a command line cannot be saved");
        return answer_to(token, myself)(Answer::Failed(refusal));
    };
    let (uid, gid) = (command_line.uid, command_line.gid);
    let ordinal_min = core.snapshot.as_ref().map_or(1, |last| last.ordinal + 1);
    let (key, generation) = (core.key.clone(), core.generation);
    let (snapshots, saves) = (state.environment.snapshots.clone(), state.environment.saves.clone());
    let request_id = state.machine.underway().map(|(command, _)| command.request_id.clone());
    let myself = myself.clone();
    let mut waits = JoinSet::new();
    waits.spawn(async move {
        // The semaphore is never closed.
        let Ok(_turn) = saves.acquire_owned().await else { return };
        let make_place =
            move || snapshots.begin(DraftSpec { key: &key, generation, ordinal_min, method, uid, gid });
        let prepared = match tokio::task::spawn_blocking(make_place).await {
            Ok(begun) => begun.map_err(|error| not_written(&error)),
            Err(lost) => Err(Refusal::new(Reason::Bug, format!("making a place was lost: {lost}"))),
        };
        // An actor that is gone needs not be told.
        let _ = myself.cast(Message::Prepared(token, prepared));
        tokio::time::sleep(TURN_MAX).await;
    });
    let turn = Turn { _waits: waits, writing_out: None };
    state.turn = request_id.map(|request_id| Box::new((request_id, turn)));
}

/// The turn has come, unless the command that waited for it is over.
pub(super) fn prepared(
    state: &mut State,
    token: Token,
    prepared: Result<Draft, Refusal>,
    myself: &ActorRef<Message>,
) {
    if state.turn.is_none() {
        if let Ok(draft) = prepared {
            tokio::task::spawn_blocking(move || log_failure(draft.abandon()));
        }
        return;
    }
    state.draft = prepared.as_ref().ok().cloned().map(Box::new);
    let answer = prepared.map_or_else(Answer::Failed, Answer::SnapshotPrepared);
    state.feed(Input::Answer(token, answer), myself);
}

/// Begins to write out what is to be synced once QEMU has written the state, unless the disk is still busy with the last.
pub(super) fn write_out(state: &mut State, method: Method) {
    let Some((_, turn)) = state.turn.as_deref_mut() else { return };
    if turn.writing_out.as_ref().is_some_and(|last| !last.is_finished()) {
        return;
    }
    let paths = match method {
        Method::Shared => state.machine.core().survey.as_ref().map(ram_paths).unwrap_or_default(),
        Method::MappedRam => state.draft.iter().map(|draft| draft.state_path().to_owned()).collect(),
        Method::Internal => Vec::new(),
    };
    turn.writing_out = Some(tokio::task::spawn_blocking(move || {
        for path in paths {
            // Whoever syncs it will be told.
            let _ = begin_writing_out(&path);
        }
    }));
}

/// Makes the draft complete: syncs, digest, manifest, rename.
pub(super) fn write(state: &mut State, token: Token, method: Method, now: Stamp, myself: &ActorRef<Message>) {
    let reply = answer_to(token, myself);
    let core = state.machine.core();
    let contents = core.survey.as_ref().and_then(|survey| contents(survey, method, now));
    let (Some(draft), Some(contents)) = (state.draft.clone(), contents) else {
        return reply(Answer::Failed(Refusal::new(Reason::Bug, "there is no draft to complete")));
    };
    blocking(reply, move || match draft.complete(contents) {
        Ok(manifest) => Answer::SnapshotWritten(Box::new(manifest)),
        Err(error) => Answer::Failed(not_written(&error)),
    });
}

/// A digest that is being taken. Dropping it gives it up: nothing more is read for it.
pub(super) struct Digest {
    told: Option<oneshot::Receiver<Answer>>,
    awaited: JoinSet<()>,
}

/// Checks that a snapshot is what was written. What is in its state is read after the answer, where that is wanted so.
pub(super) fn verify(state: &mut State, manifest: Manifest, check: Check, reply: AnswerTo) {
    let (tell, told) = oneshot::channel();
    let request_id = state.machine.underway().map(|(command, _)| command.request_id.clone());
    let digest = Digest { told: Some(told), awaited: JoinSet::new() };
    state.digest = request_id.map(|request_id| Box::new((request_id, digest)));
    tokio::task::spawn_blocking(move || {
        let verified = manifest.verify_files().and_then(|unread| match check {
            Check::Whole => unread.verify(&to_the_end).map(|()| None),
            Check::ButDigest => Ok(Some(unread)),
        });
        let unread = match verified {
            Ok(unread) => unread,
            Err(damaged) => return reply(Answer::Failed(damage(&damaged))),
        };
        let wanted_bytes = manifest.memory_to_take_bytes();
        reply(Answer::SnapshotVerified(Box::new(manifest), wanted_bytes));
        let Some(unread) = unread else { return };
        failpoint::reach("before a digest is taken");
        let digest = unread.verify(&|| !tell.is_closed());
        failpoint::reach("a digest is taken");
        // A wake that is over needs not be told.
        let _ = tell
            .send(digest.map_or_else(|damaged| Answer::Failed(damage(&damaged)), |()| Answer::DigestRight));
    });
}

/// Answers when the digest that was begun is known.
pub(super) fn await_digest(state: &mut State, reply: AnswerTo) {
    let lost = || Answer::Failed(Refusal::new(Reason::Bug, "no digest was taken"));
    let Some((_, digest)) = state.digest.as_deref_mut() else { return reply(lost()) };
    let Some(told) = digest.told.take() else { return reply(lost()) };
    digest.awaited.spawn(async move { reply(told.await.unwrap_or_else(|_| lost())) });
}

/// Removes the files by which a snapshot is loaded, and answers once that is durable.
pub(super) fn give_up(manifest: Box<Manifest>, reply: AnswerTo) {
    blocking(reply, move || match manifest.remove() {
        Ok(()) => Answer::SnapshotGivenUp(manifest),
        Err(error) => {
            let message = format!("the snapshot could not be given up: {}", with_cause(&error));
            Answer::Failed(Refusal::new(Reason::LaunchFailed, message))
        }
    });
}

/// Removes what is not needed any more. A failure costs disk, and is logged.
pub(super) fn remove(state: &mut State, removal: SnapshotRemoval) {
    match removal {
        SnapshotRemoval::Draft => {
            // What is left of a save that failed needs no disk, however long it takes.
            state.turn = None;
            if let Some(draft) = state.draft.take() {
                tokio::task::spawn_blocking(move || log_failure(draft.abandon()));
            }
        }
        SnapshotRemoval::Consumed(manifest) => {
            state.draft = None;
            if manifest.method == Method::Internal
                && let Some(link) = &state.link
            {
                let tag = internal_tag(manifest.generation, manifest.ordinal);
                tokio::spawn(delete_internal(link.client(), tag, nodes(state)));
            }
            tokio::task::spawn_blocking(move || log_failure(manifest.remove()));
        }
    }
}

/// Removes a snapshot from inside the disks. A failure costs space in them, and is logged.
async fn delete_internal(client: Client, tag: String, devices: Vec<String>) {
    let deleted = async {
        let job = format!("snapshot-delete-{tag}");
        let arguments = json!({"job-id": job, "tag": tag, "devices": devices});
        client.execute_raw("snapshot-delete", arguments).await?;
        let mut pause = POLL_MIN;
        loop {
            let jobs = client.execute_raw("query-jobs", Value::Null).await?;
            let jobs = jobs.as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(found) = jobs.iter().find(|found| found["id"] == job.as_str()) else { return Ok(()) };
            if found["status"] == "concluded" {
                if let Some(error) = found["error"].as_str() {
                    tracing::warn!(tag, error, "an internal snapshot was not removed");
                }
                return client.execute_raw("job-dismiss", json!({"id": job})).await.map(drop);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    };
    let deleted: Result<(), QmpError> = deleted.await;
    if let Err(error) = deleted {
        tracing::warn!(tag, %error, "an internal snapshot was not removed");
    }
}

fn nodes(state: &State) -> Vec<String> {
    let survey = state.machine.core().survey.as_ref();
    let disks = survey.map(|survey| survey.disks.as_slice()).unwrap_or_default();
    disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.node.clone()).collect()
}

fn contents(survey: &Survey, method: Method, now: Stamp) -> Option<Contents> {
    let ram_paths = match method {
        Method::Shared => ram_paths(survey),
        Method::MappedRam | Method::Internal => Vec::new(),
    };
    Some(Contents {
        created_unix_ns: now.wall_ns,
        ram_paths,
        qemu_version: survey.version.to_string(),
        machine_type: None,
        command_line: survey.command_line.clone().ok()?,
        memory_devices: survey.memory_devices.clone(),
        shape: survey.shape(),
    })
}

fn ram_paths(survey: &Survey) -> Vec<PathBuf> {
    survey.backends.iter().filter_map(|backend| backend.path.as_ref()).map(PathBuf::from).collect()
}

pub(super) fn blocking(reply: AnswerTo, work: impl FnOnce() -> Answer + Send + 'static) {
    tokio::task::spawn_blocking(move || reply(work()));
}

fn not_written(error: &SnapshotError) -> Refusal {
    Refusal::new(Reason::SaveFailed, with_cause(error))
}

fn damage(damaged: &Damaged) -> Refusal {
    let message = format!("{damaged}; its guest was not started, and it stays as it is");
    Refusal::new(Reason::SnapshotDamaged, message).with("manifest", damaged.path.display())
}

fn log_failure(result: Result<(), SnapshotError>) {
    if let Err(error) = result {
        tracing::warn!(error = %with_cause(&error), "a snapshot was not removed");
    }
}
