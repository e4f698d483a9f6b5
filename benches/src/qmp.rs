//! QMP round trips through dormouse-qmp, beside a bare socket on the same QEMU: a line written, a line read.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse_qmp::{Client, Config, Connection};
use dormouse_tests::paths::{QemuVersion, qemu};
use dormouse_tests::wait;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::report::{Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

/// `query-status` on a QEMU without a guest, in turns of fifty each.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(size))
}

async fn measure(size: Size) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let sockets = [folder.path().join("client"), folder.path().join("bare")];
    let _qemu = start_qemu(&sockets)?;
    let connection = wait::until("QEMU's QMP socket", Duration::from_secs(20), async || {
        Connection::connect(&sockets[0], Config::default()).await
    })
    .await?;
    let mut bare = Bare::connect(&sockets[1])?;
    let (mut by_client, mut by_bare) = (Vec::new(), Vec::new());
    for turn in 0..size.pick(2, 101) {
        let client_times = fifty_by_client(&connection.client).await?;
        let bare_times = (0..50)
            .map(|_| {
                let watch = Stopwatch::start();
                bare.ask("{\"execute\":\"query-status\"}").map(|()| watch.wall())
            })
            .collect::<Result<Vec<_>, _>>()?;
        // The first turn only warms up.
        if turn > 0 {
            by_client.extend(client_times);
            by_bare.extend(bare_times);
        }
    }
    Ok(vec![
        Row::latency("qmp: round trip through dormouse-qmp", &Latencies::new(by_client)),
        Row::latency("  beside: bare socket, same QEMU", &Latencies::new(by_bare)),
    ])
}

async fn fifty_by_client(client: &Client) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let watch = Stopwatch::start();
        client.execute_raw("query-status", Value::Null).await?;
        times.push(watch.wall());
    }
    Ok(times)
}

/// A QEMU without a guest, killed when it is dropped.
fn start_qemu(sockets: &[std::path::PathBuf; 2]) -> Result<Child, Error> {
    let mut command = Command::new(qemu(QemuVersion::V10)?);
    command.args(["-nodefaults", "-display", "none", "-machine", "none", "-S"]);
    for socket in sockets {
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    }
    Ok(command.stdin(Stdio::null()).kill_on_drop(true).spawn()?)
}

/// QMP with nothing around it.
pub(crate) struct Bare(BufReader<UnixStream>);

impl Bare {
    /// Connects and negotiates.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut bare = Self(BufReader::new(stream));
        bare.line()?;
        bare.ask("{\"execute\":\"qmp_capabilities\"}")?;
        Ok(bare)
    }

    /// Sends a command and reads its reply, past events.
    pub(crate) fn ask(&mut self, command: &str) -> Result<(), Error> {
        self.reply(command).map(drop)
    }

    /// Sends a command; the line with its reply.
    pub(crate) fn reply(&mut self, command: &str) -> Result<String, Error> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let line = self.line()?;
            if line.starts_with("{\"error\"") {
                return Err(format!("{command}: {line}").into());
            }
            if line.starts_with("{\"return\"") {
                return Ok(line);
            }
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err("QEMU closed the connection".into());
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qmp_round_trips_are_measured_beside_a_bare_socket() {
        assert_eq!(run(Size::Small).unwrap().len(), 2);
    }
}
