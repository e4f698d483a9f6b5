//! Arrows point down only.

use std::collections::BTreeSet;

use crate::assert_none;
use crate::tree::{File, file, files, rust_files};

/// The modules of the agent from the top down, each with those that it may import. A module's own name need not be
/// there; none may name one that stands above it, except for modules of mere words, which import nothing themselves
/// ([`WORDS`]).
const MODULES: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "address", "calendar", "clock", "config", "control", "database", "export", "host", "http", "ids",
            "ingest", "metering", "process", "proto", "run", "sandbox", "size", "tls", "words",
        ],
    ),
    (
        "run",
        &[
            "address", "clock", "config", "control", "host", "http", "ids", "metering", "metrics", "process",
            "publish", "sandbox", "traces",
        ],
    ),
    (
        "control",
        &[
            "clock", "config", "host", "ids", "metering", "metrics", "proto", "sandbox", "size", "traces",
            "words",
        ],
    ),
    ("http", &["address", "calendar", "clock", "config", "size", "words"]),
    ("export", &[]),
    ("ingest", &["database", "tls"]),
    ("publish", &["clock", "config", "database", "host", "ids", "metering", "sandbox", "tls", "words"]),
    ("metrics", &["config", "sandbox"]),
    ("host", &["clock", "config", "host_memory", "ids", "metering", "process", "sandbox", "size", "words"]),
    ("config", &["ids", "sandbox", "size"]),
    ("sandbox", &["clock", "failpoint", "host_memory", "ids", "metering", "process", "size"]),
    ("metering", &["clock", "failpoint", "ids", "sandbox::command", "sandbox::refusal"]),
    ("process", &["clock"]),
    ("address", &["database"]),
    ("calendar", &[]),
    ("clock", &[]),
    ("database", &["tls"]),
    ("failpoint", &[]),
    ("host_memory", &[]),
    ("ids", &[]),
    ("proto", &[]),
    ("size", &[]),
    ("tls", &[]),
    ("traces", &[]),
    ("words", &[]),
];

/// Modules that only say what things are called: everyone may know them.
const WORDS: &[&str] = &["sandbox::command", "sandbox::refusal"];

/// Code that decides and never acts: no IO, no clock, no runtime, no actor.
const PURE: &[&str] = &["agent/metering/src/", "agent/src/sandbox/machine/", "qmp/src/session/"];

const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "ractor",
    "nix",
    "rusqlite",
    "tonic",
];

/// The crates that a crate of ours may never depend on, not even through one of ours.
const NEVER_DEPENDED_ON: &[(&str, &[&str])] = &[
    ("qmp", &["dormouse", "dormouse-ledger", "dormouse-metering", "ractor", "rusqlite", "tonic"]),
    ("agent/ledger", &["dormouse", "dormouse-qmp", "prost", "ractor", "tokio", "tonic"]),
];

/// The names in a manifest's sections of dependencies, `[dev-dependencies]` left out, each with its line.
fn dependencies(manifest: &File) -> Vec<(usize, String)> {
    let mut counts = false;
    let mut found = Vec::new();
    for (number, line) in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.contains("dependencies") && !section.contains("dev-dependencies");
            if let Some((_, name)) =
                section.trim_end_matches(']').split_once("dependencies.").filter(|_| counts)
            {
                found.push((number, name.to_owned()));
            }
        } else if counts && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or(line);
            found.push((number, name.to_owned()));
        }
    }
    found
}

/// The first two names of the paths that begin with `crate::`, groups in braces included, each with its line.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let names = rest.strip_prefix('{').map_or_else(|| vec![first_names(rest)], names_in_group);
        found.extend(names.into_iter().map(|name| (line, name)));
    }
    found
}

fn first_names(text: &str) -> String {
    let path: String =
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
    let names: Vec<&str> = path.split("::").filter(|name| !name.is_empty()).take(2).collect();
    names.join("::")
}

/// The first names of a `{a::b, c::{d, e}}` whose opening brace has been read.
fn names_in_group(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut item_starts = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_names(&text[item_starts..at]));
                item_starts = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The top module of the agent that a file belongs to; `None` for the crate's roots.
fn module_of(file: &File) -> Option<&str> {
    let inside = file.path.strip_prefix("agent/src/")?;
    let module = inside.split(['/', '.']).next()?;
    (module != "lib" && module != "main").then_some(module)
}

#[test]
fn dormouse_metering_depends_on_nothing_but_std() {
    let manifest = file("agent/metering/Cargo.toml");
    let found = dependencies(manifest);
    let found: Vec<_> = found.into_iter().map(|(line, name)| manifest.at(line, name)).collect();
    assert_none(&found);
}

#[test]
fn dormouse_qmp_knows_none_of_ours_and_the_ledger_no_actor_and_no_grpc() {
    let mut found = Vec::new();
    for (folder, never) in NEVER_DEPENDED_ON {
        let manifest = file(&format!("{folder}/Cargo.toml"));
        for (line, name) in dependencies(manifest) {
            if never.contains(&name.as_str()) {
                found.push(manifest.at(line, format!("{folder} must never depend on {name}")));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn what_decides_does_no_io_and_reads_no_clock() {
    let mut found = Vec::new();
    for source in PURE.iter().flat_map(|folder| rust_files(folder)) {
        if source.stem() == "tests" || source.path.contains("/tests/") {
            continue;
        }
        for (index, line) in source.code_without_tests().lines().enumerate() {
            for word in IMPURE {
                let used = line.match_indices(word).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + word.len()..].chars().next();
                    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
                    !before.is_some_and(part_of_a_name) && !after.is_some_and(part_of_a_name)
                });
                if used {
                    found.push(source.at(index + 1, format!("{word} in code that only decides")));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn no_floating_point_touches_a_quantity() {
    let mut found = Vec::new();
    for source in ["agent/metering/src/", "agent/ledger/src/"].into_iter().flat_map(rust_files) {
        for (index, line) in source.code_without_tests().lines().enumerate() {
            if line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "f32" || word == "f64") {
                found.push(source.at(index + 1, line.trim()));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn arrows_between_modules_point_down_only() {
    let mut found = Vec::new();
    for source in rust_files("agent/src/") {
        let Some(module) = module_of(source) else { continue };
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            found.push(
                source
                    .at(1, format!("give module '{module}' its place in MODULES (tests/e2e/tidy/layers.rs)")),
            );
            continue;
        };
        for (line, path) in crate_paths(&source.code_without_tests()) {
            let name = path.split("::").next().unwrap_or_default();
            if name != module && !allowed.contains(&name) && !allowed.contains(&path.as_str()) {
                found.push(source.at(line, format!("{module} must not import crate::{path}")));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn words_import_nothing_of_the_agent_but_words() {
    let mut found = Vec::new();
    for word in WORDS {
        let source = file(&format!("agent/src/{}.rs", word.replace("::", "/")));
        for (line, path) in crate_paths(&source.code_without_tests()) {
            if !WORDS.contains(&path.as_str()) {
                found.push(source.at(line, format!("crate::{path} in a module of words")));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn only_control_and_the_command_line_speak_grpc() {
    let mut found = Vec::new();
    for source in rust_files("agent/src/") {
        if matches!(module_of(source), None | Some("cli" | "control" | "proto")) {
            continue;
        }
        for (index, line) in source.code_without_tests().lines().enumerate() {
            if line.contains("tonic::") || line.contains("use tonic") || line.contains("prost::") {
                found.push(source.at(index + 1, line.trim()));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn the_table_of_modules_points_down_itself() {
    let mut above = BTreeSet::new();
    for (module, allowed) in MODULES {
        above.insert(module);
        for name in allowed.iter().filter(|name| !WORDS.contains(name)) {
            assert!(!above.contains(name), "{module} may not name {name}, which stands above it");
            assert!(
                MODULES.iter().any(|(module, _)| module == name),
                "{module} names {name}, which is no module"
            );
        }
    }
}

#[test]
fn no_generated_code_is_in_the_tree() {
    let mark = format!("@{}", "generated");
    let mut found = Vec::new();
    for file in files() {
        let generated = file.lines().take(5).any(|(_, line)| line.contains(&mark));
        let by_name = file.path.ends_with(".pb.rs") || file.has_extension("1") || file.stem() == "_dormouse";
        if generated || by_name {
            found.push(file.at(1, "generated code belongs into OUT_DIR or target/"));
        }
    }
    assert_none(&found);
}

#[test]
fn groups_of_imports_are_read_to_their_end() {
    let code = "use crate::{a::B, c::{d, e}, f};\nuse crate::g::H; x::crate_path::i; $crate::j";
    let names: Vec<String> = crate_paths(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a::B", "c", "f", "g::H"]);
}
