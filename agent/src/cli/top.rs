//! `dormouse top`: what every sandbox holds and is billed, drawn anew every so often.
//!
//! What is billed comes from the ledger, over the last seconds and over the day: nothing is multiplied out here.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use console::{Key, Term};
use dormouse_metering::GbSeconds;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::context::{Agent, Context};
use super::duration;
use super::exit::Exit;
use super::failure::Failure;
use super::table::{Column, render, terminal_width};
use super::{json as wire, output, show};
use crate::proto::{ListRequest, Sandbox, UsageRequest};
use crate::size::Size;
use crate::words::counted;

const COLUMNS: [Column; 9] = [
    Column::long("ORG"),
    Column::long("SANDBOX"),
    Column::text("STATE"),
    Column::text("QMP"),
    Column::number("VCPUS"),
    Column::number("MEMORY"),
    Column::number("REQUESTED"),
    Column::number("BILLED NOW"),
    Column::number("GB-S TODAY"),
];

/// What is billed now is the mean of so many nanoseconds: long enough to hold two looks.
const NOW_NS: i64 = 5_000_000_000;
const DAY_NS: i64 = 86_400_000_000_000;

/// Nobody reads faster.
const INTERVAL_MS_MIN: u64 = 100;

/// To another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this org's
    #[arg(long)]
    org: Option<String>,

    /// How often to look, such as 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse_ms)]
    interval: u64,

    /// Look once, and print
    #[arg(long)]
    once: bool,
}

/// What one look has found.
struct Look {
    sandboxes: Vec<Sandbox>,
    /// Memory billed in the last seconds and today, in byte-nanoseconds, by org and sandbox.
    now: BTreeMap<(String, String), i128>,
    today: BTreeMap<(String, String), i128>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut agent = context.agent().await?;
    let org = args.org.unwrap_or_default();
    if args.once || context.json {
        let look = look(&mut agent, &org).await?;
        if context.json {
            output::print_json(&look.to_json())?;
        } else {
            output::print(&look.table(terminal_width()))?;
        }
        return Ok(Exit::Done);
    }
    let terminal = Term::stdout();
    if !terminal.is_term() {
        return Err(Failure::usage("standard output is no terminal: give --once or --json"));
    }
    write(&terminal, ENTER)?;
    let ended =
        follow(&mut agent, &org, &terminal, Duration::from_millis(args.interval.max(INTERVAL_MS_MIN))).await;
    write(&terminal, LEAVE)?;
    ended.map(|()| Exit::Done)
}

/// Draws until `q` is pressed, or the agent goes away.
async fn follow(agent: &mut Agent, org: &str, terminal: &Term, interval: Duration) -> Result<(), Failure> {
    let mut keys = keys();
    let mut looks = tokio::time::interval(interval);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            key = keys.recv() => match key {
                None | Some(Key::Char('q') | Key::Escape | Key::CtrlC) => return Ok(()),
                Some(_) => {}
            }
        }
        let look = look(agent, org).await?;
        let (lines_max, columns) = terminal.size();
        let table = look.table(Some(columns.into()));
        let sandboxes = counted(look.sandboxes.len(), "sandbox");
        let head = format!("{sandboxes}; billed now is the mean of 5 s; q ends");
        let lines = std::iter::once(head.as_str()).chain(table.lines()).take(lines_max.into());
        let screen: Vec<String> = lines.map(|line| format!("{line}\x1b[K")).collect();
        write(terminal, &format!("\x1b[H{}\x1b[J", screen.join("\r\n")))?;
    }
}

/// The keys that are pressed. Reading them blocks a thread of its own, which goes with the program.
fn keys() -> mpsc::Receiver<Key> {
    let (pressed, keys) = mpsc::channel(1);
    std::thread::spawn(move || {
        let terminal = Term::stdout();
        while let Ok(key) = terminal.read_key() {
            if pressed.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

fn write(terminal: &Term, text: &str) -> Result<(), Failure> {
    let written: io::Result<()> = terminal.write_str(text).and_then(|()| terminal.flush());
    written.map_err(|error| Failure::new(format!("the terminal cannot be written: {error}")))
}

async fn look(agent: &mut Agent, org: &str) -> Result<Look, Failure> {
    let failed = |status| Failure::of_status(&status);
    let sandboxes =
        agent.list(ListRequest { org: org.to_owned() }).await.map_err(failed)?.into_inner().sandboxes;
    let to_unix_ns = Context::now_unix_ns()?;
    let now = billed(agent, org, to_unix_ns.saturating_sub(NOW_NS), to_unix_ns).await?;
    let today = billed(agent, org, to_unix_ns - to_unix_ns.rem_euclid(DAY_NS), to_unix_ns).await?;
    Ok(Look { sandboxes, now, today })
}

async fn billed(
    agent: &mut Agent,
    org: &str,
    from_unix_ns: i64,
    to_unix_ns: i64,
) -> Result<BTreeMap<(String, String), i128>, Failure> {
    let request = UsageRequest { org: org.to_owned(), sandbox: String::new(), from_unix_ns, to_unix_ns };
    let reply = agent.usage(request).await.map_err(|status| Failure::of_status(&status))?.into_inner();
    let line = |line: crate::proto::UsageLine| {
        let memory = line.memory_byte_nanoseconds;
        let amount = memory
            .parse()
            .map_err(|_| Failure::new(format!("the agent answered {memory:?} for a number")))?;
        Ok(((line.org, line.sandbox), amount))
    };
    reply.lines.into_iter().map(line).collect()
}

impl Look {
    /// What is billed of a sandbox: bytes now, byte-nanoseconds today.
    fn billed(&self, sandbox: &Sandbox) -> (u64, i128) {
        let key = sandbox.key.clone().unwrap_or_default();
        let key = (key.org, key.sandbox);
        let of = |amounts: &BTreeMap<_, i128>| amounts.get(&key).copied().unwrap_or_default();
        let now_bytes = of(&self.now) / i128::from(NOW_NS);
        (u64::try_from(now_bytes).unwrap_or_default(), of(&self.today))
    }

    fn table(&self, width: Option<usize>) -> String {
        let rows: Vec<_> = self.sandboxes.iter().map(|sandbox| self.row(sandbox)).collect();
        render(COLUMNS, &rows, width)
    }

    fn row(&self, sandbox: &Sandbox) -> [String; 9] {
        let key = sandbox.key.clone().unwrap_or_default();
        let shape = sandbox.shape.unwrap_or_default();
        let (now_bytes, today) = self.billed(sandbox);
        // A mean is hardly ever a whole number of anything: in MiB, it can be read.
        let now = Size(now_bytes >> 20 << 20);
        [
            key.org,
            key.sandbox,
            show::state(sandbox),
            sandbox.connection.clone(),
            show::vcpus(shape.vcpus_milli),
            Size(shape.memory_base_bytes + shape.memory_plugged_bytes).to_string(),
            Size(shape.memory_base_bytes + shape.memory_requested_bytes).to_string(),
            now.to_string(),
            format!("{:.3}", GbSeconds(today)),
        ]
    }

    fn to_json(&self) -> Value {
        let rows = self.sandboxes.iter().map(|sandbox| {
            let (now_bytes, today) = self.billed(sandbox);
            json!({
                "sandbox": wire::sandbox(sandbox),
                "memory_billed_now_bytes": now_bytes,
                "memory_today_byte_nanoseconds": today.to_string(),
            })
        });
        rows.collect()
    }
}
