//! The wall clock of a real kernel is stepped, an hour forward and an hour back, under an agent that runs there: in a
//! guest of its own, so that nobody else's clock is touched. It ends with a detach: the scripted QEMU stamps its events by a
//! clock that nobody steps, so that none of them may matter.

use dormouse_tests::in_guest::Script;
use serde_json::Value;

const SECOND_NS: i128 = 1_000_000_000;
const HOUR_NS: i128 = 3_600 * SECOND_NS;

/// What is done in the guest.
const INIT: &str = r#"uptime() { cut -d ' ' -f 1 /proc/uptime; }
steps() { d slices s1 --json 2>/dev/null | grep -o '"opened_by": *"clock_step"' | wc -l; }
step() {
    before=$(steps)
    date -s "@$(($(date +%s) + $1))" >/dev/null
    while [ "$(steps)" -le "$before" ]; do sleep 0.2; done
}
began=$(uptime)
/agent/scripted-qemu -name guest=s1 -append "$(cat /agent/script.json)" &
/agent/dormouse agent --config /agent/dormouse.toml >/d/log 2>&1 &
until_is connection '"connected"'
attached=$(uptime)
echo attached
step 3600
echo stepped
step -3600
until [ "$(d slices s1 --json | grep -c '"final": *false')" = 1 ]; do sleep 0.2; done
detaching=$(uptime)
d detach s1
told uptimes "[\"$began\", \"$attached\", \"$detaching\", \"$(uptime)\"]"
told slices "$(d slices s1 --json | one_line)"
told audit "$(d audit --json | one_line)"
"#;

fn number(slice: &Value, name: &str) -> i128 {
    slice[name].as_i64().unwrap_or_else(|| panic!("{slice} has no {name}")).into()
}

#[tokio::test]
async fn m8_a_real_clock_that_is_stepped_an_hour_and_back_bills_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script { init: INIT, config: "", programs: &[] };
    let console = script.run(folder.path()).await.unwrap();
    assert_eq!(console.told("audit").unwrap()["clean"], true, "{console}");
    let slices = console.told("slices").unwrap();
    let slices = slices.as_array().unwrap();
    let steps: Vec<_> = slices.iter().filter(|slice| slice["opened_by"] == "clock_step").collect();
    assert!(steps.len() >= 2, "both steps cut: {slices:?}\n{console}");
    assert!(slices.iter().all(|slice| slice["state"] == "running"), "{slices:?}");
    // The hour that was jumped over is there, and lasts nothing.
    let extent = |slice: &Value| number(slice, "end_unix_ns") - number(slice, "start_unix_ns");
    let skipped: i128 = slices.iter().filter(|slice| number(slice, "duration_ns") == 0).map(extent).sum();
    assert!((skipped - HOUR_NS).abs() < 5 * SECOND_NS, "{skipped} ns were jumped over: {slices:?}");
    // All the time between the attach and the detach is billed, by the guest kernel's own count, and no more.
    let uptimes = console.told("uptimes").unwrap();
    let centiseconds = |index: usize| {
        let text = uptimes[index].as_str().unwrap().replace('.', "");
        text.parse::<i128>().unwrap() * SECOND_NS / 100
    };
    let lasted: i128 = slices.iter().map(|slice| number(slice, "duration_ns")).sum();
    assert!(lasted >= centiseconds(2) - centiseconds(1), "{lasted} ns: {uptimes} {slices:?}");
    assert!(lasted <= centiseconds(3) - centiseconds(0), "{lasted} ns: {uptimes} {slices:?}");
}
