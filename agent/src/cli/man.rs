//! `dormouse man`: the man pages, from the definition of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::Resettable;
use clap_mangen::Man;

use super::exit::{EXIT_CODES, Exit};
use super::failure::Failure;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The folder, which must exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let failed = |error| Failure::new(format!("cannot write man pages into {}: {error}", args.dir.display()));
    // What comes after the help is a section of its own here.
    let mut root = super::command().after_help(Resettable::Reset).disable_help_subcommand(true);
    root.build();
    let commands = root.get_subcommands().filter(|command| !command.is_hide_set());
    for command in commands.chain([&root]) {
        write_page(&args.dir, command).map_err(failed)?;
    }
    Ok(Exit::Done)
}

fn write_page(dir: &Path, command: &Command) -> io::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).source(concat!("dormouse ", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (_, code, meaning) in EXIT_CODES {
        writeln!(page, ".TP\n{code}\n{meaning}")?;
    }
    fs::write(dir.join(man.get_filename()), page)
}
