//! What the values of a configuration must be.

use std::ops::RangeInclusive;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use super::{Config, Control, Sink, SinkForm, SinkKind, Tls};
use crate::ids::check_id;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const MIB: u64 = 1 << 20;
/// QEMU answers no faster than this on a loaded host, and nobody waits longer.
const QMP_MS: RangeInclusive<u64> = 10..=600_000;
/// In millionths of a cent: 100,000 dollars an hour.
const PRICE: RangeInclusive<u64> = 0..=10_000_000_000_000;
const DEADLINE_MS: RangeInclusive<u64> = 1..=DAY_MS;
/// `sun_path` holds 108 bytes, the last one zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The keys with a wrong value, each with the rest of a sentence that begins with the key.
pub(super) fn wrong_values(config: &Config) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    check_names(config, &mut wrong);
    check_paths(config, &mut wrong);
    check_control(&config.control, &mut wrong);
    check_sinks(config, &mut wrong);
    for (key, value, range) in ranges(config) {
        if !range.contains(&value) {
            wrong.push((key, format!("is {value}: it must be from {} to {}", range.start(), range.end())));
        }
    }
    if config.qmp.reconnect_min_ms > config.qmp.reconnect_max_ms {
        wrong.push(("qmp.reconnect_min_ms", "is greater than qmp.reconnect_max_ms".to_owned()));
    }
    let order = &config.hibernation.order;
    if order.is_empty() {
        wrong.push(("hibernation.order", "is empty: name at least one method".to_owned()));
    }
    if let Some(twice) = order.iter().enumerate().find(|(at, method)| order[..*at].contains(method)) {
        wrong.push(("hibernation.order", format!("names {} twice", twice.1.as_str())));
    }
    if config.launch.qemu.is_empty() {
        wrong.push(("launch.qemu", "is empty: name a program".to_owned()));
    }
    let endpoint = config.telemetry.otlp_endpoint.as_deref();
    if let Some(endpoint) = endpoint.filter(|endpoint| !is_collector(endpoint)) {
        let message =
            format!("is {endpoint:?}: write http:// and a host and port, such as http://127.0.0.1:4317");
        wrong.push(("telemetry.otlp_endpoint", message));
    }
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        let allowed =
            "write error, warn, info, debug, trace or a filter such as info,dormouse::sandbox=debug";
        wrong.push(("log.level", format!("is {:?} ({error}): {allowed}", config.log.level)));
    }
    wrong
}

/// There is no TLS to a collector: it is on this host, or behind something that speaks it.
fn is_collector(endpoint: &str) -> bool {
    let parsed: Result<http::Uri, _> = endpoint.parse();
    parsed
        .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
}

fn check_names(config: &Config, wrong: &mut Vec<(&'static str, String)>) {
    let names = [
        ("cell", Some(&config.cell)),
        ("host", config.host.as_ref()),
        ("default_org", Some(&config.default_org)),
        ("default_plan", Some(&config.default_plan)),
    ];
    let prepaid = config.metering.prepaid_plans.iter().map(|plan| ("metering.prepaid_plans", Some(plan)));
    for (key, name) in names.into_iter().chain(prepaid) {
        if let Some(name) = name
            && let Err(why) = check_id(name)
        {
            wrong.push((key, format!("is {name:?}, which {why}")));
        }
    }
}

fn check_paths(config: &Config, wrong: &mut Vec<(&'static str, String)>) {
    let tls = &config.control.tls;
    let paths: [(&'static str, Option<&Path>); 9] = [
        ("state_dir", Some(&config.state_dir)),
        ("run_dir", Some(&config.run_dir)),
        ("socket", Some(&config.socket)),
        ("hibernation.dir", config.hibernation.dir.as_deref()),
        ("launch.sockets_dir", config.launch.sockets_dir.as_deref()),
        ("launch.memory_dir", config.launch.memory_dir.as_deref()),
        ("control.tls.certificate", tls.certificate.as_deref()),
        ("control.tls.key", tls.key.as_deref()),
        ("control.tls.client_ca", tls.client_ca.as_deref()),
    ];
    for (key, path) in paths {
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            wrong.push((key, format!("is {}: it must be an absolute path", path.display())));
        }
    }
    let length_bytes = config.socket.as_os_str().len();
    if length_bytes > SOCKET_PATH_BYTES_MAX {
        wrong.push((
            "socket",
            format!("has {length_bytes} bytes: the path of a socket has at most {SOCKET_PATH_BYTES_MAX}"),
        ));
    }
}

fn check_control(control: &Control, wrong: &mut Vec<(&'static str, String)>) {
    let Tls { listen, certificate, key, client_ca } = &control.tls;
    let set = [listen.is_some(), certificate.is_some(), key.is_some(), client_ca.is_some()];
    if set.contains(&true) && set.contains(&false) {
        let all = "needs all of listen, certificate, key and client_ca, or none: there is no TCP without mutual TLS";
        wrong.push(("control.tls", all.to_owned()));
    }
    for grant in &control.grants {
        let named = [&grant.user, &grant.group, &grant.uri, &grant.common_name];
        if named.iter().filter(|name| name.is_some()).count() != 1 {
            let one = "has a grant that does not name one of user, group, uri and common_name, and only one";
            wrong.push(("control.grants", one.to_owned()));
        }
        if named.into_iter().flatten().any(String::is_empty) {
            wrong.push(("control.grants", "has a grant to an empty name".to_owned()));
        }
        if let Some(org) = &grant.org
            && let Err(why) = check_id(org)
        {
            wrong.push(("control.grants", format!("has org {org:?}, which {why}")));
        }
    }
}

fn check_sinks(config: &Config, wrong: &mut Vec<(&'static str, String)>) {
    for (at, sink) in config.sinks.iter().enumerate() {
        let Sink { name, .. } = sink;
        if let Err(why) = check_id(name) {
            wrong.push(("sinks", format!("has the name {name:?}, which {why}")));
        }
        if config.sinks[..at].iter().any(|other| other.name == *name) {
            wrong.push(("sinks", format!("names {name} twice")));
        }
        wrong.extend(wrong_in_sink(sink).into_iter().map(|why| ("sinks", format!("of {name}: {why}"))));
    }
}

fn wrong_in_sink(sink: &Sink) -> Vec<String> {
    let mut wrong = Vec::new();
    let schemes = sink.kind.schemes();
    let scheme = sink.url.split_once("://").map(|(scheme, rest)| (scheme, rest.split(['/', '?']).next()));
    match scheme {
        Some((_, Some(host))) if host.contains('@') => {
            wrong.push(
                "url has credentials: name environment variables in user_env and password_env".to_owned(),
            );
        }
        Some((scheme, Some(host))) if schemes.contains(&scheme) && !host.is_empty() => {}
        _ => wrong.push(format!(
            "url is {:?}: it must begin with {}:// or {}://",
            sink.url, schemes[0], schemes[1]
        )),
    }
    if sink.user_env.is_some() != sink.password_env.is_some()
        && !matches!(sink.kind, SinkKind::Redis | SinkKind::Postgres)
    {
        wrong.push("user_env and password_env go together".to_owned());
    }
    if sink.token_env.is_some()
        && (sink.user_env.is_some() || matches!(sink.kind, SinkKind::Redis | SinkKind::Postgres))
    {
        wrong.push("token_env is for nats and http, and without user_env".to_owned());
    }
    if sink.form == SinkForm::Flat && sink.kind != SinkKind::Redis {
        wrong.push("form is flat: that is for redis alone".to_owned());
    }
    if sink.cert_file.is_some() != sink.key_file.is_some() {
        wrong.push("cert_file and key_file go together".to_owned());
    }
    let ranges = [
        ("timeout_ms", sink.timeout_ms, 100..=600_000),
        ("batch_events", sink.batch_events, 1..=20_000),
        ("backoff_min_ms", sink.backoff_min_ms, 10..=sink.backoff_max_ms),
        ("backoff_max_ms", sink.backoff_max_ms, 10..=HOUR_MS),
        ("memory_gib_hour_microcents", sink.memory_gib_hour_microcents, PRICE),
        ("vcpu_hour_microcents", sink.vcpu_hour_microcents, PRICE),
        ("disk_gib_hour_microcents", sink.disk_gib_hour_microcents, PRICE),
    ];
    for (key, value, range) in ranges {
        if !range.contains(&value) {
            wrong.push(format!("{key} is {value}: it must be from {} to {}", range.start(), range.end()));
        }
    }
    wrong
}

fn ranges(config: &Config) -> Vec<(&'static str, u64, RangeInclusive<u64>)> {
    let (qmp, deadlines, metering) = (&config.qmp, &config.deadlines, &config.metering);
    let mut ranges = vec![
        ("control.requests_max", config.control.requests_max, 1..=1 << 20),
        ("control.connections_max", config.control.connections_max, 1..=1 << 16),
        ("qmp.connect_ms", qmp.connect_ms, QMP_MS),
        ("qmp.greeting_ms", qmp.greeting_ms, QMP_MS),
        ("qmp.write_ms", qmp.write_ms, QMP_MS),
        ("qmp.reply_ms", qmp.reply_ms, QMP_MS),
        // QEMU's schema takes 236 KB; a fleet of devices makes it more.
        ("qmp.line_limit_bytes", qmp.line_limit_bytes, MIB..=64 * MIB),
        ("qmp.reconnect_min_ms", qmp.reconnect_min_ms, QMP_MS),
        ("qmp.reconnect_max_ms", qmp.reconnect_max_ms, QMP_MS),
        ("deadlines.max_ms", deadlines.max_ms, DEADLINE_MS),
        ("metering.proof_of_life_ms", metering.proof_of_life_ms, 100..=60_000),
        // QEMU delays an event by up to 1000 ms.
        ("metering.lateness_ms", metering.lateness_ms, 1_000..=60_000),
        ("metering.tick_ms", metering.tick_ms, 1_000..=HOUR_MS),
        ("telemetry.otlp_timeout_ms", config.telemetry.otlp_timeout_ms, 100..=60_000),
        ("http.requests_per_second", config.http.requests_per_second, 1..=1_000_000),
        ("http.requests_at_once", config.http.requests_at_once, 1..=1_000),
        ("hibernation.at_once", config.hibernation.at_once, 1..=1_000),
        ("outbox.retention_ms", config.outbox.retention_ms, 0..=3_650 * DAY_MS),
        ("billing.free_disk_bytes", config.billing.free_disk_bytes, 0..=1 << 60),
    ];
    let up_to_max = 1..=deadlines.max_ms.max(1);
    ranges.extend(
        [
            ("deadlines.attach_ms", deadlines.attach_ms),
            ("deadlines.detach_ms", deadlines.detach_ms),
            ("deadlines.scale_ms", deadlines.scale_ms),
            ("deadlines.pause_ms", deadlines.pause_ms),
            ("deadlines.resume_ms", deadlines.resume_ms),
            ("deadlines.hibernate_ms", deadlines.hibernate_ms),
            ("deadlines.wake_ms", deadlines.wake_ms),
            ("deadlines.reboot_ms", deadlines.reboot_ms),
            ("deadlines.suppress_ms", deadlines.suppress_ms),
            ("deadlines.destroy_ms", deadlines.destroy_ms),
            ("deadlines.create_ms", deadlines.create_ms),
            ("deadlines.power_cycle_ms", deadlines.power_cycle_ms),
        ]
        .map(|(key, value)| (key, value, up_to_max.clone())),
    );
    ranges
}
