//! What is done about each command: by the rules, or as QEMU does where the model knows nothing of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_qmp::scripted::{Command, Step};
use dormouse_tests::scripted::{Does, Rule};
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;

/// The rules, which may change while the process runs.
pub(crate) type Rules = Arc<Mutex<Vec<Rule>>>;

/// What a command sets going beside its reply.
pub(crate) enum Effect {
    /// The guest is to be saved here.
    Save(PathBuf),
    /// The guest is to be loaded from here.
    Load(PathBuf),
    /// QEMU was told to end.
    Quit,
    /// QEMU ends, and has told its client so.
    Exit,
}

/// What a scripted QEMU asks about every command.
pub(crate) fn behaviour(
    rules: Rules,
    effects: UnboundedSender<Effect>,
    migrating: Arc<AtomicBool>,
) -> impl FnMut(&Command) -> Option<Vec<Step>> + Send + 'static {
    move |command| {
        let by_rule = take(&rules, &command.name);
        let carried_out =
            by_rule.as_ref().is_none_or(|does| does.iter().any(|one| matches!(one, Does::Model)));
        if carried_out {
            tell(command, &effects, &migrating);
        }
        let steps = |does: Vec<Does>| does.into_iter().map(|one| step(one, command)).collect();
        let otherwise = || match command.name.as_str() {
            // What the model says is of the migration before.
            "query-migrate" if migrating.load(Ordering::Relaxed) => {
                Some(vec![Step::returns(json!({ "status": "active" }))])
            }
            name => beyond_the_model(name).then(|| vec![Step::returns(json!({}))]),
        };
        by_rule.map(steps).or_else(otherwise)
    }
}

/// Goes by other rules from now on.
pub(crate) fn replace(rules: &Rules, new: Vec<Rule>) {
    *rules.lock().unwrap_or_else(PoisonError::into_inner) = new;
}

fn take(rules: &Rules, command: &str) -> Option<Vec<Does>> {
    let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
    let rule = rules.iter_mut().find(|rule| rule.command == command && rule.times != Some(0))?;
    rule.times = rule.times.map(|times| times - 1);
    Some(rule.does.clone())
}

/// The commands that the model does not know and that always succeed.
fn beyond_the_model(command: &str) -> bool {
    matches!(command, "migrate-set-capabilities" | "migrate" | "migrate-incoming" | "migrate_cancel")
}

fn tell(command: &Command, effects: &UnboundedSender<Effect>, migrating: &AtomicBool) {
    let file = || {
        let uri = command.arguments["uri"].as_str().unwrap_or_default();
        PathBuf::from(uri.trim_start_matches("file:"))
    };
    let effect = match command.name.as_str() {
        "migrate" => Effect::Save(file()),
        "migrate-incoming" => Effect::Load(file()),
        "quit" => Effect::Quit,
        _ => return,
    };
    migrating.store(!matches!(effect, Effect::Quit), Ordering::Relaxed);
    // The process is about to end if nobody listens.
    let _ = effects.send(effect);
}

fn step(does: Does, command: &Command) -> Step {
    match does {
        Does::Model if beyond_the_model(&command.name) => Step::returns(json!({})),
        Does::Model => Step::Model,
        Does::Return(value) => Step::returns(value),
        Does::Refuse(words) => Step::error("GenericError", &words),
        Does::Raw(text) => Step::Raw(text.into_bytes()),
        Does::DelayMs(ms) => Step::Delay(Duration::from_millis(ms)),
        Does::Hang => Step::Hang,
        Does::Close => Step::Close,
    }
}
