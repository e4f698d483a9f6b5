//! Names, lengths, and words that have no place here. Words are put together at run time, so that this file passes.

use crate::assert_none;
use crate::tree::{File, files, rust_files};

const LINES_MAX: usize = 500;

/// Finds every line of the files that `judge` has something to say about.
fn findings<'a>(
    files: impl IntoIterator<Item = &'a File>,
    judge: impl Fn(&File, &str) -> Option<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.lines() {
            if let Some(what) = judge(file, line) {
                found.push(file.at(number, what));
            }
        }
    }
    found
}

#[test]
fn no_file_is_longer_than_500_lines_without_its_tests() {
    let found: Vec<_> = rust_files("")
        .filter(|file| file.stem() != "tests")
        .filter_map(|file| {
            let all = file.text.lines().count();
            let code = file.code_without_tests();
            // A line of a test module is empty in `code` and not in the file.
            let tests = code.lines().zip(file.text.lines()).skip_while(|(_, line)| *line != "#[cfg(test)]");
            let lines = all - tests.filter(|(code, line)| code.is_empty() && !line.is_empty()).count();
            (lines > LINES_MAX).then(|| file.at(LINES_MAX, format!("{lines} lines, at most {LINES_MAX}")))
        })
        .collect();
    assert_none(&found);
}

#[test]
fn no_file_is_named_after_nothing_in_particular() {
    let vague = ["util", "utils", "helper", "helpers", "misc", "common"];
    let found: Vec<_> = files()
        .iter()
        .filter(|file| file.path.split(['/', '.']).any(|part| vague.contains(&part)))
        .map(|file| file.at(1, "say what is in it"))
        .collect();
    assert_none(&found);
}

#[test]
fn no_name_ends_in_a_word_that_says_nothing() {
    let vague = ["Manager", "Helper", "Helpers", "Util", "Utils"];
    let mut found = Vec::new();
    for file in rust_files("") {
        for (index, line) in file.code().lines().enumerate() {
            for name in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if vague.iter().any(|word| name.ends_with(word)) {
                    found.push(file.at(index + 1, name));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn what_is_left_to_do_has_a_reason() {
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let found = findings(files(), |_, line| {
        words.iter().find_map(|word| {
            let (_, rest) = line.split_once(word)?;
            let reason = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
            reason
                .is_none_or(|(reason, _)| reason.trim().is_empty())
                .then(|| format!("{word} without (reason)"))
        })
    });
    assert_none(&found);
}

#[test]
fn no_placeholder_is_left_in_code() {
    let mut found = Vec::new();
    for file in rust_files("") {
        for (index, line) in file.code().lines().enumerate() {
            for word in ["unimplemented!", "todo!", "dbg!"] {
                if line.contains(word) {
                    found.push(file.at(index + 1, word));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn every_allowed_lint_says_why() {
    let mut found = Vec::new();
    for file in rust_files("") {
        let code = file.code();
        for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in code.match_indices(opening) {
                let attribute = code[at..].split(")]").next().unwrap_or_default();
                if !attribute.contains("reason") {
                    found.push(file.at(code[..at].matches('\n').count() + 1, attribute));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn no_maintainer_script_swallows_a_failure() {
    let swallowed = ["||", "true"].join(" ");
    let scripts = files().iter().filter(|file| file.path.starts_with("packaging/debian/"));
    let found = findings(scripts, |_, line| line.contains(&swallowed).then(|| line.trim().to_owned()));
    assert_none(&found);
}

#[test]
fn no_package_mirror_is_named() {
    let hosts = [
        ["deb", "debian"],
        ["ftp", "debian"],
        ["security", "debian"],
        ["snapshot", "debian"],
        ["archive", "ubuntu"],
        ["security", "ubuntu"],
    ]
    .map(|parts| parts.join("."));
    let found = findings(files(), |_, line| hosts.iter().find(|host| line.contains(*host)).cloned());
    assert_none(&found);
}

#[test]
fn panics_unwind() {
    let manifests = files().iter().filter(|file| file.has_extension("toml"));
    let found = findings(manifests, |_, line| {
        let bare: String = line.split_whitespace().collect();
        bare.starts_with("panic=\"abort\"").then(|| "supervision needs panics to unwind".to_owned())
    });
    assert_none(&found);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let places = ["work", "root", "home"].map(|name| format!("/{name}/"));
    let found = findings(files(), |_, line| {
        places.iter().find_map(|place| {
            line.match_indices(place.as_str()).find_map(|(at, _)| {
                let before = line[..at].chars().next_back();
                let goes_on = before.is_some_and(|c| c.is_alphanumeric() || "._-}$~)]".contains(c));
                (!goes_on).then(|| place.clone())
            })
        })
    });
    assert_none(&found);
}
