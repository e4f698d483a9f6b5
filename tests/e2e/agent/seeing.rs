//! What can be seen of an agent: the live table, on a terminal, and the figures.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;

use dormouse_tests::scripted::Options;
use dormouse_tests::wait;
use nix::pty::{Winsize, openpty};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::scene::{DEADLINE, Scene};

/// A terminal, and what was drawn on it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    drawn: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    fn new() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let ours = File::from(pty.master);
        let (tell, drawn) = mpsc::channel();
        let mut reader = ours.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends when nobody has the other side open any more.
            while let Ok(length) = reader.read(&mut bytes) {
                if length == 0 || tell.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { ours, theirs: pty.slave, drawn }
    }

    fn side(&self) -> Stdio {
        self.theirs.try_clone().unwrap().into()
    }
}

#[tokio::test]
async fn top_draws_on_a_terminal_what_there_is_and_ends_when_told() {
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let mut terminal = Terminal::new();
    let mut command = scene.agent.command(&["top", "--interval", "100ms"]).unwrap();
    command.env("TERM", "xterm").stdin(terminal.side()).stdout(terminal.side()).stderr(terminal.side());
    let mut top = command.spawn().unwrap();
    let mut screen = String::new();
    let mut draw = |wanted: &str| {
        let found = |screen: &str| screen.rsplit("\x1b[H").any(|look| look.contains(wanted));
        while !found(&screen) {
            let bytes =
                terminal.drawn.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{wanted}:\n{screen}"));
            screen.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    for wanted in ["1 sandbox;", "GB-S TODAY", "s1", "running", "connected"] {
        draw(wanted);
    }
    scene.does(&["pause", "s1"]).await;
    draw("paused");
    terminal.ours.write_all(b"q").unwrap();
    assert!(tokio::time::timeout(DEADLINE, top.wait()).await.unwrap().unwrap().success());
    draw("\x1b[?1049l");
}

#[tokio::test]
async fn top_looks_once_for_those_without_a_terminal() {
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let once = scene.agent.cli(&["top", "--once"]).await.unwrap().succeeded().unwrap();
    assert!(once.stdout.starts_with("ORG") && once.stdout.contains("s1"), "{once:?}");
    let refused = scene.agent.cli(&["top"]).await.unwrap();
    assert_eq!(refused.code, 64, "{refused:?}");
    wait::until("something to be billed", DEADLINE, async || {
        let looked = scene.agent.json(&["top"]).await.map_err(|error| error.to_string())?;
        let billed = looked[0]["memory_billed_now_bytes"].as_u64().unwrap_or_default();
        wait::unless(billed > 0, || format!("{looked}"))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_the_watched_folder_holds_and_is_not_taken_is_seen_where_people_look() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("metrics.sock");
    let more = format!("[metrics]\nlisten = \"unix:{}\"\n", socket.display());
    let scene = Scene::in_folder(folder, &more).await;
    assert_eq!(scene.does(&["ls", "--rejected"]).await, json!([]));
    let file = scene.agent.run_dir().join("s1.toml");
    std::fs::write(&file, "orgg = \"acme\"\n").unwrap();
    let qemu = scene.unattached("s1", &Options::default(), &scene.agent.run_dir()).await;
    let listed = wait::until("the file to be rejected", DEADLINE, async || {
        let listed = scene.does(&["ls", "--rejected"]).await;
        if listed == json!([]) { Err("nothing is listed".to_owned()) } else { Ok(listed) }
    });
    let listed = listed.await.unwrap();
    let [rejected] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!(rejected["path"], file.to_str().unwrap());
    assert_eq!(rejected["reason"], "FILE_MALFORMED");
    assert!(rejected["message"].as_str().unwrap().contains("did you mean `org`?"), "{rejected}");
    assert_eq!(rejected["next"], "correct it");
    let text = scene.agent.cli(&["ls", "--rejected"]).await.unwrap().succeeded().unwrap().stdout;
    assert!(text.contains("[FILE_MALFORMED]\n       next: correct it\n"), "{text}");
    let doctor = scene.agent.cli(&["doctor", "--json"]).await.unwrap();
    assert!(doctor.stdout.contains("not taken as a sandbox"), "{doctor:?}");
    assert!(figures(&socket).await.lines().any(|line| line == "dormouse_files_rejected 1"));
    // Mended, it is taken, and seen no more.
    std::fs::write(&file, "org = \"default\"\n").unwrap();
    scene.until("s1", |view| view["connection"] == "connected").await;
    assert_eq!(scene.does(&["ls", "--rejected"]).await, json!([]));
    assert!(figures(&socket).await.lines().any(|line| line == "dormouse_files_rejected 0"));
    drop(qemu);
}

/// What is served at `/metrics`.
async fn figures(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn figures_are_served_where_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("metrics.sock");
    let more = format!("[metrics]\nlisten = \"unix:{}\"\n", socket.display());
    let scene = Scene::in_folder(folder, &more).await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let answer = figures(&socket).await;
    for line in ["dormouse_sandboxes{state=\"running\"} 1", "dormouse_ledger_writable 1"] {
        assert!(answer.lines().any(|found| found == line), "{line}:\n{answer}");
    }
    assert!(answer.contains("dormouse_calls_total{method=\"/dormouse.control.v1.Control/Get\",code=\"OK\"}"));
}
