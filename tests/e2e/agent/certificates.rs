//! Certificates of the TCP listener that are replaced while it is used, on a real agent that is told so by SIGHUP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dormouse::proto::ListRequest;
use dormouse::proto::control_client::ControlClient;
use dormouse_tests::wait;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::scene::{DEADLINE, Scene};

const TAKEN: &str = "the certificates were read again";
const REFUSED: &str = "TLS_FILES_UNUSABLE";

type Anyhow = Box<dyn std::error::Error + Send + Sync>;

/// An authority of a test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for the agent, after a change, and its key, both in PEM.
    fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// How a caller whose certificate this one signs connects, trusting servers of `trusted`.
    fn caller(&self, trusted: &[&Self]) -> TlsConnector {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "caller");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        for authority in trusted {
            roots.add(authority.0.der().clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// An agent that listens on TCP, and the files that it reads.
struct Listening {
    scene: Scene,
    files: TempDir,
    address: SocketAddr,
}

impl Listening {
    async fn with(authority: &Authority) -> Self {
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
        let (certificate, key) = authority.server(|_| {});
        write("agent.pem", &certificate);
        write("agent.key", &key);
        write("ca.pem", &authority.0.pem());
        let path = |name: &str| files.path().join(name).display().to_string();
        let scene = Scene::with(&format!(
            "[control.tls]\nlisten = \"127.0.0.1:0\"\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
             [[control.grants]]\ncommon_name = \"caller\"\nrole = \"read\"\n",
            path("agent.pem"),
            path("agent.key"),
            path("ca.pem")
        ))
        .await;
        let told = wait::until("the agent to have said where it listens", DEADLINE, async || {
            let log = scene.agent.log();
            let address = log.split_once("address=Some(").and_then(|(_, rest)| rest.split_once(')'));
            address.map(|(address, _)| address.to_owned()).ok_or(log)
        });
        let address = told.await.unwrap().parse().unwrap();
        Self { scene, files, address }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.files.path().join(name), text).unwrap();
    }

    fn serves(&self, (certificate, key): &(String, String)) {
        self.write("agent.pem", certificate);
        self.write("agent.key", key);
    }

    /// Has the files read again, and waits until the agent has said this of it.
    async fn reload(&self, said: &str) {
        let times = || self.scene.agent.log().matches(said).count();
        let before = times();
        kill(self.scene.agent.pid().unwrap(), Signal::SIGHUP).unwrap();
        let awaited = wait::until("the agent to have read the files", DEADLINE, async || {
            wait::unless(times() > before, || self.scene.agent.log())
        });
        awaited.await.unwrap();
    }

    async fn calls_as(&self, caller: &TlsConnector) -> Result<Channel, Anyhow> {
        let channel = connect(self.address, caller.clone()).await?;
        list(&channel).await?;
        Ok(channel)
    }
}

async fn connect(to: SocketAddr, connector: TlsConnector) -> Result<Channel, Anyhow> {
    let connect = service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(to).await?;
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connect).await?)
}

async fn list(channel: &Channel) -> Result<(), Anyhow> {
    ControlClient::new(channel.clone()).list(ListRequest::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_without_a_restart_and_established_connections_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let agent = Listening::with(&old).await;
    let of_old = old.caller(&[&old, &new]);
    let established = agent.calls_as(&of_old).await.unwrap();

    // Callers who connect again and again, of whom none may notice.
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (stop, calls, caller, address) =
            (Arc::clone(&stop), Arc::clone(&calls), of_old.clone(), agent.address);
        load.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                list(&connect(address, caller.clone()).await?).await?;
                calls.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<(), Anyhow>(())
        });
    }
    let more_calls = async || {
        let before = calls.load(Ordering::SeqCst);
        let awaited = wait::until("callers to connect", DEADLINE, async || {
            wait::unless(calls.load(Ordering::SeqCst) >= before + 8, || "few did")
        });
        awaited.await.unwrap();
    };
    more_calls().await;
    agent.write("ca.pem", &format!("{}{}", old.0.pem(), new.0.pem()));
    agent.reload(TAKEN).await;
    more_calls().await;
    agent.serves(&new.server(|_| {}));
    agent.reload(TAKEN).await;
    more_calls().await;
    stop.store(true, Ordering::SeqCst);
    while let Some(caller) = load.join_next().await {
        caller.unwrap().unwrap();
    }

    // Who trusts the new authority alone is served by it, and who trusts the old one alone is not.
    agent.calls_as(&new.caller(&[&new])).await.unwrap();
    agent.calls_as(&old.caller(&[&old])).await.unwrap_err();
    agent.write("ca.pem", &new.0.pem());
    agent.reload(TAKEN).await;
    agent.calls_as(&of_old).await.unwrap_err();
    agent.calls_as(&new.caller(&[&new])).await.unwrap();
    list(&established).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_and_are_told_loudly() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let agent = Listening::with(&old).await;
    let caller = old.caller(&[&old]);
    let (certificate, key) = new.server(|_| {});
    let (_, another_key) = new.server(|_| {});
    let expired = new.server(|params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let of_the_future = new.server(|params| {
        (params.not_before, params.not_after) = (date_time_ymd(2990, 1, 1), date_time_ymd(2999, 1, 1));
    });
    for bad in [
        (String::new(), key.clone()),
        ("no certificate".to_owned(), key.clone()),
        (certificate.clone(), String::new()),
        (certificate.clone(), another_key),
        expired,
        of_the_future,
    ] {
        agent.serves(&bad);
        agent.reload(REFUSED).await;
        agent.calls_as(&caller).await.unwrap();
    }
    agent.serves(&(certificate, key));
    std::fs::remove_file(agent.files.path().join("ca.pem")).unwrap();
    agent.reload(REFUSED).await;
    agent.calls_as(&caller).await.unwrap();

    agent.write("ca.pem", &new.0.pem());
    agent.reload(TAKEN).await;
    agent.calls_as(&new.caller(&[&new])).await.unwrap();
    agent.calls_as(&caller).await.unwrap_err();
}

#[tokio::test]
async fn an_agent_without_tcp_goes_on_after_sighup() {
    let scene = Scene::new().await;
    kill(scene.agent.pid().unwrap(), Signal::SIGHUP).unwrap();
    let awaited = wait::until("the agent to have heard", DEADLINE, async || {
        let log = scene.agent.log();
        wait::unless(log.contains("nothing to read again"), || log)
    });
    awaited.await.unwrap();
    scene.agent.cli(&["ls"]).await.unwrap().succeeded().unwrap();
}
