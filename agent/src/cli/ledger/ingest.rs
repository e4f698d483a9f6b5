//! `dormouse ledger ingest`: stores what hosts publish.

use std::process;

use dormouse_ledger::fleet::Ingested;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::config::Config;
use crate::database::Database;
use crate::ingest::{self, JetStream, Options, RedisStream};
use crate::run;
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    queue: QueueArgs,
    /// The name that all instances share: of the durable consumer, or of the consumer group
    #[arg(long, value_name = "NAME", default_value = "fleet-ledger")]
    group: String,
    /// This instance's name in a Redis group, no other's [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// How many events are stored in one transaction at most
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// End once the queue has been empty for a moment
    #[arg(long)]
    drain: bool,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct QueueArgs {
    #[arg(help = "NATS: nats://[USER:PASSWORD@]HOST:PORT, or tls://")]
    #[arg(long, env = "DORMOUSE_NATS_URL", hide_env_values = true, value_name = "URL")]
    nats: Option<String>,
    #[arg(help = "Redis: redis://[USER:PASSWORD@]HOST:PORT, rediss:// or redis+unix:///PATH")]
    #[arg(long, env = "DORMOUSE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
}

pub(super) async fn run(args: Args, database: Database, context: &Context) -> Result<Exit, Failure> {
    let config = Config::load_or_default(None)?;
    run::start_log(&config.log, None);
    let files = database.files.clone();
    let options =
        Options { database, batch_max: usize::try_from(args.batch).unwrap_or(usize::MAX), drain: args.drain };
    let unusable = |error: ingest::QueueError| Failure::new(error.to_string());
    let ingested = if let Some(url) = &args.queue.nats {
        let queue = JetStream::connect(url, &files, &args.group).await.map_err(unusable)?;
        ingest::run(queue, &options, told_to_stop()?).await?
    } else {
        let url = args.queue.redis.unwrap_or_default();
        let instance = match args.instance {
            Some(instance) => instance,
            None => format!("{}-{}", config.host_name()?, process::id()),
        };
        let queue = RedisStream::new(&url, &files, &args.group, &instance).map_err(unusable)?;
        ingest::run(queue, &options, told_to_stop()?).await?
    };
    tell(ingested, context)?;
    Ok(if ingested.quarantined == 0 { Exit::Done } else { Exit::Anomaly })
}

/// Comes true at SIGTERM or SIGINT.
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::new(format!("signals cannot be waited for: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn tell(ingested: Ingested, context: &Context) -> Result<(), Failure> {
    let Ingested { stored, slices, repeated, quarantined } = ingested;
    if context.json {
        return output::print_json(&json!({
            "stored": stored, "slices": slices, "repeated": repeated, "quarantined": quarantined,
        }));
    }
    eprintln!(
        "stored {} ({}); {repeated} stored before, {quarantined} in quarantine",
        counted(stored, "event"),
        counted(slices, "slice")
    );
    Ok(())
}
