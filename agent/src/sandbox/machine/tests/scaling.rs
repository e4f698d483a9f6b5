//! Scaling of several dimensions: their order, what is partial, and what is not believed.

use dormouse_metering::CommandId;
use serde_json::json;

use super::driver::{BASE, Driver, GIB, MIB, at, command, device, scale, token_of};
use super::limits::vcpus;
use crate::process::Paging;
use crate::process::paging::Held;
use crate::sandbox::command::{CommandResult, Outcome, Request, Scaling};
use crate::sandbox::machine::{Action, Answer, Core, Input, Phase, QemuEvent, Recovered, Sandbox, Settings};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::terms::Terms;

fn disk(bytes: u64) -> Scaling {
    Scaling { disks: [("d0".to_owned(), bytes)].into(), ..Scaling::default() }
}

fn everything() -> Scaling {
    Scaling { memory_bytes: Some(BASE + GIB), vcpus_milli: Some(1500), ..disk(2 * GIB) }
}

fn done(driver: &Driver) -> Vec<&str> {
    driver.log.iter().map(String::as_str).filter(|word| *word != "publish" && *word != "wait").collect()
}

/// Answers what the test has words for, and everything else well.
fn execute(
    driver: &mut Driver,
    asked: Scaling,
    mut otherwise: impl FnMut(&Action) -> Option<Answer>,
) -> Result<Outcome, Refusal> {
    driver.feed(Input::Command(command("c1", Request::Scale(asked))));
    for _ in 0..500 {
        let Some(action) = driver.open.pop_front() else { break };
        match (otherwise(&action), token_of(&action)) {
            (Some(answer), Some(token)) => driver.feed(Input::Answer(token, answer)),
            _ => driver.answer_well(action),
        }
    }
    driver.replies.iter().find(|(id, _)| id == "c1").expect("a reply").1.clone()
}

fn refused(name: &'static str) -> impl FnMut(&Action) -> Option<Answer> {
    move |action| match action {
        Action::Qmp(_, command) if command.name == name => {
            Some(Answer::Failed(Refusal::new(Reason::QemuFailed, "no space")))
        }
        _ => None,
    }
}

#[test]
fn every_dimension_of_one_scale_is_reached_in_order_and_cut_by_it() {
    let mut driver = Driver::attached();
    let outcome = driver.execute("c1", Request::Scale(everything())).unwrap();
    assert_eq!(outcome.result, CommandResult::Done);
    let expected = [
        "before",
        "promise 1024",
        "limit Some(1500)",
        "observe vcpus 1500",
        "query-block",
        "block_resize",
        "query-block",
        "observe disk 2048",
        "qom-set",
    ];
    assert_eq!(&done(&driver)[..expected.len()], expected);
    for seen in &driver.observed {
        assert_eq!(seen.command.as_ref().map(CommandId::as_str), Some("c1"), "{seen:?}");
    }
    for words in ["1500 thousandths", "disk d0 has 2GiB", "has 1.25GiB of memory"] {
        assert!(outcome.message.contains(words), "{}", outcome.message);
    }
    let shape = driver.sandbox.core().shape;
    assert_eq!((shape.vcpus_milli, shape.disk_bytes), (1500, 2 * GIB));
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_changed() {
    for (asked, reason) in [
        (Scaling::default(), Reason::NothingToScale),
        (Scaling { force: true, ..Scaling::default() }, Reason::NothingToScale),
        (vcpus(9), Reason::SizeOutOfBounds),
        (vcpus(2001), Reason::SizeOutOfBounds),
        (disk(GIB / 2), Reason::DiskWouldShrink),
        (disk(GIB + 511), Reason::SizeMisaligned),
        (disk(1 << 63), Reason::SizeOutOfBounds),
        (Scaling { disks: [("d1".to_owned(), GIB)].into(), ..Scaling::default() }, Reason::NoDisk),
        (Scaling { memory_bytes: Some(BASE + MIB), ..everything() }, Reason::SizeMisaligned),
    ] {
        let mut driver = Driver::attached();
        assert_eq!(
            driver.execute("c1", Request::Scale(asked.clone())).unwrap_err().reason,
            reason,
            "{asked:?}"
        );
        assert_eq!(done(&driver), ["before", "after", "reply refused"], "{asked:?}");
    }
}

#[test]
fn a_host_without_the_memory_leaves_every_dimension_as_it_was() {
    let mut driver = Driver::attached();
    let refusal = execute(&mut driver, everything(), |action| match action {
        Action::PromiseMemory(..) => Some(Answer::Failed(Refusal::new(Reason::HostMemoryShort, "short"))),
        _ => None,
    });
    assert_eq!(refusal.unwrap_err().reason, Reason::HostMemoryShort);
    assert_eq!(done(&driver), ["before", "promise 1024", "after", "reply refused"]);
}

#[test]
fn a_dimension_that_fails_after_another_was_reached_is_a_partial_result_that_names_what_is_left() {
    let mut driver = Driver::attached();
    let outcome = execute(&mut driver, everything(), refused("block_resize")).unwrap();
    assert_eq!(outcome.result, CommandResult::Partial { achieved_bytes: BASE });
    for words in ["1500 thousandths", "no space [QEMU_FAILED]", "requesting was not begun"] {
        assert!(outcome.message.contains(words), "{}", outcome.message);
    }
    let shape = driver.sandbox.core().shape;
    assert_eq!((shape.vcpus_milli, shape.disk_bytes, shape.memory_plugged_bytes), (1500, GIB, 0));
    let mut driver = Driver::attached();
    assert_eq!(
        execute(&mut driver, disk(2 * GIB), refused("block_resize")).unwrap_err().reason,
        Reason::QemuFailed
    );
}

#[test]
fn a_connection_that_is_lost_between_two_dimensions_is_waited_for() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", Request::Scale(everything()))));
    while !matches!(driver.open.front(), Some(Action::LimitVcpus(..))) {
        let action = driver.open.pop_front().expect("the limit");
        driver.answer_well(action);
    }
    driver.feed(Input::Disconnected);
    driver.settle();
    assert_eq!(driver.replies[0].1.as_ref().unwrap().result, CommandResult::Done, "{:?}", driver.log);
}

#[test]
fn a_disk_that_another_monitor_has_grown_is_never_made_smaller() {
    let mut driver = Driver::attached();
    driver.qemu.as_mut().unwrap().disks = vec![("d0", 8 * GIB)];
    let refusal = driver.execute("c1", Request::Scale(disk(4 * GIB))).unwrap_err();
    assert_eq!(refusal.reason, Reason::DiskWouldShrink);
    assert!(!driver.log.iter().any(|word| word == "block_resize"), "{:?}", driver.log);
    // What it has is billed from here on, and not as this command's doing.
    assert_eq!(driver.sandbox.core().shape.disk_bytes, 8 * GIB);
    assert!(driver.observed.iter().all(|seen| seen.command.is_none()));
}

#[test]
fn disks_go_no_further_than_their_file_allows_whoever_has_grown_them() {
    let mut driver = Driver::new();
    driver.qemu.as_mut().unwrap().disks = vec![("d0", GIB), ("d1", GIB)];
    let terms = Terms { disk_max_bytes: Some(5 * GIB), ..Terms::default() };
    let Request::Attach { qmp_path, plan, tags, .. } = super::driver::attach() else { panic!() };
    driver.execute("attach", Request::Attach { qmp_path, plan, tags, terms: Some(Box::new(terms)) }).unwrap();
    let refusal = driver.execute("c1", Request::Scale(disk(4 * GIB + 512))).unwrap_err();
    assert_eq!(refusal.reason, Reason::SizeOutOfBounds);
    driver.qemu.as_mut().unwrap().disks = vec![("d0", GIB), ("d1", 2 * GIB)];
    let refusal = driver.execute("c2", Request::Scale(disk(4 * GIB))).unwrap_err();
    assert_eq!(refusal.reason, Reason::SizeOutOfBounds);
    assert!(!driver.log.iter().any(|word| word == "block_resize"), "{:?}", driver.log);
    driver.execute("c3", Request::Scale(disk(3 * GIB))).unwrap();
    assert_eq!(driver.sandbox.core().shape.disk_bytes, 5 * GIB);
}

#[test]
fn a_resize_without_an_answer_is_what_qemu_reports_afterwards() {
    for (grown, reason) in [(true, None), (false, Some(Reason::OutcomeUnknown))] {
        let mut driver = Driver::attached();
        let mut looks = 0;
        let resized = execute(&mut driver, disk(2 * GIB), |action| match action {
            Action::Qmp(_, command) if command.name == "block_resize" => {
                Some(Answer::Failed(Refusal::new(Reason::OutcomeUnknown, "late")))
            }
            Action::Qmp(_, command) if command.name == "query-block" => {
                looks += 1;
                let bytes = if grown && looks > 1 { 2 * GIB } else { GIB };
                let medium = json!({"node-name": "d0", "ro": false, "image": {"virtual-size": bytes}});
                Some(Answer::Returned(json!([{ "inserted": medium }])))
            }
            _ => None,
        });
        assert_eq!(resized.err().map(|refusal| refusal.reason), reason);
        let expected = if grown { 2 * GIB } else { GIB };
        assert_eq!(driver.sandbox.core().shape.disk_bytes, expected);
    }
}

#[test]
fn two_devices_take_one_size_and_a_refused_second_is_a_partial_result() {
    let two = || {
        let mut driver = Driver::new();
        driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 0), device("vm1", 0)];
        driver.execute("attach", super::driver::attach()).unwrap();
        driver
    };
    let mut driver = two();
    let asked = Scaling::of_memory(BASE + 1536 * MIB);
    assert_eq!(driver.execute("c1", Request::Scale(asked.clone())).unwrap().result, CommandResult::Done);
    let sizes: Vec<u64> =
        driver.qemu.as_ref().unwrap().devices.iter().map(|device| device.size_bytes / MIB).collect();
    assert_eq!(sizes, [1024, 512]);

    let mut driver = two();
    let outcome = execute(&mut driver, asked, |action| match action {
        Action::Qmp(_, command)
            if command.arguments["path"].as_str().is_some_and(|path| path.ends_with("vm1")) =>
        {
            Some(Answer::Failed(Refusal::new(Reason::QemuFailed, "busy")))
        }
        _ => None,
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.result, CommandResult::Partial { achieved_bytes: BASE + GIB });
    assert!(outcome.message.contains("busy [QEMU_FAILED]"), "{}", outcome.message);
}

/// What becomes of a scale of everything that a restart of the agent has interrupted, when QEMU is found as it is here.
fn recovered(vcpus: Option<u32>, disk_bytes: u64, mib: u64) -> (Result<Outcome, Refusal>, Vec<String>) {
    let before = Driver::attached();
    let mut core = Core::new(super::driver::key(), "/run/dormouse/sb-1.qmp".into(), Settings::default());
    (core.phase, core.generation, core.shape) = (Phase::Attached, 7, before.sandbox.core().shape);
    core.process = Some(super::driver::identity(100));
    let unfinished = vec![command("c1", Request::Scale(everything()))];
    let recovered =
        Recovered { core, unfinished, saved: None, ran: true, last_sign: None, plugged_by_device: None };
    let mut qemu = super::driver::Qemu::new(100);
    (qemu.vcpu_limit_milli, qemu.disks, qemu.devices) =
        (Ok(vcpus), vec![("d0", disk_bytes)], vec![device("vm0", mib)]);
    let (sandbox, actions) = Sandbox::recover_from(recovered, before.now(), true);
    let mut driver = Driver::of(sandbox, Some(qemu));
    driver.take(actions);
    driver.settle();
    (driver.replies.remove(0).1, driver.log)
}

#[test]
fn a_scale_that_a_restart_interrupted_is_finished_where_it_was_begun_and_called_off_where_it_was_not() {
    let (nothing, log) = recovered(None, GIB, 0);
    assert_eq!(nothing.unwrap_err().reason, Reason::Interrupted);
    assert!(!log.iter().any(|word| word.starts_with("limit") || word == "block_resize"), "{log:?}");
    for (vcpus, disk_bytes, mib) in [(Some(1500), GIB, 0), (None, 2 * GIB, 0), (Some(1500), 2 * GIB, 0)] {
        let (some, log) = recovered(vcpus, disk_bytes, mib);
        assert_eq!(some.unwrap().result, CommandResult::Done, "{log:?}");
        assert!(log.iter().any(|word| word == "qom-set"), "{log:?}");
    }
    let (all, log) = recovered(Some(1500), 2 * GIB, 1024);
    assert_eq!(all.unwrap().result, CommandResult::Done);
    assert!(!log.iter().any(|word| word == "qom-set"), "{log:?}");
}

/// One whose guest has a balloon and is asked before memory is taken; it has 1 GiB plugged.
fn with_floor(reserve_mib: u64) -> Driver {
    let settings = Settings { guest_reserve_bytes: Some(reserve_mib * MIB), ..Settings::default() };
    let core = Core::new(super::driver::key(), "/run/dormouse/sb-1.qmp".into(), settings);
    let mut driver = Driver::of(Sandbox::new(core), Some(super::driver::Qemu::new(100)));
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 1024)];
    driver.execute("attach", super::driver::attach()).unwrap();
    driver.log.clear();
    driver
}

/// Shrinks to the base, while the guest says what the test wants. `updated_s` is counted from now.
fn shrinks(total_mib: u64, available_mib: u64, updated_s: i64, force: bool) -> Result<Outcome, Refusal> {
    let mut driver = with_floor(64);
    let updated_s = driver.now().wall_ns / 1_000_000_000 + updated_s;
    execute(&mut driver, Scaling { force, ..Scaling::of_memory(BASE) }, move |action| {
        let Action::Qmp(_, command) = action else { return None };
        Some(Answer::Returned(match (command.name, command.arguments["property"].as_str()) {
            ("qom-list", _) => json!([{"name": "b0", "type": "child<virtio-balloon-pci>"}]),
            ("qom-get", Some("guest-stats-polling-interval")) => json!(0),
            ("qom-get", _) => json!({"last-update": updated_s, "stats": {
                "stat-total-memory": total_mib * MIB, "stat-available-memory": available_mib * MIB}}),
            _ => return None,
        }))
    })
}

#[test]
fn memory_that_the_guest_uses_is_not_taken_unless_it_is_forced() {
    assert_eq!(shrinks(1200, 1100, 1, false).unwrap().result, CommandResult::Done);
    let refusal = shrinks(1200, 1000, 1, false).unwrap_err();
    assert_eq!(refusal.reason, Reason::GuestNeedsMemory);
    assert_eq!(refusal.metadata["min_bytes"], (264 * MIB).to_string());
    assert_eq!(shrinks(1200, 1000, 1, true).unwrap().result, CommandResult::Done);
}

#[test]
fn statistics_that_are_old_or_impossible_let_no_memory_go_unless_it_is_forced() {
    // What is stamped with the second of the question may have been told before it.
    let old = [(1200, 1100, -3600), (1200, 1100, 0)];
    for (total, available, updated_s) in old.into_iter().chain([(1200, 1201, 1), (0, 0, 1), (9000, 8999, 1)])
    {
        let refusal = shrinks(total, available, updated_s, false).unwrap_err();
        assert_eq!(refusal.reason, Reason::GuestStatisticsUnusable, "{refusal}");
    }
    assert_eq!(shrinks(0, 0, 1, true).unwrap().result, CommandResult::Done);
}

#[test]
fn a_guest_without_a_balloon_has_no_floor_and_nothing_is_left_polling() {
    let mut driver = with_floor(64);
    let outcome = execute(&mut driver, Scaling::of_memory(BASE), |action| match action {
        Action::Qmp(_, command) if command.name == "qom-list" => Some(Answer::Returned(json!([]))),
        _ => None,
    });
    assert_eq!(outcome.unwrap().result, CommandResult::Done);
    assert_eq!(driver.log.iter().filter(|word| *word == "qom-list").count(), 2);
    assert_eq!(driver.log.iter().filter(|word| *word == "qom-set").count(), 1);
}

#[test]
fn a_pause_holds_whatever_comes_of_reclaiming_and_tells_what_was_measured() {
    let held = |resident_bytes| Held { resident_bytes, swapped_bytes: 0 };
    let paging = Paging { before: held(300 * MIB), after: held(100 * MIB), ..Paging::default() };
    let failed = Refusal::new(Reason::QemuFailed, "cannot read");
    for (answer, words) in [
        (Answer::Advised(Box::new(paging.clone())), "200MiB of 300MiB were reclaimed (the host has no swap"),
        (Answer::Advised(Box::default()), "0B of 0B were reclaimed"),
        (Answer::Failed(failed), "its memory was let alone: cannot read"),
    ] {
        let mut driver = Driver::attached();
        let mut answer = Some(answer);
        driver.feed(Input::Command(command("c1", Request::Pause { reclaim: true })));
        while let Some(action) = driver.open.pop_front() {
            if let Action::Advise(token, _) = action {
                driver.feed(Input::Answer(token, answer.take().expect("it is advised once")));
            } else {
                driver.answer_well(action);
            }
        }
        let outcome = driver.replies[0].1.clone().unwrap();
        assert_eq!(outcome.result, CommandResult::Done);
        assert!(
            outcome.message.contains("is paused") && outcome.message.contains(words),
            "{}",
            outcome.message
        );
    }
}

#[test]
fn pause_and_resume_with_advice_are_idempotent_and_the_guest_stands_while_it_is_given() {
    let mut driver = Driver::attached();
    let pause = Request::Pause { reclaim: true };
    driver.execute("c1", pause.clone()).unwrap();
    assert_eq!(driver.execute("c2", pause).unwrap().result, CommandResult::Unchanged);
    let resume = Request::Resume { prefetch: true };
    driver.execute("c3", resume.clone()).unwrap();
    assert_eq!(driver.execute("c4", resume).unwrap().result, CommandResult::Unchanged);
    let done = done(&driver);
    let told: Vec<&str> = done
        .into_iter()
        .filter(|word| ["stop", "cont"].contains(word) || word.starts_with("advise"))
        .collect();
    assert_eq!(told, ["stop", "advise PageOut", "advise PageOut", "advise WillNeed", "cont"]);
}

/// A scale by 512 MiB whose request was taken, and what its guest has not been asked yet; an event tells the size,
/// stamped so long after the request, or before. Whether that ends it.
fn ends_by_event(mut driver: Driver, stamped_ns: i64) -> bool {
    driver.feed(Input::Command(command("c1", scale(768))));
    while !matches!(driver.open.front(), Some(Action::Qmp(_, qmp)) if qmp.name == "qom-set") {
        let action = driver.open.pop_front().expect("the request");
        driver.answer_well(action);
    }
    let requested_ns = driver.now_ns;
    let request = driver.open.pop_front().unwrap();
    driver.feed(Input::Answer(token_of(&request).unwrap(), Answer::Returned(json!({}))));
    let event = QemuEvent {
        name: "MEMORY_DEVICE_SIZE_CHANGE".to_owned(),
        at: at(requested_ns.strict_add_signed(stamped_ns)),
        detail: json!({"id": "vm0", "size": 512 * MIB}),
    };
    driver.feed(Input::Event(event));
    let has_ended = driver.log.iter().any(|word| word == "after");
    driver.qemu.as_mut().unwrap().devices[0].size_bytes = 512 * MIB;
    driver.settle();
    assert_eq!(driver.replies[0].1.as_ref().unwrap().result, CommandResult::Done, "{:?}", driver.log);
    assert_eq!(driver.sandbox.core().shape.memory_plugged_bytes, 512 * MIB);
    has_ended
}

#[test]
fn a_size_event_of_one_device_ends_a_scale_where_it_is_stamped_after_the_request() {
    assert!(ends_by_event(Driver::attached(), 1_000));
    assert!(!ends_by_event(Driver::attached(), -1_000), "it may have been held back since before");
    let mut two = Driver::new();
    two.qemu.as_mut().unwrap().devices = vec![device("vm0", 0), device("vm1", 0)];
    two.execute("attach", super::driver::attach()).unwrap();
    two.log.clear();
    two.replies.clear();
    assert!(!ends_by_event(two, 1_000), "it says nothing of the other device");
}
