//! Usage over HTTP: drilldowns of one sandbox after another, asked by `wrk` over loopback as fast as they are answered,
//! while it and the server share the machine.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use dormouse::address::LedgerAddress;
use dormouse::clock::Clock;
use dormouse::config::Config;
use dormouse::http::{self, OpenUntil, Site};
use dormouse_ledger::{Editor, Role};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::alike::Span;
use crate::report::{Goal, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size, usage};

/// Asks for any of `SANDBOXES`, and tells in one line of JSON what came of it: times in microseconds.
const DRILLDOWNS: &str = r#"
function request()
    local path = string.format("/api/sandboxes/sandbox-%08d/usage", math.random(0, SANDBOXES - 1))
    return wrk.format("GET", path .. "?from=2026-01-02T00:10:00Z&to=2026-01-09T17:50:00Z")
end
function done(summary, latency)
    local e = summary.errors
    local failed = e.connect + e.read + e.write + e.status + e.timeout
    io.write(string.format('\n{"requests":%d,"us":%d,"failed":%d,"p50":%d,"p99":%d}\n', summary.requests,
        summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
"#;

/// Drilldowns of a thousand sandboxes with a thousand slices each, over as many connections as some dashboards have.
///
/// # Panics
/// Where a request failed: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let (sandboxes, slices_each, rounds) = size.pick((10, 40, 1), (1_000, 1_000, 5));
    let folder = crate::folder()?;
    let path = folder.path().join("ledger.sqlite");
    let org = usage::load(&path, sandboxes, Span::of(slices_each))?.key.org;
    let (_, token) = Editor::open(&path)?.create_token(&org, Role::Read, 0)?;
    let script = folder.path().join("drilldowns.lua");
    std::fs::write(&script, DRILLDOWNS.replace("SANDBOXES", &sandboxes.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let address = runtime.block_on(serve(&path))?;
    let (mut rates, mut p50s, mut p99s, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let watch = Stopwatch::start();
        let told = wrk(address, &token, &script, size.pick("1s", "10s"))?;
        let number = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
        assert_eq!(told["failed"], 0, "{told}");
        rates.push(number("requests") / number("us") * 1e6);
        p50s.push(number("p50") / 1e3);
        p99s.push(number("p99") / 1e3);
        cpu.push(watch.read().cpu.as_secs_f64() * 1e6 / number("requests"));
    }
    Ok(vec![
        Row::spread(
            "http: drilldowns over 32 connections",
            "requests/s",
            rates,
            Some(Goal::AtLeast(2_000.0)),
        ),
        Row::spread("  50th percentile", "ms", p50s, None),
        Row::spread("  99th percentile", "ms", p99s, Some(Goal::AtMost(50.0))),
        Row::spread("  processor time of the server for each", "us", cpu, None),
    ])
}

/// Serves the ledger for as long as the runtime is there. One token asks all, so its limits are out of the way.
async fn serve(path: &Path) -> Result<SocketAddr, Error> {
    let mut config = Config::default();
    config.http.requests_per_second = 1_000_000;
    config.http.requests_at_once = 1_000;
    let (clock, _) = Clock::start(None)?;
    let site = Site::new(LedgerAddress::Sqlite(path.to_owned()), &config, clock, OpenUntil::Known);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    tokio::spawn(http::serve(listener, site, std::future::pending()));
    Ok(address)
}

fn wrk(address: SocketAddr, token: &str, script: &Path, lasts: &str) -> Result<Value, Error> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", "32", "--duration", lasts, "--script"])
        .arg(script)
        .args(["--header", &format!("Authorization: Bearer {token}"), &format!("http://{address}")])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("wrk: {error}: run scripts/install-deps"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().rfind(|line| line.starts_with('{'));
    line.and_then(|line| serde_json::from_str(line).ok()).ok_or_else(|| {
        format!("wrk ended with {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drilldowns_over_http_are_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 4);
    }
}
