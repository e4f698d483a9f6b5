//! How fast events reach real servers, beside one XADD for each event.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use dormouse::clock::Clock;
use dormouse::config::{Config, Sink, SinkKind};
use dormouse::publish::{self, Publisher};
use dormouse_ledger::{Class, Ledger, Record};
use dormouse_tests::servers::{Kind, Server};
use futures_util::StreamExt;
use redis::AsyncCommands;
use redis::streams::{StreamReadOptions, StreamReadReply};
use tokio::runtime::Builder;

use crate::life::{self, Life};
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

const RUNS: usize = 3;
const SANDBOXES: u32 = 64;
/// Between the events of which the way is measured: 1,000 a second.
const APART: Duration = Duration::from_millis(1);
/// Longer than any of it takes.
const DEADLINE: Duration = Duration::from_mins(2);
const KINDS: [(Kind, SinkKind, &str); 2] =
    [(Kind::Nats, SinkKind::Nats, "JetStream"), (Kind::Redis, SinkKind::Redis, "Redis")];

/// The publisher alone, from a ledger that is filled already, and then event by event. Redis syncs its file once a second
/// for both sides of the comparison, and rewrites it for neither: that would come amid the many events of one side, by how
/// long the file has become, and not in the few of the other. `JetStream` writes its file before it acknowledges, and
/// syncs it now and then.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    for (kind, sink, name) in KINDS {
        let (mut rates, mut single) = (Vec::new(), Vec::new());
        for _ in 0..size.pick(1, RUNS) {
            runtime.block_on(async {
                let server = start(kind).await?;
                let stage = Stage::new(sink, &server, size.pick(10, 1_500))?;
                let (rate, publisher) = stage.publishes_all().await?;
                rates.push(rate);
                publisher.stop().await;
                if kind == Kind::Redis {
                    single.push(one_by_one(&server, &stage, size.pick(100, 10_000)).await?);
                }
                Ok::<_, Error>(())
            })?;
        }
        let ratios: Vec<f64> = rates.iter().zip(&single).map(|(batched, single)| batched / single).collect();
        let goal = Some(Goal::AtLeast(50_000.0));
        rows.push(Row::spread(format!("publish: to {name}"), "events/s", rates, goal));
        if !single.is_empty() {
            rows.push(Row::spread("  beside: one XADD for each event", "events/s", single, None));
            rows.push(Row::spread("  times as fast", "", ratios, Some(Goal::AtLeast(10.0))));
        }
        let way = runtime.block_on(way(kind, sink, size.pick(50, 10_000)))?;
        let p99_ms = way.p99().as_secs_f64() * 1e3;
        rows.push(Row::latency(format!("  {name}: commit to consumer, 1,000 events/s"), &way));
        rows.push(Row::single("  of it the 99th percentile", "ms", p99_ms, Some(Goal::AtMost(50.0))));
    }
    Ok(rows)
}

async fn start(kind: Kind) -> Result<Server, Error> {
    const REDIS: &[&str] = &["--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"];
    let more = if kind == Kind::Redis { REDIS } else { &[] };
    Ok(Server::start_with(kind, more).await?)
}

/// A ledger full of events, and what sends them.
struct Stage {
    ledger: Ledger,
    lives: Vec<Life>,
    config: Config,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(kind: SinkKind, server: &Server, slices_each: u32) -> Result<Self, Error> {
        let folder = crate::folder()?;
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite"), &life::host())?;
        let mut lives: Vec<Life> = (0..SANDBOXES).map(Life::begun).collect();
        life::tell(&ledger, &mut lives, slices_each)?;
        let mut config = Config::default();
        config.outbox.retention_ms = 3_650 * 86_400_000;
        config.sinks = vec![Sink { kind, url: server.url(), ..Sink::default() }];
        Ok(Self { ledger, lives, config, _folder: folder })
    }

    /// Events a second from the start of the publisher until the ledger knows that the sink has them all.
    async fn publishes_all(&self) -> Result<(f64, Publisher), Error> {
        let reader = self.ledger.reader()?;
        let watch = Stopwatch::start();
        let (clock, _) = Clock::start(None)?;
        let publisher = publish::start(&self.config, &self.ledger, &life::host(), &clock)?;
        loop {
            let standing = reader.outbox_standing()?;
            let lag: u64 = standing.sinks.iter().map(|sink| sink.lag_events).sum();
            if lag == 0 {
                let rate = figure(standing.last_seq) / watch.wall().as_secs_f64();
                return Ok((rate, publisher));
            }
            if watch.wall() > DEADLINE {
                return Err(format!("{standing:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn figure(count: u64) -> f64 {
    // Exact: a bench makes no 2^32 events.
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// Events a second when each is added and answered before the next.
async fn one_by_one(server: &Server, stage: &Stage, events: usize) -> Result<f64, Error> {
    let events = stage.ledger.reader()?.outbox(0, events)?;
    let mut connection = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let watch = Stopwatch::start();
    for event in &events {
        let fields = [("event", &event.payload[..])];
        connection.xadd::<_, _, _, _, String>("one:by:one", "*", &fields).await?;
    }
    Ok(figure(events.len() as u64) / watch.wall().as_secs_f64())
}

/// How long events take from their commit until a consumer of the server has them.
async fn way(kind: Kind, sink: SinkKind, events: usize) -> Result<Latencies, Error> {
    let server = start(kind).await?;
    let mut stage = Stage::new(sink, &server, 1)?;
    let (_, publisher) = stage.publishes_all().await?;
    let watch = Arc::new(Stopwatch::start());
    let consumer = match kind {
        Kind::Nats => tokio::spawn(from_stream(server.url(), events, Arc::clone(&watch))),
        Kind::Redis => tokio::spawn(from_redis(server.url(), events, Arc::clone(&watch))),
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let committed = commit(&mut stage, events, &watch).await?;
    let arrived = tokio::time::timeout(DEADLINE, consumer).await???;
    publisher.stop().await;
    let pairs = committed.into_iter().zip(arrived);
    Ok(Latencies::new(pairs.map(|(committed, arrived)| arrived.saturating_sub(committed)).collect()))
}

/// Commits events one by one, and says when each was durable.
async fn commit(stage: &mut Stage, events: usize, watch: &Arc<Stopwatch>) -> Result<Vec<Duration>, Error> {
    let times = Arc::new(Mutex::new(Vec::with_capacity(events)));
    let mut ticks = tokio::time::interval(APART);
    let writer = stage.ledger.writer();
    for number in 0..events {
        ticks.tick().await;
        let life = &mut stage.lives[number % SANDBOXES as usize];
        let slice = life.cut();
        let record: Record = life.record(vec![slice], Vec::new());
        let (times, watch) = (Arc::clone(&times), Arc::clone(watch));
        let done = Box::new(move |_| {
            times.lock().unwrap_or_else(PoisonError::into_inner).push(watch.wall());
        });
        writer.submit(Class::Fact, vec![record], done).map_err(|refused| refused.error)?;
    }
    // Behind the last of them: what comes after is written after.
    tokio::task::spawn_blocking(move || writer.write(Class::Fact, Vec::new())).await??;
    let times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(times)
}

async fn from_stream(url: String, events: usize, watch: Arc<Stopwatch>) -> Result<Vec<Duration>, Error> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let consumer = context.get_stream("DORMOUSE").await?;
    let consumer = consumer
        .create_consumer(jetstream::consumer::push::OrderedConfig {
            deliver_subject: "bench.deliver".to_owned(),
            deliver_policy: jetstream::consumer::DeliverPolicy::New,
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.messages().await?;
    let mut arrived = Vec::with_capacity(events);
    while arrived.len() < events {
        messages.next().await.ok_or("the consumer ended")??;
        arrived.push(watch.wall());
    }
    Ok(arrived)
}

async fn from_redis(url: String, events: usize, watch: Arc<Stopwatch>) -> Result<Vec<Duration>, Error> {
    const STREAM: &str = "dormouse:events";
    let unhurried = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&unhurried).await?;
    let options = StreamReadOptions::default().block(10_000);
    let last: redis::streams::StreamInfoStreamReply = connection.xinfo_stream(STREAM).await?;
    let (mut last, mut arrived) = (last.last_generated_id, Vec::with_capacity(events));
    while arrived.len() < events {
        let reply: Option<StreamReadReply> = connection.xread_options(&[STREAM], &[&last], &options).await?;
        let now = watch.wall();
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            arrived.push(now);
            last = entry.id;
        }
    }
    Ok(arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_to_real_servers_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 8);
    }
}
