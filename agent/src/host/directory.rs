//! Which sandboxes there are, and how to reach their actors.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use ractor::ActorRef;

use crate::sandbox::actor::Message;
use crate::sandbox::command::SandboxKey;
use crate::sandbox::view::{SandboxView, Shown};

/// One sandbox's actor, and what it shows.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) actor: ActorRef<Message>,
    pub(super) view: Shown,
}

impl Entry {
    /// Whether its life is over: one that is about to go is as good as gone.
    pub(super) fn has_ended(&self) -> bool {
        let view = self.view.look();
        view.generation != 0 && !view.lives()
    }
}

/// The sandboxes of the host. The lock is held only to look up or change an entry, never across an await.
#[derive(Clone, Default)]
pub(super) struct Directory(Arc<RwLock<BTreeMap<SandboxKey, Entry>>>);

impl Directory {
    pub(super) fn get(&self, key: &SandboxKey) -> Option<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn insert(&self, key: SandboxKey, entry: Entry) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, entry);
    }

    /// Removes an entry, unless another actor has taken its place.
    pub(super) fn remove(&self, key: &SandboxKey, actor: &ractor::ActorId) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if entries.get(key).is_some_and(|entry| entry.actor.get_id() == *actor) {
            entries.remove(key);
        }
    }

    pub(super) fn views(&self) -> Vec<SandboxView> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.view.get()).collect()
    }
}
