//! `dormouse usage`: sums up what was used.

use std::path::PathBuf;

use dormouse_metering::{GbSeconds, VcpuSeconds};

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::json::integer;
use super::table::{Column, render, terminal_width};
use super::target::{org_of, sandbox_filter};
use super::when::{self, rfc3339};
use super::{json, ledger, output};
use crate::calendar::duration;
use crate::control;
use crate::proto::{UsageLine, UsageReply, UsageRequest};

/// What is shown to people is rounded to so many decimals; what is exact is a switch away.
const DECIMALS: usize = 3;

const COLUMNS: [Column; 7] = [
    Column::long("ORG"),
    Column::long("SANDBOX"),
    Column::number("MEMORY GB-S"),
    Column::number("VCPU-S"),
    Column::number("DISK GB-S"),
    Column::number("OVERAGE GB-S"),
    Column::number("UNSURE"),
];

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this org's [default: all; with a sandbox, default]
    #[arg(long)]
    org: Option<String>,

    /// Only this sandbox's
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,

    /// From when: 2026-03-01T12:00:00Z, 2026-03-01, or "2h ago" [default: the beginning]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,

    /// Until when, exclusive [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,

    /// Show every decimal, instead of rounding to three
    #[arg(long)]
    exact: bool,

    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let now_unix_ns = Context::now_unix_ns()?;
    let moment = |text: Option<&String>, default| {
        text.map_or(Ok(default), |text| when::parse(text, now_unix_ns)).map_err(Failure::usage)
    };
    let (from_unix_ns, to_unix_ns) = (moment(args.from.as_ref(), 0)?, moment(args.to.as_ref(), now_unix_ns)?);
    if from_unix_ns >= to_unix_ns {
        return Err(Failure::usage("--from is not before --to"));
    }
    let org = org_of(args.org, args.sandbox.as_ref());
    let sandbox = args.sandbox.unwrap_or_default();
    let request = UsageRequest { org, sandbox, from_unix_ns, to_unix_ns };
    let reply = if let Some(path) = args.ledger {
        of_ledger(path, &request)?
    } else {
        let reply = context.agent().await?.usage(request).await;
        reply.map_err(|status| Failure::of_status(&status))?.into_inner()
    };
    if context.json {
        output::print_json(&json::usage(&reply)?)?;
    } else {
        eprintln!("{}", window(&reply));
        output::print(&table(&reply, args.exact)?)?;
    }
    Ok(Exit::Done)
}

fn of_ledger(path: PathBuf, request: &UsageRequest) -> Result<UsageReply, Failure> {
    let questions = ledger::questions(path)?;
    let filter = sandbox_filter(&request.org, &request.sandbox);
    let (from, to) = (request.from_unix_ns, request.to_unix_ns);
    let usage = questions.usage(filter, from..to, questions.last_known()?)?;
    Ok(control::usage(usage, from, to))
}

fn window(reply: &UsageReply) -> String {
    let from = if reply.from_unix_ns == 0 { "the beginning".to_owned() } else { rfc3339(reply.from_unix_ns) };
    format!("from {from} until {}; 1 GB is 2^30 bytes", rfc3339(reply.to_unix_ns))
}

fn table(reply: &UsageReply, exact: bool) -> Result<String, Failure> {
    let mut rows: Vec<_> = reply.lines.iter().map(|line| row(line, exact)).collect::<Result<_, _>>()?;
    if let Some(total) = &reply.total {
        let mut total = row(total, exact)?;
        "total".clone_into(&mut total[0]);
        rows.push(total);
    }
    Ok(render(COLUMNS, &rows, terminal_width()))
}

fn row(line: &UsageLine, exact: bool) -> Result<[String; 7], Failure> {
    let gb_seconds = |text: &str| -> Result<String, Failure> {
        let amount = GbSeconds(integer(text)?);
        Ok(if exact { amount.to_string() } else { format!("{amount:.DECIMALS$}") })
    };
    let vcpu_seconds = VcpuSeconds(integer(&line.vcpu_milli_nanoseconds)?);
    Ok([
        line.org.clone(),
        line.sandbox.clone(),
        gb_seconds(&line.memory_byte_nanoseconds)?,
        if exact { vcpu_seconds.to_string() } else { format!("{vcpu_seconds:.DECIMALS$}") },
        gb_seconds(&line.disk_byte_nanoseconds)?,
        gb_seconds(&line.disk_overage_byte_nanoseconds)?,
        duration(line.uncertainty_ns),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(org: &str, sandbox: &str, memory_byte_ns: i128) -> UsageLine {
        UsageLine {
            org: org.to_owned(),
            sandbox: sandbox.to_owned(),
            memory_byte_nanoseconds: memory_byte_ns.to_string(),
            vcpu_milli_nanoseconds: "1500000000000".to_owned(),
            disk_byte_nanoseconds: "0".to_owned(),
            disk_overage_byte_nanoseconds: "0".to_owned(),
            uncertainty_ns: 0,
        }
    }

    fn reply() -> UsageReply {
        let gb_second = (1_i128 << 30) * 1_000_000_000;
        UsageReply {
            lines: vec![line("default", "sb1", gb_second / 16)],
            total: Some(line("", "", gb_second / 16)),
            from_unix_ns: 0,
            to_unix_ns: 1_000_000_000,
        }
    }

    #[test]
    fn people_see_three_decimals_unless_they_ask_for_all() {
        let rounded = table(&reply(), false).expect("numbers");
        assert!(rounded.contains("default  sb1            0.062   1.500"), "{rounded}");
        assert!(rounded.contains("\ntotal"), "{rounded}");
        assert!(table(&reply(), true).expect("numbers").contains(" 0.0625 "));
    }

    #[test]
    fn programs_see_the_integers_and_the_exact_decimals() {
        let json = json::usage(&reply()).expect("numbers");
        assert_eq!(json["lines"][0]["memory_byte_nanoseconds"], "67108864000000000");
        assert_eq!(json["lines"][0]["memory_gb_seconds"], "0.0625");
        assert_eq!(json["total"]["vcpu_seconds"], "1.5");
        assert_eq!(json["total"].get("org"), None);
    }

    #[test]
    fn a_quantity_that_is_no_number_is_an_error_and_not_a_zero() {
        let mut reply = reply();
        reply.lines[0].memory_byte_nanoseconds = "1e3".to_owned();
        assert!(table(&reply, false).is_err());
        assert!(json::usage(&reply).is_err());
    }
}
