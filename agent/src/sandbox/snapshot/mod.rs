//! stub
#![allow(missing_docs)]
use crate::process::CommandLine;
use crate::sandbox::command::Method;
use std::path::{Path, PathBuf};
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    pub method: Method,
    pub qemu_version: String,
    pub ordinal: u64,
    pub command_line: CommandLine,
    pub state: PathBuf,
    pub created_unix_ns: i64,
}
impl Manifest {
    pub fn state_path(&self) -> PathBuf {
        self.state.clone()
    }
    pub fn path(&self) -> PathBuf {
        self.state.clone()
    }
}
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub ordinal: u64,
    pub state: PathBuf,
}
impl Draft {
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }
    pub fn state_path(&self) -> &Path {
        &self.state
    }
}
#[derive(Clone)]
pub struct SnapshotStore(PathBuf);
impl SnapshotStore {
    pub fn new(p: PathBuf) -> Self {
        Self(p)
    }
}
