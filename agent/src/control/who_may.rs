//! Who may, over real sockets: certificates, roles, orgs, and what is too much.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;
use tower::service_fn;

use super::access::tests::methods;
use super::stand_in::Agent;
use super::{channel, client};
use crate::config::{Control, Grant, Role, Tls};
use crate::proto::control_client::ControlClient;
use crate::proto::{self, CommandHeader, PauseRequest, SandboxKey, SandboxRequest};
use crate::sandbox::command::CommandResult;

/// An authority, and the folder of what it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key.
type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder: tempfile::tempdir().unwrap() }
    }

    fn signs(&self, params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A caller's certificate, after a change.
    fn caller(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let (certificate, key) = self.signs(&params);
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn named(&self, uri: &str) -> Identity {
        self.caller(|params| params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap())))
    }

    /// The configuration of an agent with these grants whose callers this authority signs.
    fn control(&self, grants: Vec<Grant>) -> Control {
        let (certificate, key) = self.signs(&CertificateParams::new(["localhost".to_owned()]).unwrap());
        let write = |name: &str, text: String| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let tls = Tls {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            certificate: write("agent.pem", certificate.pem()),
            key: write("agent.key", key.serialize_pem()),
            client_ca: write("ca.pem", self.issuer.pem()),
        };
        Control { tls, grants, ..Control::default() }
    }

    /// A channel that shows this identity.
    async fn connect(
        &self,
        to: SocketAddr,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connect = service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(to).await?;
                let name = ServerName::try_from("localhost").unwrap();
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }
}

fn to_uri(uri: &str, role: Role, org: Option<&str>) -> Grant {
    Grant { uri: Some(uri.to_owned()), role, org: org.map(str::to_owned), ..Grant::default() }
}

fn of(org: &str, sandbox: &str) -> PauseRequest {
    let key = Some(SandboxKey { org: org.to_owned(), sandbox: sandbox.to_owned() });
    PauseRequest { header: Some(CommandHeader { key, ..CommandHeader::default() }), reclaim: false }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Calls a method by its path, with an empty request.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await.map(drop)
}

/// Calls every method there is; each must be refused with the code, nothing may reach the host, and each refusal
/// must be in the ledger with who asked.
async fn every_method_is_denied(
    agent: Agent,
    channel: &Channel,
    among: &BTreeSet<String>,
    code: Code,
    who: &str,
) {
    for path in among {
        let status = call(channel, path).await.expect_err(path);
        assert_eq!(status.code(), code, "{path}: {status}");
        assert!(!reason(&status).is_empty(), "{path} without a reason");
    }
    assert!(agent.host.commands.lock().unwrap().is_empty(), "the host heard of it");
    let denied: BTreeSet<_> =
        agent.denials().await.into_iter().map(|denial| (denial.who, denial.method)).collect();
    assert_eq!(denied, among.iter().map(|path| (who.to_owned(), path.clone())).collect());
}

#[tokio::test]
async fn s2_nothing_unauthenticated_changes_anything() {
    let ca = Authority::new();
    let grants = || vec![to_uri("spiffe://fleet/reader", Role::Read, None)];

    let agent = Agent::start_with(ca.control(grants())).await;
    let address = agent.address.unwrap();
    let no_certificate = ca.connect(address, None).await.unwrap();
    every_method_is_denied(agent, &no_certificate, &methods(), Code::Unauthenticated, "ip:127.0.0.1").await;

    let agent = Agent::start_with(ca.control(grants())).await;
    let no_grant = ca.connect(agent.address.unwrap(), Some(ca.named("spiffe://fleet/x"))).await.unwrap();
    every_method_is_denied(agent, &no_grant, &methods(), Code::PermissionDenied, "uri:spiffe://fleet/x")
        .await;

    let agent = Agent::start_with(Control { socket_role: Role::None, ..Control::default() }).await;
    let no_role = channel(&agent.socket).await.unwrap();
    let user = format!("uid:{}", nix::unistd::getuid());
    every_method_is_denied(agent, &no_role, &methods(), Code::PermissionDenied, &user).await;

    // Whoever may only read: all but these changes something, those that are added one day included.
    let reads = [
        "List",
        "Get",
        "GetTags",
        "Watch",
        "Slices",
        "Usage",
        "Audit",
        "Outbox",
        "ExportEvents",
        "Orphans",
        "Rejected",
    ]
    .map(|method| format!("/dormouse.control.v1.Control/{method}"));
    let changes = |path: &String| path.starts_with("/dormouse") && !reads.contains(path);
    let agent = Agent::start_with(ca.control(grants())).await;
    let reader = ca.connect(agent.address.unwrap(), Some(ca.named("spiffe://fleet/reader"))).await.unwrap();
    ControlClient::new(reader.clone()).list(proto::ListRequest::default()).await.unwrap();
    let changing = methods().into_iter().filter(changes).collect();
    every_method_is_denied(agent, &reader, &changing, Code::PermissionDenied, "uri:spiffe://fleet/reader")
        .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_or_of_another_authority_ends_the_connection() {
    let (ca, other) = (Authority::new(), Authority::new());
    let agent = Agent::start_with(ca.control(vec![to_uri("*", Role::Admin, None)])).await;
    let address = agent.address.unwrap();
    let uri = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::URI("a:b".try_into().unwrap()));
    };
    let expired = ca.caller(|params| {
        uri(params);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let of_the_future = ca.caller(|params| {
        uri(params);
        params.not_before = date_time_ymd(4000, 1, 1);
    });
    let for_servers = ca.caller(|params| {
        uri(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for identity in [expired, of_the_future, for_servers, other.caller(uri)] {
        // With TLS 1.3 a client believes in its connection until it first reads.
        if let Ok(channel) = ca.connect(address, Some(identity)).await {
            let status = call(&channel, "/dormouse.control.v1.Control/List").await.unwrap_err();
            assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
        }
    }
    let valid = ca.connect(address, Some(ca.caller(uri))).await.unwrap();
    call(&valid, "/dormouse.control.v1.Control/List").await.unwrap();
    let denials = agent.denials().await;
    assert!(
        denials.iter().all(|denial| denial.reason == "CERTIFICATE_REFUSED" && denial.who == "ip:127.0.0.1")
    );
    assert!(denials.iter().map(|denial| denial.count).sum::<u64>() >= 4, "{denials:?}");
}

#[tokio::test]
async fn what_is_no_tls_is_let_go_and_in_the_ledger() {
    let ca = Authority::new();
    let agent = Agent::start_with(ca.control(Vec::new())).await;
    let mut stream = TcpStream::connect(agent.address.unwrap()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap_or_default();
    let denials = agent.denials().await;
    assert_eq!(denials.len(), 1, "{denials:?}");
    assert_eq!((denials[0].method.as_str(), denials[0].reason.as_str()), ("tls-handshake", "CALLER_UNKNOWN"));
}

#[tokio::test]
async fn a_command_by_certificate_is_asked_by_the_name_that_was_granted() {
    let ca = Authority::new();
    let by_common_name =
        Grant { common_name: Some("*.ops".to_owned()), role: Role::Admin, ..Grant::default() };
    let grants = vec![to_uri("spiffe://fleet/*", Role::Operate, None), by_common_name];
    let agent = Agent::start_with(ca.control(grants)).await;
    let address = agent.address.unwrap();
    let ops = ca.caller(|params| params.distinguished_name.push(DnType::CommonName, "ada.ops"));
    for (identity, who) in [(ca.named("spiffe://fleet/s1"), "uri:spiffe://fleet/s1"), (ops, "cn:ada.ops")] {
        agent.host.answers(Ok(CommandResult::Done));
        let mut client = ControlClient::new(ca.connect(address, Some(identity)).await.unwrap());
        client.pause(of("default", "sb1")).await.unwrap();
        assert_eq!(agent.host.last_command().asked_by, who);
    }
    assert!(agent.denials().await.is_empty());
}

#[tokio::test]
async fn a_caller_bound_to_an_org_sees_and_touches_only_that_org() {
    let ca = Authority::new();
    let grants = vec![
        to_uri("org:default", Role::Admin, Some("default")),
        to_uri("org:acme", Role::Admin, Some("acme")),
    ];
    let agent = Agent::start_with(ca.control(grants)).await;
    let address = agent.address.unwrap();
    let mut own = ControlClient::new(ca.connect(address, Some(ca.named("org:default"))).await.unwrap());
    let mut other = ControlClient::new(ca.connect(address, Some(ca.named("org:acme"))).await.unwrap());
    assert_eq!(own.list(proto::ListRequest::default()).await.unwrap().into_inner().sandboxes.len(), 2);
    assert_eq!(other.list(proto::ListRequest::default()).await.unwrap().into_inner().sandboxes.len(), 0);
    let key = |sandbox: &str| SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() };
    own.get(key("sb1")).await.unwrap();

    // What is there and what is not look the same.
    let missing = own.get(key("nobody")).await.unwrap_err();
    let hidden = other.get(key("nobody")).await.unwrap_err();
    let there = other.get(key("sb1")).await.unwrap_err();
    assert_eq!((there.code(), hidden.message()), (Code::NotFound, missing.message()));
    assert_eq!(there.message().replace("sb1", "nobody"), missing.message());

    let org = || "default".to_owned();
    let refused = [
        other.pause(of("default", "sb1")).await.unwrap_err(),
        other
            .destroy(proto::DestroyRequest { header: of("default", "sb1").header, graceful_ms: 0 })
            .await
            .unwrap_err(),
        other.power_cycle(SandboxRequest { header: of("default", "sb1").header }).await.unwrap_err(),
        other.list(proto::ListRequest { org: org() }).await.unwrap_err(),
        other.watch(proto::WatchRequest { org: org(), sandbox: String::new() }).await.unwrap_err(),
        other.slices(proto::SlicesRequest { org: org(), sandbox: String::new() }).await.unwrap_err(),
        other.usage(proto::UsageRequest { org: org(), ..Default::default() }).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|status| status.code() == Code::NotFound), "{refused:?}");
    for about_the_host in [
        own.attach(proto::AttachRequest::default()).await.unwrap_err(),
        own.create(proto::CreateRequest::default()).await.unwrap_err(),
        own.orphans(proto::OrphansRequest {}).await.unwrap_err(),
        own.destroy_orphan(proto::DestroyOrphanRequest::default()).await.unwrap_err(),
        own.rejected(proto::RejectedRequest {}).await.unwrap_err(),
        own.audit(proto::AuditRequest {}).await.unwrap_err(),
    ] {
        assert_eq!(
            (about_the_host.code(), reason(&about_the_host).as_str()),
            (Code::PermissionDenied, "ORG_BOUND")
        );
    }
    assert!(agent.host.commands.lock().unwrap().is_empty());
    let mut events = other.watch(proto::WatchRequest::default()).await.unwrap().into_inner();
    agent.host.changes.send(super::stand_in::change("sb1", crate::sandbox::view::WatchKind::After)).unwrap();
    drop(agent.host.changes.clone());
    let denials = agent.denials().await;
    assert_eq!(
        denials.iter().filter(|denial| denial.who == "uri:org:acme").map(|denial| denial.count).sum::<u64>(),
        9
    );
    assert_eq!(reason(&events.message().await.unwrap_err()), "AGENT_STOPPING", "no event of another org");
}

#[tokio::test]
async fn a_request_of_100_mb_is_refused_with_its_reason_and_holds_up_nobody() {
    let agent = Agent::start().await;
    let mut large = client(&agent.socket).await.unwrap();
    let tags = [("team".to_owned(), "x".repeat(100 << 20))].into();
    let request = proto::AttachRequest { tags, ..Default::default() };
    let status = large.attach(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    assert!(agent.host.commands.lock().unwrap().is_empty());
    large.list(proto::ListRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_10000_requests_at_once_none_is_lost_and_no_more_than_allowed_are_under_way() {
    const ALLOWED: usize = 100;
    const CONNECTIONS: usize = 20;
    let agent = Agent::start_with(Control { requests_max: ALLOWED as u64, ..Control::default() }).await;
    let held = agent.host.released.forget_permits(usize::MAX);
    assert!(held > 0);
    let mut calls = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = client(&agent.socket).await.unwrap();
        for _ in 0..10_000 / CONNECTIONS {
            let mut client = client.clone();
            agent.host.answers(Ok(CommandResult::Done));
            calls.spawn(
                async move { client.pause(of("default", "sb1")).await.map_err(|status| reason(&status)) },
            );
        }
    }
    for _ in 0..10_000 - ALLOWED {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused, "TOO_MANY_REQUESTS");
    }
    assert_eq!(agent.host.commands.lock().unwrap().len(), ALLOWED);
    agent.host.released.add_permits(ALLOWED);
    for _ in 0..ALLOWED {
        calls.join_next().await.unwrap().unwrap().unwrap();
    }
    agent.host.released.add_permits(1);
    agent.host.answers(Ok(CommandResult::Done));
    client(&agent.socket).await.unwrap().pause(of("default", "sb1")).await.unwrap();
}

#[test]
fn what_cannot_be_used_for_tls_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.pem");
    let open = |path: &Path| {
        let of = || path.to_owned();
        let files = super::tls::Files { certificate: of(), key: of(), client_ca: of() };
        files.read().err().unwrap().to_string()
    };
    assert!(open(&path).contains("agent.pem"), "{}", open(&path));
    std::fs::write(&path, "nothing of the kind").unwrap();
    assert!(open(&path).contains("agent.pem has no certificate in PEM"), "{}", open(&path));
}
