//! What this QEMU can do, by its own schema rather than by its version.
//!
//! `query-qmp-schema` is one line of 236 KB: ask once per QEMU binary and keep the answer.

use std::collections::HashMap;

use qapi_qmp::query_qmp_schema;
use qapi_spec::Command;
use serde::Deserialize;
use serde_json::Value;

use crate::error::QmpError;
use crate::transport::Client;

/// A QEMU's schema. Its types bear numbers for names, so that questions start at a command or an event.
#[derive(Debug, Clone)]
pub struct Schema {
    entities: HashMap<String, Entity>,
}

/// Types nest a few levels deep; more is a schema that refers to itself.
const DEPTH_MAX: u32 = 32;

impl Schema {
    /// Asks QEMU for its schema.
    pub async fn probe(client: &Client) -> Result<Self, QmpError> {
        let schema = client.execute_raw(query_qmp_schema::NAME, Value::Null).await?;
        Self::from_reply(schema).map_err(|source| QmpError::UnexpectedReturn {
            command: query_qmp_schema::NAME.to_owned(),
            source,
        })
    }

    /// Reads what `query-qmp-schema` returned.
    pub fn from_reply(reply: Value) -> Result<Self, serde_json::Error> {
        let entities = Vec::<NamedEntity>::deserialize(reply)?;
        Ok(Self { entities: entities.into_iter().map(|named| (named.name, named.entity)).collect() })
    }

    /// Whether there is a command of this name, such as `snapshot-save`.
    pub fn has_command(&self, command: &str) -> bool {
        matches!(self.entities.get(command), Some(Entity::Command { .. }))
    }

    /// Whether there is an event of this name, such as `MEMORY_DEVICE_SIZE_CHANGE`.
    pub fn has_event(&self, event: &str) -> bool {
        matches!(self.entities.get(event), Some(Entity::Event))
    }

    /// Whether the command takes an argument of this name, in any variant of its arguments.
    pub fn command_has_arg(&self, command: &str, argument: &str) -> bool {
        self.argument_type(command).is_some_and(|arg_type| self.has_member(arg_type, argument, DEPTH_MAX))
    }

    /// Whether the enumeration at the end of a path through the command's arguments has this value: at path
    /// `["capabilities", "capability"]` of `migrate-set-capabilities` are the migration capabilities. Arrays,
    /// alternates and variants on the way are passed through.
    pub fn argument_enum_has(&self, command: &str, path: &[&str], value: &str) -> bool {
        self.argument_type(command).is_some_and(|arg_type| self.enum_has(arg_type, path, value, DEPTH_MAX))
    }

    /// Whether migration can be asked for this capability, such as `mapped-ram` or `x-ignore-shared`.
    pub fn has_migration_capability(&self, capability: &str) -> bool {
        self.argument_enum_has("migrate-set-capabilities", &["capabilities", "capability"], capability)
    }

    fn argument_type(&self, command: &str) -> Option<&str> {
        match self.entities.get(command) {
            Some(Entity::Command { arg_type }) => Some(arg_type),
            _ => None,
        }
    }

    fn has_member(&self, object: &str, member: &str, depth_left: u32) -> bool {
        let Some(Entity::Object { members, variants }) = self.entities.get(object) else { return false };
        depth_left > 0
            && (members.iter().any(|it| it.name == member)
                || variants.iter().any(|it| self.has_member(&it.of_type, member, depth_left - 1)))
    }

    fn enum_has(&self, of_type: &str, path: &[&str], value: &str, depth_left: u32) -> bool {
        let Some(depth_left) = depth_left.checked_sub(1) else { return false };
        match (self.entities.get(of_type), path) {
            (Some(Entity::Enum { values }), []) => values.iter().any(|it| it == value),
            (Some(Entity::Array { element_type }), _) => self.enum_has(element_type, path, value, depth_left),
            (Some(Entity::Alternate { members }), _) => {
                members.iter().any(|it| self.enum_has(&it.of_type, path, value, depth_left))
            }
            (Some(Entity::Object { members, variants }), [name, rest @ ..]) => {
                members
                    .iter()
                    .any(|it| it.name == *name && self.enum_has(&it.of_type, rest, value, depth_left))
                    || variants.iter().any(|it| self.enum_has(&it.of_type, path, value, depth_left))
            }
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct NamedEntity {
    name: String,
    #[serde(flatten)]
    entity: Entity,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "meta-type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
enum Entity {
    Command {
        arg_type: String,
    },
    Event,
    Enum {
        values: Vec<String>,
    },
    Array {
        element_type: String,
    },
    Object {
        members: Vec<Member>,
        #[serde(default)]
        variants: Vec<Branch>,
    },
    Alternate {
        members: Vec<Branch>,
    },
    #[serde(other)]
    Builtin,
}

#[derive(Debug, Clone, Deserialize)]
struct Member {
    name: String,
    #[serde(rename = "type")]
    of_type: String,
}

/// One type among several, of a union or an alternate.
#[derive(Debug, Clone, Deserialize)]
struct Branch {
    #[serde(rename = "type")]
    of_type: String,
}
