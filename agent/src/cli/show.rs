//! `dormouse show`: one sandbox, and the timeline of its slices.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dormouse_ledger::SliceRow;
use serde_json::json;

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::table::{printable, terminal_width};
use super::target::Target;
use super::{json, output, slices, timeline};
use crate::proto::{Disk, Sandbox, SandboxKey, SlicesRequest};
use crate::size::Size;
use crate::words::counted;

/// The timeline shows so many slices, the last ones.
const SLICES_SHOWN: usize = 20;

/// What the agent knows by itself is not kept back for long by a disk that hangs.
const SLICES_WAIT: Duration = Duration::from_secs(3);

/// Where there is no terminal to fit, the timeline is this wide.
pub(super) const TIMELINE_WIDTH: usize = 120;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut agent = context.agent().await?;
    let key = args.target.key();
    let sandbox = agent.get(key.clone()).await.map_err(|status| Failure::of_status(&status))?.into_inner();
    let slices = tokio::time::timeout(SLICES_WAIT, last_slices(&mut agent, key)).await;
    if slices.is_err() {
        eprintln!("its slices are not shown: the ledger's disk does not answer");
    }
    let slices = slices.ok().transpose()?;
    if context.json {
        let mut document = json::sandbox(&sandbox);
        document["slices"] = json!(slices.map(|(_, last)| last));
        output::print_json(&document)?;
        return Ok(Exit::Done);
    }
    let (earlier, last) = slices.unwrap_or_default();
    let width = terminal_width().unwrap_or(TIMELINE_WIDTH);
    let more = match earlier {
        0 => String::new(),
        _ => format!("{}: dormouse slices {}\n", counted(earlier, "earlier slice"), args.target.id),
    };
    output::print(&format!("{}\n{more}{}", describe(&sandbox), timeline::render(&last, width)))?;
    Ok(Exit::Done)
}

/// The last slices of a sandbox, and how many there are before them.
async fn last_slices(agent: &mut Agent, key: SandboxKey) -> Result<(usize, Vec<SliceRow>), Failure> {
    let mut last = VecDeque::with_capacity(SLICES_SHOWN);
    let mut earlier = 0;
    let request = SlicesRequest { org: key.org, sandbox: key.sandbox };
    slices::each(agent, request, |slice| {
        if last.len() == SLICES_SHOWN {
            last.pop_front();
            earlier += 1;
        }
        last.push_back(slice);
        Ok(())
    })
    .await?;
    Ok((earlier, last.into()))
}

fn describe(sandbox: &Sandbox) -> String {
    let shape = sandbox.shape.unwrap_or_default();
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let operation = sandbox.operation.as_ref().map(|operation| {
        format!("{} ({}), request id {}", operation.kind, operation.step, operation.request_id)
    });
    let lines = [
        ("sandbox", in_short(sandbox)),
        ("plan", sandbox.plan.clone()),
        ("generation", sandbox.generation.to_string()),
        (
            "memory",
            format!(
                "{} base + {} plugged ({} requested), at most {}, in blocks of {}",
                Size(shape.memory_base_bytes),
                Size(shape.memory_plugged_bytes),
                Size(shape.memory_requested_bytes),
                Size(sandbox.memory_max_bytes),
                Size(sandbox.memory_block_bytes)
            ),
        ),
        ("vcpus", vcpus(shape.vcpus_milli)),
        ("disk", disks(sandbox)),
        ("qmp", format!("{} ({})", or_none(&sandbox.qmp_path), sandbox.connection)),
        ("qemu", format!("{}, pid {}", or_none(&sandbox.qemu_version), sandbox.pid)),
        ("suppressed", or_none(&sandbox.suppressed_reason)),
        ("saved by", or_none(&sandbox.hibernation_method)),
        ("operation", or_none(&operation.unwrap_or_default())),
        ("tags", or_none(&tags(sandbox))),
    ];
    lines.map(|(name, value)| format!("{name:<10}  {}\n", printable(&value))).concat()
}

/// A sandbox on one line.
pub(super) fn in_short(sandbox: &Sandbox) -> String {
    let key = sandbox.key.clone().unwrap_or_default();
    let shape = sandbox.shape.unwrap_or_default();
    let memory_bytes = shape.memory_base_bytes + shape.memory_plugged_bytes;
    let vcpus = counted(vcpus(shape.vcpus_milli), "vCPU");
    format!("{}/{} is {}, {}, {vcpus}", key.org, key.sandbox, state(sandbox), Size(memory_bytes))
}

/// The state, with its reason where there is one.
pub(super) fn state(sandbox: &Sandbox) -> String {
    let state = if sandbox.state_reason.is_empty() {
        sandbox.state.clone()
    } else {
        format!("{}:{}", sandbox.state, sandbox.state_reason)
    };
    if sandbox.suppressed_reason.is_empty() { state } else { format!("{state}, suppressed") }
}

/// vCPUs in thousandths, as a number of vCPUs: `2`, `0.5`.
pub(super) fn vcpus(milli: u32) -> String {
    let (whole, thousandths) = (milli / 1_000, milli % 1_000);
    if thousandths == 0 {
        return whole.to_string();
    }
    format!("{whole}.{thousandths:03}").trim_end_matches('0').to_owned()
}

/// The disks by name, as they are scaled.
fn disks(sandbox: &Sandbox) -> String {
    let total = Size(sandbox.shape.unwrap_or_default().disk_bytes);
    let one = |disk: &Disk| {
        let read_only = if disk.read_only { ", read-only" } else { "" };
        format!("{} {} ({}{read_only})", disk.node, Size(disk.size_bytes), disk.format)
    };
    let each: Vec<String> = sandbox.disks.iter().map(one).collect();
    if each.is_empty() { total.to_string() } else { format!("{total}: {}", each.join(", ")) }
}

/// The tags, in order.
pub(super) fn tags(sandbox: &Sandbox) -> String {
    let tags: BTreeMap<_, _> = sandbox.tags.iter().collect();
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_shown_as_people_count_them() {
        for (milli, text) in [(0, "0"), (2_000, "2"), (500, "0.5"), (1_250, "1.25"), (1, "0.001")] {
            assert_eq!(vcpus(milli), text);
        }
    }
}
