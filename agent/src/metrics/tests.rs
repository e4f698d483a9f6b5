use std::collections::BTreeSet;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::config::{FileMode, MetricsAddress};
use crate::sandbox::command::SandboxKey;
use crate::sandbox::view::ConnectionView;

const PAGE: &str = include_str!("../../../packaging/metrics.md");
const DASHBOARD: &str = include_str!("../../../packaging/dashboards/dormouse.json");

fn holding() -> Holding {
    let ledger = Health::Unwritable { why: "full".to_owned(), attempts: 3, facts_waiting: 5 };
    let sandbox = |id: &str| {
        let key = SandboxKey { org: "default".to_owned(), sandbox: id.to_owned() };
        let mut view = SandboxView::gone(key);
        (view.state, view.connection) = (Some(BillingState::Running), ConnectionView::Connected);
        (view.shape.vcpus_milli, view.shape.memory_plugged_bytes) = (2_000, 1 << 30);
        view
    };
    Holding { sandboxes: vec![sandbox("sb1"), sandbox("sb2")], ledger, rejected: 2 }
}

fn rendered() -> String {
    let metrics = Metrics::default();
    metrics.called("/dormouse.control.v1.Control/Pause", "OK", 3_000_000);
    metrics.denied("CALLER_UNKNOWN");
    metrics.certificates_read(false);
    metrics.render(&holding())
}

/// The names that are told of in a text: every word that begins with `dormouse_`.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("dormouse_")).collect()
}

/// The names of the samples, which a query names.
fn samples() -> BTreeSet<String> {
    let text = rendered();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn every_figure_is_documented_and_no_other_is() {
    let described: BTreeSet<String> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let of_histogram = |name: &str| {
        ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let exported: BTreeSet<String> = samples().iter().map(|name| of_histogram(name)).collect();
    assert_eq!(described, exported);
}

#[test]
fn the_dashboard_uses_only_figures_that_there_are() {
    let samples = samples();
    let unknown: Vec<_> = names(DASHBOARD).into_iter().filter(|name| !samples.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(names(DASHBOARD).len() >= 10, "a dashboard shows most of them");
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
}

#[test]
fn figures_say_what_the_host_holds_and_name_nobody() {
    let text = rendered();
    for line in [
        "dormouse_sandboxes{state=\"running\"} 2",
        "dormouse_sandboxes{state=\"lost\"} 0",
        "dormouse_qmp_connections{connection=\"connected\"} 2",
        "dormouse_memory_plugged_bytes 2147483648",
        "dormouse_vcpus_milli 4000",
        "dormouse_ledger_writable 0",
        "dormouse_ledger_facts_waiting 5",
        "dormouse_calls_total{method=\"/dormouse.control.v1.Control/Pause\",code=\"OK\"} 1",
        "dormouse_denials_total{reason=\"CALLER_UNKNOWN\"} 1",
        "dormouse_certificate_reads_total{outcome=\"refused\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("sb1") && !text.contains("default"));
}

#[test]
fn what_is_looked_at_again_is_what_is_then() {
    let metrics = Metrics::default();
    metrics.render(&holding());
    let text = metrics.render(&Holding { sandboxes: Vec::new(), ledger: Health::Writable, rejected: 0 });
    assert!(text.contains("dormouse_sandboxes{state=\"running\"} 0\n"), "{text}");
    assert!(text.contains("dormouse_ledger_writable 1\n") && !text.contains("qmp_connections{"), "{text}");
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, what: &str) -> String {
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn figures_are_served_at_one_path_over_tcp_and_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let mode = FileMode(0o600);
    let unix = MetricsAddress::Unix(path.clone());
    // A dead agent's leftover is replaced.
    drop(MetricsListener::open(&unix, mode).await.unwrap());
    let unix = MetricsListener::open(&unix, mode).await.unwrap();
    let tcp =
        MetricsListener::open(&MetricsAddress::Tcp("127.0.0.1:0".parse().unwrap()), mode).await.unwrap();
    let address = tcp.address().unwrap();
    tokio::spawn(tcp.serve(|| "a 1\n".to_owned()));
    tokio::spawn(unix.serve(|| "a 1\n".to_owned()));
    for what in ["GET /metrics", "GET /", "POST /metrics"] {
        let over_tcp = ask(TcpStream::connect(address).await.unwrap(), what).await;
        let over_unix = ask(UnixStream::connect(&path).await.unwrap(), what).await;
        for answer in [over_tcp, over_unix] {
            assert_eq!(answer.starts_with("HTTP/1.1 200"), what == "GET /metrics", "{what}: {answer}");
            assert_eq!(answer.ends_with("\r\n\r\na 1\n"), what == "GET /metrics", "{what}: {answer}");
        }
    }
}
