//! The host actor: creates sandbox actors, and starts again the one that panicked.

use std::collections::HashMap;
use std::sync::Arc;

use dormouse_ledger::Reader;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tracing::Span;

use super::directory::{Directory, Entry};
use super::recover;
use crate::sandbox::actor::Message as SandboxMessage;
use crate::sandbox::actor::{Answered, Arguments as SandboxArguments, Environment, Origin, SandboxActor};
use crate::sandbox::command::{Command, Request, SandboxKey};
use crate::sandbox::machine::{Core, Settings};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::{SandboxView, Shown};

/// What the host actor is told.
pub(super) enum Message {
    /// Attach or create a sandbox, and answer when that is durable.
    Attach(Box<Command>, oneshot::Sender<Answered>, Span),
    /// Start the actor of a sandbox that the ledger knows.
    Recover(Box<recover::Found>),
    /// Answer once everything before this is done.
    Settle(oneshot::Sender<()>),
}

/// The host actor.
pub(super) struct HostActor;

/// What the host actor starts with, and keeps.
pub(super) struct State {
    pub(super) environment: Arc<Environment>,
    pub(super) directory: Directory,
    pub(super) reader: Reader,
    pub(super) settings: Arc<Settings>,
    pub(super) names: HashMap<ActorId, SandboxKey>,
}

impl Actor for HostActor {
    type Msg = Message;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, _: ActorRef<Message>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Attach(command, reply, span) => state.attach(*command, reply, span, &myself).await,
            Message::Recover(found) => {
                state.recover(*found, &myself).await;
                Ok(())
            }
            Message::Settle(settled) => {
                // Whoever waited may have given up.
                let _ = settled.send(());
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                if let Some(key) = state.names.remove(&actor.get_id()) {
                    state.directory.remove(&key, &actor.get_id());
                }
            }
            SupervisionEvent::ActorFailed(actor, why) => {
                if let Some(key) = state.names.remove(&actor.get_id()) {
                    tracing::error!(sandbox = %key, %why, "a sandbox's actor failed and is started again");
                    state.directory.remove(&key, &actor.get_id());
                    state.recover_failed(&key, &myself).await;
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl State {
    async fn attach(
        &mut self,
        command: Command,
        reply: oneshot::Sender<Answered>,
        span: Span,
        myself: &ActorRef<Message>,
    ) -> Result<(), ActorProcessingErr> {
        let (qmp_path, plan, tags) = match &command.request {
            Request::Attach { qmp_path, plan, tags, .. } => (Ok(qmp_path.clone()), plan, tags),
            Request::Create { plan, tags, .. } => {
                (self.environment.launching.qmp_path(&command.key), plan, tags)
            }
            _ => return Ok(()),
        };
        if let Some(entry) = self.directory.get(&command.key).filter(|entry| !entry.has_ended()) {
            if let Err(ractor::MessagingErr::SendErr(SandboxMessage::Execute(_, reply, _))) =
                entry.actor.cast(SandboxMessage::Execute(command, reply, span))
            {
                let refusal = Refusal::new(Reason::Interrupted, "the sandbox has just ended; ask again");
                let _ = reply.send(refusal.into());
            }
            return Ok(());
        }
        let qmp_path = match qmp_path {
            Ok(qmp_path) => qmp_path,
            Err(refusal) => {
                // Whoever asked may have gone.
                let _ = reply.send(refusal.into());
                return Ok(());
            }
        };
        let core = Core::new(command.key.clone(), qmp_path, self.settings.clone());
        let mut view = SandboxView::gone(command.key.clone());
        (view.plan, view.tags) = (plan.clone(), tags.clone());
        let origin = Origin::New(Box::new(core));
        let actor = self.spawn(command.key.clone(), view, origin, myself).await?;
        // A new actor takes messages until it stops.
        let _ = actor.cast(SandboxMessage::Execute(command, reply, span));
        Ok(())
    }

    async fn recover(&mut self, found: recover::Found, myself: &ActorRef<Message>) {
        let recover::Found { recovered, view, process } = found;
        let key = view.key.clone();
        let origin = Origin::Ledger(Box::new(recovered), process);
        if let Err(error) = self.spawn(key.clone(), view, origin, myself).await {
            tracing::error!(sandbox = %key, %error, "a sandbox's actor cannot be started");
        }
    }

    async fn recover_failed(&mut self, key: &SandboxKey, myself: &ActorRef<Message>) {
        let launching = &self.environment.launching;
        let started = super::orphans::started(&launching.agent);
        let means = recover::Means { settings: &self.settings, launching, started };
        match recover::one(&self.reader, key, &means) {
            Ok(Some(found)) => {
                self.recover(found, myself).await;
                self.environment.watch_list.remove_dead_of(key);
            }
            Ok(None) => self.environment.watch_list.remove_all_of(key),
            Err(error) => tracing::error!(sandbox = %key, %error, "a sandbox cannot be recovered"),
        }
    }

    async fn spawn(
        &mut self,
        key: SandboxKey,
        view: SandboxView,
        origin: Origin,
        myself: &ActorRef<Message>,
    ) -> Result<ActorRef<SandboxMessage>, ActorProcessingErr> {
        let view = Shown::new(view);
        let environment = Arc::clone(&self.environment);
        let arguments = SandboxArguments { environment, origin, view: view.clone() };
        let (actor, _) = SandboxActor::spawn_linked(None, SandboxActor, arguments, myself.get_cell()).await?;
        self.names.insert(actor.get_id(), key.clone());
        self.directory.insert(key, Entry { actor: actor.clone(), view });
        Ok(actor)
    }
}
