//! The CPU limit of a process: `cpu.max` of its cgroup, where the group is its own.
//!
//! A group is a process's own when nobody else is in it or below it: a limit on a shared one would be a limit on
//! others, and says nothing of this one. What is written is read back, and what was read back is what is told.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::cpu_max::CpuMax;

/// Where cgroup v2 is mounted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CpuGroups {
    root: PathBuf,
}

/// Why a process has no group whose CPU time could be limited.
#[derive(Debug, thiserror::Error)]
pub enum CpuGroupError {
    /// It is in none that can be seen from here.
    #[error("process {pid} is in no cgroup v2 that can be seen from here")]
    None {
        /// The process.
        pid: i32,
    },
    /// The group is the root, or its parent does not enable the cpu controller.
    #[error("{} has no cpu.max: it is the root, or its parent does not enable the cpu controller", group.display())]
    NoController {
        /// The group's folder.
        group: PathBuf,
    },
    /// Others are limited with it.
    #[error("{} also holds process {pid}", group.display())]
    Shared {
        /// The group's folder.
        group: PathBuf,
        /// One of the others.
        pid: i32,
    },
    /// Its threads may be in groups of their own, as libvirt does it.
    #[error("{} is {kind}: the threads of the process are in several groups", group.display())]
    Threaded {
        /// The group's folder.
        group: PathBuf,
        /// Its `cgroup.type`.
        kind: String,
    },
    /// A file of the group says something else than the kernel documents.
    #[error("{} is not as the kernel documents: {text:?}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The kernel took what was written, and does not say what it made of that.
    #[error("cpu.max was written, and what the kernel made of it is not known")]
    Unread(#[source] Box<CpuGroupError>),
    /// The kernel refused.
    #[error("cannot {doing} {}", path.display())]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl CpuGroups {
    /// The groups below this folder: `/sys/fs/cgroup`, but for tests and for hosts that mount it elsewhere.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The limit of a process's own group.
    pub fn limit(&self, pid: i32) -> Result<CpuMax, CpuGroupError> {
        read_limit(&self.own_group(pid)?)
    }

    /// The limit on this process alone, in thousandths of a vCPU. `None` where it has none: no group is its own, or its
    /// own has no limit. What cannot be read is an error, and never no limit.
    pub fn limit_milli(&self, pid: i32) -> Result<Option<u32>, CpuGroupError> {
        match self.limit(pid) {
            Ok(limit) => Ok(limit.milli()),
            Err(
                CpuGroupError::None { .. }
                | CpuGroupError::NoController { .. }
                | CpuGroupError::Shared { .. }
                | CpuGroupError::Threaded { .. },
            ) => Ok(None),
            Err(
                error @ (CpuGroupError::Malformed { .. }
                | CpuGroupError::Kernel { .. }
                | CpuGroupError::Unread(_)),
            ) => Err(error),
        }
    }

    /// Limits a process's own group, and returns what the kernel has made of it.
    pub fn set_limit(&self, pid: i32, limit: CpuMax) -> Result<CpuMax, CpuGroupError> {
        let group = self.own_group(pid)?;
        if read_limit(&group)? == limit {
            return Ok(limit);
        }
        let path = group.join("cpu.max");
        // Never created: a group without the file has no controller.
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(limit.to_string().as_bytes()))
            .map_err(|source| CpuGroupError::Kernel { doing: "write", path, source })?;
        read_limit(&group).map_err(|why| CpuGroupError::Unread(Box::new(why)))
    }

    /// The group of the process, if it is its own.
    fn own_group(&self, pid: i32) -> Result<PathBuf, CpuGroupError> {
        let groups = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let path = group_path(&groups).ok_or(CpuGroupError::None { pid })?;
        let group = self.root.join(path);
        let limit = group.join("cpu.max");
        // One that may not be looked at may be there.
        match limit.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(CpuGroupError::NoController { group }),
            Err(source) => return Err(CpuGroupError::Kernel { doing: "look for", path: limit, source }),
        }
        let kind = read(&group.join("cgroup.type"))?;
        if kind.trim() != "domain" {
            return Err(CpuGroupError::Threaded { group, kind: kind.trim().to_owned() });
        }
        let mut below = vec![group.clone()];
        while let Some(folder) = below.pop() {
            if let Some(pid) = foreign(&read(&folder.join("cgroup.procs"))?, pid) {
                return Err(CpuGroupError::Shared { group: folder, pid });
            }
            below.extend(folders(&folder)?);
        }
        Ok(group)
    }
}

fn read(path: &Path) -> Result<String, CpuGroupError> {
    fs::read_to_string(path).map_err(|source| CpuGroupError::Kernel {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

fn read_limit(group: &Path) -> Result<CpuMax, CpuGroupError> {
    let path = group.join("cpu.max");
    let text = read(&path)?;
    CpuMax::parse(&text).ok_or(CpuGroupError::Malformed { path, text })
}

fn folders(group: &Path) -> Result<Vec<PathBuf>, CpuGroupError> {
    let unreadable = |source| CpuGroupError::Kernel { doing: "list", path: group.to_owned(), source };
    let mut folders = Vec::new();
    for entry in fs::read_dir(group).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().map_err(unreadable)?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// The path below the mount, from `/proc/<pid>/cgroup`: the line `0::/a/b`. A group that was removed, or that lies
/// outside this namespace, has none.
fn group_path(groups: &str) -> Option<&Path> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let outside = path.split('/').any(|part| part == "..") || path.ends_with(" (deleted)");
    (!outside).then(|| Path::new(path))
}

/// A process of `cgroup.procs` that is another. Those outside this namespace are 0.
fn foreign(procs: &str, own: i32) -> Option<i32> {
    procs.split_ascii_whitespace().map(|pid| pid.parse().unwrap_or(0)).find(|pid| *pid != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that stands in for the group in which this very process is.
    struct Scene {
        root: tempfile::TempDir,
        group: PathBuf,
        pid: i32,
    }

    impl Scene {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let pid = i32::try_from(std::process::id()).unwrap();
            let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
            let group = root.path().join(group_path(&groups).unwrap());
            fs::create_dir_all(&group).unwrap();
            let scene = Self { root, group, pid };
            scene.has("cgroup.type", "domain\n");
            scene.has("cgroup.procs", &format!("{pid}\n"));
            scene.has("cpu.max", "max 100000\n");
            scene
        }

        fn has(&self, file: &str, text: &str) {
            fs::write(self.group.join(file), text).unwrap();
        }

        fn limits(&self, milli: Option<u32>) -> Result<CpuMax, CpuGroupError> {
            CpuGroups::new(self.root.path()).set_limit(self.pid, CpuMax::of_milli(milli))
        }
    }

    #[test]
    fn a_group_of_its_own_is_limited_and_what_is_read_back_is_told() {
        let scene = Scene::new();
        assert_eq!(scene.limits(Some(1500)).unwrap().milli(), Some(1500));
        assert_eq!(fs::read_to_string(scene.group.join("cpu.max")).unwrap(), "150000 100000");
        let groups = CpuGroups::new(scene.root.path());
        assert_eq!(groups.limit(scene.pid).unwrap().milli(), Some(1500));
        assert_eq!(scene.limits(None).unwrap(), CpuMax::Unlimited);
    }

    #[test]
    fn a_group_with_a_foreign_process_in_it_or_below_it_is_left_alone() {
        let scene = Scene::new();
        scene.has("cgroup.procs", &format!("{}\n1\n", scene.pid));
        assert!(matches!(scene.limits(Some(500)), Err(CpuGroupError::Shared { pid: 1, .. })));
        scene.has("cgroup.procs", &format!("{}\n", scene.pid));
        fs::create_dir(scene.group.join("below")).unwrap();
        scene.has("below/cgroup.procs", "0\n");
        assert!(matches!(scene.limits(Some(500)), Err(CpuGroupError::Shared { pid: 0, .. })));
        assert_eq!(fs::read_to_string(scene.group.join("cpu.max")).unwrap(), "max 100000\n");
    }

    #[test]
    fn groups_that_cannot_be_limited_are_told_apart() {
        let scene = Scene::new();
        scene.has("cgroup.type", "threaded\n");
        assert!(matches!(scene.limits(Some(500)), Err(CpuGroupError::Threaded { .. })));
        scene.has("cgroup.type", "domain\n");
        scene.has("cpu.max", "lots\n");
        assert!(matches!(scene.limits(Some(500)), Err(CpuGroupError::Malformed { .. })));
        fs::remove_file(scene.group.join("cpu.max")).unwrap();
        assert!(matches!(scene.limits(Some(500)), Err(CpuGroupError::NoController { .. })));
        assert!(!scene.group.join("cpu.max").exists());
    }

    #[test]
    fn no_limit_is_told_from_one_that_cannot_be_read() {
        let scene = Scene::new();
        let told = || CpuGroups::new(scene.root.path()).limit_milli(scene.pid);
        assert_eq!(told().unwrap(), None);
        scene.has("cpu.max", "50000 100000\n");
        assert_eq!(told().unwrap(), Some(500));
        scene.has("cpu.max", "lots\n");
        assert!(matches!(told(), Err(CpuGroupError::Malformed { .. })));
        fs::remove_file(scene.group.join("cpu.max")).unwrap();
        assert_eq!(told().unwrap(), None);
        // A folder cannot be read, and neither can a link that leads to itself be looked behind.
        fs::create_dir(scene.group.join("cpu.max")).unwrap();
        assert!(matches!(told(), Err(CpuGroupError::Kernel { doing: "read", .. })));
        fs::remove_dir(scene.group.join("cpu.max")).unwrap();
        std::os::unix::fs::symlink("cpu.max", scene.group.join("cpu.max")).unwrap();
        assert!(matches!(told(), Err(CpuGroupError::Kernel { doing: "look for", .. })));
        fs::remove_file(scene.group.join("cpu.max")).unwrap();
        scene.has("cpu.max", "50000 100000\n");
        scene.has("cgroup.procs", &format!("{}\n1\n", scene.pid));
        assert_eq!(told().unwrap(), None);
        scene.has("cgroup.type", "threaded\n");
        assert_eq!(told().unwrap(), None);
    }

    #[test]
    fn a_group_is_found_by_its_line_and_never_outside_the_mount() {
        assert_eq!(group_path("1:cpu:/x\n0::/a/b.scope\n"), Some(Path::new("a/b.scope")));
        assert_eq!(group_path("0::/\n"), Some(Path::new("")));
        for nowhere in ["", "1:cpu:/x\n", "0::/../x\n", "0::/a (deleted)\n"] {
            assert_eq!(group_path(nowhere), None, "{nowhere:?}");
        }
    }
}
