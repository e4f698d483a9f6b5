//! The process behind [`dormouse_tests::scripted`]: a scripted QEMU that can be saved to a file and woken from it.
//!
//! Its command line is one that the agent can repeat: `-append` holds the script, and a wake adds `-S` and `-incoming
//! defer` as for any QEMU.

mod save;
mod script;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse::clock::Clock;
use dormouse_qmp::Version;
use dormouse_qmp::scripted::{Greeting, Model, ScriptedQemu, VirtioMem};
use dormouse_tests::scripted::{Greets, Options, Order};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use script::{Effect, Rules};

/// What `-append` holds.
#[derive(Deserialize)]
struct Script {
    qmp: PathBuf,
    control: PathBuf,
    options: Options,
}

/// How far its clock may be from the machine's.
const CLOCKS_APART_NS_MAX: u64 = 100_000;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|word| *word != name).nth(1);
    let script: Script = serde_json::from_str(after("-append").ok_or("there is no -append")?)?;
    for socket in [&script.qmp, &script.control] {
        // QEMU takes over the socket of a predecessor, too.
        let _ = std::fs::remove_file(socket);
    }
    let run_state = match (after("-incoming"), arguments.iter().any(|word| word == "-S")) {
        (Some(_), _) => "inmigrate",
        (None, true) => "prelaunch",
        (None, false) => "running",
    };
    let migrating = Arc::new(AtomicBool::new(false));
    let (effects, mut happening) = mpsc::unbounded_channel();
    let rules = match std::fs::read_to_string(script.control.with_extension("rules")) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => script.options.rules.clone(),
    };
    let rules: Rules = Arc::new(Mutex::new(rules));
    let qemu = ScriptedQemu::builder()
        .path(&script.qmp)
        .model(model(&script.options, run_state))
        .greeting(greeting(script.options.greeting))
        .on(script::behaviour(Arc::clone(&rules), effects.clone(), Arc::clone(&migrating)))
        .start()?;
    tell_time(&qemu)?;
    let qemu = Arc::new(qemu);
    tokio::spawn(take_orders(UnixListener::bind(&script.control)?, Arc::clone(&qemu), rules, effects));
    while let Some(effect) = happening.recv().await {
        match effect {
            Effect::Save(path) => {
                let (qemu, migrating) = (Arc::clone(&qemu), Arc::clone(&migrating));
                let pause = Duration::from_millis(script.options.save_ms);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    save::save(&qemu, &path);
                    migrating.store(false, Ordering::Relaxed);
                });
            }
            Effect::Load(path) => {
                save::load(&qemu, &path);
                migrating.store(false, Ordering::Relaxed);
            }
            Effect::Quit => {
                answered_last_command(&script.qmp).await;
                break;
            }
            Effect::Exit => break,
        }
    }
    // Only what quits takes its sockets away.
    let _ = std::fs::remove_file(&script.qmp);
    Ok(())
}

/// The socket is closed once the reply to `quit` is sent.
async fn answered_last_command(qmp: &Path) {
    while UnixStream::connect(qmp).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn model(options: &Options, run_state: &str) -> Model {
    let [major, minor, micro] = options.version;
    Model {
        version: Version { major, minor, micro, package: "scripted".to_owned() },
        run_state: run_state.to_owned(),
        virtio_mem: VirtioMem {
            resize_delay: Duration::from_millis(options.resize_ms),
            unplug_floor_bytes: options.unplug_floor_bytes,
            ..VirtioMem::default()
        },
        boot_delay: Duration::from_millis(200),
        ..Model::default()
    }
}

/// Sets its clock by the machine's. Where the process was held up between two looks at them, it looks again: events that
/// are stamped late are taken for older than what QEMU has answered before them.
fn tell_time(qemu: &ScriptedQemu) -> Result<(), Failure> {
    let (clock, _) = Clock::start(None)?;
    loop {
        let (before, up, after) = (clock.now(), qemu.uptime(), clock.now());
        if after.boottime_ns - before.boottime_ns < CLOCKS_APART_NS_MAX {
            let wall_at_start_unix_ns = before.wall_ns - i64::try_from(up.as_nanos())?;
            qemu.with_model(|model| model.wall_at_start_unix_ns = wall_at_start_unix_ns);
            return Ok(());
        }
    }
}

fn greeting(greets: Greets) -> Greeting {
    match greets {
        Greets::Normally => Greeting::Normal,
        Greets::Never => Greeting::Never,
        Greets::Garbage => Greeting::Raw(b"220 mail.example.org ESMTP\r\n\x00\xff{[\n".to_vec()),
    }
}

async fn take_orders(
    listener: UnixListener,
    qemu: Arc<ScriptedQemu>,
    rules: Rules,
    effects: mpsc::UnboundedSender<Effect>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        // Whoever gave the order may be gone.
        let _ = take_order(stream, &qemu, &rules, &effects).await;
    }
}

async fn take_order(
    stream: UnixStream,
    qemu: &ScriptedQemu,
    rules: &Rules,
    effects: &mpsc::UnboundedSender<Effect>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line)? {
        Order::Rules(new) => {
            script::replace(rules, new);
            Value::Null
        }
        Order::Become { run_state, event } => {
            qemu.with_model(|model| model.run_state = run_state);
            json!(qemu.emit(&event, Value::Null))
        }
        Order::Raw(text) => json!(qemu.send_raw(text)),
        Order::Disconnect => json!(qemu.disconnect()),
        Order::Storm { event, count } => {
            for number in 0..count {
                qemu.emit(&event, json!({ "number": number }));
            }
            Value::Null
        }
        Order::Quit => {
            qemu.emit("SHUTDOWN", json!({ "guest": false, "reason": "host-qmp-quit" }));
            qemu.disconnect();
            while qemu.send_raw("") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            json!(effects.send(Effect::Exit).is_ok())
        }
        Order::Commands => qemu.commands().into_iter().map(|command| command.name).collect(),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}
