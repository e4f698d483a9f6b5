//! `dormouse attach`: takes a QEMU under the agent's care.

use std::path::PathBuf;

use super::target::Asked;

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

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
