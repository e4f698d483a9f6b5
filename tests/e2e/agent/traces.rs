//! Spans as a collector gets them, and what becomes of the agent where it does not take them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse::control;
use dormouse::proto::{CommandHeader, PauseRequest, SandboxKey};
use dormouse_tests::scripted::Options;
use dormouse_tests::wait;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::scene::{DEADLINE, Scene};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one, and says where it listens.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, endpoint)
    }

    /// Waits for the span of a command.
    async fn command(&self, request_id: &str) -> Span {
        wait::until("the span of a command", DEADLINE, async || {
            let of_it = |span: &Span| text(&span.attributes, "request_id").as_deref() == Some(request_id);
            self.spans().into_iter().find(of_it).ok_or_else(|| format!("{:?}", self.spans()))
        })
        .await
        .unwrap()
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.0.lock().unwrap();
        got.iter().flat_map(|of| &of.scope_spans).flat_map(|of| of.spans.clone()).collect()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        other => panic!("{key} is {other:?}"),
    }
}

fn telemetry(endpoint: &str) -> String {
    format!("[telemetry]\notlp_endpoint = {endpoint:?}\notlp_timeout_ms = 300\n")
}

#[tokio::test]
async fn a_pause_is_a_span_with_org_sandbox_and_request_id_in_its_callers_trace() {
    let (collector, endpoint) = Collector::start().await;
    let mut scene = Scene::with(&telemetry(&endpoint)).await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let mut client = control::client(&scene.agent.socket()).await.unwrap();
    let key = Some(SandboxKey { org: "default".to_owned(), sandbox: "s1".to_owned() });
    let header = Some(CommandHeader { key, request_id: "p1".to_owned(), deadline_ms: 0 });
    let mut request = Request::new(PauseRequest { header, reclaim: false });
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    client.pause(request).await.unwrap();

    let span = collector.command("p1").await;
    assert_eq!(span.name, "command");
    for (key, value) in [("org", "default"), ("sandbox", "s1"), ("kind", "pause")] {
        assert_eq!(text(&span.attributes, key).as_deref(), Some(value), "{span:?}");
    }
    assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
    let call = collector.spans().into_iter().find(|call| call.span_id == span.parent_span_id);
    let call = call.unwrap_or_else(|| panic!("{:?}", collector.spans()));
    assert_eq!(text(&call.attributes, "method").as_deref(), Some("/dormouse.control.v1.Control/Pause"));
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    assert_eq!((&span.trace_id[..], &call.trace_id[..]), (&trace[..], &trace[..]));
    assert_eq!(call.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());

    // What is refused is an error, with its reason; and nothing of the log is sent.
    scene
        .refused(
            &["scale", "s1", "--memory", "1GiB", "--request-id", "p2"],
            "WRONG_STATE",
            "FAILED_PRECONDITION",
        )
        .await;
    // What still waits when the agent ends is sent.
    assert!(scene.agent.stop().await.unwrap().success());
    let refused = collector.command("p2").await;
    assert_eq!(refused.status.as_ref().map(|status| status.code), Some(2), "{refused:?}");
    assert_eq!(text(&refused.attributes, "reason").as_deref(), Some("WRONG_STATE"));
    assert!(collector.spans().iter().all(|span| span.events.is_empty()));
    let got = collector.0.lock().unwrap();
    let resource = got[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("dormouse"));
    assert!(text(&resource.attributes, "host.name").is_some_and(|name| !name.is_empty()));
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_delays_nothing_and_is_said_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = listener.local_addr().unwrap();
    let (accepted, mut connections) = tokio::sync::mpsc::unbounded_channel();
    // It accepts, and never says a word.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(stream).is_err() {
                return;
            }
        }
    });
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (address, is_connected_to) in [(hangs, true), (nobody, false)] {
        let mut scene = Scene::with(&telemetry(&format!("http://{address}"))).await;
        let _qemu = scene.sandbox("s1", &Options::default()).await;
        let said = |log: &str| log.matches("the collector does not take traces").count();
        let mut commands = 0;
        // Until it has failed, and as long again.
        let mut left = None;
        while left != Some(0) {
            for command in ["pause", "resume"] {
                let done = tokio::time::timeout(DEADLINE, scene.does(&[command, "s1"])).await.unwrap();
                // An unanswered batch takes 300 ms. No command takes part in that.
                assert_eq!(done["result"], "done");
                commands += 1;
            }
            left = left.map(|left: u32| left - 1).or((said(&scene.agent.log()) > 0).then_some(commands / 2));
        }
        assert!(!is_connected_to || connections.try_recv().is_ok(), "somebody has to hang");
        assert!(
            tokio::time::timeout(Duration::from_secs(15), scene.agent.stop())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
        assert_eq!(said(&scene.agent.log()), 1, "{}", scene.agent.log());
    }
}
