//! `dormouse tag`: replaces a sandbox's tags, or shows them.

use std::collections::BTreeMap;

use super::attach::parse_tag;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::target::Target;
use super::when::rfc3339;
use super::{json, output};
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
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Args { target, tags, clear } = args;
    let count = tags.len();
    let tags: BTreeMap<_, _> = tags.into_iter().collect();
    if tags.len() < count {
        return Err(Failure::usage("a key is given twice: a tag has one value"));
    }
    let mut agent = context.agent().await?;
    let reply = if tags.is_empty() && !clear {
        agent.get_tags(target.key()).await
    } else {
        let tags = tags.into_iter().collect();
        agent.set_tags(SetTagsRequest { key: Some(target.key()), tags }).await
    };
    let tags = reply.map_err(|status| Failure::of_status(&status))?.into_inner();
    if context.json {
        output::print_json(&json::tags(&tags))?;
    } else {
        output::print(&lines(&tags))?;
    }
    Ok(Exit::Done)
}

fn lines(tags: &Tags) -> String {
    match tags.updated_unix_ns {
        None => eprintln!("there never were tags"),
        Some(at) => eprintln!("as they are since {}", rfc3339(at)),
    }
    let tags: BTreeMap<_, _> = tags.tags.iter().collect();
    tags.iter().flat_map(|(key, value)| [key.as_str(), "=", value.as_str(), "\n"]).collect()
}
