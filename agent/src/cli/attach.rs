//! `dormouse attach`: takes a QEMU under the agent's care.

use std::path::PathBuf;

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::AttachRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// The QMP socket that QEMU listens on; give the agent a -qmp of its own
    #[arg(long, value_name = "PATH")]
    qmp: PathBuf,

    /// The plan that the sandbox is billed by [default: as configured]
    #[arg(long)]
    plan: Option<String>,

    /// A tag to begin with; may be repeated
    #[arg(long = "tag", value_name = "K=V", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
}

/// Reads a tag as people write it.
pub(super) fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Args { asked, qmp, plan, tags } = args;
    let absolute = std::path::absolute(&qmp)
        .map_err(|error| Failure::usage(format!("the path {} leads nowhere: {error}", qmp.display())))?;
    let qmp_path = absolute
        .into_os_string()
        .into_string()
        .map_err(|path| Failure::usage(format!("the path {} is not UTF-8", path.display())))?;
    let tags = tags.into_iter().collect();
    let call = async |mut agent: Agent, header| {
        let plan = plan.unwrap_or_default();
        agent.attach(AttachRequest { header: Some(header), qmp_path, plan, tags }).await
    };
    context.carry_out(&asked, call).await
}
