//! A configuration as a TOML file that explains every key.

use std::fmt::Write;

use toml::{Table, Value};

use super::Config;
use super::section::{Key, Section};

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
    for key in keys.iter().filter(|key| key.section.is_none()) {
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
        let Some(below) = key.section else { continue };
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match values.get(key.name) {
            Some(Value::Table(values)) => {
                out.push('\n');
                write_doc(out, key.doc);
                append(out, format_args!("[{path}]\n"));
                write_section(out, below, values, &path);
            }
            Some(Value::Array(rows)) => write_list(out, key, below, rows, &path),
            _ => {}
        }
    }
}

/// A list of tables. An empty one is explained by a table in comments.
fn write_list(out: &mut String, key: &Key, keys: &[Key], rows: &[Value], path: &str) {
    out.push('\n');
    write_doc(out, key.doc);
    if rows.is_empty() {
        append(out, format_args!("#[[{path}]]\n"));
        for key in keys {
            out.push('\n');
            write_doc(out, key.doc);
            append(out, format_args!("#{} =\n", key.name));
        }
    }
    for (at, row) in rows.iter().filter_map(Value::as_table).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        append(out, format_args!("[[{path}]]\n"));
        write_section(out, keys, row, path);
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
