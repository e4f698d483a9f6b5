//! Lines and messages, from whatever bytes.

use dormouse_qmp::codec::{BadLine, LineCodec};
use dormouse_qmp::message::Message;
use proptest::prelude::*;

const LIMIT_BYTES: usize = 64;

/// What the codec makes of these chunks: messages and bad lines, in order.
fn items<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Option<Message>, BadLine>> {
    let mut codec = LineCodec::new(LIMIT_BYTES);
    let mut items = Vec::new();
    for chunk in chunks {
        codec.feed(chunk, |line| items.push(line.and_then(Message::parse)));
    }
    items.extend(codec.finish().map(Err));
    items
}

fn lines(bytes: &[u8]) -> Vec<Result<Vec<u8>, BadLine>> {
    let mut lines = Vec::new();
    LineCodec::new(LIMIT_BYTES).feed(bytes, |line| lines.push(line.map(<[u8]>::to_vec)));
    lines
}

fn parse(line: &str) -> Result<Option<Message>, BadLine> {
    Message::parse(line.as_bytes())
}

#[test]
fn an_overlong_line_is_discarded_through_its_newline_and_the_next_one_is_read() {
    let mut bytes = vec![b'x'; LIMIT_BYTES + 1];
    bytes.extend_from_slice(b"\nnext\n");
    assert_eq!(lines(&bytes), [Err(BadLine::TooLong { length_bytes: 65 }), Ok(b"next".to_vec())]);
}

#[test]
fn a_line_of_exactly_the_limit_is_read() {
    let mut bytes = vec![b'x'; LIMIT_BYTES];
    bytes.push(b'\n');
    assert_eq!(lines(&bytes), [Ok(vec![b'x'; LIMIT_BYTES])]);
}

#[test]
fn a_partial_line_waits_for_its_end_and_is_reported_when_none_comes() {
    assert_eq!(items([b"{\"return\": 1, ".as_slice(), b"\"id\": 7}\n".as_slice()]).len(), 1);
    assert_eq!(items([b"{\"ret".as_slice()]), [Err(BadLine::Truncated { length_bytes: 5 })]);
}

#[test]
fn a_megabyte_of_garbage_keeps_no_memory_beyond_the_limit() {
    let mut codec = LineCodec::new(LIMIT_BYTES);
    let mut bad = Vec::new();
    for _ in 0..1024 {
        codec.feed(&[0xff; 1024], |line| bad.push(line.map(<[u8]>::to_vec)));
    }
    codec.feed(b"\n", |line| bad.push(line.map(<[u8]>::to_vec)));
    assert_eq!(bad, [Err(BadLine::TooLong { length_bytes: 1024 * 1024 })]);
}

#[test]
fn each_kind_of_message_is_told_from_the_others() {
    let id = |message| match message {
        Ok(Some(Message::Return { id, .. } | Message::Error { id, .. })) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id(parse(r#"{"return": {}, "id": 18446744073709551615}"#)), Some(u64::MAX));
    assert_eq!(id(parse(r#"{"return": null}"#)), None);
    assert_eq!(id(parse(r#"{"id": 3, "error": {"class": "Invented", "desc": "x"}}"#)), Some(3));
    let Ok(Some(Message::Event(stop))) = parse(r#"{"event": "STOP"}"#) else { panic!() };
    assert_eq!((stop.name.as_str(), stop.timestamp_unix_ns), ("STOP", None));
    let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "p"}}}"#;
    let Ok(Some(Message::Greeting(version))) = parse(greeting) else { panic!() };
    assert_eq!((version.to_string().as_str(), version.package.as_str()), ("10.0.2", "p"));
    assert!(version.at_least(9, 1) && version.at_least(10, 0) && !version.at_least(10, 1));
}

#[test]
fn what_is_no_message_says_what_is_wrong() {
    assert!(matches!(Message::parse(b"\xff"), Err(BadLine::NotUtf8 { valid_up_to: 0 })));
    assert!(matches!(parse("{"), Err(BadLine::NotJson { .. })));
    for line in ["[]", "7", "{}", r#"{"event": 7}"#, r#"{"error": "x"}"#, r#"{"QMP": {}}"#] {
        assert!(matches!(parse(line), Err(BadLine::NotMessage { .. })), "{line}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(parse(&deep), Err(BadLine::NotJson { .. })), "and does not exhaust the stack");
}

/// Bytes that look like QMP often enough to get past the first check.
fn wire_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"{\"return\": {}, \"id\": 1}\r\n".to_vec()),
        Just(b"{\"event\": \"STOP\", \"timestamp\": {\"seconds\": -1}}\n".to_vec()),
        Just(vec![b'x'; LIMIT_BYTES]),
        Just(b"\n".to_vec()),
        Just(b"\xff".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_chunking_of_any_bytes_yields_the_same_items(
        bytes in wire_bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(items(chunks), items([bytes.as_slice()]));
        prop_assert_eq!(items(bytes.chunks(1)), items([bytes.as_slice()]));
    }
}
