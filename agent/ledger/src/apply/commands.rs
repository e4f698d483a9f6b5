//! Commands: what was asked for and what became of it.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::Apply;
use crate::encode::int;
use crate::reader::commands::{COMMAND, command_row};
use crate::{CommandIntent, CommandOutcome, CommandRow, LedgerError, OutcomeStatus};

const INTENT: &str = "INSERT INTO commands (org, request_id, sandbox, generation, kind, payload, payload_hash, \
     asked_by, deadline_unix_ns, intent_boot, intent_boottime_ns, intent_unix_ns) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

const OUTCOME: &str = "UPDATE commands SET outcome_status = ?3, outcome_reason = ?4, outcome_detail = ?5, \
     outcome_boot = ?6, outcome_boottime_ns = ?7, outcome_unix_ns = ?8 WHERE org = ?1 AND request_id = ?2";

impl Apply<'_> {
    fn command(&self, org: &str, request_id: &str) -> Result<Option<CommandRow>, LedgerError> {
        let mut find = self.conn.prepare_cached(COMMAND)?;
        Ok(find.query_row((org, request_id), command_row).optional()?)
    }

    /// Stores an intent, or answers with the command that already has its request id.
    pub(super) fn intent(&self, intent: &CommandIntent) -> Result<Option<CommandRow>, LedgerError> {
        let hash = payload_hash(&intent.kind, &intent.sandbox, &intent.payload);
        if let Some(known) = self.command(&intent.org, &intent.request_id)? {
            return if known.payload_hash == hash {
                Ok(Some(known))
            } else {
                let (org, request_id) = (intent.org.clone(), intent.request_id.clone());
                Err(LedgerError::RequestIdReused { org, request_id })
            };
        }
        self.conn.prepare_cached(INTENT)?.execute(params![
            intent.org,
            intent.request_id,
            intent.sandbox,
            intent.generation,
            intent.kind,
            intent.payload.to_string(),
            hash,
            intent.asked_by,
            intent.deadline_unix_ns,
            intent.at.boot.0,
            int("boottime_ns", intent.at.boottime_ns)?,
            intent.at.wall_ns,
        ])?;
        Ok(None)
    }

    pub(super) fn outcome(&self, outcome: &CommandOutcome) -> Result<(), LedgerError> {
        let (org, request_id) = (&outcome.org, &outcome.request_id);
        let known = self.command(org, request_id)?.ok_or_else(|| LedgerError::UnknownCommand {
            org: org.clone(),
            request_id: request_id.clone(),
        })?;
        match known.outcome {
            Some(had) if had.status != OutcomeStatus::Unknown => {
                let same = had.status == outcome.status
                    && had.reason == outcome.reason
                    && had.detail == outcome.detail;
                let what = format!("outcome of request {request_id} of {org}");
                return if same { Ok(()) } else { Err(LedgerError::Conflict { what }) };
            }
            _ => {}
        }
        self.conn.prepare_cached(OUTCOME)?.execute(params![
            org,
            request_id,
            outcome.status.as_str(),
            outcome.reason,
            outcome.detail.to_string(),
            outcome.at.boot.0,
            int("boottime_ns", outcome.at.boottime_ns)?,
            outcome.at.wall_ns,
        ])?;
        Ok(())
    }
}

/// BLAKE3 of what makes two requests the same: the kind, the sandbox, and the payload in canonical JSON.
fn payload_hash(kind: &str, sandbox: &str, payload: &Value) -> [u8; 32] {
    let mut text = String::new();
    canonical(&Value::from(vec![Value::from(kind), Value::from(sandbox), payload.clone()]), &mut text);
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// Writes JSON with the keys of every object in order, whatever order they came in.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (key, field) in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(field, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_payload_hash_does_not_depend_on_the_order_of_keys() {
        let one = payload_hash("scale", "sb", &json!({"a": 1, "b": {"c": [1, 2], "d": null}}));
        let parsed: Value = serde_json::from_str(r#"{"b": {"d": null, "c": [1,2]}, "a": 1}"#).unwrap();
        assert_eq!(one, payload_hash("scale", "sb", &parsed));
        assert_ne!(one, payload_hash("pause", "sb", &parsed));
        assert_ne!(one, payload_hash("scale", "sc", &parsed));
        assert_ne!(one, payload_hash("scale", "sb", &json!({"a": 1, "b": {"c": [2, 1], "d": null}})));
    }
}
