//! The whole agent, without a process of its own: what it costs is measured in the profile that the bench is built in.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use dormouse::clock::Clock;
use dormouse::config::{Config, Starter};
use dormouse::control::{self, Serving};
use dormouse::host;
use dormouse::proto::{AttachRequest, CommandHeader, SandboxKey};
use dormouse::publish::{self, Publisher};
use dormouse_ledger::Ledger;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::{Error, life};

/// An agent at work.
pub(crate) struct Agent {
    /// Asks it by its socket.
    pub(crate) client: dormouse::proto::control_client::ControlClient<Channel>,
    running: host::Running,
    publisher: Publisher,
    stop: tokio::sync::oneshot::Sender<()>,
    ledger: Ledger,
    requests: u32,
}

impl Agent {
    /// Starts one whose files are all in `folder`, wherever the configuration has them.
    pub(crate) fn start(runtime: &Runtime, folder: &Path, config: Config) -> Result<Self, Error> {
        let mut config = Config {
            state_dir: folder.join("state"),
            run_dir: folder.join("run"),
            socket: folder.join("control"),
            ..config
        };
        // The same on every machine, whether it has a systemd or not.
        config.launch.by = Starter::Session;
        std::fs::create_dir_all(&config.state_dir)?;
        let ledger = Ledger::open(&config.ledger_path(), &life::host())?;
        runtime.block_on(async {
            let entrance = control::Entrance::open(&config).await?;
            let running = host::start(&config, &ledger).await?;
            let (clock, _) = Clock::start(None)?;
            let publisher = publish::start(&config, &ledger, &life::host(), &clock)?;
            let client = control::client(&config.socket);
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let (host, writer) = (running.handle.clone(), ledger.writer());
            let serving = Serving {
                host,
                config: Arc::new(config.clone()),
                clock,
                ledger: writer,
                metrics: Arc::default(),
            };
            tokio::spawn(control::serve(entrance, serving, async {
                let _ = stopped.await;
            }));
            let client = client.await?;
            Ok(Self { client, running, publisher, stop, ledger, requests: 0 })
        })
    }

    /// The header of the next command for a sandbox.
    pub(crate) fn header(&mut self, sandbox: &str) -> CommandHeader {
        self.requests += 1;
        let key = Some(SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() });
        CommandHeader { key, request_id: self.last_request_id(), deadline_ms: 60_000 }
    }

    /// The id of the command whose header was made last.
    pub(crate) fn last_request_id(&self) -> String {
        format!("request-{}", self.requests)
    }

    /// Attaches what listens there.
    pub(crate) fn attach(&mut self, runtime: &Runtime, sandbox: &str, qmp: &Path) -> Result<(), Error> {
        let request = AttachRequest {
            header: Some(self.header(sandbox)),
            qmp_path: qmp.display().to_string(),
            plan: "default".to_owned(),
            tags: HashMap::default(),
        };
        runtime.block_on(self.client.attach(request))?;
        Ok(())
    }

    /// Ends it, and leaves every guest alone.
    pub(crate) fn stop(self, runtime: &Runtime) {
        let _ = self.stop.send(());
        runtime.block_on(self.running.stop());
        runtime.block_on(self.publisher.stop());
        drop(self.ledger);
    }
}
