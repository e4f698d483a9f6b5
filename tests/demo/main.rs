//! `make demo`: a real Linux guest lives its whole life under a real agent, and the bill for it is shown and checked.
//!
//! Everything goes through the command line that a user has. What is claimed at the end is checked by means of the
//! demo's own: the guest's checksums, QEMU's answers on a second socket, the demo's clock, and integers added up here.
//!
//! - [`life`] is the script: what happens, in order. [`crash`] is its part where the agent is killed.
//! - [`stage`] is what it happens on: the folder, the agent, the guest. It leaves no process behind.
//! - [`page`] says how to see it in a browser, and serves it if that is asked for.
//! - [`story`] tells it as it happens; [`report`] sums it up, for people and for programs.
//! - [`fleet`] is the other demo, `make demo-fleet`. [`folder`] and [`verdict`] serve both.
//! - [`claims`] holds what must be so; [`ledger`] judges the slices, and knows nothing of all the rest.

mod claims;
mod crash;
mod failure;
mod fleet;
mod folder;
mod ledger;
mod life;
mod page;
mod report;
mod stage;
mod story;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use failure::{Failure, Result};
use fleet::FleetDemo;
use life::Demo;

/// Runs a real guest through its whole life under a real agent, and checks the bill
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// Print one JSON document on standard output, for programs
    #[arg(long)]
    json: bool,

    /// Run two hosts with one ledger for both, and break each part of it once
    #[arg(long)]
    fleet: bool,

    /// Where everything is put, and what is left behind. What an earlier demo left there is deleted
    #[arg(long, value_name = "PATH", default_value = "target/demo")]
    folder: PathBuf,

    /// In the end serve the pages of the demo's ledger, until interrupted
    #[arg(long, conflicts_with = "json")]
    serve: bool,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be said where nothing can be written.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("demo: {failure}");
            failure.exit_code()
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(args: &Args) -> Result<bool> {
    let listen = |kind| signal(kind).map_err(Failure::Signals);
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminations = listen(SignalKind::terminate())?;
    let mut hangups = listen(SignalKind::hangup())?;
    let interrupted = async {
        tokio::select! {
            () = received(&mut interrupts) => Failure::Interrupted("SIGINT", 2),
            () = received(&mut terminations) => Failure::Interrupted("SIGTERM", 15),
            () = received(&mut hangups) => Failure::Interrupted("SIGHUP", 1),
        }
    };
    // Whatever has happened: no process is left behind.
    if args.fleet {
        let mut demo = FleetDemo::new(&args.folder, args.json)?;
        let ended = tokio::select! {
            ended = demo.run() => ended,
            failure = interrupted => Err(failure),
        };
        demo.stage.clear().await;
        return demo.report(ended);
    }
    let mut demo = Demo::new(&args.folder, args.json)?;
    let ended = tokio::select! {
        ended = demo.run() => ended,
        failure = interrupted => Err(failure),
    };
    demo.stage.clear().await;
    let holds = demo.report(ended)?;
    if args.serve && holds {
        let ledger = demo.stage.ledger();
        tokio::select! {
            served = page::serve(&ledger) => served?,
            () = received(&mut interrupts) => {}
            () = received(&mut terminations) => {}
            () = received(&mut hangups) => {}
        }
    }
    Ok(holds)
}

async fn received(signals: &mut Signal) {
    if signals.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
