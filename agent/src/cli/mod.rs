//! The command line: one file per subcommand.
//!
//! Data goes to standard output, everything else to standard error. `--json` prints one JSON document, or one per
//! line where there is no end to them.

mod agent;
mod attach;
mod audit;
mod check_config;
mod completions;
mod destroy;
mod detach;
mod duration;
mod exit;
mod hibernate;
mod ls;
mod man;
mod pause;
mod reboot;
mod resume;
mod scale;
mod show;
mod slices;
mod target;
mod usage;
mod wake;
mod watch;

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

pub use exit::{EXIT_CODES, Exit};

/// Where the agent listens when nobody says otherwise.
const DEFAULT_SOCKET: &str = "/run/dormouse/control.sock";

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
    /// Change a sandbox's memory
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
    /// End a sandbox and its QEMU
    Destroy(destroy::Args),
    /// Follow what changes
    Watch(watch::Args),
    /// Print the billing slices
    Slices(slices::Args),
    /// Sum up what was used
    Usage(usage::Args),
    /// Check the ledger's invariants
    Audit(audit::Args),
    /// Print the completions of a shell
    #[command(hide = true)]
    Completions(completions::Args),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(man::Args),
}

/// The definition of the command line, from which completions and man pages are made.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_takes_the_socket_and_json() {
        for line in ["ls", "agent", "check-config", "pause a", "usage --from -2h", "audit"] {
            let words = ["dormouse"].into_iter().chain(line.split(' ')).chain(["--socket", "/s", "--json"]);
            let cli = Cli::try_parse_from(words).expect(line);
            assert!(cli.json && cli.socket.is_some(), "{line}");
        }
    }

    #[test]
    fn the_help_ends_with_the_exit_codes() {
        assert!(command().render_help().to_string().trim_end().ends_with("the configuration is wrong"));
    }
}
