//! The command line: one file per subcommand.
//!
//! Data goes to standard output, everything else to standard error. `--json` prints one JSON document, or one per
//! line where there is no end to them.

mod advice;
mod agent;
mod attach;
mod audit;
mod backup;
mod check_config;
mod completions;
mod context;
mod create;
mod destroy;
mod destroy_orphan;
mod detach;
mod doctor;
mod duration;
mod exit;
mod export;
mod failure;
mod hibernate;
mod json;
mod ledger;
mod ls;
mod man;
mod outbox;
mod output;
mod pause;
mod power_cycle;
mod progress;
mod reboot;
mod resume;
mod scale;
mod serve;
mod show;
mod slices;
mod suppress;
mod table;
mod tag;
mod target;
pub mod timeline;
mod token;
mod top;
mod unsuppress;
mod usage;
mod verify;
mod wake;
mod watch;
mod when;

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Builder;

use context::Context;
use failure::Failure;

use crate::config::Config;

pub use exit::{EXIT_CODES, Exit};

/// Drives the QEMU sandboxes of a KVM host and turns what happens to them into billing slices
#[derive(Debug, Parser)]
#[command(name = "dormouse", version, after_help = exit::table(), max_term_width = 100)]
pub struct Cli {
    /// The agent's control socket [default: /run/dormouse/control.sock, for agent: as configured]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Write JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Agent(agent::Args),
    /// Check a configuration and print what is in effect
    CheckConfig(check_config::Args),
    /// Take a QEMU under the agent's care
    Attach(attach::Args),
    /// Hand a sandbox back: its QEMU goes on, its metering ends
    Detach(detach::Args),
    /// List the sandboxes
    Ls(ls::Args),
    /// Show one sandbox and the timeline of its slices
    Show(show::Args),
    /// Change a sandbox's memory, CPU time or disks
    Scale(scale::Args),
    /// Stop a sandbox's guest
    Pause(pause::Args),
    /// Continue a sandbox's guest
    Resume(resume::Args),
    /// Write a sandbox's state to disk and end its QEMU
    Hibernate(hibernate::Args),
    /// Start QEMU again and continue the guest where it was
    Wake(wake::Args),
    /// Reset a sandbox's guest
    Reboot(reboot::Args),
    /// Let a sandbox's time be free, for a move that the platform makes for itself
    Suppress(suppress::Args),
    /// Let a sandbox's time be billed again
    Unsuppress(unsuppress::Args),
    /// End a sandbox and its QEMU
    Destroy(destroy::Args),
    /// Start a sandbox from a spec
    Create(create::Args),
    /// End a sandbox's QEMU and start it again: the guest boots anew
    PowerCycle(power_cycle::Args),
    /// End a process that the agent has started and that no sandbox claims
    DestroyOrphan(destroy_orphan::Args),
    /// Replace a sandbox's tags, or show them
    Tag(tag::Args),
    /// Follow what changes
    Watch(watch::Args),
    /// Show live what every sandbox holds and is billed
    Top(top::Args),
    /// Print the billing slices
    Slices(slices::Args),
    /// Sum up what was used
    Usage(usage::Args),
    /// Serve usage and tags over HTTP, from a ledger
    Serve(serve::Args),
    /// Export slices and usage for other programs: CSV, Parquet, FOCUS
    Export(export::Args),
    /// Create, list and revoke the tokens that HTTP asks for
    Token(token::Args),
    /// Check the ledger's invariants
    Audit(audit::Args),
    /// Check the host: KVM, QEMU, kernel, folders, disks, clock
    Doctor(doctor::Args),
    /// Show how far each sink is behind, or print the events
    Outbox(outbox::Args),
    /// Verify a host's exported events: chain, hashes and signatures
    Verify(verify::Args),
    /// The fleet's ledger, in PostgreSQL
    Ledger(ledger::Args),
    /// Copy the ledger, while it is being written
    Backup(backup::Args),
    /// Print the completions of a shell
    #[command(hide = true)]
    Completions(completions::Args),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(man::Args),
}

/// Reads the command line, does what it says, and returns how the program ends.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be said where nothing can be written.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let json = cli.json;
    run(cli).unwrap_or_else(|failure| {
        match serde_json::to_string(&failure) {
            Ok(document) if json => eprintln!("{document}"),
            _ => eprintln!("{failure}"),
        }
        failure.exit()
    })
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { socket, json, command } = cli;
    // The agent serves many at once; a client asks one question.
    let runtime = match &command {
        Command::Agent(_) | Command::Serve(_) => Builder::new_multi_thread().enable_all().build(),
        _ => Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
    runtime.block_on(dispatch(command, socket, json))
}

async fn dispatch(command: Command, socket: Option<PathBuf>, json: bool) -> Result<Exit, Failure> {
    let context = Context { socket: socket.clone().unwrap_or_else(|| Config::default().socket), json };
    match command {
        Command::Agent(args) => agent::run(args, socket, json).await,
        Command::CheckConfig(args) => check_config::run(&args, socket, json),
        Command::Attach(args) => attach::run(args, &context).await,
        Command::Detach(args) => detach::run(args, &context).await,
        Command::Ls(args) => ls::run(args, &context).await,
        Command::Show(args) => show::run(args, &context).await,
        Command::Scale(args) => scale::run(args, &context).await,
        Command::Pause(args) => pause::run(args, &context).await,
        Command::Resume(args) => resume::run(args, &context).await,
        Command::Hibernate(args) => hibernate::run(args, &context).await,
        Command::Wake(args) => wake::run(args, &context).await,
        Command::Reboot(args) => reboot::run(args, &context).await,
        Command::Suppress(args) => suppress::run(args, &context).await,
        Command::Unsuppress(args) => unsuppress::run(args, &context).await,
        Command::Destroy(args) => destroy::run(args, &context).await,
        Command::Create(args) => create::run(args, &context).await,
        Command::PowerCycle(args) => power_cycle::run(args, &context).await,
        Command::DestroyOrphan(args) => destroy_orphan::run(args, &context).await,
        Command::Tag(args) => tag::run(args, &context).await,
        Command::Watch(args) => watch::run(args, &context).await,
        Command::Top(args) => top::run(args, &context).await,
        Command::Slices(args) => slices::run(args, &context).await,
        Command::Usage(args) => usage::run(args, &context).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Token(args) => token::run(args, &context).await,
        Command::Audit(args) => audit::run(args, &context).await,
        Command::Doctor(args) => doctor::run(&args, socket, json).await,
        Command::Outbox(args) => outbox::run(args, &context).await,
        Command::Verify(args) => verify::run(args, &context),
        Command::Ledger(args) => ledger::run(args, &context).await,
        Command::Backup(args) => backup::run(args, &context),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// The definition of the command line, from which completions and man pages are made.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
