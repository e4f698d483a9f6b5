//! Starts QEMU as a transient service of its own.
//!
//! `systemd-run` is asked, rather than systemd over D-Bus by a library: no dependency, the very command can be repeated
//! by hand, and what it refuses it says in words. The service is started by systemd, so that nothing of the agent's own
//! hardening, control group or limits comes with it.

use std::path::Path;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::process::Command;

use super::launch::{LaunchError, LaunchSpec};
use super::{CommandLine, Marker, argv};

/// How long systemd may take to start a service, or to say which process it is.
const DEADLINE: Duration = Duration::from_secs(20);

/// How much of what systemd says is kept for an error, in characters.
const WORDS_CHARS_MAX: usize = 2000;

/// Whose systemd starts QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// The host's: only for root, because whoever may start services there may do anything.
    System,
    /// That of the agent's own user, which runs while the user lingers (`loginctl enable-linger`).
    User,
}

impl Instance {
    /// The one that this process may ask, where systemd runs.
    pub fn reachable() -> Option<Self> {
        if !Path::new("/run/systemd/system").is_dir() {
            return None;
        }
        if Uid::effective().is_root() {
            return Some(Self::System);
        }
        user_bus().exists().then_some(Self::User)
    }

    const fn option(self) -> &'static str {
        match self {
            Self::System => "--system",
            Self::User => "--user",
        }
    }
}

/// The services of one sandbox and request: a second start of the same is refused by systemd itself.
fn unit(marker: &Marker) -> String {
    let (_, text) = marker.variable();
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let name: String = marker.sandbox.chars().take(64).collect();
    format!("dormouse-{name}-{}.service", &hash.as_str()[..16])
}

/// The arguments of `systemd-run` for a service that runs until QEMU ends, and says so once QEMU is executed.
fn run_arguments(instance: Instance, spec: &LaunchSpec, unit: &str) -> Vec<String> {
    let CommandLine { exe, argv: words, cwd, env, uid, gid, groups } = &spec.command;
    let log = spec.log_path.display();
    let (name, value) = spec.marker.variable();
    let mut arguments = vec![
        instance.option().to_owned(),
        "--quiet".to_owned(),
        "--no-ask-password".to_owned(),
        // What ended is forgotten, also where it failed.
        "--collect".to_owned(),
        "--service-type=exec".to_owned(),
        format!("--unit={unit}"),
        format!("--description=Sandbox {}/{}", spec.marker.org, spec.marker.sandbox),
        format!("--working-directory={}", cwd.display()),
        format!("--property=StandardOutput=append:{log}"),
        format!("--property=StandardError=append:{log}"),
        "--property=TasksMax=infinity".to_owned(),
        // The default, but where it is named the group has the cpu controller: without that nothing can be limited.
        "--property=CPUWeight=100".to_owned(),
        format!("--setenv={name}={value}"),
    ];
    if instance == Instance::System {
        arguments.extend([format!("--uid={uid}"), format!("--gid={gid}")]);
        let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
        arguments.push(format!("--property=SupplementaryGroups={}", groups.join(" ")));
    }
    arguments.extend(env.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    arguments.push("--".to_owned());
    arguments.push(exe.display().to_string());
    let words = argv::without(words, &["daemonize"]);
    // systemd puts variables in place of `$NAME`, and one dollar in place of two.
    arguments.extend(words.iter().skip(1).map(|word| word.replace('$', "$$")));
    arguments
}

/// Starts QEMU as a service, and says which process it is; `None` where it has ended already.
pub(super) async fn start(instance: Instance, spec: &LaunchSpec) -> Result<Option<i32>, LaunchError> {
    let unit = unit(&spec.marker);
    ask("systemd-run", instance, &run_arguments(instance, spec, &unit)).await?;
    let question = [instance.option(), "show", "--property=MainPID", "--value", &unit].map(str::to_owned);
    let answer = ask("systemctl", instance, &question).await?;
    Ok(answer.trim().parse().ok().filter(|pid| *pid != 0))
}

async fn ask(program: &str, instance: Instance, arguments: &[String]) -> Result<String, LaunchError> {
    let failed = |what: String| LaunchError::Service { what };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    if let (Instance::User, Some(folder)) = (instance, user_bus().parent()) {
        command.env("XDG_RUNTIME_DIR", folder);
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", user_bus().display()));
    }
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .map_err(|_| failed(format!("{program} took longer than {} s", DEADLINE.as_secs())))?
        .map_err(|error| failed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    Err(failed(format!(
        "{program} ({status}): {}",
        said.trim().chars().take(WORDS_CHARS_MAX).collect::<String>()
    )))
}

fn user_bus() -> std::path::PathBuf {
    format!("/run/user/{}/bus", Uid::effective()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> LaunchSpec {
        let marker = Marker {
            agent: "/state".into(),
            org: "acme".to_owned(),
            sandbox: "sb-1".to_owned(),
            request_id: "r1".to_owned(),
        };
        let words = ["qemu", "-daemonize", "-append", "root=$X", "-S"].into_iter().collect();
        LaunchSpec {
            command: CommandLine {
                exe: "/usr/bin/qemu".into(),
                argv: words,
                cwd: "/".into(),
                env: [("PATH".to_owned(), "/bin".to_owned())].into_iter().collect(),
                uid: 7,
                gid: 8,
                groups: vec![9, 10],
            },
            log_path: "/logs/sb-1.log".into(),
            marker,
            instance: Some(Instance::System),
        }
    }

    #[test]
    fn a_service_has_the_sandboxs_user_log_and_marker_and_its_arguments_word_by_word() {
        let unit = unit(&spec().marker);
        let arguments = run_arguments(Instance::System, &spec(), &unit);
        let (options, words) = arguments.split_at(arguments.iter().position(|word| word == "--").unwrap());
        assert_eq!(words, ["--", "/usr/bin/qemu", "-append", "root=$$X", "-S"]);
        for option in [
            "--system",
            "--service-type=exec",
            "--uid=7",
            "--gid=8",
            "--property=SupplementaryGroups=9 10",
            "--property=StandardError=append:/logs/sb-1.log",
            "--setenv=PATH=/bin",
        ] {
            assert!(options.contains(&option.to_owned()), "{option} is not in {options:?}");
        }
        let (name, value) = spec().marker.variable();
        assert!(options.contains(&format!("--setenv={name}={value}")), "{options:?}");
        assert!(options.contains(&format!("--unit={unit}")), "{options:?}");
    }

    #[test]
    fn a_users_service_names_no_other_user() {
        let arguments = run_arguments(Instance::User, &spec(), "u.service");
        assert!(arguments.contains(&"--user".to_owned()));
        assert!(
            !arguments.iter().any(|word| word.starts_with("--uid") || word.contains("SupplementaryGroups"))
        );
    }

    #[test]
    fn a_unit_is_named_after_its_sandbox_and_no_other_request_has_the_same() {
        let one = unit(&spec().marker);
        let other = unit(&Marker { request_id: "r2".to_owned(), ..spec().marker });
        assert!(one.starts_with("dormouse-sb-1-") && one.len() <= 255, "{one}");
        assert_ne!(one, other);
    }
}
