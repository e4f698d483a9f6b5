//! Saving and loading: what the guest has plugged goes into a file and comes out of it.

use std::path::Path;

use dormouse_qmp::scripted::ScriptedQemu;
use serde_json::{Value, json};

/// Writes the guest's state; the migration is completed then.
pub(crate) fn save(qemu: &ScriptedQemu, path: &Path) {
    qemu.with_model(|model| {
        let memory = &model.virtio_mem;
        let state = json!({ "size": memory.size_bytes, "requested": memory.requested_size_bytes });
        let written = std::fs::write(path, state.to_string());
        model.migrate = outcome(written.map_err(|error| error.to_string()));
        "postmigrate".clone_into(&mut model.run_state);
    });
}

/// Reads it back; the guest stands then.
pub(crate) fn load(qemu: &ScriptedQemu, path: &Path) {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let state = text.and_then(|text| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()));
    qemu.with_model(|model| {
        if let Ok(state) = &state {
            model.virtio_mem.size_bytes = state["size"].as_u64().unwrap_or_default();
            model.virtio_mem.requested_size_bytes = state["requested"].as_u64().unwrap_or_default();
            "paused".clone_into(&mut model.run_state);
        }
        model.migrate = outcome(state.map(drop));
    });
}

fn outcome(result: Result<(), String>) -> Value {
    match result {
        Ok(()) => json!({ "status": "completed", "ram": { "transferred": 64, "total": 64 } }),
        Err(words) => json!({ "status": "failed", "error-desc": words }),
    }
}
