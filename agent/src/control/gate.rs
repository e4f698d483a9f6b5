//! The gate before every service, health and reflection included: who may not is refused before anything is read
//! or done, and what is too much at once is refused before it takes anything.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use super::access::{self, Admitted, Caller};
use super::denials::Denials;
use super::status::{code_name, status_of};
use crate::clock::Clock;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::traces;
use crate::words::counted;

/// The longest request, in bytes. The longest lawful one, an attach with all its tags, is a fiftieth of it.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The gate, as a layer around the services.
#[derive(Clone)]
pub(super) struct Gate {
    denials: Denials,
    clock: Clock,
    calls: Arc<Semaphore>,
    calls_max: usize,
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gated<S> {
    gate: Gate,
    service: S,
}

impl Gate {
    /// A gate that lets through as many calls at once, streams included.
    pub(super) fn new(denials: Denials, calls_max: u64, clock: Clock) -> Self {
        let calls_max = usize::try_from(calls_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { denials, clock, calls: Arc::new(Semaphore::new(calls_max)), calls_max }
    }

    /// Whether a call may go on, and its place among those under way.
    fn admit(
        &self,
        caller: Option<&Arc<Caller>>,
        path: &str,
    ) -> Result<(Admitted, OwnedSemaphorePermit), Status> {
        let Some(caller) = caller else { return Err(Status::internal("a connection without a caller")) };
        let rule = access::rule(path);
        // Whoever has no role at all does not learn either which methods there are.
        if let Err(refusal) = caller.may(rule.unwrap_or(&access::ANY)) {
            self.denials.tell(&caller.who, path, refusal.reason);
            return Err(status_of(refusal));
        }
        let Some(rule) = rule else {
            return Err(Status::unimplemented(format!("this agent has no method {path}")));
        };
        let place = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            let calls = counted(self.calls_max, "call");
            let message = format!("{calls} under way already: try again in a moment");
            status_of(Refusal::new(Reason::TooManyRequests, message))
        })?;
        Ok((Admitted { caller: Arc::clone(caller), path: rule.path }, place))
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated { gate: self.clone(), service }
    }
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.gate.admit(request.extensions().get(), request.uri().path()) {
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
            Ok((admitted, place)) => {
                let (method, gate) = (admitted.path, self.gate.clone());
                let span = tracing::info_span!("call", method, who = admitted.caller.who);
                traces::go_on_from(&span, request.headers());
                request.extensions_mut().insert(admitted);
                let arrived = gate.clock.now();
                let answer = self.service.call(request);
                let finished = async move {
                    let response = finish(answer.await?, place);
                    let duration_ns = gate.clock.now().boottime_ns.saturating_sub(arrived.boottime_ns);
                    gate.denials.metrics.called(method, code_name(code(&response)), duration_ns);
                    Ok(response)
                };
                Box::pin(finished.instrument(span))
            }
        }
    }
}

/// What the headers of an answer say; an answer that fails later, in a stream, does not say so there.
fn code(response: &Response<Body>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

/// The call is under way until its whole answer is sent: a stream holds its place to its end.
fn finish(response: Response<Body>, place: OwnedSemaphorePermit) -> Response<Body> {
    // Nothing of ours answers so: the decoder does, of a message longer than it may be.
    if code(&response) == Code::OutOfRange {
        let message =
            format!("the request has more than {REQUEST_BYTES_MAX} bytes: no request needs so many");
        return status_of(Refusal::new(Reason::RequestTooLarge, message)).into_http();
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held_until_the_body_is_dropped = &place;
            frame
        }))
    })
}
