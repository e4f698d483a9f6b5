//! How the scripted QEMU lives: what commands do to its model, and what happens by itself in time.
//!
//! Without IO and without a clock: a command and the time go in, a reply comes out, and events queue up. What it
//! does was measured on QEMU 10.0.2: the order of events and replies, the words of errors, the throttling of size
//! events, the two RESETs 40 ms apart.

use std::mem;
use std::time::Duration;

use serde_json::{Value, json};

use super::Command;
use super::model::{Model, Reply};
use crate::event::Event;

/// A model and what is under way in it. Times are since its start.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) model: Model,
    resize_due: Option<Duration>,
    second_reset_due: Option<Duration>,
    /// While this lies ahead, size events are held.
    size_event_window_ends: Option<Duration>,
    held_size_event: Option<Event>,
    events: Vec<Event>,
    quit: bool,
}

impl Machine {
    pub(super) fn new(model: Model) -> Self {
        Self {
            model,
            resize_due: None,
            second_reset_due: None,
            size_event_window_ends: None,
            held_size_event: None,
            events: Vec::new(),
            quit: false,
        }
    }

    /// Carries out a command, after everything that was due before it.
    pub(super) fn execute(&mut self, command: &Command, now: Duration) -> Reply {
        self.advance(now);
        match command.name.as_str() {
            "stop" => self.stop(now),
            "cont" => self.cont(now),
            "qom-set" => return self.qom_set(&command.arguments, now),
            "system_reset" => self.system_reset(now),
            "system_powerdown" => self.emit("POWERDOWN", Value::Null, now),
            "quit" => self.quit(now),
            name => {
                return self.model.query(name).map_or_else(
                    || Reply::error("CommandNotFound", &format!("The command {name} has not been found")),
                    Reply::Return,
                );
            }
        }
        Reply::Return(json!({}))
    }

    /// Does everything that is due by now.
    pub(super) fn advance(&mut self, now: Duration) {
        // Each in its own time, so that timestamps are true however rarely this is called.
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            if self.second_reset_due.take_if(|at| *at <= due).is_some() {
                self.emit("RESET", json!({ "guest": true, "reason": "guest-reset" }), due);
            }
            if self.resize_due.take_if(|at| *at <= due).is_some() {
                let device = &self.model.virtio_mem;
                self.set_size(device.requested_size_bytes.max(device.unplug_floor_bytes), due);
            }
            if self.size_event_window_ends.take_if(|at| *at <= due).is_some()
                && let Some(event) = self.held_size_event.take()
            {
                self.events.push(event);
                self.size_event_window_ends = Some(due + self.model.size_event_interval);
            }
        }
    }

    /// When [`Machine::advance`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        [self.resize_due, self.second_reset_due, self.size_event_window_ends].into_iter().flatten().min()
    }

    /// Queues an event, stamped now.
    pub(super) fn emit(&mut self, name: &str, data: Value, now: Duration) {
        let timestamp_unix_ns = Some(self.unix_ns(now));
        self.events.push(Event { name: name.to_owned(), timestamp_unix_ns, data });
    }

    /// The wall clock now, as far as QEMU tells it.
    pub(super) fn unix_ns(&self, now: Duration) -> i64 {
        let micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX / 1_000);
        self.model.wall_at_start_unix_ns.saturating_add(micros.saturating_mul(1_000))
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    pub(super) fn has_quit(&self) -> bool {
        self.quit
    }

    fn stop(&mut self, now: Duration) {
        if mem::replace(&mut self.model.run_state, "paused".to_owned()) == "running" {
            self.resize_due = None;
            self.emit("STOP", Value::Null, now);
        }
    }

    fn cont(&mut self, now: Duration) {
        if mem::replace(&mut self.model.run_state, "running".to_owned()) != "running" {
            self.emit("RESUME", Value::Null, now);
            self.resize_after(self.model.virtio_mem.resize_delay, now);
        }
    }

    fn quit(&mut self, now: Duration) {
        self.emit("SHUTDOWN", json!({ "guest": false, "reason": "host-qmp-quit" }), now);
        self.quit = true;
    }

    fn system_reset(&mut self, now: Duration) {
        self.emit("RESET", json!({ "guest": false, "reason": "host-qmp-system-reset" }), now);
        self.second_reset_due = Some(now + self.model.second_reset_delay);
        self.set_size(0, now);
        self.resize_after(self.model.boot_delay, now);
    }

    fn qom_set(&mut self, arguments: &Value, now: Duration) -> Reply {
        let device = &mut self.model.virtio_mem;
        let path = arguments["path"].as_str().unwrap_or_default();
        if path.rsplit('/').next() != Some(&device.id) {
            return Reply::error("DeviceNotFound", &format!("Device '{path}' not found"));
        }
        let (Some("requested-size"), Some(requested)) =
            (arguments["property"].as_str(), arguments["value"].as_u64())
        else {
            return Reply::error("GenericError", "the scripted QEMU sets requested-size only");
        };
        if requested > device.size_max_bytes {
            let max = device.size_max_bytes;
            let desc = format!("'requested-size' cannot exceed the memory backend size({max:#x})");
            return Reply::error("GenericError", &desc);
        }
        if !requested.is_multiple_of(device.block_size_bytes) {
            let block = device.block_size_bytes;
            let desc = format!("'requested-size' has to be multiples of 'block-size' ({block:#x})");
            return Reply::error("GenericError", &desc);
        }
        device.requested_size_bytes = requested;
        self.resize_after(self.model.virtio_mem.resize_delay, now);
        Reply::Return(json!({}))
    }

    /// A stopped guest does nothing about its memory.
    fn resize_after(&mut self, delay: Duration, now: Duration) {
        self.resize_due = (self.model.run_state == "running").then(|| now + delay);
    }

    fn set_size(&mut self, size_bytes: u64, now: Duration) {
        if mem::replace(&mut self.model.virtio_mem.size_bytes, size_bytes) == size_bytes {
            return;
        }
        let id = &self.model.virtio_mem.id;
        let qom_path = format!("/machine/peripheral/{id}");
        let event = Event {
            name: "MEMORY_DEVICE_SIZE_CHANGE".to_owned(),
            timestamp_unix_ns: Some(self.unix_ns(now)),
            data: json!({ "id": id, "size": size_bytes, "qom-path": qom_path }),
        };
        if self.size_event_window_ends.is_some() {
            self.held_size_event = Some(event);
        } else {
            self.events.push(event);
            self.size_event_window_ends = Some(now + self.model.size_event_interval);
        }
    }
}
