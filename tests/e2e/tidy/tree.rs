//! The files of the project, and Rust source with its comments and strings told apart from its code.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One text file of the project.
pub(crate) struct File {
    /// Its path from the project's root.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    code: OnceLock<String>,
}

impl File {
    /// Every line with its number.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// `path:line: what`, as editors jump to.
    pub(crate) fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// The name without folders and extension.
    pub(crate) fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }

    pub(crate) fn has_extension(&self, wanted: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == wanted)
    }

    /// Rust code alone: comments and the insides of strings are blanks, lines stay where they are.
    pub(crate) fn code(&self) -> &str {
        self.code.get_or_init(|| blank_all_but_code(&self.text))
    }

    /// Code without the `#[cfg(test)]` modules in it, which come last in a file.
    pub(crate) fn code_without_tests(&self) -> String {
        let mut code = String::new();
        let mut lines = self.code().lines().peekable();
        while let Some(line) = lines.next() {
            let module = lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
            if line == "#[cfg(test)]" && module {
                code.push('\n');
                for skipped in lines.by_ref() {
                    code.push('\n');
                    if skipped == "}" {
                        break;
                    }
                }
            } else {
                code.push_str(line);
                code.push('\n');
            }
        }
        code
    }
}

/// The project's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file of the project, what is built left out, sorted by path. Read once.
pub(crate) fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        collect(&root(), "", &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    })
}

/// The Rust files under a folder.
pub(crate) fn rust_files(folder: &str) -> impl Iterator<Item = &'static File> {
    files().iter().filter(move |file| file.has_extension("rs") && file.path.starts_with(folder))
}

/// One file by its path.
pub(crate) fn file(path: &str) -> &'static File {
    files().iter().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no file {path}"))
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    const LEFT_OUT: [&str; 5] = ["target", ".git", "Cargo.lock", "LICENSE", "corpus"];
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text, code: OnceLock::new() });
        }
    }
}

/// Where a scan of Rust source stands.
#[derive(Clone, Copy)]
enum Within {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text,
    RawText { hashes: usize },
}

fn blank_all_but_code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut within = Within::Code;
    let mut at = 0;
    while at < chars.len() {
        let (next, length) = step(within, &chars[at..], at.checked_sub(1).map(|before| chars[before]));
        let is_code = matches!((within, next), (Within::Code, Within::Code));
        for &c in &chars[at..at + length] {
            code.push(if is_code || c == '\n' { c } else { ' ' });
        }
        within = next;
        at += length;
    }
    code
}

/// What `rest` begins with, and how many characters that takes.
fn step(within: Within, rest: &[char], before: Option<char>) -> (Within, usize) {
    let begins = |what: &str| what.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    match within {
        Within::Code if begins("//") => (Within::LineComment, 2),
        Within::Code if begins("/*") => (Within::BlockComment { depth: 1 }, 2),
        Within::Code if begins("\"") => (Within::Text, 1),
        Within::Code if begins("r") && !before.is_some_and(|c| c.is_alphanumeric() || c == '_') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            match rest.get(1 + hashes) {
                Some('"') => (Within::RawText { hashes }, hashes + 2),
                _ => (Within::Code, 1),
            }
        }
        // A character literal may be a quote; a lifetime may not.
        Within::Code if begins("'\\") => {
            (Within::Code, rest.iter().skip(3).take_while(|c| **c != '\'').count() + 4)
        }
        Within::Code if begins("'") && rest.get(2) == Some(&'\'') => (Within::Code, 3),
        Within::LineComment if begins("\n") => (Within::Code, 1),
        Within::BlockComment { depth } if begins("/*") => (Within::BlockComment { depth: depth + 1 }, 2),
        Within::BlockComment { depth: 1 } if begins("*/") => (Within::Code, 2),
        Within::BlockComment { depth } if begins("*/") => (Within::BlockComment { depth: depth - 1 }, 2),
        Within::Text if begins("\\") => (Within::Text, 2.min(rest.len())),
        Within::Text if begins("\"") => (Within::Code, 1),
        Within::RawText { hashes }
            if begins("\"") && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes =>
        {
            (Within::Code, hashes + 1)
        }
        same => (same, 1),
    }
}

#[test]
fn strings_and_comments_are_not_code() {
    let sample = "a \"b // \\\" c\" d // e\nf /* g /* h */ i */ j '\"' k<'l> r#\"m\"# n";
    let code = blank_all_but_code(sample);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "d", "f", "j", "'\"'", "k<'l>", "n"]);
    assert_eq!(code.lines().count(), 2);
}
