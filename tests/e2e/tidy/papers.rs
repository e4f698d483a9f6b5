//! What the papers say exists, exists; and what exists is in the papers.

use std::collections::BTreeSet;

use dormouse::cli::EXIT_CODES;
use dormouse::config::Config;
use dormouse::sandbox::refusal::Reason;

use crate::tree::{File, file, files, root, rust_files};
use crate::{INVARIANTS_NOT_YET, assert_none};

const INVARIANTS: [&str; 13] = ["M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M9", "L1", "L2", "S1", "S2"];

/// The rows of the tables of a Markdown file, as their cells, with their line.
fn rows(file: &File) -> Vec<(usize, Vec<&str>)> {
    let rows = file.lines().filter_map(|(number, line)| {
        let inside = line.strip_prefix('|')?.strip_suffix('|')?;
        Some((number, inside.split('|').map(str::trim).collect()))
    });
    rows.collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every test of the project.
fn tests() -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for file in rust_files("") {
        let code = file.code();
        if code.contains("fn $test") {
            // Functions that a macro makes tests of, by a list of their names.
            names.extend(code.lines().filter_map(|line| line.trim().strip_suffix(',')).map(str::to_owned));
        }
        for (at, _) in code.match_indices("fn ") {
            // What stands between it and what comes before it, its attributes among that.
            let before = code[..at].rfind(['}', '{', ';']).map_or(0, |end| end + 1);
            if code[before..at].contains("#[test]") || code[before..at].contains("#[tokio::test") {
                names.insert(
                    code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
                );
            }
        }
    }
    names
}

/// What is wrong with a table of two cells, the second of which names tests.
fn wrong_in_table(page: &File, first_heading: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let from = rows(page).into_iter().skip_while(|(_, cells)| cells[0] != first_heading);
    // A table ends where a line is none of it.
    let table = from.enumerate().scan(0, |first, (index, row)| {
        *first = if index == 0 { row.0 } else { *first };
        (row.0 == *first + index).then_some(row)
    });
    let lines: Vec<_> = table.skip(2).collect();
    if lines.is_empty() {
        return vec![page.at(1, format!("there is no table of each {first_heading} with its test"))];
    }
    let mut found = Vec::new();
    for (line, cells) in lines {
        let mut named = quoted(cells.get(1).copied().unwrap_or_default()).peekable();
        if named.peek().is_none() {
            found.push(page.at(line, format!("no test for: {}", cells[0])));
        }
        found.extend(
            named
                .filter(|test| !tests.contains(*test))
                .map(|test| page.at(line, format!("there is no test {test}"))),
        );
    }
    found
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let architecture = file("ARCHITECTURE.md");
    let known = tests();
    let mut found = Vec::new();
    for id in INVARIANTS {
        let row = rows(architecture).into_iter().find(|(_, cells)| cells[0].trim_end_matches('*') == id);
        let Some((line, cells)) = row else {
            found.push(architecture.at(1, format!("{id} has no line in the table of invariants")));
            continue;
        };
        let tests: Vec<&str> = quoted(cells.get(2).copied().unwrap_or_default()).collect();
        for test in tests.iter().filter(|test| !known.contains(**test)) {
            found.push(architecture.at(line, format!("{id}: there is no test {test}")));
        }
        match (tests.is_empty(), INVARIANTS_NOT_YET.contains(&id)) {
            (true, false) => found.push(architecture.at(line, format!("{id} names no test"))),
            (false, true) => {
                found.push(architecture.at(line, format!("{id} has a test: take it off INVARIANTS_NOT_YET")));
            }
            (true, true) if !cells[2].contains("not yet") => {
                found.push(architecture.at(line, format!("{id} has no test, and does not say `not yet`")));
            }
            _ => {}
        }
    }
    assert_none(&found);
}

#[test]
fn every_feature_of_the_readme_names_a_test_that_exists() {
    assert_none(&wrong_in_table(file("README.md"), "feature", &tests()));
}

#[test]
fn every_failure_and_every_fault_of_the_architecture_names_a_test_that_exists() {
    let (architecture, tests) = (file("ARCHITECTURE.md"), tests());
    let mut found = wrong_in_table(architecture, "failure", &tests);
    found.extend(wrong_in_table(architecture, "fault", &tests));
    assert_none(&found);
}

#[test]
fn every_reason_code_is_explained_with_its_grpc_code_and_no_other_is() {
    let page = file("packaging/reasons.md");
    let rows = rows(page);
    let mut found = Vec::new();
    for reason in Reason::ALL {
        let name = format!("`{}`", reason.as_str());
        let Some((line, cells)) = rows.iter().find(|(_, cells)| cells[0] == name) else {
            found.push(page.at(1, format!("{name} is not explained")));
            continue;
        };
        let code = upper_snake(&format!("{:?}", reason.status()));
        if cells.len() != 4 || cells[1] != code || cells[2].is_empty() || cells[3].is_empty() {
            found.push(page.at(*line, format!("{name} needs: {code}, what it means, what to do")));
        }
    }
    for (line, cells) in &rows {
        let of_commands = Reason::ALL.iter().map(|reason| reason.as_str());
        let of_http = dormouse::http::Reason::ALL.iter().map(|reason| reason.as_str());
        let known = of_commands.chain(of_http).any(|reason| format!("`{reason}`") == cells[0]);
        if cells[0].starts_with('`') && !known {
            found.push(page.at(*line, format!("{} is no reason", cells[0])));
        }
    }
    assert_none(&found);
}

#[test]
fn every_reason_for_which_a_file_is_not_taken_is_explained() {
    let page = file("packaging/reasons.md");
    let explained =
        |reason: &&str| page.lines().any(|(_, line)| line.starts_with(&format!("- `{reason}`: ")));
    let found: Vec<_> = dormouse::host::discovery::Rejection::REASONS
        .iter()
        .filter(|reason| !explained(reason))
        .map(|reason| page.at(1, format!("{reason} is not explained")))
        .collect();
    assert_none(&found);
}

#[test]
fn every_reason_of_http_is_explained_with_its_status() {
    let page = file("packaging/reasons.md");
    let rows = rows(page);
    let mut found = Vec::new();
    for reason in dormouse::http::Reason::ALL {
        let (name, status) = (format!("`{}`", reason.as_str()), reason.status().to_string());
        let explained = rows.iter().any(|(_, cells)| {
            cells.len() == 4
                && cells[0] == name
                && cells[1] == status
                && !cells[2].is_empty()
                && !cells[3].is_empty()
        });
        if !explained {
            found.push(page.at(1, format!("{name} needs: {status}, what it means, what to do")));
        }
    }
    assert_none(&found);
}

#[test]
fn the_packaged_specification_is_what_the_program_serves() {
    const PATH: &str = "packaging/openapi.json";
    let served = dormouse::http::document().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("WRITE_PACKAGED_SPECIFICATION").is_some() {
        std::fs::write(root().join(PATH), &served).expect("writing the specification");
    }
    let packaged = std::fs::read_to_string(root().join(PATH)).expect("reading the specification");
    let is_what_is_served = packaged == served;
    assert!(
        is_what_is_served,
        "{PATH} is another: set WRITE_PACKAGED_SPECIFICATION=1 and run this test to write it"
    );
}

/// `InvalidArgument` as `INVALID_ARGUMENT`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_uppercase());
    }
    snake
}

#[test]
fn every_exit_code_is_in_the_readme() {
    let readme = file("README.md");
    let found: Vec<_> = EXIT_CODES
        .iter()
        .filter(|(_, code, meaning)| !readme.text.contains(&format!("| {code} | {meaning} |")))
        .map(|(_, code, meaning)| readme.at(1, format!("missing: | {code} | {meaning} |")))
        .collect();
    assert_none(&found);
}

#[test]
fn the_packaged_configuration_is_the_programs_default() {
    const PATH: &str = "packaging/dormouse.toml";
    if std::env::var_os("WRITE_PACKAGED_CONFIGURATION").is_some() {
        std::fs::write(root().join(PATH), Config::example()).expect("writing the configuration");
    }
    let packaged = std::fs::read_to_string(root().join(PATH)).expect("reading the configuration");
    let is_the_default = packaged == Config::example();
    assert!(
        is_the_default,
        "{PATH} is another: set WRITE_PACKAGED_CONFIGURATION=1 and run this test to write it"
    );
}

#[test]
fn the_code_map_has_every_crate_and_every_module_of_the_agent() {
    let architecture = file("ARCHITECTURE.md");
    let named: BTreeSet<&str> = quoted(&architecture.text).collect();
    let mut parts: BTreeSet<String> = BTreeSet::new();
    for file in files() {
        if let Some(folder) = file.path.strip_suffix("/Cargo.toml") {
            parts.insert(format!("{folder}/"));
        }
        if let Some(inside) = file.path.strip_prefix("agent/src/") {
            let part = inside.split_inclusive('/').next().unwrap_or(inside);
            parts.insert(format!("agent/src/{part}"));
        }
    }
    let found: Vec<_> = parts
        .iter()
        .filter(|part| !named.contains(part.as_str()))
        .map(|part| architecture.at(1, format!("`{part}` is not in the code map")))
        .collect();
    assert_none(&found);
}

#[test]
fn every_link_between_the_papers_leads_somewhere() {
    let mut found = Vec::new();
    for page in files().iter().filter(|file| file.has_extension("md")) {
        let folder = root().join(&page.path);
        let folder = folder.parent().expect("a file is in a folder");
        for (number, line) in page.lines() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = link.split('#').next().unwrap_or_default();
                let elsewhere = target.is_empty() || target.contains("://");
                if !elsewhere && !folder.join(target).exists() {
                    found.push(page.at(number, format!("{link} leads nowhere")));
                }
            }
        }
    }
    assert_none(&found);
}
