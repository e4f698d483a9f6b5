//! What every command has: the socket, the format of its output, and the way to the agent.

use std::path::PathBuf;

use tonic::transport::Channel;
use tonic::{Response, Status};

use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use super::{json, output, progress, show};
use crate::calendar::duration;
use crate::clock::Clock;
use crate::ids::new_request_id;
use crate::proto::control_client::ControlClient;
use crate::proto::{CommandHeader, CommandReply, command_reply};

/// The client of the control service.
pub(super) type Agent = ControlClient<Channel>;

/// What every command has.
pub(super) struct Context {
    /// Where the agent listens.
    pub(super) socket: PathBuf,
    /// Whether output is for a program.
    pub(super) json: bool,
}

impl Context {
    /// The agent.
    pub(super) async fn agent(&self) -> Result<Agent, Failure> {
        crate::control::client(&self.socket).await.map_err(|error| Failure::unreachable(&self.socket, &error))
    }

    /// Asks the agent for a command and prints its reply.
    pub(super) async fn carry_out<C>(&self, asked: &Asked, call: C) -> Result<Exit, Failure>
    where
        C: AsyncFnOnce(Agent, CommandHeader) -> Result<Response<CommandReply>, Status>,
    {
        let (client, header) = (self.agent().await?, header(asked)?);
        let request_id = header.request_id.clone();
        let reply = call(client, header)
            .await
            .map_err(|status| Failure::of_status(&status).of_request(&request_id))?
            .into_inner();
        self.print_reply(&reply)
    }

    /// Does the same for a command that takes long: shows how far it is, where a person looks on.
    pub(super) async fn carry_out_long<C>(&self, asked: &Asked, call: C) -> Result<Exit, Failure>
    where
        C: AsyncFnOnce(Agent, CommandHeader) -> Result<Response<CommandReply>, Status>,
    {
        if !progress::is_shown() {
            return self.carry_out(asked, call).await;
        }
        let watcher = self.agent().await?;
        let key = asked.target.key();
        self.carry_out(asked, async |client, header| {
            let request_id = header.request_id.clone();
            progress::beside(watcher, key, &request_id, call(client, header)).await
        })
        .await
    }

    fn print_reply(&self, reply: &CommandReply) -> Result<Exit, Failure> {
        if self.json {
            output::print_json(&json::reply(reply))?;
        } else {
            output::print(&describe(reply))?;
        }
        Ok(Exit::Done)
    }

    /// What the wall clock says, in nanoseconds since the Unix epoch.
    pub(super) fn now_unix_ns() -> Result<i64, Failure> {
        let (clock, _) = Clock::start(None).map_err(|error| Failure::new(error.to_string()))?;
        Ok(clock.now().wall_ns)
    }
}

/// The header of a command. The request id is made up here and not by the agent, so that whoever learns no outcome
/// can ask for it again.
fn header(asked: &Asked) -> Result<CommandHeader, Failure> {
    let request_id = match &asked.request_id {
        Some(request_id) => request_id.clone(),
        None => new_request_id()
            .map_err(|error| Failure::new(format!("the kernel gives no random number: {error}")))?,
    };
    let deadline_ms = asked.deadline.unwrap_or_default();
    Ok(CommandHeader { key: Some(asked.target.key()), request_id, deadline_ms })
}

fn describe(reply: &CommandReply) -> String {
    let result = match reply.result() {
        command_reply::Result::Unspecified => "answered",
        command_reply::Result::Done => "done",
        command_reply::Result::Partial => "partly done",
        command_reply::Result::Unchanged => "nothing to do",
    };
    let sandbox = reply.sandbox.as_ref().map(show::in_short).unwrap_or_default();
    let message = if reply.message.is_empty() { String::new() } else { format!(": {}", reply.message) };
    let replayed = if reply.replayed { ", stored outcome of an earlier request" } else { "" };
    format!("{result} in {}{replayed}{message}\n{sandbox}\n", duration(reply.duration_ns))
}
