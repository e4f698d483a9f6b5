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
    unknown_among(text, table, Config::KEYS)
}

fn unknown_among(text: &str, table: &DeTable<'_>, keys: &[Key]) -> Vec<Problem> {
    let mut found = Vec::new();
    collect_unknown((text, keys), table, keys, "", &mut found);
    found.sort_by_key(|problem| problem.place);
    found
}

/// Of a file with its text and all of its keys, in one table of it.
fn collect_unknown(
    (text, all): (&str, &[Key]),
    table: &DeTable<'_>,
    keys: &[Key],
    path: &str,
    found: &mut Vec<Problem>,
) {
    for (name, value) in table {
        let written: &str = name.get_ref();
        match keys.iter().find(|key| key.name == written) {
            None => found.push(Problem {
                place: Some(Place::of(text, &name.span())),
                message: format!("unknown key `{}`{}", join(path, written), advice(written, keys, path, all)),
            }),
            Some(Key { section: Some(below), .. }) => {
                for table in tables(value.get_ref()) {
                    collect_unknown((text, all), table, below, &join(path, written), found);
                }
            }
            Some(_) => {}
        }
    }
}

/// What is wrong with a file that may have these keys and no others, if anything is: for files beside the configuration.
pub(crate) fn wrong_keys(text: &str, keys: &[Key]) -> Option<Problem> {
    match parse(text) {
        Ok(table) => unknown_among(text, table.get_ref(), keys).into_iter().next(),
        Err(problem) => Some(problem),
    }
}

/// The table that a value is, or those in the list that it is.
fn tables<'a, 'i>(value: &'a DeValue<'i>) -> Vec<&'a DeTable<'i>> {
    let list = value.as_array().into_iter().flatten();
    value.as_table().into_iter().chain(list.filter_map(|item| item.get_ref().as_table())).collect()
}

/// What to write instead: the nearest key of the section, the section that has the key, or what there is.
fn advice(written: &str, keys: &[Key], path: &str, file: &[Key]) -> String {
    if let Some(near) = nearest(written, keys.iter().map(|key| key.name)) {
        return format!(": did you mean `{}`?", join(path, near));
    }
    let mut all = Vec::new();
    collect_paths(file, "", &mut all);
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
        collect_paths(key.section.unwrap_or_default(), &join(path, key.name), all);
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
