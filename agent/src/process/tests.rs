//! On real processes.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, getgid, getsid, getuid};
use tokio::time::timeout;

use super::*;

/// What a death may take to be known.
const KNOWN_WITHIN: Duration = Duration::from_millis(10);
/// What no test should ever wait for.
const LONG: Duration = Duration::from_secs(20);

/// A process that ends when its standard input is closed, and not before.
fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

fn shell(script: &str) -> CommandLine {
    CommandLine {
        exe: PathBuf::from("/bin/sh"),
        argv: ["sh", "-c", script].into_iter().collect(),
        cwd: PathBuf::from("/"),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into_iter().collect(),
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        groups: Vec::new(),
    }
}

fn marker(agent: &std::path::Path) -> Marker {
    let (org, sandbox) = ("acme".to_owned(), "sb-1".to_owned());
    Marker { agent: agent.to_owned(), org, sandbox, request_id: "r1".to_owned() }
}

fn spec(command: CommandLine, log_path: PathBuf) -> LaunchSpec {
    LaunchSpec { command, log_path, marker: marker("/state".as_ref()), instance: None }
}

#[tokio::test]
async fn what_an_agent_has_started_is_found_by_that_agent_alone_while_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let held = LaunchSpec {
        marker: marker(dir.path()),
        // What the process starts itself has the same environment, and is not listed.
        ..spec(shell("sleep 1000 & echo $! >child; wait"), dir.path().join("log"))
    };
    let command = CommandLine { cwd: dir.path().to_owned(), ..held.command.clone() };
    let launched = launch(&LaunchSpec { command, ..held }).await.unwrap();
    let child = loop {
        let text = std::fs::read_to_string(dir.path().join("child")).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            break pid;
        }
        tokio::task::yield_now().await;
    };
    let expected = Started { identity: launched.process.identity(), marker: marker(dir.path()) };
    assert_eq!(started_by(dir.path()).unwrap(), [expected]);
    assert_eq!(started_by(&dir.path().join("other")).unwrap(), []);
    launched.process.kill().unwrap();
    timeout(LONG, launched.ended()).await.unwrap();
    // Its child has outlived it: now that is what was started and lives. In the middle of its exec it has no environment.
    let left = async {
        loop {
            let left = started_by(dir.path()).unwrap();
            if !left.is_empty() {
                break left;
            }
            tokio::task::yield_now().await;
        }
    };
    let left: Vec<i32> =
        timeout(LONG, left).await.unwrap().iter().map(|started| started.identity.pid).collect();
    assert_eq!(left, [child]);
    nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_living_process_is_known_by_its_identity() {
    let mut child = cat();
    let process = Process::open(pid(&child)).unwrap();
    assert!(process.is_alive());
    assert_eq!(process.identity(), ProcessIdentity::of(pid(&child)).unwrap());
    let found = Process::find_by(process.identity()).unwrap().unwrap();
    assert_eq!(found.identity(), process.identity());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_reused_pid_is_seen_through() {
    let mut child = cat();
    let identity = ProcessIdentity::of(pid(&child)).unwrap();
    let earlier = ProcessIdentity { start_time_ticks: identity.start_time_ticks - 1, ..identity };
    assert!(Process::find_by(earlier).unwrap().is_none());
    let other_boot = ProcessIdentity { boot: dormouse_metering::BootId([0; 16]), ..identity };
    assert!(Process::find_by(other_boot).unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_zombie_is_dead() {
    let mut child = cat();
    let process = Process::open(pid(&child)).unwrap();
    process.kill().unwrap();
    timeout(LONG, process.exited()).await.unwrap();
    // Nobody has waited for it: /proc still has it, and its pid can still be signalled.
    assert_eq!(ProcessIdentity::of(pid(&child)).unwrap(), process.identity());
    assert!(!process.is_alive());
    assert!(Process::find_by(process.identity()).unwrap().is_none());
    assert!(matches!(Process::open(pid(&child)), Err(ProcessError::Gone { .. })));
    child.wait().unwrap();
    assert!(!process.is_alive());
    assert!(matches!(ProcessIdentity::of(pid(&child)), Err(StatError::Gone { .. })));
    process.kill().unwrap();
}

/// Set in a process of a test's own, in which there is no descriptor left.
const NO_DESCRIPTORS: &str = "DORMOUSE_TEST_NO_DESCRIPTORS";

#[test]
fn a_process_lives_until_it_ends_where_no_descriptor_is_left_to_see_it_by() {
    if std::env::var_os(NO_DESCRIPTORS).is_none() {
        // The limit is a whole process's, and other tests run in this one.
        let name = "process::tests::a_process_lives_until_it_ends_where_no_descriptor_is_left_to_see_it_by";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name]).env(NO_DESCRIPTORS, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut child = cat();
    let process = Process::open(pid(&child)).unwrap();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // As many as are open in any case.
    setrlimit(Resource::RLIMIT_NOFILE, 3, most).unwrap();
    std::fs::File::open("/dev/null").unwrap_err();
    runtime.block_on(async {
        let mut ended = std::pin::pin!(process.exited());
        assert!(process.is_alive());
        // Longer than it takes to look a few times.
        assert!(timeout(Duration::from_millis(50), &mut ended).await.is_err(), "taken for dead");
        child.kill().unwrap();
        timeout(LONG, ended).await.unwrap();
        assert!(!process.is_alive());
    });
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_pid_that_nobody_has_is_gone() {
    for nobody in [0, -1, i32::MAX] {
        assert!(matches!(Process::open(nobody), Err(ProcessError::Gone { .. })), "{nobody}");
    }
}

#[tokio::test]
async fn a_death_is_known_within_10_ms() {
    // The machine that runs the tests may be busy: one out of a few must make it.
    for _ in 0..20 {
        let mut child = cat();
        let process = Process::open(pid(&child)).unwrap();
        assert!(timeout(Duration::ZERO, process.exited()).await.is_err());
        // SIGKILL, and not waited for.
        child.kill().unwrap();
        let known = timeout(KNOWN_WITHIN, process.exited()).await.is_ok();
        child.wait().unwrap();
        if known {
            return;
        }
    }
    panic!("no death was known within {KNOWN_WITHIN:?}");
}

#[tokio::test]
async fn how_a_process_was_started_is_read_from_proc() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "echo; read line", "a b", ""])
        .current_dir(dir.path())
        .env("LD_LIBRARY_PATH", "/none")
        .env("DORMOUSE_TOKEN", "secret")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // While a process is being replaced by exec, /proc has no arguments of it.
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let line = CommandLine::of(pid(&child)).unwrap();
    assert!(line.argv.iter().eq(["/bin/sh", "-c", "echo; read line", "a b", ""]));
    assert_eq!(line.cwd, dir.path().canonicalize().unwrap());
    assert_eq!(line.exe, PathBuf::from("/bin/sh").canonicalize().unwrap());
    assert_eq!((line.uid, line.gid), (getuid().as_raw(), getgid().as_raw()));
    assert!(line.env.iter().any(|variable| variable == ("LD_LIBRARY_PATH", "/none")));
    assert!(line.env.iter().all(|(name, _)| name != "DORMOUSE_TOKEN"));
    let json = serde_json::to_string(&line).unwrap();
    assert_eq!(serde_json::from_str::<CommandLine>(&json).unwrap(), line);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(matches!(CommandLine::of(pid(&child)), Err(CommandLineError::Read { .. })));
}

#[tokio::test]
async fn a_launched_process_has_a_session_of_its_own_and_nothing_of_the_agent_s() {
    let dir = tempfile::tempdir().unwrap();
    // A descriptor that is not close-on-exec, as the agent may have been started with.
    let leaked = nix::unistd::dup(std::io::stderr()).unwrap();
    for fifo in ["ready", "hold"] {
        nix::unistd::mkfifo(&dir.path().join(fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let command = CommandLine { cwd: dir.path().to_owned(), ..shell("echo >ready; read line <hold") };
    let launched = launch(&spec(command, dir.path().join("log"))).await.unwrap();
    // From here on the shell waits at the other pipe.
    assert_eq!(std::fs::read_to_string(dir.path().join("ready")).unwrap(), "\n");
    let pid = launched.process.pid();
    // The shell may hold its own descriptors twice, so what they lead to counts.
    let open: BTreeSet<PathBuf> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .collect();
    let session = getsid(Some(Pid::from_raw(pid))).unwrap();
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let oom = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    launched.process.kill().unwrap();
    drop(leaked);
    assert_eq!(open, BTreeSet::from([PathBuf::from("/dev/null"), dir.path().join("log")]));
    assert_eq!(session.as_raw(), pid);
    let names = environ.split(|byte| *byte == 0).filter_map(|entry| entry.split(|byte| *byte == b'=').next());
    let names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
    assert_eq!(names, [&b"DORMOUSE_STARTED"[..], b"PATH"], "the agent's environment may hold secrets");
    assert_eq!(oom.trim(), "0");
    let ended = timeout(LONG, launched.ended()).await.unwrap();
    assert!(matches!(ended, LaunchError::Ended { how, .. } if how.contains("SIGKILL")));
    assert!(matches!(ProcessIdentity::of(pid), Err(StatError::Gone { .. })), "no zombie stays");
}

#[tokio::test]
async fn the_last_words_of_a_process_that_ends_at_once_are_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let log_path = dir.path().join("log");
    std::fs::write(&log_path, "of an earlier run\n").unwrap();
    let spec = spec(shell("echo no such disk >&2; exit 3"), log_path.clone());
    let launched = launch(&spec).await.unwrap();
    let never = launched.unless_ended(std::future::pending::<()>());
    let error = timeout(LONG, never).await.unwrap().unwrap_err();
    let LaunchError::Ended { how, log_tail } = error else { panic!("{error}") };
    assert_eq!(how, "exit status: 3");
    assert_eq!(log_tail, "no such disk");
    assert!(std::fs::read_to_string(&log_path).unwrap().starts_with("of an earlier run\n"));
}

#[tokio::test]
async fn the_tail_of_a_long_log_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo the end";
    let launched = launch(&spec(shell(script), dir.path().join("log"))).await.unwrap();
    timeout(LONG, launched.ended()).await.unwrap();
    assert!(launched.log_tail().len() <= 4096);
    assert!(launched.log_tail().ends_with("xthe end"));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let log_path = dir.path().join("log");
    let missing = CommandLine { exe: PathBuf::from("/none/qemu"), ..shell("") };
    let error = launch(&spec(missing, log_path.clone())).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start /none/qemu in /");
    let empty = CommandLine { argv: Words::default(), ..shell("") };
    let error = launch(&spec(empty, log_path)).await.unwrap_err();
    assert!(matches!(error, LaunchError::Empty));
    let error = launch(&spec(shell(""), dir.path().join("none/log"))).await.unwrap_err();
    assert!(matches!(error, LaunchError::Log { .. }));
}

#[tokio::test]
async fn root_starts_a_process_as_the_user_it_ran_as_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let command = CommandLine { uid: 65_534, gid: 65_534, groups: vec![65_533], ..shell("id -u; id -G") };
    let launched = launch(&spec(command, dir.path().join("log"))).await;
    if !getuid().is_root() {
        assert!(matches!(launched, Err(LaunchError::ForeignUser { uid: 65_534, .. })));
        return;
    }
    let launched = launched.unwrap();
    timeout(LONG, launched.ended()).await.unwrap();
    assert_eq!(launched.log_tail(), "65534\n65534 65533");
}
