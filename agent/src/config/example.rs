//! A configuration as a TOML file that explains every key.

use std::fmt::Write;

use toml::{Table, Value};

use super::section::{Key, Section};
use super::{Config, Sink};

const HEADER: &str = "\
# The configuration of dormouse. `dormouse check-config` says whether a changed file is right.
# Durations are in milliseconds (_ms) and sizes in bytes (_bytes).
";

/// Writes a configuration with the explanation of every key. Keys that are not set are written as comments.
pub(super) fn render(config: &Config) -> String {
    let mut out = HEADER.to_owned();
    // A configuration is made of strings, integers, booleans and lists of them: all of that is TOML.
    let values = Table::try_from(config).unwrap_or_default();
    write_section(&mut out, Config::KEYS, &values, "");
    out
}

fn write_section(out: &mut String, keys: &[Key], values: &Table, path: &str) {
    for key in keys.iter().filter(|key| key.section.is_none() && key.list.is_none()) {
        if !key.doc.is_empty() {
            out.push('\n');
        }
        write_doc(out, key.doc);
        match values.get(key.name) {
            Some(value) => append(out, format_args!("{} = {value}\n", key.name)),
            None => append(out, format_args!("#{} =\n", key.name)),
        }
    }
    for key in keys {
        let (Some(below), Some(Value::Table(values))) = (key.section, values.get(key.name)) else { continue };
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        out.push('\n');
        write_doc(out, key.doc);
        append(out, format_args!("[{path}]\n"));
        write_section(out, below, values, &path);
    }
    for key in keys {
        let (Some(below), Some(Value::Array(entries))) = (key.list, values.get(key.name)) else { continue };
        out.push('\n');
        write_doc(out, key.doc);
        for entry in entries.iter().filter_map(Value::as_table) {
            append(out, format_args!("[[{}]]\n", key.name));
            write_section(out, below, entry, key.name);
        }
        if entries.is_empty() {
            write_commented(out, key.name, below);
        }
    }
}

/// What an entry of an empty list would look like.
fn write_commented(out: &mut String, name: &str, below: &[Key]) {
    let mut entry = String::new();
    let defaults = Table::try_from(Sink::default()).unwrap_or_default();
    write_section(&mut entry, below, &defaults, name);
    append(out, format_args!("#[[{name}]]\n"));
    for line in entry.lines() {
        append(
            out,
            format_args!("{}{line}\n", if line.is_empty() || line.starts_with('#') { "" } else { "#" }),
        );
    }
}

fn write_doc(out: &mut String, doc: &[&str]) {
    for line in doc {
        append(out, format_args!("#{line}\n"));
    }
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}
