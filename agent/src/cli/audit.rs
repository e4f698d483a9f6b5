//! `dormouse audit`: checks the ledger's invariants.

use std::path::PathBuf;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::table::{Column, render, terminal_width};
use super::{json, ledger, output};
use crate::control;
use crate::proto::{AuditReply, AuditRequest, Violation};
use crate::words::counted;

const COLUMNS: [Column; 5] = [
    Column::text("CODE"),
    Column::long("SANDBOX"),
    Column::text("GENERATION"),
    Column::number("SEQ"),
    Column::long("WHAT"),
];

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let reply = if let Some(path) = args.ledger {
        control::audit(ledger::questions(path)?.audit()?)
    } else {
        let reply = context.agent().await?.audit(AuditRequest {}).await;
        reply.map_err(|status| Failure::of_status(&status))?.into_inner()
    };
    if context.json {
        output::print_json(&json::audit(&reply))?;
    } else {
        output::print(&describe(&reply))?;
    }
    Ok(verdict(&reply))
}

fn verdict(reply: &AuditReply) -> Exit {
    if reply.violations.is_empty() { Exit::Done } else { Exit::Anomaly }
}

fn describe(reply: &AuditReply) -> String {
    let AuditReply { sandboxes_checked, slices_checked, events_checked, violations, violations_total } =
        reply;
    let checked = format!(
        "checked {} of {} and {}",
        counted(slices_checked, "slice"),
        counted(sandboxes_checked, "sandbox"),
        counted(events_checked, "event")
    );
    if violations.is_empty() {
        return format!("{checked}: everything holds\n");
    }
    let rows: Vec<_> = violations.iter().map(row).collect();
    let shown = match violations_total.saturating_sub(violations.len() as u64) {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    let table = render(COLUMNS, &rows, terminal_width());
    format!("{table}{shown}{checked}: {}\n", counted(violations_total, "violation"))
}

fn row(violation: &Violation) -> [String; 5] {
    let sandbox = if violation.sandbox.is_empty() {
        String::new()
    } else {
        format!("{}/{}", violation.org, violation.sandbox)
    };
    let number = |number: String| if number == "0" { String::new() } else { number };
    [
        violation.code.clone(),
        sandbox,
        number(violation.generation.to_string()),
        number(violation.seq.to_string()),
        violation.message.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_an_anomaly_and_is_shown_with_its_place() {
        let mut reply = AuditReply {
            slices_checked: 7,
            sandboxes_checked: 1,
            violations_total: 1,
            ..AuditReply::default()
        };
        assert_eq!(verdict(&reply), Exit::Done);
        assert!(describe(&reply).ends_with("everything holds\n"));
        reply.violations.push(Violation {
            code: "AUDIT_GAP".to_owned(),
            org: "default".to_owned(),
            sandbox: "sb1".to_owned(),
            seq: 3,
            ..Violation::default()
        });
        assert_eq!(verdict(&reply), Exit::Anomaly);
        let text = describe(&reply);
        assert!(text.contains("AUDIT_GAP  default/sb1"), "{text}");
        assert!(text.ends_with("checked 7 slices of 1 sandbox and 0 events: 1 violation\n"), "{text}");
    }
}
