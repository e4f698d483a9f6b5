//! The scripted QEMU's model holds itself to what was measured on a real one.

use std::time::Duration;

use dormouse_qmp::scripted::{Model, ScriptedQemu, VirtioMem};
use dormouse_qmp::{Client, Config, Connection, Event, EventStream, Incoming, Schema, qapi_qmp};
use serde_json::{Value, json};
use tokio::time::{advance, sleep, timeout};

const MIB: u64 = 1 << 20;

async fn start(model: Model) -> (ScriptedQemu, Client, EventStream) {
    let qemu = ScriptedQemu::builder().model(model).start().unwrap();
    let Connection { client, events, .. } =
        Connection::connect(qemu.path(), Config::default()).await.unwrap();
    (qemu, client, events)
}

async fn request(client: &Client, bytes: u64) -> Result<Value, dormouse_qmp::QmpError> {
    let path = "/machine/peripheral/vm0";
    client.execute_raw("qom-set", json!({ "path": path, "property": "requested-size", "value": bytes })).await
}

async fn size(client: &Client) -> u64 {
    let devices = client.execute(qapi_qmp::query_memory_devices {}).await.unwrap();
    let [qapi_qmp::MemoryDeviceInfo::virtio_mem(device)] = devices.as_slice() else { panic!() };
    device.data.size
}

async fn next_event(events: &mut EventStream) -> Event {
    let Incoming::Event(event) = events.next().await else { panic!() };
    event
}

#[tokio::test(start_paused = true)]
async fn every_query_of_the_model_decodes() {
    let (_qemu, client, _events) = start(Model { vcpus: 2, ..Model::default() }).await;
    assert!(client.execute(qapi_qmp::query_status {}).await.unwrap().running);
    assert_eq!(client.execute(qapi_qmp::query_version {}).await.unwrap().qemu.major, 10);
    assert_eq!(client.execute(qapi_qmp::query_name {}).await.unwrap().name, None);
    assert_eq!(client.execute(qapi_qmp::query_uuid {}).await.unwrap().UUID.len(), 36);
    assert_eq!(client.execute(qapi_qmp::query_cpus_fast {}).await.unwrap().len(), 2);
    let summary = client.execute(qapi_qmp::query_memory_size_summary {}).await.unwrap();
    assert_eq!((summary.base_memory, summary.plugged_memory), (256 * MIB, Some(0)));
    assert_eq!(client.execute(qapi_qmp::query_memory_devices {}).await.unwrap().len(), 1);
    assert_eq!(client.execute(qapi_qmp::query_memdev {}).await.unwrap().len(), 2);
    assert!(client.execute(qapi_qmp::query_block {}).await.unwrap().is_empty());
    assert!(client.execute(qapi_qmp::query_named_block_nodes { flat: None }).await.unwrap().is_empty());
    assert!(client.execute(qapi_qmp::query_jobs {}).await.unwrap().is_empty());
    assert!(client.execute(qapi_qmp::query_migrate {}).await.unwrap().status.is_none());
    assert!(Schema::probe(&client).await.unwrap().has_migration_capability("mapped-ram"));
}

#[tokio::test(start_paused = true)]
async fn a_requested_size_is_accepted_first_and_reached_later() {
    let (_qemu, client, mut events) = start(Model::default()).await;
    request(&client, 1024 * MIB).await.unwrap();
    assert_eq!(size(&client).await, 0);
    let changed = next_event(&mut events).await;
    assert_eq!(
        (changed.name.as_str(), &changed.data["size"]),
        ("MEMORY_DEVICE_SIZE_CHANGE", &json!(1024 * MIB))
    );
    assert_eq!(size(&client).await, 1024 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_misaligned_or_too_large_size_is_refused_in_qemus_words() {
    let (_qemu, client, _events) = start(Model::default()).await;
    let misaligned = request(&client, 1).await.unwrap_err().to_string();
    assert!(misaligned.ends_with("'requested-size' has to be multiples of 'block-size' (0x200000)"));
    let too_large = request(&client, 3072 * MIB).await.unwrap_err().to_string();
    assert!(too_large.ends_with("'requested-size' cannot exceed the memory backend size(0x80000000)"));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_size_event_comes_up_to_a_second_late_with_its_true_timestamp() {
    let (qemu, client, mut events) = start(Model::default()).await;
    request(&client, 256 * MIB).await.unwrap();
    let first = next_event(&mut events).await;
    for mib in [512, 1024] {
        request(&client, mib * MIB).await.unwrap();
        sleep(Duration::from_millis(60)).await;
    }
    qemu.emit("RTC_CHANGE", json!({ "offset": 0, "qom-path": "/" }));
    let younger = next_event(&mut events).await;
    let held = next_event(&mut events).await;
    assert_eq!(younger.name, "RTC_CHANGE");
    assert_eq!(held.data["size"], 1024 * MIB, "the size between was dropped");
    assert!(held.timestamp_unix_ns < younger.timestamp_unix_ns);
    assert!(held.timestamp_unix_ns > first.timestamp_unix_ns);
}

#[tokio::test(start_paused = true)]
async fn a_held_size_event_is_lost_if_qemu_quits_first() {
    let (_qemu, client, mut events) = start(Model::default()).await;
    request(&client, 256 * MIB).await.unwrap();
    next_event(&mut events).await;
    request(&client, 512 * MIB).await.unwrap();
    sleep(Duration::from_millis(60)).await;
    assert_eq!(size(&client).await, 512 * MIB, "asking tells what the event would have told");
    client.execute(qapi_qmp::quit {}).await.unwrap();
    assert_eq!(next_event(&mut events).await.name, "SHUTDOWN");
    assert!(matches!(events.next().await, Incoming::Closed(_)));
}

#[tokio::test(start_paused = true)]
async fn while_stopped_no_size_changes_until_cont() {
    let (_qemu, client, mut events) = start(Model::default()).await;
    client.execute(qapi_qmp::stop {}).await.unwrap();
    request(&client, 256 * MIB).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(size(&client).await, 0);
    client.execute(qapi_qmp::cont {}).await.unwrap();
    let names = [next_event(&mut events).await, next_event(&mut events).await, next_event(&mut events).await];
    assert_eq!(names.map(|event| event.name), ["STOP", "RESUME", "MEMORY_DEVICE_SIZE_CHANGE"]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_comes_twice_and_the_plugged_size_comes_back() {
    let virtio_mem =
        VirtioMem { size_bytes: 512 * MIB, requested_size_bytes: 512 * MIB, ..VirtioMem::default() };
    let (_qemu, client, mut events) = start(Model { virtio_mem, ..Model::default() }).await;
    client.execute(qapi_qmp::system_reset {}).await.unwrap();
    assert_eq!(size(&client).await, 0);
    let seen = [
        next_event(&mut events).await,
        next_event(&mut events).await,
        next_event(&mut events).await,
        next_event(&mut events).await,
    ];
    let names = seen.each_ref().map(|event| event.name.as_str());
    assert_eq!(names, ["RESET", "MEMORY_DEVICE_SIZE_CHANGE", "RESET", "MEMORY_DEVICE_SIZE_CHANGE"]);
    assert_eq!(seen[2].timestamp_unix_ns.unwrap() - seen[0].timestamp_unix_ns.unwrap(), 40_000_000);
    assert_eq!(size(&client).await, 512 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_guest_may_give_back_only_some_memory() {
    let virtio_mem = VirtioMem {
        size_bytes: 1024 * MIB,
        requested_size_bytes: 1024 * MIB,
        unplug_floor_bytes: 768 * MIB,
        ..VirtioMem::default()
    };
    let (_qemu, client, _events) = start(Model { virtio_mem, ..Model::default() }).await;
    request(&client, 0).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(size(&client).await, 768 * MIB);
}

#[tokio::test(start_paused = true)]
async fn the_model_lives_on_while_nobody_is_connected() {
    let (qemu, client, events) = start(Model::default()).await;
    request(&client, 256 * MIB).await.unwrap();
    drop((client, events));
    advance(Duration::from_secs(5)).await;
    let Connection { client, mut events, .. } =
        Connection::connect(qemu.path(), Config::default()).await.unwrap();
    assert_eq!(size(&client).await, 256 * MIB);
    assert!(timeout(Duration::from_secs(5), events.next()).await.is_err(), "its event is gone");
}

#[tokio::test(start_paused = true)]
async fn an_event_can_have_any_timestamp_and_none() {
    let (qemu, _client, mut events) = start(Model::default()).await;
    for timestamp_unix_ns in [None, Some(0), Some(4_102_444_800_000_000_000)] {
        let event = Event { name: "STOP".to_owned(), timestamp_unix_ns, data: Value::Null };
        assert!(qemu.emit_event(event.clone()));
        assert_eq!(next_event(&mut events).await, event);
    }
}

#[tokio::test(start_paused = true)]
async fn a_test_can_change_the_model_under_a_client() {
    let (qemu, client, _events) = start(Model::default()).await;
    qemu.with_model(|model| "io-error".clone_into(&mut model.run_state));
    let status = client.execute(qapi_qmp::query_status {}).await.unwrap();
    assert_eq!(status.status, qapi_qmp::RunState::io_error);
}
