//! `dormouse tag`: replaces a sandbox's tags, or shows them.

use std::collections::BTreeMap;

use dormouse_ledger::{LedgerError, SandboxKey, TagSet};

use super::attach::parse_tag;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::target::Target;
use super::when::rfc3339;
use super::{json, output};
use crate::address::LedgerAddress;
use crate::proto::{SetTagsRequest, Tags};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,

    /// All the tags that the sandbox has from now on. Without any, they are shown as they are
    #[arg(value_name = "K=V", value_parser = parse_tag)]
    tags: Vec<(String, String)>,

    /// Take all tags away
    #[arg(long, conflicts_with = "tags")]
    clear: bool,

    #[arg(
        help = "Ask this ledger, without an agent: a file, sqlite:PATH, or postgres://... of a fleet, whose tags are its own"
    )]
    #[arg(long, value_name = "LEDGER", value_parser = LedgerAddress::parse_or_file)]
    ledger: Option<LedgerAddress>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Args { target, tags, clear, ledger } = args;
    let count = tags.len();
    let tags: BTreeMap<_, _> = tags.into_iter().collect();
    if tags.len() < count {
        return Err(Failure::usage("a key is given twice: a tag has one value"));
    }
    let wanted = (!tags.is_empty() || clear).then_some(tags);
    let tags = match ledger {
        Some(ledger) => of_ledger(&ledger, target, wanted).await?,
        None => of_agent(context, &target, wanted).await?,
    };
    if context.json {
        output::print_json(&json::tags(&tags))?;
    } else {
        output::print(&lines(&tags))?;
    }
    Ok(Exit::Done)
}

/// What an agent says, once it has set what is wanted.
async fn of_agent(
    context: &Context,
    target: &Target,
    wanted: Option<BTreeMap<String, String>>,
) -> Result<Tags, Failure> {
    let mut agent = context.agent().await?;
    let reply = match wanted {
        None => agent.get_tags(target.key()).await,
        Some(tags) => {
            let tags = tags.into_iter().collect();
            agent.set_tags(SetTagsRequest { key: Some(target.key()), tags }).await
        }
    };
    Ok(reply.map_err(|status| Failure::of_status(&status))?.into_inner())
}

/// What a ledger says, once it has what is wanted.
async fn of_ledger(
    ledger: &LedgerAddress,
    target: Target,
    wanted: Option<BTreeMap<String, String>>,
) -> Result<Tags, Failure> {
    let Target { id: sandbox, org } = target;
    let at_unix_ns = Context::now_unix_ns()?;
    let tags = ledger.ask(move |ledger| match wanted {
        Some(tags) => ledger.set_tags(&TagSet { org, sandbox, tags, at_unix_ns }),
        None if ledger.sandbox_entry(&org, &sandbox)?.is_some() => ledger.tags(&org, &sandbox),
        None => Err(LedgerError::UnknownSandbox(SandboxKey { org, sandbox, generation: 0 })),
    });
    Ok(crate::control::tags(tags.await?))
}

fn lines(tags: &Tags) -> String {
    match tags.updated_unix_ns {
        None => eprintln!("there never were tags"),
        Some(at) => eprintln!("as they are since {}", rfc3339(at)),
    }
    let tags: BTreeMap<_, _> = tags.tags.iter().collect();
    tags.iter().flat_map(|(key, value)| [key.as_str(), "=", value.as_str(), "\n"]).collect()
}
