//! Asks QEMU for everything: after connecting, and whenever events were missed.

use std::path::{Path, PathBuf};

use dormouse_qmp::{Client, Position, QmpError, Schema};
use serde_json::{Value, json};

use super::act::with_cause;
use super::environment::{Environment, SchemaCache};
use crate::process::CommandLine;
use crate::sandbox::facts::{Capabilities, Disk, MemoryBackend, MemoryDevice, QemuVersion, Survey};

/// Asks all that a survey asks, and says where among the events the sizes of memory devices came. What QEMU answers in
/// another form than expected counts as absent.
pub(super) async fn survey(
    client: &Client,
    version: QemuVersion,
    pid: i32,
    command_line: Result<CommandLine, String>,
    environment: &Environment,
) -> Result<(Survey, Position), QmpError> {
    let status = ask(client, "query-status").await?;
    let vcpus = ask(client, "query-cpus-fast").await?;
    let memory = ask(client, "query-memory-size-summary").await?;
    let (devices, sized) = client.execute_placed("query-memory-devices", Value::Null).await;
    let devices = devices?;
    let backends = backends(client).await?;
    let block = ask(client, "query-block").await?;
    // Without a command line another user's QEMU is told apart by its version alone.
    let exe = command_line.as_ref().map(|line| line.exe.clone()).unwrap_or_default();
    let binary = (exe, version.to_string());
    let vcpus = u32::try_from(vcpus.as_array().map_or(0, Vec::len)).unwrap_or(u32::MAX);
    let survey = Survey {
        version,
        pid,
        run_state: status["status"].as_str().unwrap_or_default().to_owned(),
        vcpus_milli: vcpus.saturating_mul(1000),
        vcpu_limit_milli: environment.cpu_groups.limit_milli(pid).map_err(|error| {
            let error = with_cause(&error);
            tracing::warn!(pid, error, "the limit on CPU time cannot be read, and counts as it was");
            error
        }),
        memory_base_bytes: memory["base-memory"].as_u64().unwrap_or(0),
        memory_devices: MemoryDevice::list(&devices),
        backends,
        disks: Disk::list(&block),
        capabilities: capabilities(client, binary, &environment.schemas).await?,
        command_line,
    };
    Ok((survey, sized))
}

async fn ask(client: &Client, command: &str) -> Result<Value, QmpError> {
    client.execute_raw(command, Value::Null).await
}

async fn capabilities(
    client: &Client,
    binary: (PathBuf, String),
    schemas: &SchemaCache,
) -> Result<Capabilities, QmpError> {
    if let Some(known) = schemas.get(&binary) {
        return Ok(known);
    }
    let schema = Schema::probe(client).await?;
    let capabilities = Capabilities {
        snapshot_jobs: schema.has_command("snapshot-save") && schema.has_command("snapshot-load"),
        ignore_shared: schema.has_migration_capability("x-ignore-shared"),
        mapped_ram: schema.has_migration_capability("mapped-ram"),
    };
    schemas.put(binary, capabilities);
    Ok(capabilities)
}

async fn backends(client: &Client) -> Result<Vec<MemoryBackend>, QmpError> {
    let listed = ask(client, "query-memdev").await?;
    let mut backends = Vec::new();
    for backend in listed.as_array().map(Vec::as_slice).unwrap_or_default() {
        let id = backend["id"].as_str().unwrap_or_default().to_owned();
        let share = backend["share"].as_bool().unwrap_or(false);
        let size_bytes = backend["size"].as_u64().unwrap_or(0);
        let property = json!({"path": format!("/objects/{id}"), "property": "mem-path"});
        let path = match client.execute_raw("qom-get", property).await {
            // A folder (of huge pages, say) is where QEMU makes a file that goes with it.
            Ok(path) => path.as_str().filter(|path| Path::new(path).is_file()).map(str::to_owned),
            // Only a backend in a file has the property.
            Err(QmpError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        backends.push(MemoryBackend { id, share, path, size_bytes });
    }
    Ok(backends)
}
