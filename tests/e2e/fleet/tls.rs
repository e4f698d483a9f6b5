//! Nobody is spoken to who cannot show who they are, and nobody is spoken to in the clear who is not to be.

use dormouse::config::{Sink, SinkKind};
use dormouse::database::Database;
use dormouse::ingest::{JetStream, Options, Queue, RedisStream, run};
use dormouse::tls::ClientFiles;
use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server, free_port};
use dormouse_tests::stage::{Stage, sink};

use crate::authority::Authority;

/// Variables that are set while tests run, and whose values are known.
const USER: &str = env!("CARGO_PKG_NAME");
const PASSWORD: &str = env!("CARGO_PKG_VERSION");

fn files(authority: &Authority) -> ClientFiles {
    ClientFiles { ca_file: Some(authority.ca_file()), ..ClientFiles::default() }
}

#[tokio::test]
async fn postgresql_is_spoken_to_by_tls_and_must_be_who_its_certificate_says() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.signs_for_localhost();
    let server = Postgres::start_with_tls(Durability::Volatile, &certificate).await.unwrap();
    let set = format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'");
    server.connect("postgres").await.unwrap().batch_execute(&set).await.unwrap();
    let reach = async |host: &str, more: &str, files: ClientFiles| {
        let port = server.port();
        let url = format!("postgresql://postgres:{PASSWORD}@{host}:{port}/postgres?{more}");
        Database { url, login: None, files }.connect().await.map_err(|error| error.to_string())
    };
    for mode in ["", "sslmode=prefer", "sslmode=require", "sslmode=verify-full"] {
        let mut client = reach("localhost", mode, files(&authority)).await.unwrap();
        migrate(&mut client, VERSION).await.unwrap();
        let tls = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let spoken: String = client.query_one(tls, &[]).await.unwrap().get(0);
        assert!(spoken.starts_with("TLS"), "{mode}: {spoken}");
    }
    for (why, host, mode, files, expected) in [
        ("another authority", "localhost", "sslmode=require", files(&stranger), "certificate"),
        ("another name", "127.0.0.1", "sslmode=require", files(&authority), "certificate"),
        ("in the clear", "localhost", "sslmode=disable", files(&authority), "no encryption"),
    ] {
        let refused = reach(host, mode, files).await.err().unwrap_or_else(|| panic!("{why}: was let in"));
        assert!(refused.contains(expected), "{why}: {refused}");
    }
}

/// Publishes a few events by TLS with credentials, and stores them by TLS with credentials.
async fn through<Q: Queue>(right: Sink, authority: &Authority, stranger: &Authority, queue: Q) {
    let wrong = Sink { name: "wrong".to_owned(), ca_file: Some(stranger.ca_file()), ..right.clone() };
    let right = Sink { ca_file: Some(authority.ca_file()), ..right };
    let scene = crate::scene::Scene::new().await;
    let mut stage = Stage::new(vec![right, wrong]);
    stage.commit(7);
    stage.acknowledged("right").await;
    stage.fails("wrong", "SINK_UNREACHABLE").await;
    let options = Options { database: scene.database(), batch_max: 100, drain: true };
    assert_eq!(run(queue, &options, std::future::pending()).await.unwrap().stored, 7);
}

fn credentials(kind: SinkKind, url: String) -> Sink {
    let named = |name: &str| Some(name.to_owned());
    let user_env = (kind == SinkKind::Nats).then(|| "CARGO_PKG_NAME".to_owned());
    Sink { user_env, password_env: named("CARGO_PKG_VERSION"), ..sink("right", kind, url) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_published_to_and_read_from_by_tls_with_credentials() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.signs_for_localhost();
    let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
    let arguments = [
        "--user",
        USER,
        "--pass",
        PASSWORD,
        "--tls",
        "--tlscert",
        &cert.to_string(),
        "--tlskey",
        &key.to_string(),
    ];
    let server = Server::start_with(Kind::Nats, &arguments).await.unwrap();
    let port = server.port();
    let url = format!("tls://{USER}:{PASSWORD}@localhost:{port}");
    let queue = JetStream::connect(&url, &files(&authority), "fleet").await.unwrap();
    let sink = credentials(SinkKind::Nats, format!("tls://localhost:{port}"));
    Box::pin(through(sink, &authority, &stranger, queue)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_published_to_and_read_from_by_tls_with_credentials() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.signs_for_localhost();
    let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
    let port = free_port().unwrap();
    let arguments = [
        "--requirepass",
        PASSWORD,
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &cert.to_string(),
        "--tls-key-file",
        &key.to_string(),
    ];
    let _server = Server::start_with(Kind::Redis, &arguments).await.unwrap();
    let url = format!("rediss://:{PASSWORD}@localhost:{port}");
    let mut refused = RedisStream::new(&url, &files(&stranger), "fleet", "one").unwrap();
    assert!(refused.receive(1).await.is_err(), "its authority is not ours");
    let queue = RedisStream::new(&url, &files(&authority), "fleet", "one").unwrap();
    let sink = credentials(SinkKind::Redis, format!("rediss://localhost:{port}"));
    Box::pin(through(sink, &authority, &stranger, queue)).await;
}
