//! The calls of the Control service.

use std::sync::Arc;
use std::time::Duration;

use dormouse_ledger::{LedgerError, SandboxFilter};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::access::Admitted;
use super::denials::Denials;
use super::host::Host;
use super::questions::Questions;
use super::status::{status_of, status_of_ledger};
use super::watch::{Watch, Watched};
use super::{Serving, convert, validate};
use crate::clock::Clock;
use crate::config::Config;
use crate::host::{EndOrphan, not_found};
use crate::proto::control_server::Control;
use crate::proto::{self, CommandHeader, CommandReply};
use crate::sandbox::command::{self, Command, SandboxKey};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::SandboxView;

/// Answers that wait for a slow reader of a stream. The reader holds up the question, and nothing else.
const STREAM_BACKLOG: usize = 64;

/// How long a listing waits for the ledger to tell the tags.
const TAGS_WAIT: Duration = Duration::from_millis(500);

/// How many files that are not taken are told at once: whoever may write to the folder may have made any number.
const REJECTED_MAX: usize = 1000;

/// The Control service over a host.
pub(super) struct Service<H> {
    host: H,
    config: Arc<Config>,
    questions: Questions,
    clock: Clock,
    denials: Denials,
    /// Whose turn it is to look tags up: where the ledger's disk hangs, one waits for it and no more.
    tags_turn: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl<H: Host> Service<H> {
    /// The service; its streams end when `stopped` turns true.
    pub(super) fn new(serving: Serving<H>, denials: Denials, stopped: watch::Receiver<bool>) -> Self {
        let Serving { host, config, clock, ledger: _, metrics: _ } = serving;
        let questions = Questions::new(config.ledger_path(), Arc::clone(&config));
        Self { host, config, questions, clock, denials, tags_turn: Arc::new(Semaphore::new(1)), stopped }
    }

    async fn execute(
        &self,
        admitted: &Admitted,
        header: Option<CommandHeader>,
        request: Result<command::Request, Refusal>,
    ) -> Result<Response<CommandReply>, Status> {
        let arrived = self.clock.now();
        let CommandHeader { key, request_id, deadline_ms } = header.unwrap_or_default();
        let command = || {
            let key = validate::key(key)?;
            self.see(admitted, &key)?;
            let request_id = match validate::request_id(request_id)? {
                Some(request_id) => request_id,
                None => made_up_request_id()?,
            };
            let request = request?;
            let deadline_ms = Some(validate::deadline_ms(deadline_ms, &request, &self.config.deadlines));
            let asked_by = admitted.caller.who.clone();
            Ok(Command { key, request_id, deadline_ms, asked_by, request })
        };
        let command = command().map_err(status_of)?;
        let request_id = command.request_id.clone();
        let span = tracing::info_span!(
            "command",
            org = command.key.org,
            sandbox = command.key.sandbox,
            request_id,
            kind = command.request.kind(),
            reason = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        let executed = self.host.execute(command).instrument(span.clone()).await;
        let executed = executed.inspect_err(|refusal| {
            span.record("reason", refusal.reason.as_str()).record("otel.status_code", "ERROR");
        });
        drop(span);
        let executed = executed.map_err(status_of)?;
        let duration_ns = self.clock.now().boottime_ns.saturating_sub(arrived.boottime_ns);
        Ok(Response::new(convert::reply(request_id, executed, duration_ns)))
    }

    async fn execute_plain(
        &self,
        request: Request<proto::SandboxRequest>,
        command: command::Request,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute(&admitted(&request)?, request.into_inner().header, Ok(command)).await
    }

    /// What a caller may not see is not there.
    fn see(&self, admitted: &Admitted, key: &SandboxKey) -> Result<(), Refusal> {
        if admitted.caller.org.as_ref().is_none_or(|org| *org == key.org) {
            return Ok(());
        }
        self.denials.tell(&admitted.caller.who, admitted.path, Reason::SandboxNotFound);
        Err(not_found(key))
    }

    /// The orgs and sandboxes that a question is about, and that the caller may see; `None` is all.
    fn filter(
        &self,
        admitted: &Admitted,
        org: String,
        sandbox: String,
    ) -> Result<(Option<String>, Option<String>), Status> {
        let named = validate::filter("org", org).map_err(status_of)?;
        let sandbox = validate::filter("sandbox", sandbox).map_err(status_of)?;
        if let (Some(own), Some(named)) = (&admitted.caller.org, &named)
            && own != named
        {
            self.denials.tell(&admitted.caller.who, admitted.path, Reason::SandboxNotFound);
            let message =
                format!("no sandbox of org {named} is attached; `dormouse ls` shows those that are");
            return Err(status_of(Refusal::new(Reason::SandboxNotFound, message).with("org", named)));
        }
        Ok((named.or_else(|| admitted.caller.org.clone()), sandbox))
    }

    /// Sandboxes with the tags that they have. Their actors know those that they began with: these are told where
    /// the ledger does not answer soon, because what there is must be seen when its disk hangs.
    async fn tagged(&self, views: Vec<SandboxView>) -> Vec<SandboxView> {
        let known = views.clone();
        let looked_up = async {
            let turn = Arc::clone(&self.tags_turn).acquire_owned().await.ok()?;
            let look_up = move |ledger: &Questions| {
                let _turn = turn;
                ledger.tagged(views)
            };
            self.ask(look_up).await.inspect_err(|status| tracing::warn!(%status, "tags cannot be read")).ok()
        };
        tokio::time::timeout(TAGS_WAIT, looked_up).await.ok().flatten().unwrap_or(known)
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Questions) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Status> {
        let questions = self.questions.clone();
        tokio::task::spawn_blocking(move || question(&questions))
            .await
            .map_err(|error| status_of(Refusal::new(Reason::Bug, format!("the question was lost: {error}"))))?
            .map_err(|error| status_of_ledger(&error))
    }
}

/// Who asks, as the gate has established it.
fn admitted<T>(request: &Request<T>) -> Result<Admitted, Status> {
    let admitted = request.extensions().get::<Admitted>().cloned();
    admitted.ok_or_else(|| {
        status_of(Refusal::new(Reason::CallerUnknown, "the call did not come through the gate"))
    })
}

fn made_up_request_id() -> Result<String, Refusal> {
    crate::ids::new_request_id()
        .map_err(|error| Refusal::new(Reason::Bug, format!("the kernel gives no random number: {error}")))
}

#[tonic::async_trait]
impl<H: Host> Control for Service<H> {
    type WatchStream = ReceiverStream<Result<proto::WatchEvent, Status>>;
    type SlicesStream = ReceiverStream<Result<proto::Slice, Status>>;
    type ExportEventsStream = ReceiverStream<Result<proto::Event, Status>>;

    async fn attach(&self, request: Request<proto::AttachRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let mut request = request.into_inner();
        let header = request.header.take();
        self.execute(&admitted, header, validate::attach(request, &self.config)).await
    }

    async fn detach(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Detach).await
    }

    async fn scale(&self, request: Request<proto::ScaleRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::ScaleRequest { header, memory_bytes, vcpus_milli, disks, force } = request.into_inner();
        let scaling =
            command::Scaling { memory_bytes, vcpus_milli, disks: disks.into_iter().collect(), force };
        self.execute(&admitted, header, Ok(command::Request::Scale(scaling))).await
    }

    async fn pause(&self, request: Request<proto::PauseRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::PauseRequest { header, reclaim } = request.into_inner();
        self.execute(&admitted, header, Ok(command::Request::Pause { reclaim })).await
    }

    async fn resume(&self, request: Request<proto::ResumeRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::ResumeRequest { header, prefetch } = request.into_inner();
        self.execute(&admitted, header, Ok(command::Request::Resume { prefetch })).await
    }

    async fn hibernate(
        &self,
        request: Request<proto::HibernateRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::HibernateRequest { header, method } = request.into_inner();
        let request = validate::method(method).map(|method| command::Request::Hibernate { method });
        self.execute(&admitted, header, request).await
    }

    async fn wake(&self, request: Request<proto::WakeRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::WakeRequest { header, cold } = request.into_inner();
        self.execute(&admitted, header, Ok(command::Request::Wake { cold })).await
    }

    async fn reboot(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Reboot).await
    }

    async fn suppress(
        &self,
        request: Request<proto::SuppressRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::SuppressRequest { header, reason } = request.into_inner();
        let request = validate::suppression(reason).map(|reason| command::Request::Suppress { reason });
        self.execute(&admitted, header, request).await
    }

    async fn unsuppress(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Unsuppress).await
    }

    async fn destroy(
        &self,
        request: Request<proto::DestroyRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::DestroyRequest { header, graceful_ms } = request.into_inner();
        let graceful_ms = (graceful_ms > 0).then_some(graceful_ms);
        self.execute(&admitted, header, Ok(command::Request::Destroy { graceful_ms })).await
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListReply>, Status> {
        let admitted = admitted(&request)?;
        let (org, _) = self.filter(&admitted, request.into_inner().org, String::new())?;
        let views = self.host.list(org.as_deref()).await.map_err(status_of)?;
        let sandboxes = self.tagged(views).await.into_iter().map(convert::sandbox).collect();
        Ok(Response::new(proto::ListReply { sandboxes }))
    }

    async fn get(&self, request: Request<proto::SandboxKey>) -> Result<Response<proto::Sandbox>, Status> {
        let admitted = admitted(&request)?;
        let key = validate::key(Some(request.into_inner())).map_err(status_of)?;
        self.see(&admitted, &key).map_err(status_of)?;
        let view = self.host.get(&key).await.map_err(status_of)?;
        let view = self.tagged(vec![view.clone()]).await.pop().unwrap_or(view);
        Ok(Response::new(convert::sandbox(view)))
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let admitted = admitted(&request)?;
        let proto::WatchRequest { org, sandbox } = request.into_inner();
        let (org, sandbox) = self.filter(&admitted, org, sandbox)?;
        let (watcher, events) = mpsc::channel(STREAM_BACKLOG);
        let watch = Watch {
            // Subscribed before the sandboxes are listed: what changes in between is told.
            changes: self.host.watch(),
            host: self.host.clone(),
            clock: self.clock.clone(),
            watched: Watched { org, sandbox },
            watcher,
            stopped: self.stopped.clone(),
        };
        tokio::spawn(watch.run());
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn slices(
        &self,
        request: Request<proto::SlicesRequest>,
    ) -> Result<Response<Self::SlicesStream>, Status> {
        let admitted = admitted(&request)?;
        let proto::SlicesRequest { org, sandbox } = request.into_inner();
        let (org, sandbox) = self.filter(&admitted, org, sandbox)?;
        let filter = SandboxFilter { org, sandbox, ..SandboxFilter::default() };
        let (reader, slices) = mpsc::channel(STREAM_BACKLOG);
        let (questions, now) = (self.questions.clone(), self.clock.now());
        tokio::task::spawn_blocking(move || {
            let send = |slice| reader.blocking_send(Ok(convert::slice(slice))).is_ok();
            if let Err(error) = questions.slices(filter, Some(now), send) {
                // A reader that is gone needs no reason.
                let _ = reader.blocking_send(Err(status_of_ledger(&error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(slices)))
    }

    async fn usage(
        &self,
        request: Request<proto::UsageRequest>,
    ) -> Result<Response<proto::UsageReply>, Status> {
        let admitted = admitted(&request)?;
        let proto::UsageRequest { org, sandbox, from_unix_ns, to_unix_ns } = request.into_inner();
        let (org, sandbox) = self.filter(&admitted, org, sandbox)?;
        let filter = SandboxFilter { org, sandbox, ..SandboxFilter::default() };
        let now = self.clock.now();
        let to_unix_ns = if to_unix_ns == 0 { now.wall_ns } else { to_unix_ns };
        let usage = self.ask(move |ledger| ledger.usage(filter, from_unix_ns..to_unix_ns, Some(now))).await?;
        Ok(Response::new(convert::usage(usage, from_unix_ns, to_unix_ns)))
    }

    async fn get_tags(&self, request: Request<proto::SandboxKey>) -> Result<Response<proto::Tags>, Status> {
        let admitted = admitted(&request)?;
        let key = validate::key(Some(request.into_inner())).map_err(status_of)?;
        self.see(&admitted, &key).map_err(status_of)?;
        self.ask(move |ledger| ledger.tags(&key)).await.map(|tags| Response::new(convert::tags(tags)))
    }

    async fn set_tags(
        &self,
        request: Request<proto::SetTagsRequest>,
    ) -> Result<Response<proto::Tags>, Status> {
        let admitted = admitted(&request)?;
        let proto::SetTagsRequest { key, tags } = request.into_inner();
        let key = validate::key(key).map_err(status_of)?;
        self.see(&admitted, &key).map_err(status_of)?;
        let (tags, at_unix_ns) = (tags.into_iter().collect(), self.clock.now().wall_ns);
        let tags = self.ask(move |ledger| ledger.set_tags(&key, tags, at_unix_ns)).await?;
        Ok(Response::new(convert::tags(tags)))
    }

    async fn audit(&self, _: Request<proto::AuditRequest>) -> Result<Response<proto::AuditReply>, Status> {
        self.ask(Questions::audit).await.map(|report| Response::new(convert::audit(report)))
    }

    async fn outbox(&self, _: Request<proto::OutboxRequest>) -> Result<Response<proto::OutboxReply>, Status> {
        let standing = self.ask(Questions::outbox).await?;
        Ok(Response::new(super::outbox::outbox(standing, self.clock.now().wall_ns)))
    }

    async fn export_events(
        &self,
        request: Request<proto::ExportEventsRequest>,
    ) -> Result<Response<Self::ExportEventsStream>, Status> {
        let after_seq = request.into_inner().after_seq;
        let (reader, events) = mpsc::channel(STREAM_BACKLOG);
        let questions = self.questions.clone();
        tokio::task::spawn_blocking(move || {
            let send = |event| reader.blocking_send(Ok(super::outbox::event(event))).is_ok();
            if let Err(error) = questions.events(after_seq, send) {
                // A reader that is gone needs no reason.
                let _ = reader.blocking_send(Err(status_of_ledger(&error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn create(&self, request: Request<proto::CreateRequest>) -> Result<Response<CommandReply>, Status> {
        let admitted = admitted(&request)?;
        let mut request = request.into_inner();
        let header = request.header.take();
        self.execute(&admitted, header, validate::create(request, &self.config)).await
    }

    async fn power_cycle(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::PowerCycle).await
    }

    async fn orphans(
        &self,
        _: Request<proto::OrphansRequest>,
    ) -> Result<Response<proto::OrphansReply>, Status> {
        let orphans = self.host.orphans().await.map_err(status_of)?;
        Ok(Response::new(proto::OrphansReply { orphans: orphans.into_iter().map(convert::orphan).collect() }))
    }

    async fn rejected(
        &self,
        _: Request<proto::RejectedRequest>,
    ) -> Result<Response<proto::RejectedReply>, Status> {
        let rejected = self.host.rejected().list();
        let total = u64::try_from(rejected.len()).unwrap_or(u64::MAX);
        let files = rejected.into_iter().take(REJECTED_MAX).map(convert::rejected).collect();
        Ok(Response::new(proto::RejectedReply { files, total }))
    }

    async fn destroy_orphan(
        &self,
        request: Request<proto::DestroyOrphanRequest>,
    ) -> Result<Response<proto::Orphan>, Status> {
        let admitted = admitted(&request)?;
        let proto::DestroyOrphanRequest { pid, start_time_ticks, request_id } = request.into_inner();
        let request_id = match validate::request_id(request_id).map_err(status_of)? {
            Some(request_id) => request_id,
            None => made_up_request_id().map_err(status_of)?,
        };
        let asked_by = admitted.caller.who.clone();
        let order = EndOrphan { pid, start_time_ticks, request_id, asked_by };
        let orphan = self.host.end_orphan(order).await.map_err(status_of)?;
        Ok(Response::new(convert::orphan(orphan)))
    }
}
