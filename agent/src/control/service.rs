//! The calls of the Control service.

use std::sync::Arc;

use dormouse_ledger::{LedgerError, SandboxFilter};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::host::Host;
use super::questions::Questions;
use super::status::{status_of, status_of_ledger};
use super::watch::{Watch, Watched};
use super::{Serving, convert, validate};
use crate::clock::Clock;
use crate::config::Config;
use crate::proto::control_server::Control;
use crate::proto::{self, CommandHeader, CommandReply};
use crate::sandbox::command::{self, Command};
use crate::sandbox::refusal::{Reason, Refusal};

/// Answers that wait for a slow reader of a stream. The reader holds up the question, and nothing else.
const STREAM_BACKLOG: usize = 64;

/// The Control service over a host.
pub(super) struct Service<H> {
    host: H,
    config: Arc<Config>,
    questions: Questions,
    clock: Clock,
    stopped: watch::Receiver<bool>,
}

impl<H: Host> Service<H> {
    /// The service; its streams end when `stopped` turns true.
    pub(super) fn new(serving: Serving<H>, stopped: watch::Receiver<bool>) -> Self {
        let Serving { host, config, clock } = serving;
        let questions = Questions::new(config.ledger_path(), Arc::clone(&config));
        Self { host, config, questions, clock, stopped }
    }

    async fn execute(
        &self,
        asked_by: String,
        header: Option<CommandHeader>,
        request: Result<command::Request, Refusal>,
    ) -> Result<Response<CommandReply>, Status> {
        let arrived = self.clock.now();
        let CommandHeader { key, request_id, deadline_ms } = header.unwrap_or_default();
        let command = || {
            let key = validate::key(key)?;
            let request_id = match validate::request_id(request_id)? {
                Some(request_id) => request_id,
                None => made_up_request_id()?,
            };
            let request = request?;
            let deadline_ms = Some(validate::deadline_ms(deadline_ms, &request, &self.config.deadlines));
            Ok(Command { key, request_id, deadline_ms, asked_by, request })
        };
        let command = command().map_err(status_of)?;
        let request_id = command.request_id.clone();
        let executed = self.host.execute(command).await.map_err(status_of)?;
        let duration_ns = self.clock.now().boottime_ns.saturating_sub(arrived.boottime_ns);
        Ok(Response::new(convert::reply(request_id, executed, duration_ns)))
    }

    async fn execute_plain(
        &self,
        request: Request<proto::SandboxRequest>,
        command: command::Request,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute(asked_by(&request), request.into_inner().header, Ok(command)).await
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

/// The peer of the unix socket, as the kernel knows it.
fn asked_by<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|connection| connection.peer_cred);
    peer.map_or_else(|| "unknown".to_owned(), |peer| format!("uid:{}", peer.uid()))
}

fn made_up_request_id() -> Result<String, Refusal> {
    crate::ids::new_request_id()
        .map_err(|error| Refusal::new(Reason::Bug, format!("the kernel gives no random number: {error}")))
}

fn sandbox_filter(org: String, sandbox: String) -> Result<SandboxFilter, Status> {
    Ok(SandboxFilter {
        org: validate::filter("org", org).map_err(status_of)?,
        sandbox: validate::filter("sandbox", sandbox).map_err(status_of)?,
        ..SandboxFilter::default()
    })
}

#[tonic::async_trait]
impl<H: Host> Control for Service<H> {
    type WatchStream = ReceiverStream<Result<proto::WatchEvent, Status>>;
    type SlicesStream = ReceiverStream<Result<proto::Slice, Status>>;
    type ExportEventsStream = ReceiverStream<Result<proto::Event, Status>>;

    async fn attach(&self, request: Request<proto::AttachRequest>) -> Result<Response<CommandReply>, Status> {
        let asked_by = asked_by(&request);
        let mut request = request.into_inner();
        let header = request.header.take();
        self.execute(asked_by, header, validate::attach(request, &self.config)).await
    }

    async fn detach(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Detach).await
    }

    async fn scale(&self, request: Request<proto::ScaleRequest>) -> Result<Response<CommandReply>, Status> {
        let asked_by = asked_by(&request);
        let proto::ScaleRequest { header, memory_bytes } = request.into_inner();
        self.execute(asked_by, header, Ok(command::Request::Scale { memory_bytes })).await
    }

    async fn pause(&self, request: Request<proto::SandboxRequest>) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Pause).await
    }

    async fn resume(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Resume).await
    }

    async fn hibernate(
        &self,
        request: Request<proto::HibernateRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        let asked_by = asked_by(&request);
        let proto::HibernateRequest { header, method } = request.into_inner();
        let request = validate::method(method).map(|method| command::Request::Hibernate { method });
        self.execute(asked_by, header, request).await
    }

    async fn wake(&self, request: Request<proto::SandboxRequest>) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Wake).await
    }

    async fn reboot(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Reboot).await
    }

    async fn destroy(
        &self,
        request: Request<proto::SandboxRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        self.execute_plain(request, command::Request::Destroy).await
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListReply>, Status> {
        let org = validate::filter("org", request.into_inner().org).map_err(status_of)?;
        let views = self.host.list(org.as_deref()).await.map_err(status_of)?;
        let sandboxes = views.into_iter().map(convert::sandbox).collect();
        Ok(Response::new(proto::ListReply { sandboxes }))
    }

    async fn get(&self, request: Request<proto::SandboxKey>) -> Result<Response<proto::Sandbox>, Status> {
        let key = validate::key(Some(request.into_inner())).map_err(status_of)?;
        let view = self.host.get(&key).await.map_err(status_of)?;
        Ok(Response::new(convert::sandbox(view)))
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let proto::WatchRequest { org, sandbox } = request.into_inner();
        let filter = Watched {
            org: validate::filter("org", org).map_err(status_of)?,
            sandbox: validate::filter("sandbox", sandbox).map_err(status_of)?,
        };
        let (watcher, events) = mpsc::channel(STREAM_BACKLOG);
        let watch = Watch {
            // Subscribed before the sandboxes are listed: what changes in between is told.
            changes: self.host.watch(),
            host: self.host.clone(),
            clock: self.clock.clone(),
            watched: filter,
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
        let proto::SlicesRequest { org, sandbox } = request.into_inner();
        let filter = sandbox_filter(org, sandbox)?;
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
        let proto::UsageRequest { org, sandbox, from_unix_ns, to_unix_ns } = request.into_inner();
        let filter = sandbox_filter(org, sandbox)?;
        let now = self.clock.now();
        let to_unix_ns = if to_unix_ns == 0 { now.wall_ns } else { to_unix_ns };
        let usage = self.ask(move |ledger| ledger.usage(filter, from_unix_ns..to_unix_ns, Some(now))).await?;
        Ok(Response::new(convert::usage(usage, from_unix_ns, to_unix_ns)))
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
}
