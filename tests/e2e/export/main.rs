//! Exports: what is written is what the API sums up, to the last byte-nanosecond, from a host's ledger and a fleet's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod bounded;
mod command;

#[allow(dead_code, reason = "a host's ledger as that crate's tests have it, of which not all is needed here")]
#[path = "../../../agent/ledger/tests/ledger/support.rs"]
mod support;
#[allow(dead_code, reason = "what happens to five lives is needed here, not what is asked of them")]
#[path = "../../../agent/ledger/tests/ledger/usage_suite.rs"]
mod usage_suite;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use dormouse::address::LedgerAddress;
use dormouse::export::{Export, ExportError, Format, write};
use dormouse_ledger::fleet::{Batch, FleetLedger, VERSION, migrate};
use dormouse_ledger::usage::{BreakdownQuery, Cancel, Moment, Rules, UsageLedger};
use dormouse_ledger::{LedgerError, SliceQuery};
use dormouse_metering::{Basis, Policy, Quantities};
use dormouse_tests::events::Host;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use parquet::data_type::Decimal;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::{BEGAN, Place};
use tokio::runtime::Runtime;
use usage_suite::{HOUR, World, tell, world};

/// Neither end lies on an hour.
const WINDOW: Range<i64> = BEGAN + HOUR / 3 + 1..BEGAN + 7 * HOUR - 7;

fn rules() -> Rules {
    Rules { policy: Policy::default(), basis: Basis::Greater, free_disk_bytes: 20 << 30 }
}

/// A host's ledger and a fleet's to which the same was told.
struct Both {
    runtime: Runtime,
    _place: Place,
    _server: Postgres,
    host: LedgerAddress,
    fleet: LedgerAddress,
}

impl Both {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let place = Place::new();
        let world: World = world(true).new_tree(&mut TestRunner::deterministic()).unwrap().current();
        tell(&place, &world);
        let page = place.reader().slices(&SliceQuery { limit: usize::MAX, ..SliceQuery::default() }).unwrap();
        let server = runtime.block_on(async {
            let server = Postgres::start(Durability::Volatile).await.unwrap();
            let mut client = server.connect("postgres").await.unwrap();
            migrate(&mut client, VERSION).await.unwrap();
            let mut ledger = FleetLedger::open(client).await.unwrap();
            // Two generations of one sandbox lived at one time: on two hosts.
            let mut hosts = BTreeMap::<i64, Host>::new();
            let count = page.rows.len();
            let messages: Vec<_> = page
                .rows
                .into_iter()
                .map(|row| {
                    let name = format!("h{}", row.generation);
                    hosts.entry(row.generation).or_insert_with(|| Host::new(&name)).slice(&row)
                })
                .collect();
            assert_eq!(ledger.ingest(&Batch::decode(&messages)).await.unwrap().slices, count as u64);
            server
        });
        let host = LedgerAddress::Sqlite(place.path());
        let fleet = LedgerAddress::parse(&server.url("postgres")).unwrap();
        let both = Self { runtime, _place: place, _server: server, host, fleet };
        let mut ledger = both.open(&both.fleet);
        for set in world.retags() {
            match ledger.set_tags(&set) {
                Ok(_) | Err(LedgerError::UnknownSandbox(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        both
    }

    fn open(&self, address: &LedgerAddress) -> Box<dyn UsageLedger> {
        let _inside = self.runtime.enter();
        address.open().unwrap()
    }

    /// What an export writes.
    fn export(
        &self,
        address: &LedgerAddress,
        org: Option<&str>,
        window: Range<i64>,
        format: Format,
    ) -> Result<Vec<u8>, ExportError> {
        let provider = "Example, Inc.".to_owned();
        let export = Export { org: org.map(str::to_owned), window, rules: rules(), format, provider };
        let (mut ledger, mut tags) = (self.open(address), self.open(address));
        let mut bytes = Vec::new();
        write(&export, ledger.as_mut(), tags.as_mut(), &mut bytes)?;
        Ok(bytes)
    }

    /// What the API sums up.
    fn total(&self, address: &LedgerAddress, org: &str, window: Range<i64>) -> Quantities {
        let moment = Moment { open_until: None, tags_unix_ns: BEGAN + 100 * HOUR };
        let query = BreakdownQuery::by_sandbox(org, window, moment, rules());
        self.open(address).breakdown(&query, &Cancel::default()).unwrap().total.quantities
    }
}

/// The lines of a CSV in which no value is on two lines, by the names of the columns.
fn lines(csv: &[u8]) -> Vec<BTreeMap<String, String>> {
    let text = std::str::from_utf8(csv).unwrap();
    let mut lines = text.strip_suffix("\r\n").unwrap().split("\r\n").map(|line| {
        let (mut values, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => values.push(String::new()),
                c => values.last_mut().unwrap().push(c),
            }
        }
        values
    });
    let names = lines.next().unwrap();
    lines
        .map(|values| {
            assert_eq!(values.len(), names.len());
            names.iter().cloned().zip(values).collect()
        })
        .collect()
}

fn number(text: &str) -> i128 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no integer"))
}

#[test]
fn the_sums_of_a_csv_are_the_apis_exactly_and_its_slices_lie_in_the_window() {
    let both = Both::new();
    for address in [&both.host, &both.fleet] {
        for org in ["a", "b"] {
            let csv = lines(&both.export(address, Some(org), WINDOW, Format::Csv).unwrap());
            let sum = |column: &str| csv.iter().map(|line| number(&line[column])).sum::<i128>();
            let total = both.total(address, org, WINDOW);
            assert_ne!(total, Quantities::default());
            let summed = Quantities {
                memory_byte_ns: sum("memory_byte_ns"),
                vcpu_milli_ns: sum("vcpu_milli_ns"),
                disk_byte_ns: sum("disk_byte_ns"),
                disk_overage_byte_ns: sum("disk_overage_byte_ns"),
            };
            assert_eq!(summed, total, "{org} of {address:?}");
            for line in &csv {
                let (start, end) = (number(&line["start_unix_ns"]), number(&line["end_unix_ns"]));
                assert!(WINDOW.start <= start.try_into().unwrap() && start <= end, "{line:?}");
                assert!(
                    end <= WINDOW.end.into() && line["final"] == "true" && line["org"] == org,
                    "{line:?}"
                );
            }
        }
        let all = lines(&both.export(address, None, WINDOW, Format::Csv).unwrap());
        let one = |org: &str| lines(&both.export(address, Some(org), WINDOW, Format::Csv).unwrap());
        assert_eq!(all, [one("a"), one("b")].concat(), "all orgs, one after the other");
        assert_eq!(one("nobody"), []);
    }
    // In the order of time on each host; which host comes first, the fleet has no reason to know.
    let sorted = |address: &LedgerAddress| {
        let mut csv = lines(&both.export(address, None, WINDOW, Format::Csv).unwrap());
        csv.sort();
        csv
    };
    assert_eq!(sorted(&both.host), sorted(&both.fleet));
}

#[test]
fn a_parquet_file_is_read_back_as_the_csv_to_the_last_digit() {
    let both = Both::new();
    for address in [&both.host, &both.fleet] {
        let csv = lines(&both.export(address, None, WINDOW, Format::Csv).unwrap());
        let parquet = Bytes::from(both.export(address, None, WINDOW, Format::Parquet).unwrap());
        let file = SerializedFileReader::new(parquet).unwrap();
        let mut rows = 0;
        for (row, line) in file.get_row_iter(None).unwrap().zip(&csv) {
            for (name, field) in row.unwrap().get_column_iter() {
                let text = match field {
                    Field::Null => String::new(),
                    Field::Str(text) => text.clone(),
                    Field::Long(number) => number.to_string(),
                    Field::ULong(number) => number.to_string(),
                    Field::Bool(flag) => flag.to_string(),
                    Field::Decimal(Decimal::Bytes { value, precision: 38, scale: 0 }) => {
                        i128::from_be_bytes(value.data().try_into().unwrap()).to_string()
                    }
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(text, line[name], "{name}");
            }
            rows += 1;
        }
        assert_eq!(rows, csv.len());
        assert!(rows > 5, "{rows}");
    }
}

#[test]
fn focus_tells_each_hours_use_of_each_thing_with_tags_and_without_prices() {
    let both = Both::new();
    let window = BEGAN + HOUR..BEGAN + 7 * HOUR;
    for address in [&both.host, &both.fleet] {
        let focus = lines(&both.export(address, Some("a"), window.clone(), Format::Focus).unwrap());
        let sum = |sku: &str| {
            let of = focus.iter().filter(|line| line["SkuId"] == sku);
            of.map(|line| number(&line["x_ConsumedInteger"])).sum::<i128>()
        };
        let total = both.total(address, "a", window.clone());
        assert_eq!(sum("sandbox-memory"), total.memory_byte_ns);
        assert_eq!(sum("sandbox-vcpu"), total.vcpu_milli_ns);
        assert_eq!(sum("sandbox-disk-overage"), total.disk_overage_byte_ns);
        for line in &focus {
            assert_eq!(line["BillingPeriodStart"], "2026-01-01T00:00:00Z");
            assert_eq!(line["BillingPeriodEnd"], "2026-02-01T00:00:00Z");
            assert_eq!(line["ChargePeriodStart"].len(), "2026-01-01T00:00:00Z".len());
            assert!(
                line["ChargePeriodStart"] < line["ChargePeriodEnd"]
                    && line["ChargePeriodStart"].ends_with(":00:00Z")
            );
            assert_eq!((line["ChargeCategory"].as_str(), line["BilledCost"].as_str()), ("Usage", ""));
            assert_eq!(
                (line["ProviderName"].as_str(), line["SubAccountId"].as_str()),
                ("Example, Inc.", "a")
            );
            assert!(line["Tags"].starts_with('{'), "{line:?}");
            assert!(!line["ConsumedQuantity"].is_empty() && line["ConsumedUnit"].ends_with("-Seconds"));
        }
    }
    let odd = both.export(&both.host, Some("a"), WINDOW, Format::Focus);
    assert!(matches!(odd, Err(ExportError::InvalidWindow(_))), "{odd:?}");
    let empty = both.export(&both.host, Some("a"), BEGAN..BEGAN, Format::Csv);
    assert!(matches!(empty, Err(ExportError::InvalidWindow(_))), "{empty:?}");
}
