//! Which keys exist. An unknown one is refused with its place and the nearest key that exists.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::section::{Key, Section};
use super::{Config, Place, Problem};

/// Above this Jaro-Winkler similarity (0 to 1) a key is taken for a slip of another.
const SIMILARITY_MIN: f64 = 0.85;

/// Reads a file as TOML, with the place of everything.
pub(super) fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, Problem> {
    DeTable::parse(text).map_err(|error| Problem::of_toml(text, &error))
}

/// The keys of a file that do not exist, in the file's order.
pub(super) fn unknown_keys(text: &str, table: &DeTable<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    collect_unknown(text, table, Config::KEYS, "", &mut found);
    found.sort_by_key(|problem| problem.place);
    found
}

fn collect_unknown(text: &str, table: &DeTable<'_>, keys: &[Key], path: &str, found: &mut Vec<Problem>) {
    for (name, value) in table {
        let written: &str = name.get_ref();
        match keys.iter().find(|key| key.name == written) {
            None => found.push(Problem {
                place: Some(Place::of(text, &name.span())),
                message: format!("unknown key `{}`{}", join(path, written), advice(written, keys, path)),
            }),
            Some(Key { section: Some(below), .. }) => {
                if let DeValue::Table(table) = value.get_ref() {
                    collect_unknown(text, table, below, &join(path, written), found);
                }
            }
            Some(Key { list: Some(below), .. }) => {
                let DeValue::Array(entries) = value.get_ref() else { continue };
                for entry in entries.iter().filter_map(|entry| entry.get_ref().as_table()) {
                    collect_unknown(text, entry, below, &join(path, written), found);
                }
            }
            Some(_) => {}
        }
    }
}

/// What to write instead: the nearest key of the section, the section that has the key, or what there is.
fn advice(written: &str, keys: &[Key], path: &str) -> String {
    if let Some(near) = nearest(written, keys.iter().map(|key| key.name)) {
        return format!(": did you mean `{}`?", join(path, near));
    }
    let mut all = Vec::new();
    collect_paths(Config::KEYS, "", &mut all);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    if let Some(near) = nearest(written, all.iter().map(|path| last(path)))
        && let Some(elsewhere) = all.iter().find(|path| last(path) == near)
    {
        return format!(": did you mean `{elsewhere}`?");
    }
    let names: Vec<_> = keys.iter().map(|key| format!("`{}`", key.name)).collect();
    format!("; known here are {}", names.join(", "))
}

fn nearest<S: AsRef<str>>(written: &str, names: impl Iterator<Item = S>) -> Option<S> {
    let similarity = |name: &S| strsim::jaro_winkler(written, name.as_ref());
    names
        .filter(|name| similarity(name) >= SIMILARITY_MIN)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
}

fn collect_paths(keys: &[Key], path: &str, all: &mut Vec<String>) {
    for key in keys {
        all.push(join(path, key.name));
        collect_paths(key.section.or(key.list).unwrap_or_default(), &join(path, key.name), all);
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Where a key such as `metering.tick_ms` has its value, if the file gives it one.
pub(super) fn place_of(text: &str, table: &DeTable<'_>, key: &str) -> Option<Place> {
    span_of(table, key).map(|span| Place::of(text, &span))
}

fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (_, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    match (rest, value.get_ref()) {
        (None, _) => Some(value.span()),
        (Some(rest), DeValue::Table(table)) => span_of(table, rest),
        _ => None,
    }
}
