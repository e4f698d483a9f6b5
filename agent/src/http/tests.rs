//! What the API answers over TCP, and what it refuses: the same from either ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use self::stage::{BEGAN, GIB, HOUR, Server, Store, limits};
use super::Limits;

pub(super) mod stage;

async fn usage_is_told_as_numbers_and_as_exact_integers(store: Store) {
    let server = Server::start(store, limits()).await;
    let answer = server.get("/api/usage?from=2026-03-01&interval=1h").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("cache-control: no-store"));
    let usage = answer.json();
    assert_eq!(usage["window"]["to"], "2026-03-01T10:00:00.000000000Z");
    let total = &usage["total"];
    assert_eq!(total["memoryGbSeconds"], json!(4.0 * 36_000.0));
    assert_eq!(total["diskOverageGbSeconds"], json!(4.0 * 36_000.0 * 10.0));
    assert_eq!(total["vcpuSeconds"], json!(4.0 * 36_000.0 * 2.0));
    let exact = i128::from(GIB) * i128::from(40 * HOUR);
    assert_eq!(total["memoryByteNanoseconds"], exact.to_string());
    let items = usage["items"].as_array().expect("items");
    let ids: Vec<_> = items.iter().map(|item| item["sandboxId"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["sb-0", "sb-1", "sb-2", "sb-3"], "equal amounts are in order of their keys");
    assert_eq!(items[1]["tags"], json!({"team": "red"}));
    assert_eq!(items[1]["tagsLastUpdatedAt"], "2026-03-01T01:00:00.000000000Z");
    assert_eq!((&items[0]["tags"], &items[0]["tagsLastUpdatedAt"]), (&json!({}), &Value::Null));
    let sum: i128 = usage["points"]
        .as_array()
        .expect("points")
        .iter()
        .map(|point| {
            point["memoryByteNanoseconds"].as_str().expect("an integer").parse::<i128>().expect("one")
        })
        .sum();
    assert_eq!(sum, exact);
}

async fn usage_by_tag_tells_what_is_untagged_beside_the_items(store: Store) {
    let server = Server::start(store, limits()).await;
    let seconds = |value: &Value| value["memoryGbSeconds"].as_f64().expect("a number") / 3_600.0;
    for (attribution, red, untagged) in [("live", 10.0, 30.0), ("asof", 9.0, 31.0)] {
        let target = format!("/api/usage?from=2026-03-01&groupBy=tag:team&attribution={attribution}");
        let usage = server.get(&target).await.json();
        assert_eq!(usage["items"].as_array().map(Vec::len), Some(1), "{usage}");
        assert_eq!(usage["items"][0]["value"], "red");
        assert_eq!((seconds(&usage["items"][0]), seconds(&usage["untagged"])), (red, untagged));
    }
    for (filter, count) in [
        ("filter[tag:team]=red", 1),
        ("filter%5Btag%3Ateam%5D=blue,red", 1),
        ("filter[tag:team]=", 3),
        ("filter[tag:team]=red,", 4),
        ("filter[tag:team]=red&filter[tag:env]=x", 0),
        ("filter[tag:a:b]=x", 0),
    ] {
        let usage = server.get(&format!("/api/usage?from=2026-03-01&{filter}")).await.json();
        assert_eq!(usage["items"].as_array().map(Vec::len), Some(count), "{filter}: {usage}");
    }
}

async fn pages_go_on_by_cursors_that_nobody_can_forge(store: Store) {
    let server = Server::start(store, limits()).await;
    let question = "/api/usage?from=2026-03-01&limit=1";
    let (mut ids, mut target) = (Vec::new(), question.to_owned());
    let mut cursor = String::new();
    loop {
        let usage = server.get(&target).await.json();
        ids.push(usage["items"][0]["sandboxId"].as_str().expect("an id").to_owned());
        let Some(next) = usage["nextCursor"].as_str() else { break };
        next.clone_into(&mut cursor);
        target = format!("{question}&cursor={cursor}");
    }
    assert_eq!(ids, ["sb-0", "sb-1", "sb-2", "sb-3"]);
    let forged = format!("{}A{}", &cursor[..9], &cursor[10..]);
    for wrong in [
        format!("/api/usage?from=2026-03-01&cursor={forged}"),
        "/api/usage?from=2026-03-01&cursor=".to_owned(),
        format!("/api/usage?from=2026-03-01&sort=-diskOverageGbSeconds&cursor={cursor}"),
        format!("/api/sandboxes?cursor={cursor}"),
    ] {
        assert_eq!(server.get(&wrong).await.reason(), "INVALID_CURSOR", "{wrong}");
    }
    let theirs = format!("/api/usage?from=2026-03-01&cursor={cursor}");
    assert_eq!(server.ask("GET", &theirs, &server.other, "").await.reason(), "INVALID_CURSOR");
    for (path, count) in [("/api/sandboxes", 4), ("/api/sandboxes/sb-3/slices", 6)] {
        let (mut seen, mut target) = (0, format!("{path}?limit=2"));
        loop {
            let page = server.get(&target).await.json();
            seen += page["items"].as_array().map_or(0, Vec::len);
            let Some(next) = page["nextCursor"].as_str() else { break };
            target = format!("{path}?limit=2&cursor={next}");
        }
        // The last slice is open, and told hour by hour until now.
        assert!(seen >= count, "{path}: {seen}");
    }
}

async fn one_sandbox_is_told_with_the_ends_of_its_time_in_the_window(store: Store) {
    let server = Server::start(store, limits()).await;
    let target = "/api/sandboxes/sb-0/usage?from=2026-03-01T00:30:00Z&to=2026-03-01T02:00:00Z&interval=1d";
    let usage = server.get(target).await.json();
    assert_eq!(usage["firstStartedAt"], "2026-03-01T00:30:00.000000000Z");
    assert_eq!(usage["lastEndedAt"], "2026-03-01T02:00:00.000000000Z");
    assert_eq!(usage["memoryGbSeconds"], json!(5_400.0));
    assert_eq!(usage["points"].as_array().map(Vec::len), Some(1));
    let before = server.get("/api/sandboxes/sb-0/usage?from=2026-02-01&to=2026-02-02").await.json();
    assert_eq!((&before["firstStartedAt"], &before["memoryGbSeconds"]), (&Value::Null, &json!(0.0)));
    let sandbox = server.get("/api/sandboxes/sb-1").await.json();
    assert_eq!((&sandbox["sandboxId"], &sandbox["endedAt"]), (&json!("sb-1"), &Value::Null));
    assert_eq!(sandbox["tags"], json!({"team": "red"}));
    let keys = server.get("/api/tags").await.json();
    assert_eq!(keys["items"], json!([{"key": "team", "sandboxCount": 1, "valueCount": 1}]));
}

async fn another_orgs_sandbox_is_404_whether_it_exists_or_not(store: Store) {
    let server = Server::start(store, limits()).await;
    for path in ["", "/usage", "/slices", "/tags"] {
        for id in ["sb-1", "nobody", "%00", "a%2Fb"] {
            let answer = server.ask("GET", &format!("/api/sandboxes/{id}{path}"), &server.other, "").await;
            assert_eq!((answer.status, answer.reason().as_str()), (404, "SANDBOX_NOT_FOUND"), "{id}{path}");
        }
    }
    let answer = server.ask("PUT", "/api/sandboxes/sb-1/tags", &server.other, "{}").await;
    assert_eq!(answer.reason(), "SANDBOX_NOT_FOUND");
    let theirs = server.ask("GET", "/api/usage?from=2026-03-01", &server.other, "").await.json();
    assert_eq!(theirs["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(theirs["total"]["memoryGbSeconds"], json!(36_000.0));
}

async fn without_a_valid_token_nothing_is_told_and_with_a_readers_nothing_is_changed(store: Store) {
    let server = Server::start(store, limits()).await;
    let write = server.write.clone();
    for token in ["", "x", "dormouse_", &write[..write.len() - 1], &format!("{write}0")] {
        let answer = server.ask("GET", "/api/usage", token, "").await;
        assert_eq!((answer.status, answer.reason().as_str()), (401, "UNAUTHENTICATED"), "{token}");
        assert!(answer.head.contains("www-authenticate: bearer"));
    }
    let answer = server.ask("PUT", "/api/sandboxes/sb-0/tags", &server.read, "{}").await;
    assert_eq!((answer.status, answer.reason().as_str()), (403, "PERMISSION_DENIED"));
    let id = write.split('_').nth(1).expect("an id");
    let id = id.to_owned();
    let revoked = server.ledger.ask(move |ledger| ledger.revoke_token(&id, BEGAN)).await;
    assert!(revoked.expect("a ledger"));
    assert_eq!(server.ask("GET", "/api/usage", &write, "").await.reason(), "UNAUTHENTICATED");
}

async fn tags_are_put_as_a_whole_and_a_no_op_changes_no_timestamp(store: Store) {
    let server = Server::start(store, limits()).await;
    let put = async |body: &str| server.ask("PUT", "/api/sandboxes/sb-0/tags", &server.write, body).await;
    let first = put(r#"{"team": "blue", "a:b": "ü"}"#).await.json();
    assert_eq!(first["tags"], json!({"team": "blue", "a:b": "ü"}));
    assert_eq!(put(r#"{"a:b": "ü", "team": "blue"}"#).await.json(), first);
    assert_eq!(server.get("/api/sandboxes/sb-0/tags").await.json(), first);
    for (body, reason) in [
        ("", "INVALID_BODY"),
        ("[]", "INVALID_BODY"),
        ("null", "INVALID_BODY"),
        (r#"{"team": {"a": "b"}}"#, "INVALID_BODY"),
        (r#"{"team": ["a"]}"#, "INVALID_BODY"),
        (r#"{"team": 1}"#, "INVALID_BODY"),
        (r#"{"team": null}"#, "INVALID_BODY"),
        (r#"{"team": "a", "team": "b"}"#, "INVALID_BODY"),
        (r#"{"team": "a"} x"#, "INVALID_BODY"),
        (r#"{"dm:team": "a"}"#, "INVALID_TAG"),
        (r#"{"": "a"}"#, "INVALID_TAG"),
        (r#"{"te am": "a"}"#, "INVALID_TAG"),
    ] {
        let answer = put(body).await;
        assert_eq!((answer.status, answer.reason().as_str()), (400, reason), "{body}");
    }
    let many: BTreeMap<_, _> = (0..51).map(|number| (format!("k{number}"), "v")).collect();
    assert_eq!(put(&json!(many).to_string()).await.reason(), "INVALID_TAG");
    assert_eq!(put(&format!("{{\"a\": \"{}\"}}", "x".repeat(257))).await.reason(), "INVALID_TAG");
    let answer = put(&format!("{{\"a\": \"{}\"}}", "x".repeat(300 << 10))).await;
    assert_eq!((answer.status, answer.reason().as_str()), (413, "BODY_TOO_LARGE"));
    let fifty: BTreeMap<_, _> =
        (0..50).map(|number| (format!("k{number:0>127}"), "😀".repeat(256))).collect();
    let escaped: String = json!(fifty)
        .to_string()
        .chars()
        .map(|c| if c == '😀' { "\\ud83d\\ude00".to_owned() } else { c.to_string() })
        .collect();
    assert_eq!(put(&escaped).await.status, 200, "the most that is allowed");
    let cleared = put("{}").await.json();
    assert_eq!(cleared["tags"], json!({}));
    assert!(cleared["tagsLastUpdatedAt"].is_string());
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_named() {
    let server = Server::start(Store::Host, limits()).await;
    for (query, reason) in [
        ("limit=1&limit=2", "REPEATED_PARAMETER"),
        ("filter[tag:a]=x&filter[tag:a]=y", "REPEATED_PARAMETER"),
        ("nothing=1", "INVALID_PARAMETER"),
        ("filter=a", "INVALID_PARAMETER"),
        ("filter[team]=a", "INVALID_PARAMETER"),
        ("filter[tag:]=a", "INVALID_PARAMETER"),
        ("filter[tag:dm:x]=a", "INVALID_PARAMETER"),
        ("groupBy=tag", "INVALID_PARAMETER"),
        ("groupBy=tag:", "INVALID_PARAMETER"),
        ("groupBy=team", "INVALID_PARAMETER"),
        ("sort=memoryGbSeconds", "INVALID_PARAMETER"),
        ("interval=1m", "INVALID_PARAMETER"),
        ("basis=guess", "INVALID_PARAMETER"),
        ("attribution=then", "INVALID_PARAMETER"),
        ("limit=0", "INVALID_PARAMETER"),
        ("limit=501", "INVALID_PARAMETER"),
        ("limit=-1", "INVALID_PARAMETER"),
        ("limit=%2B5", "INVALID_PARAMETER"),
        ("from=yesterday", "INVALID_PARAMETER"),
        ("from=2026-03-02&to=2026-03-01", "INVALID_WINDOW"),
        ("from=2026-03-01&to=2026-03-01", "INVALID_WINDOW"),
        ("from=2025-12-01T00:00:00Z&to=2026-03-01T00:00:01Z", "INVALID_WINDOW"),
        ("from=2027-01-01", "INVALID_WINDOW"),
    ] {
        let answer = server.get(&format!("/api/usage?{query}")).await;
        assert_eq!((answer.status, answer.reason().as_str()), (400, reason), "{query}");
    }
    for fine in ["from=2025-12-01T00:00:00Z&to=2026-03-01T00:00:00Z", "from=2026-04-01&to=2026-04-02", ""] {
        assert_eq!(server.get(&format!("/api/usage?{fine}")).await.status, 200, "{fine}");
    }
    assert_eq!(server.get("/api/sandboxes/sb-0?x=1").await.reason(), "INVALID_PARAMETER");
    assert_eq!(server.get("/api/sandboxes/%ff").await.reason(), "INVALID_PARAMETER");
    assert_eq!(server.get("/api/nothing").await.reason(), "NO_SUCH_RESOURCE");
    let answer = server.ask("DELETE", "/api/usage", &server.read, "").await;
    assert_eq!((answer.status, answer.reason().as_str()), (405, "METHOD_NOT_ALLOWED"));
}

async fn a_question_past_its_deadline_is_given_up_and_cancelled_in_the_ledger(store: Store) {
    let server = Server::start(store, Limits { deadline: Duration::ZERO, ..limits() }).await;
    // A timer is a millisecond late at the most: an answer that is there by then is still given.
    let mut answer = server.get("/api/usage").await;
    for _ in 0..1_000 {
        if answer.status != 200 {
            break;
        }
        answer = server.get("/api/usage").await;
    }
    assert_eq!((answer.status, answer.reason().as_str()), (504, "DEADLINE_EXCEEDED"));
    let readers = super::ask::Readers::new(server.ledger.clone());
    let (started, has_started) = tokio::sync::oneshot::channel();
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    let asked = readers.ask(move |ledger, cancel| {
        started.send(()).expect("a test");
        // As a long statement would, until it is cancelled.
        let cut_short = loop {
            if let Err(error) = ledger.tag_keys("a", "", 1, cancel) {
                break error;
            }
        };
        ended.send(cut_short.reason()).expect("a test");
        Ok(())
    });
    tokio::select! {
        _ = asked => panic!("it never ends by itself"),
        begun = has_started => begun.expect("a question"),
    }
    let cut_short = tokio::time::timeout(Duration::from_secs(20), has_ended).await.expect("an end");
    assert_eq!(cut_short, Ok("QUERY_CANCELLED"));
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_to_wait_and_no_other_suffers() {
    let server = Server::start(Store::Host, Limits { requests_per_second: 3, ..limits() }).await;
    // The simulated clock stands still.
    for _ in 0..3 {
        assert_eq!(server.get("/api/tags").await.status, 200);
    }
    let answer = server.get("/api/tags").await;
    assert_eq!((answer.status, answer.reason().as_str()), (429, "RATE_LIMITED"));
    assert!(answer.head.contains("retry-after: 1"));
    assert_eq!(server.ask("GET", "/api/tags", &server.write, "").await.status, 200);
}

#[tokio::test]
async fn heads_are_bounded_and_rubbish_is_refused() {
    let server = Server::start(Store::Host, limits()).await;
    let long = format!("GET /api/usage?x={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(64 << 10));
    let status = server.raw(long.as_bytes()).await.status;
    assert!(status == 431 || status == 414, "{status}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(server.raw(many.as_bytes()).await.status, 431);
    assert_eq!(server.raw(b"rubbish\r\n\r\n").await.status, 400);
    assert_eq!(server.get("/api/tags").await.status, 200);
    let ledger = server.writer.as_ref().expect("a host's ledger");
    assert_eq!(ledger.writer().health(), dormouse_ledger::Health::Writable);
}

#[tokio::test]
async fn the_specification_is_served_to_anyone() {
    let server = Server::start(Store::Host, limits()).await;
    let answer = server.ask("GET", "/api/openapi.json", "", "").await;
    assert_eq!(answer.json()["openapi"], "3.1.0");
    assert_eq!(answer.json(), serde_json::to_value(super::document()).expect("JSON"));
}

/// The same tests, with the same expected answers, on either ledger.
macro_rules! on_both_ledgers {
    ($($test:ident,)*) => {
        mod of_a_host {
            $(#[tokio::test] async fn $test() { super::$test(super::stage::Store::Host).await })*
        }
        mod of_a_fleet {
            $(#[tokio::test] async fn $test() { super::$test(super::stage::Store::Fleet).await })*
        }
    };
}

on_both_ledgers! {
    usage_is_told_as_numbers_and_as_exact_integers,
    usage_by_tag_tells_what_is_untagged_beside_the_items,
    pages_go_on_by_cursors_that_nobody_can_forge,
    one_sandbox_is_told_with_the_ends_of_its_time_in_the_window,
    another_orgs_sandbox_is_404_whether_it_exists_or_not,
    without_a_valid_token_nothing_is_told_and_with_a_readers_nothing_is_changed,
    tags_are_put_as_a_whole_and_a_no_op_changes_no_timestamp,
    a_question_past_its_deadline_is_given_up_and_cancelled_in_the_ledger,
}
