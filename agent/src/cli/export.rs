//! `dormouse export`: writes slices and usage for other programs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::when;
use crate::address::LedgerAddress;
use crate::config::Config;
use crate::export::{self, Export, ExportError};
use crate::words::counted;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Slices, one in a line, every number an exact integer
    Csv,
    /// Slices, with what they amount to as DECIMAL(38, 0)
    Parquet,
    /// What each sandbox used in each hour, in the columns of FOCUS 1.2; those of prices are empty
    Focus,
}

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How it is written
    #[arg(long, value_enum)]
    format: Format,

    /// From when: 2026-03-01T12:00:00Z, 2026-03-01, or "2h ago". What began before is cut there
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: String,

    /// Until when, exclusive
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: String,

    /// Only this org's [default: all, one after the other]
    #[arg(long)]
    org: Option<String>,

    /// Where to: the file appears under its name once it is whole [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Who provides the sandboxes, as FOCUS names providers
    #[arg(long, value_name = "NAME", default_value = "Dormouse")]
    provider: String,

    #[arg(
        help = "The ledger: sqlite:PATH, of a host; or postgres://..., of a fleet [default: the configured agent's]"
    )]
    #[arg(long, value_name = "LEDGER", value_parser = LedgerAddress::parse_or_file)]
    #[arg(env = "DORMOUSE_DATABASE_URL", hide_env_values = true)]
    ledger: Option<LedgerAddress>,
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Ledger(error) => error.into(),
            ExportError::Unwritable(_) => Self::new(error.to_string()),
            ExportError::InvalidWindow(why) => Self::usage(why),
        }
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let now_unix_ns = Context::now_unix_ns()?;
    let moment = |text: &str| when::parse(text, now_unix_ns).map_err(Failure::usage);
    let config = Config::load_or_default(None)?;
    let export = Export {
        org: args.org,
        window: moment(&args.from)?..moment(&args.to)?,
        rules: config.billing.rules(),
        format: match args.format {
            Format::Csv => export::Format::Csv,
            Format::Parquet => export::Format::Parquet,
            Format::Focus => export::Format::Focus,
        },
        provider: args.provider,
    };
    let address = match args.ledger {
        Some(ledger) => ledger,
        None => LedgerAddress::Sqlite(config.ledger_path()),
    };
    let (tags, output) = (address.clone(), args.output);
    let written = address.ask(move |ledger| {
        let mut tags = tags.open()?;
        Ok(match output {
            None => match export::write(&export, ledger, tags.as_mut(), io::stdout()) {
                // The reader has seen enough, as `head` has.
                Err(ExportError::Unwritable(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
                written => written.map(Some),
            },
            Some(path) => whole(&path, |file| export::write(&export, ledger, tags.as_mut(), file)).map(Some),
        })
    });
    if let Some(slices) = written.await?? {
        eprintln!("exported {}", counted(slices, "slice"));
    }
    Ok(Exit::Done)
}

/// Writes a file that appears under its name once it is whole and on the disk.
fn whole<T>(path: &Path, write: impl FnOnce(&File) -> Result<T, ExportError>) -> Result<T, ExportError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let file = File::create(&partial)?;
    let written = write(&file).and_then(|written| {
        (&file).flush()?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        Ok(written)
    });
    if written.is_err() {
        // What is left of it helps nobody.
        let _ = fs::remove_file(&partial);
    }
    written
}
