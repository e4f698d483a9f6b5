use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// What no test should ever wait for.
const LONG: Duration = Duration::from_secs(20);

struct Watched {
    dir: TempDir,
    found: mpsc::Receiver<Discovered>,
    rejected: RejectedFiles,
}

impl Watched {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let rejected = RejectedFiles::default();
        let found = start(dir.path(), rejected.clone()).unwrap();
        Self { dir, found, rejected }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file where nobody looks, and moves it into place.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    async fn next(&mut self) -> Discovered {
        timeout(LONG, self.found.recv()).await.unwrap().unwrap()
    }

    async fn appeared(&mut self) -> (String, SandboxFile) {
        match self.next().await {
            Discovered::Appeared { sandbox, path, file } => {
                assert_eq!(path, self.path(&format!("{sandbox}.qmp")));
                (sandbox, file)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn gone(&mut self) -> String {
        match self.next().await {
            Discovered::Gone { sandbox, .. } => sandbox,
            other => panic!("{other:?}"),
        }
    }

    async fn rejected(&mut self) -> (String, String) {
        match self.next().await {
            Discovered::Rejected { path, why } => {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), why.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is told until a socket appears that is made last.
    async fn nothing_else(&mut self) {
        let _last = listen(&self.path("last.qmp"));
        assert_eq!(self.appeared().await.0, "last");
    }
}

/// A listening socket. Dropping it leaves the file, as a killed QEMU does.
fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).unwrap()
}

#[tokio::test]
async fn what_is_there_already_is_told_first() {
    let mut watched = Watched::new(|dir| {
        listen(&dir.join("a.qmp"));
        listen(&dir.join("b.qmp"));
        fs::write(dir.join("b.toml"), "org = \"acme\"\nplan = \"free\"\n[tags]\nteam = \"x\"\n").unwrap();
        fs::write(dir.join("notes.txt"), "").unwrap();
    });
    assert_eq!(watched.appeared().await, ("a".to_owned(), SandboxFile::default()));
    let file = SandboxFile {
        org: Some("acme".to_owned()),
        plan: Some("free".to_owned()),
        tags: [("team".to_owned(), "x".to_owned())].into(),
        ..SandboxFile::default()
    };
    assert_eq!(watched.appeared().await, ("b".to_owned(), file));
    watched.nothing_else().await;
}

#[tokio::test]
async fn a_socket_that_comes_goes_and_is_made_again_is_told_each_time() {
    let mut watched = Watched::new(|_| ());
    listen(&watched.path("a.qmp"));
    assert_eq!(watched.appeared().await.0, "a");
    fs::remove_file(watched.path("a.qmp")).unwrap();
    assert_eq!(watched.gone().await, "a");
    listen(&watched.path("a.qmp"));
    assert_eq!(watched.appeared().await.0, "a");
    // Another QEMU's socket, moved over it.
    listen(&watched.path("elsewhere"));
    fs::rename(watched.path("elsewhere"), watched.path("a.qmp")).unwrap();
    assert_eq!(watched.appeared().await.0, "a");
    watched.nothing_else().await;
}

#[tokio::test]
async fn a_socket_that_is_replaced_faster_than_it_is_looked_at_appears_again() {
    let mut watched = Watched::new(|_| ());
    listen(&watched.path("a.qmp"));
    assert_eq!(watched.appeared().await.0, "a");
    fs::remove_file(watched.path("a.qmp")).unwrap();
    listen(&watched.path("a.qmp"));
    assert_eq!(watched.appeared().await.0, "a");
    // Which of the two was removed cannot be known, so it may be told once more.
    let _last = listen(&watched.path("last.qmp"));
    while watched.appeared().await.0 != "last" {}
}

#[tokio::test]
async fn a_file_that_changes_is_told_and_one_that_goes_takes_nothing_back() {
    let mut watched = Watched::new(|dir| {
        fs::write(dir.join("a.toml"), "org = \"acme\"").unwrap();
        listen(&dir.join("a.qmp"));
    });
    assert!(watched.appeared().await.1.tags.is_empty());
    watched.write("a.toml", "org = \"acme\"\ntags.team = \"x\"");
    assert_eq!(watched.appeared().await.1.tags["team"], "x");
    watched.write("a.toml", "org = \"other\"");
    let (name, why) = watched.rejected().await;
    assert_eq!(name, "a.toml");
    assert!(why.contains("cannot change while QEMU lives"), "{why}");
    fs::remove_file(watched.path("a.toml")).unwrap();
    watched.nothing_else().await;
}

#[tokio::test]
async fn a_file_that_says_something_unknown_is_refused_with_the_place() {
    let mut watched = Watched::new(|dir| {
        fs::write(dir.join("a.toml"), "org = \"acme\"\nplam = \"free\"\n").unwrap();
        listen(&dir.join("a.qmp"));
    });
    let (name, why) = watched.rejected().await;
    assert_eq!(name, "a.toml");
    assert_eq!(why, "2:1: unknown key `plam`: did you mean `plan`?");
    watched.write("a.toml", "org = \"acme\"\nplan = \"free\"\n");
    assert_eq!(watched.appeared().await.1.plan.as_deref(), Some("free"));
    watched.nothing_else().await;
}

#[tokio::test]
async fn what_is_no_sandbox_is_rejected_with_the_reason() {
    let long = "x".repeat(129);
    let mut watched = Watched::new(|dir| {
        listen(&dir.join("-a.qmp"));
        listen(&dir.join(".b.qmp"));
        listen(&dir.join("c d.qmp"));
        fs::write(dir.join("file.qmp"), "").unwrap();
        symlink("elsewhere", dir.join("link.qmp")).unwrap();
        listen(&dir.join("open.qmp"));
        fs::set_permissions(dir.join("open.qmp"), fs::Permissions::from_mode(0o777)).unwrap();
        for (name, text) in [
            ("x-key", "xyzzy = 1"),
            ("x-mode", ""),
            ("x-org", "org = \"../acme\""),
            ("x-plan", "plan = \"a plan\""),
            ("x-tag", "tags.\"dm:team\" = \"x\""),
            ("x-toml", "org = "),
        ] {
            fs::write(dir.join(format!("{name}.toml")), text).unwrap();
            listen(&dir.join(format!("{name}.qmp")));
        }
        fs::set_permissions(dir.join("x-mode.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink("x-org.toml", dir.join("y.toml")).unwrap();
        listen(&dir.join("y.qmp"));
        fs::write(dir.join(format!("{long}.qmp")), "").unwrap();
    });
    for (name, part) in [
        ("-a.qmp", "no sandbox id"),
        (".b.qmp", "no sandbox id"),
        ("c d.qmp", "no sandbox id"),
        ("file.qmp", "no socket"),
        ("link.qmp", "symbolic link"),
        ("open.qmp", "chmod o-w"),
        (
            "x-key.toml",
            "1:1: unknown key `xyzzy`; known here are `org`, `plan`, `tags`, `memory_devices`, `launch`, `limits`",
        ),
        ("x-mode.toml", "everybody may write to it"),
        ("x-org.toml", "the org \"../acme\""),
        ("x-plan.toml", "the plan \"a plan\" has a character"),
        ("x-tag.toml", "dm:team"),
        ("x-toml.toml", "1:7: "),
        (&format!("{long}.qmp"), "no sandbox id"),
        ("y.toml", "symbolic link"),
    ] {
        let (rejected, why) = watched.rejected().await;
        assert_eq!(rejected, name);
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(watched.rejected.count(), 14);
    for file in watched.rejected.list() {
        assert!(Rejection::REASONS.contains(&file.reason) && !file.next.is_empty(), "{file:?}");
        assert!(file.path.starts_with(watched.dir.path()) && !file.message.is_empty(), "{file:?}");
    }
    // Told once: looking again says nothing new.
    fs::set_permissions(watched.path("open.qmp"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(watched.path("open.qmp"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(watched.appeared().await.0, "open");
    watched.nothing_else().await;
}

#[tokio::test]
async fn what_is_rejected_is_listed_until_it_is_mended_or_gone_and_then_it_is_taken() {
    let mut watched = Watched::new(|dir| {
        listen(&dir.join("a.qmp"));
        fs::write(dir.join("a.toml"), "org = ").unwrap();
        listen(&dir.join("b.qmp"));
        fs::write(dir.join("b.toml"), "xyzzy = 1").unwrap();
        listen(&dir.join("c d.qmp"));
    });
    for name in ["a.toml", "b.toml", "c d.qmp"] {
        assert_eq!(watched.rejected().await.0, name);
    }
    let listed: Vec<_> = watched.rejected.list().into_iter().map(|file| file.reason).collect();
    assert_eq!(listed, ["FILE_MALFORMED", "FILE_MALFORMED", "FILE_NAME_INVALID"]);
    watched.write("a.toml", "org = \"acme\"");
    assert_eq!(watched.appeared().await.1.org.as_deref(), Some("acme"));
    // What stood in the way is gone: the socket counts without it.
    fs::remove_file(watched.path("b.toml")).unwrap();
    assert_eq!(watched.appeared().await, ("b".to_owned(), SandboxFile::default()));
    fs::remove_file(watched.path("c d.qmp")).unwrap();
    watched.nothing_else().await;
    assert_eq!(watched.rejected.list(), []);
}

#[tokio::test]
async fn a_socket_of_a_foreign_owner_is_refused() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let nobody = Some(65_534.into());
    let mut watched = Watched::new(|dir| {
        listen(&dir.join("a.qmp"));
        nix::unistd::chown(&dir.join("a.qmp"), nobody, None).unwrap();
    });
    let (name, why) = watched.rejected().await;
    assert_eq!(name, "a.qmp");
    assert!(why.contains("user 65534"), "{why}");

    let mut watched = Watched::new(|dir| {
        listen(&dir.join("a.qmp"));
        fs::write(dir.join("a.toml"), "org = \"acme\"").unwrap();
        nix::unistd::chown(&dir.join("a.toml"), nobody, None).unwrap();
    });
    let (name, why) = watched.rejected().await;
    assert_eq!(name, "a.toml", "nobody makes another's sandbox somebody's");
    assert!(why.contains("user 65534"), "{why}");

    let mut watched = Watched::new(|dir| {
        nix::unistd::chown(dir, nobody, None).unwrap();
        listen(&dir.join("a.qmp"));
        nix::unistd::chown(&dir.join("a.qmp"), nobody, None).unwrap();
    });
    assert_eq!(watched.appeared().await.0, "a", "the folder's owner has a say");
}

#[tokio::test]
async fn nothing_is_lost_when_the_kernel_s_queue_overflows() {
    let mut watched = Watched::new(|dir| {
        fs::write(dir.join("even"), "").unwrap();
        fs::write(dir.join("odd"), "").unwrap();
        listen(&dir.join("a.qmp"));
    });
    assert_eq!(watched.appeared().await.0, "a");
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // This test's runtime has one thread: nobody reads the queue until the next await.
    for index in 0..=limit {
        // In turns, because the kernel merges what repeats.
        let name = if index % 2 == 0 { "even" } else { "odd" };
        fs::set_permissions(watched.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::remove_file(watched.path("a.qmp")).unwrap();
    listen(&watched.path("b.qmp"));
    assert_eq!(watched.gone().await, "a");
    assert_eq!(watched.appeared().await.0, "b");
    watched.nothing_else().await;
}

#[tokio::test]
async fn the_stream_ends_when_the_folder_goes_away() {
    let Watched { dir, mut found, .. } = Watched::new(|_| ());
    dir.close().unwrap();
    assert!(timeout(LONG, found.recv()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_folder_that_anybody_may_write_to_is_not_watched() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        start(dir.path(), RejectedFiles::default()),
        Err(DiscoveryError::OthersMayWrite { .. })
    ));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(start(dir.path(), RejectedFiles::default()).is_ok());
    assert!(matches!(
        start(&dir.path().join("none"), RejectedFiles::default()),
        Err(DiscoveryError::Folder { .. })
    ));
}
