//! How a process was started: what is needed to start its like again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Words;

/// The environment variables that decide how QEMU runs. Others are not kept: they may hold secrets.
const ENV_KEPT: [&str; 5] = ["LD_LIBRARY_PATH", "PATH", "QEMU_MODULE_DIR", "TMPDIR", "XDG_RUNTIME_DIR"];

/// How a process was started, as `/proc` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// The program's file, resolved.
    pub exe: PathBuf,
    /// The arguments; the first is the program's name as the process was told it.
    pub argv: Words,
    /// The working directory, to which relative paths in the arguments belong.
    pub cwd: PathBuf,
    /// Those of its environment variables that decide how QEMU runs.
    pub env: Variables,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

/// Environment variables by name, each once. No map: that has room for eleven, and these are kept of every sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Variables(Box<[(String, String)]>);

impl Variables {
    /// Name and value of each, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Variables {
    /// Of variables of one name the last counts.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        variables.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl From<BTreeMap<String, String>> for Variables {
    fn from(variables: BTreeMap<String, String>) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl From<Variables> for BTreeMap<String, String> {
    fn from(Variables(variables): Variables) -> Self {
        variables.into_iter().collect()
    }
}

/// Why it is not known how a process was started.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// `/proc` cannot be read: the process is gone, or belongs to another user.
    #[error("cannot read /proc/{pid}/{file}")]
    Read {
        /// The pid.
        pid: i32,
        /// The file of `/proc/<pid>`.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An argument or variable is not UTF-8.
    #[error("/proc/{pid}/{file} is not UTF-8: {text:?}")]
    NotUtf8 {
        /// The pid.
        pid: i32,
        /// The file of `/proc/<pid>`.
        file: &'static str,
        /// What it says, as far as it is UTF-8.
        text: String,
    },
    /// `/proc` says something else than proc(5) describes.
    #[error("/proc/{pid}/{file} is not as proc(5) describes")]
    Malformed {
        /// The pid.
        pid: i32,
        /// The file of `/proc/<pid>`.
        file: &'static str,
    },
}

impl CommandLine {
    /// How the process that has `pid` now was started.
    ///
    /// Hold the process while asking, and ask afterwards whether it still lives: otherwise this may be
    /// another's command line.
    pub fn of(pid: i32) -> Result<Self, CommandLineError> {
        let argv = words(pid, "cmdline", &read(pid, "cmdline")?)?;
        if argv.is_empty() {
            // A zombie or a kernel thread.
            return Err(CommandLineError::Malformed { pid, file: "cmdline" });
        }
        let status = String::from_utf8_lossy(&read(pid, "status")?).into_owned();
        let (uid, gid, groups) =
            credentials(&status).ok_or(CommandLineError::Malformed { pid, file: "status" })?;
        Ok(Self { exe: exe(pid)?, argv, cwd: link(pid, "cwd")?, env: kept_env(pid)?, uid, gid, groups })
    }
}

fn read(pid: i32, file: &'static str) -> Result<Vec<u8>, CommandLineError> {
    std::fs::read(format!("/proc/{pid}/{file}")).map_err(|source| CommandLineError::Read {
        pid,
        file,
        source,
    })
}

fn link(pid: i32, file: &'static str) -> Result<PathBuf, CommandLineError> {
    std::fs::read_link(format!("/proc/{pid}/{file}")).map_err(|source| CommandLineError::Read {
        pid,
        file,
        source,
    })
}

/// The program's path. A package upgrade replaces the file under a running QEMU, and the kernel then says
/// so behind the name: the path is still the one to start, and whether the new program suits is another
/// question.
fn exe(pid: i32) -> Result<PathBuf, CommandLineError> {
    let path = link(pid, "exe")?;
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(path))
}

fn kept_env(pid: i32) -> Result<Variables, CommandLineError> {
    let environ = read(pid, "environ")?;
    let kept: Vec<&[u8]> = environ.split(|byte| *byte == 0).filter(|entry| is_kept(entry)).collect();
    let entries = words(pid, "environ", &kept.join(&0))?;
    Ok(entries
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

fn is_kept(entry: &[u8]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    ENV_KEPT.iter().any(|kept| kept.as_bytes() == name)
}

/// Splits NUL-terminated words.
fn words(pid: i32, file: &'static str, bytes: &[u8]) -> Result<Words, CommandLineError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let text = String::from_utf8_lossy(bytes).into_owned();
        return Err(CommandLineError::NotUtf8 { pid, file, text });
    };
    let text = text.strip_suffix('\0').unwrap_or(text);
    Ok(if text.is_empty() { Words::default() } else { text.split('\0').collect() })
}

/// Effective user, effective group and supplementary groups, out of `/proc/<pid>/status`.
fn credentials(status: &str) -> Option<(u32, u32, Vec<u32>)> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // The order is real, effective, saved, file system.
    let effective = |ids: &str| ids.split_ascii_whitespace().nth(1)?.parse().ok();
    let groups = line("Groups:")?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((effective(line("Uid:")?)?, effective(line("Gid:")?)?, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_the_effective_ones() {
        let status = "Name:\tqemu\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        assert_eq!(credentials(status), Some((2, 6, vec![9, 10])));
        assert_eq!(credentials("Uid:\t1\n"), None);
    }

    #[test]
    fn empty_arguments_are_kept() {
        assert!(words(1, "cmdline", b"qemu\0\0-S\0").unwrap().iter().eq(["qemu", "", "-S"]));
        assert!(words(1, "cmdline", b"").unwrap().is_empty());
        assert!(matches!(words(1, "cmdline", b"\xff\0"), Err(CommandLineError::NotUtf8 { .. })));
    }

    #[test]
    fn variables_are_written_as_a_map_and_read_back() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables: Variables =
            [pair("TMPDIR", "/a"), pair("PATH", "/b"), pair("TMPDIR", "/c")].into_iter().collect();
        let text = serde_json::to_string(&variables).unwrap();
        assert_eq!(text, r#"{"PATH":"/b","TMPDIR":"/c"}"#);
        assert_eq!(serde_json::from_str::<Variables>(&text).unwrap(), variables);
    }

    #[test]
    fn only_named_variables_are_kept() {
        assert!(is_kept(b"LD_LIBRARY_PATH=/x"));
        assert!(!is_kept(b"DORMOUSE_TOKEN=secret"));
        assert!(!is_kept(b"PATHS=x"));
    }
}
