//! The real server, over TCP, on a ledger of two orgs that have the same sandbox ids, and what it answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use dormouse_ledger::fleet::{Batch, FleetLedger, VERSION, migrate};
use dormouse_ledger::usage::Rules;
use dormouse_ledger::{
    Class, HostName, Ledger, Record, Role, SandboxKey, SandboxSeen, SliceBatch, SliceRow, TagSet,
};
use dormouse_metering::{
    Basis, BillingState, BootId, Boundary, Cause, OpenSlice, Policy, Shape, Slice, Stamp,
};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Limits, OpenUntil, Site, serve};
use crate::address::LedgerAddress;
use crate::clock::Clock;

const SECOND: i64 = 1_000_000_000;
pub(crate) const HOUR: i64 = 3_600 * SECOND;
/// 2026-03-01T00:00:00Z.
pub(crate) const BEGAN: i64 = 1_772_323_200 * SECOND;
const BOOT: BootId = BootId([7; 16]);
pub(crate) const GIB: u64 = 1 << 30;

/// Which ledger is behind the server.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    /// A host's, in a file.
    Host,
    /// A fleet's, in PostgreSQL.
    Fleet,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) read: String,
    pub(crate) write: String,
    pub(crate) other: String,
    pub(crate) ledger: LedgerAddress,
    pub(crate) writer: Option<Ledger>,
    _kept: Box<dyn std::any::Any + Send>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The reason of a problem, which is told as RFC 9457 says.
    pub(crate) fn reason(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}\n{}", self.head, self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let reason = problem["reason"].as_str().expect("a reason").to_owned();
        assert_eq!(problem["type"], format!("urn:dormouse:reason:{reason}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        reason
    }
}

/// The sandboxes, each with the hours of which it has closed slices: `sb-0` ... of org `a`, and `sb-0` of org `b`.
const SANDBOXES: [(&str, &str, u64); 5] =
    [("a", "sb-0", 2), ("a", "sb-1", 3), ("a", "sb-2", 4), ("a", "sb-3", 5), ("b", "sb-0", 7)];

/// Of the sandbox with this number.
fn key(number: usize) -> SandboxKey {
    let (org, sandbox, _) = SANDBOXES[number];
    SandboxKey {
        org: org.to_owned(),
        sandbox: sandbox.to_owned(),
        generation: BEGAN + i64::try_from(number).expect("few"),
    }
}

fn shape() -> Shape {
    Shape { memory_base_bytes: GIB, disk_bytes: 30 * GIB, vcpus_milli: 2_000, ..Shape::default() }
}

fn boundary(hour: u64) -> Boundary {
    let cause = if hour == 0 { Cause::Attach } else { Cause::Hour };
    Boundary { unix_ns: BEGAN + hour.cast_signed() * HOUR, uncertainty_ns: 0, cause, command: None }
}

/// So many closed slices of an hour each.
fn slices(hours: u64) -> impl Iterator<Item = Slice> {
    (0..hours).map(|hour| Slice {
        seq: hour + 1,
        state: BillingState::Running,
        shape: shape(),
        duration_ns: HOUR.cast_unsigned(),
        start: boundary(hour),
        end: boundary(hour + 1),
    })
}

/// A host's ledger: behind the closed slices of each sandbox one is open.
fn host_ledger(folder: &std::path::Path) -> Ledger {
    let host = HostName { cell: "c".to_owned(), host: "h".to_owned() };
    let ledger = Ledger::open(&folder.join("ledger.sqlite"), &host).expect("a ledger");
    for (number, (_, _, hours)) in SANDBOXES.into_iter().enumerate() {
        let key = key(number);
        let seen = SandboxSeen {
            key: key.clone(),
            plan: "pro".to_owned(),
            attachment: Value::Null,
            lifecycle: "running".to_owned(),
            created_unix_ns: BEGAN,
        };
        let open = OpenSlice {
            beneath: None,
            seq: hours + 1,
            state: BillingState::Running,
            shape: shape(),
            start: boundary(hours),
            boot: BOOT,
            start_boottime_ns: hours * HOUR.cast_unsigned(),
        };
        let slices = slices(hours).collect();
        let batch = SliceBatch { key, slices, open: Some(open), pending: Vec::new(), ended: false };
        let records = vec![Record::SandboxSeen(seen), Record::Slices(batch)];
        ledger.writer().write(Class::Fact, records).expect("a ledger");
    }
    let (boottime_ns, wall_ns) = (10 * HOUR.cast_unsigned(), BEGAN + 10 * HOUR);
    let at = Stamp { boot: BOOT, boottime_ns, wall_ns, uncertainty_ns: 0 };
    ledger.writer().write(Class::Fact, vec![Record::ProofOfLife(at)]).expect("a ledger");
    ledger
}

/// A fleet's ledger, to which the same time was told: in it everything is final.
async fn fleet_ledger() -> Postgres {
    let server = Postgres::start(Durability::Volatile).await.expect("PostgreSQL");
    let mut client = server.connect("postgres").await.expect("a database");
    migrate(&mut client, VERSION).await.expect("a schema");
    let mut ledger = FleetLedger::open(client).await.expect("a ledger");
    let mut host = dormouse_tests::events::Host::new("h");
    let mut messages = Vec::new();
    for number in 0..SANDBOXES.len() {
        let rows = slices(10).map(|slice| SliceRow::closed(&key(number), &slice, true));
        messages.extend(rows.map(|row| host.slice(&row)));
    }
    let stored = ledger.ingest(&Batch::decode(&messages)).await.expect("a ledger");
    assert_eq!(stored.slices, 50);
    server
}

impl Server {
    /// Where the file of a host's ledger is.
    pub(crate) fn path(&self) -> &std::path::Path {
        let LedgerAddress::Sqlite(path) = &self.ledger else { panic!("a fleet's ledger is no file") };
        path
    }

    /// Serves at `BEGAN` and 10 h. One of the sandboxes is tagged.
    pub(crate) async fn start(store: Store, limits: Limits) -> Self {
        let (ledger, writer, kept): (_, _, Box<dyn std::any::Any + Send>) = match store {
            Store::Host => {
                let folder = tempfile::tempdir().expect("a folder");
                let ledger = host_ledger(folder.path());
                let address = LedgerAddress::Sqlite(folder.path().join("ledger.sqlite"));
                (address, Some(ledger), Box::new(folder))
            }
            Store::Fleet => {
                let server = fleet_ledger().await;
                let address = LedgerAddress::parse(&server.url("postgres")).expect("an address");
                (address, None, Box::new(server))
            }
        };
        let tokens = ledger.ask(|ledger| {
            let tags = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
            let (org, sandbox) = ("a".to_owned(), "sb-1".to_owned());
            ledger.set_tags(&TagSet { org, sandbox, tags, at_unix_ns: BEGAN + HOUR })?;
            let mut token = |org, role| ledger.create_token(org, role, BEGAN).map(|token| token.1);
            Ok((token("a", Role::Read)?, token("a", Role::Write)?, token("b", Role::Write)?))
        });
        let (read, write, other) = tokens.await.expect("tokens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (clock, _) = Clock::simulated(BOOT, BEGAN + 10 * HOUR);
        let rules = Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 20 * GIB };
        let site = Site { ledger: ledger.clone(), rules, clock, open_until: OpenUntil::Known, limits };
        tokio::spawn(async move {
            serve(listener, site, std::future::pending()).await.expect("a ledger");
        });
        Self { address, read, write, other, ledger, writer, _kept: kept }
    }

    pub(crate) async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("a server");
        // A server that refuses early may not read it all.
        let _ = stream.write_all(request).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, token: &str, body: &str) -> Answer {
        let authorization =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
        );
        self.raw(request.as_bytes()).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &self.read, "").await
    }
}

pub(crate) fn limits() -> Limits {
    Limits { requests_per_second: 10_000, requests_at_once: 100, deadline: Duration::from_secs(10) }
}
