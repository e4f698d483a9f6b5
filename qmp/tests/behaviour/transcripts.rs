//! What real QEMUs said, read by the session. How each was recorded: transcripts/README.md.

use crate::support::{BOTH, Heard, Line, replay, transcript};
use dormouse_qmp::{AnomalyCounts, CloseReason, Decoded, Event, QmpError, qapi_qmp};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn played(name: &str, version: &str) -> Heard {
    let heard = replay(&transcript(name, version));
    assert_eq!(heard.counts.bad_lines, 0, "{name}-{version}");
    heard
}

fn returned<T: DeserializeOwned>(heard: &Heard, id: u64) -> T {
    let value = heard.reply(id).as_ref().unwrap();
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn plugged(devices: &[qapi_qmp::MemoryDeviceInfo]) -> u64 {
    let [qapi_qmp::MemoryDeviceInfo::virtio_mem(device)] = devices else { panic!("{devices:?}") };
    device.data.size
}

fn sizes(heard: &Heard) -> Vec<u64> {
    let sizes = heard.events.iter().filter(|event| event.name == "MEMORY_DEVICE_SIZE_CHANGE");
    sizes.map(|event| event.data["size"].as_u64().unwrap()).collect()
}

#[test]
fn every_line_of_both_versions_is_understood() {
    for version in BOTH {
        for name in ["queries", "life", "size", "save", "wake", "migrate", "sigkill", "sigterm", "schema"] {
            let heard = played(name, version);
            assert_eq!(heard.counts, AnomalyCounts::default(), "{name}-{version}");
            for event in &heard.events {
                assert!(matches!(event.decode(), Decoded::Known(_)), "{name}-{version}: {event:?}");
                assert!(event.timestamp_unix_ns.is_some(), "{name}-{version}: {event:?}");
            }
        }
    }
}

#[test]
fn what_must_be_asked_after_negotiation_decodes_on_both_versions() {
    for version in BOTH {
        let heard = played("queries", version);
        assert_eq!(returned::<qapi_qmp::StatusInfo>(&heard, 1).status, qapi_qmp::RunState::prelaunch);
        let expected = if version == "10.0.2" { 10 } else { 7 };
        assert_eq!(returned::<qapi_qmp::VersionInfo>(&heard, 2).qemu.major, expected);
        assert_eq!(returned::<qapi_qmp::NameInfo>(&heard, 3).name.as_deref(), Some("sandbox-1"));
        assert!(returned::<qapi_qmp::UuidInfo>(&heard, 4).UUID.starts_with("11111111"));
        assert_eq!(returned::<Vec<qapi_qmp::CpuInfoFast>>(&heard, 5).len(), 1);
        assert_eq!(returned::<qapi_qmp::MemoryInfo>(&heard, 6).base_memory, 256 << 20);
        assert_eq!(plugged(&returned::<Vec<_>>(&heard, 7)), 0);
        assert_eq!(returned::<Vec<qapi_qmp::Memdev>>(&heard, 8).len(), 2);
        assert_eq!(returned::<Vec<qapi_qmp::BlockInfo>>(&heard, 9).len(), 1);
        assert!(!returned::<Vec<qapi_qmp::BlockDeviceInfo>>(&heard, 10).is_empty());
        assert!(returned::<Vec<qapi_qmp::JobInfo>>(&heard, 11).is_empty());
        assert!(returned::<qapi_qmp::MigrationInfo>(&heard, 12).status.is_none());
    }
}

#[test]
fn stop_and_cont_send_their_event_before_their_return() {
    for version in BOTH {
        let lines = transcript("life", version);
        for (command, event) in [("stop", "STOP"), ("cont", "RESUME")] {
            let sent = lines.iter().position(|l| matches!(l, Line::Sent(s) if s.contains(command))).unwrap();
            assert!(matches!(&lines[sent + 1], Line::Received(line) if line.contains(event)), "{version}");
            assert!(matches!(&lines[sent + 2], Line::Received(line) if line.contains("return")), "{version}");
        }
    }
}

#[test]
fn a_refused_command_has_qemus_class_and_words() {
    for version in BOTH {
        let heard = played("life", version);
        let QmpError::Refused { command, class, desc } = heard.reply(6).as_ref().unwrap_err() else {
            panic!()
        };
        assert_eq!((command.as_str(), class), ("qom-set", &dormouse_qmp::ErrorClass::GenericError));
        assert_eq!(desc, "'requested-size' has to be multiples of 'block-size' (0x200000)");
        let QmpError::Refused { class, .. } = heard.reply(11).as_ref().unwrap_err() else { panic!() };
        assert_eq!(class, &dormouse_qmp::ErrorClass::CommandNotFound);
    }
}

#[test]
fn sigkill_gives_end_of_file_and_no_event() {
    for version in BOTH {
        let heard = played("sigkill", version);
        assert!(heard.events.is_empty());
        assert_eq!(heard.close, Some(CloseReason::Eof));
    }
}

#[test]
fn quit_and_sigterm_give_shutdown_first() {
    for version in BOTH {
        for (name, reason) in [("life", "host-qmp-quit"), ("sigterm", "host-signal")] {
            let heard = played(name, version);
            let shutdown = heard.events.last().unwrap();
            assert_eq!((shutdown.name.as_str(), &shutdown.data["reason"]), ("SHUTDOWN", &reason.into()));
            assert_eq!(heard.close, Some(CloseReason::Eof));
        }
    }
}

#[test]
fn the_return_of_qom_set_is_only_acceptance() {
    for version in BOTH {
        let heard = played("life", version);
        assert!(heard.reply(8).is_ok());
        assert_eq!(plugged(&returned::<Vec<_>>(&heard, 9)), 0);
    }
}

#[test]
fn a_throttled_size_event_drops_what_lies_between_and_tells_the_last_size() {
    for version in BOTH {
        let heard = played("size", version);
        let asked = [256 << 20, 1024 << 20, 512 << 20, 1024 << 20];
        // The guest passed through many sizes; at most two events per resize came, and the last one is right.
        assert!(sizes(&heard).len() <= 2 * (asked.len() + 2), "{version}: {:?}", sizes(&heard));
        assert_eq!(sizes(&heard).last(), Some(&(1024 << 20)), "{version}");
    }
}

#[test]
fn a_throttled_event_arrives_after_younger_events_of_other_kinds_with_its_true_timestamp() {
    // On 7.2 the size had not changed within the second before the reset, so that nothing was held back.
    let heard = played("size", "10.0.2");
    let reset = heard.events.iter().rfind(|event| event.name == "RESET").unwrap();
    let unplugged = heard.events.iter().find(|event| event.data["size"] == 0).unwrap();
    let place = |wanted: &Event| heard.events.iter().position(|event| event == wanted).unwrap();
    assert!(place(unplugged) > place(reset), "delivered later");
    assert!(unplugged.timestamp_unix_ns < reset.timestamp_unix_ns, "stamped earlier");
}

#[test]
fn a_system_reset_sends_two_resets_and_the_plugged_size_comes_back_by_itself() {
    for version in BOTH {
        let heard = played("size", version);
        let resets: Vec<_> = heard.events.iter().filter(|event| event.name == "RESET").collect();
        let reasons: Vec<_> = resets.iter().map(|reset| reset.data["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["host-qmp-system-reset", "guest-reset"]);
        assert_eq!(plugged(&returned::<Vec<_>>(&heard, 11)), 0, "{version}");
        assert_eq!(plugged(&returned::<Vec<_>>(&heard, 12)), 1024 << 20, "{version}");
    }
}

#[test]
fn migration_events_need_the_events_capability() {
    for version in BOTH {
        let is_migration = |heard: &Heard| heard.event_names().contains(&"MIGRATION");
        assert!(is_migration(&played("migrate", version)));
        assert!(!is_migration(&played("save", version)));
        let status: Value = returned(&played("save", version), 6);
        assert_eq!(status["status"], "completed", "{version}: it did migrate");
    }
}

#[test]
fn waking_sends_no_size_event() {
    for version in BOTH {
        let saved = played("save", version);
        assert_eq!(plugged(&returned::<Vec<_>>(&saved, 7)), 512 << 20, "{version}");
        let woken = played("wake", version);
        assert_eq!(plugged(&returned::<Vec<_>>(&woken, 6)), 512 << 20, "{version}");
        assert!(sizes(&woken).is_empty(), "{version}");
    }
}

#[test]
fn a_wake_begun_with_s_is_resumed_by_nobody_but_cont() {
    for version in BOTH {
        let woken = played("wake", version);
        let completed = woken.events.iter().position(|event| event.data["status"] == "completed").unwrap();
        let resumed = woken.events.iter().position(|event| event.name == "RESUME").unwrap();
        assert!(completed < resumed, "{version}");
    }
}

#[test]
fn replies_to_what_others_sent_are_counted_and_dropped() {
    for version in BOTH {
        let heard = played("garbage", version);
        assert_eq!(heard.outcomes(), [(1, "ok")]);
        assert_eq!(heard.counts.unmatched_replies, 4, "{version}");
    }
}
