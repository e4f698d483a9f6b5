//! The process behind [`dormouse_tests::staged_host`]: a ledger that is given a life, and its publisher, in the folder of the
//! first argument. It does what lines of standard input say, and ends with that.

use std::io::Write;
use std::path::PathBuf;

use dormouse_ledger::HostName;
use dormouse_tests::stage::Stage;
use dormouse_tests::staged_host::{Identity, Order};
use tokio::task::block_in_place;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("there is no folder")?);
    let identity: Identity = serde_json::from_str(&arguments.next().ok_or("it is nobody")?)?;
    let Identity { name, sink, unit_slices } = identity;
    let host = HostName { cell: "cell".to_owned(), host: name };
    let mut stage = Stage::in_folder(&folder, host, vec![sink]);
    let mut orders = std::io::stdin().lines();
    while let Some(line) = block_in_place(|| orders.next()).transpose()? {
        match serde_json::from_str(&line)? {
            Order::Commit(units) => {
                for _ in 0..units {
                    block_in_place(|| stage.commit(unit_slices));
                }
            }
            Order::Complete(hour_unix_ns) => stage.complete(hour_unix_ns),
            Order::StopPublisher { in_order } => {
                if let Some(publisher) = stage.publisher.take()
                    && in_order
                {
                    publisher.stop().await;
                }
            }
            Order::Publish => stage.publish_again().await,
        }
        writeln!(std::io::stdout())?;
    }
    Ok(())
}
