//! What is changed beside the agent.

use dormouse_ledger::usage::UsageLedger as _;
use dormouse_ledger::{Editor, Role, TagSet};

use crate::support::{BEGAN, Life, Place, SECOND, facts, key, written};

fn set(pairs: &[(&str, &str)], seconds: i64) -> TagSet {
    TagSet {
        org: "org".to_owned(),
        sandbox: "sb".to_owned(),
        tags: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        at_unix_ns: BEGAN + seconds * SECOND,
    }
}

#[test]
fn the_same_tags_again_change_no_timestamp_and_none_clear_them() {
    let (place, _) = written();
    let mut editor = Editor::open(&place.path()).unwrap();
    let first = editor.set_tags(&set(&[("team", "a"), ("a:b:c", "x")], 1)).unwrap();
    assert_eq!((first.tags.len(), first.updated_unix_ns), (2, Some(BEGAN + SECOND)));
    assert_eq!(editor.set_tags(&set(&[("a:b:c", "x"), ("team", "a")], 2)).unwrap(), first);
    let cleared = editor.set_tags(&set(&[], 3)).unwrap();
    assert_eq!((cleared.tags.len(), cleared.updated_unix_ns), (0, Some(BEGAN + 3 * SECOND)));
    assert_eq!(editor.set_tags(&set(&[], 4)).unwrap(), cleared);
    let history = place.reader().tag_history("org", "sb").unwrap();
    assert_eq!((history.len(), history[0].to_unix_ns), (2, Some(BEGAN + 3 * SECOND)));
}

#[test]
fn a_change_that_is_refused_leaves_the_tags_as_they_were() {
    let (place, _) = written();
    let mut editor = Editor::open(&place.path()).unwrap();
    let before = editor.set_tags(&set(&[("team", "a")], 1)).unwrap();
    let reserved = editor.set_tags(&set(&[("team", "b"), ("dm:x", "y")], 2)).unwrap_err();
    assert_eq!(reserved.reason(), "INVALID_TAG");
    let nobody = TagSet { sandbox: "nobody".to_owned(), ..set(&[("team", "b")], 2) };
    assert_eq!(editor.set_tags(&nobody).unwrap_err().reason(), "UNKNOWN_SANDBOX");
    assert_eq!(place.reader().tags("org", "sb").unwrap(), before);
}

#[test]
fn tags_are_changed_while_the_agent_writes_and_neither_waits_for_long() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                let slice = life.cut(1, dormouse_metering::Cause::Tick, None);
                facts(&ledger, vec![life.record(vec![slice])]).unwrap();
            }
        });
        let mut editor = Editor::open(&place.path()).unwrap();
        for number in 0..50 {
            editor.set_tags(&set(&[("n", &number.to_string())], number)).unwrap();
        }
    });
    assert_eq!(ledger.writer().health(), dormouse_ledger::Health::Writable);
    assert_eq!(place.reader().tag_history("org", "sb").unwrap().len(), 50);
    assert!(place.reader().audit().unwrap().is_clean());
}

#[test]
fn an_editor_needs_a_ledger_of_this_version() {
    let place = Place::new();
    assert_eq!(Editor::open(&place.path()).err().unwrap().reason(), "LEDGER_MISSING");
    drop(place.open());
    place.raw().pragma_update(None, "user_version", 1).unwrap();
    assert_eq!(Editor::open(&place.path()).err().unwrap().reason(), "LEDGER_OLDER");
}

#[test]
fn a_token_is_its_orgs_until_it_is_revoked_and_only_its_hash_is_kept() {
    let (place, _) = written();
    let mut editor = Editor::open(&place.path()).unwrap();
    let (token, text) = editor.create_token("org", Role::Read, BEGAN).unwrap();
    let (other, _) = editor.create_token("other", Role::Write, BEGAN).unwrap();
    let mut reader = place.reader();
    assert_eq!(reader.bearer(&text).unwrap(), Some(token.clone()));
    let secret = text.rsplit('_').next().unwrap();
    let wrong = format!("dormouse_{}_{secret}", other.id);
    for nobody in ["", "dormouse_", "dormouse_x_y", &text[1..], &text[..text.len() - 1], &wrong] {
        assert_eq!(reader.bearer(nobody).unwrap(), None, "{nobody}");
    }
    let file = std::fs::read(place.path()).unwrap();
    let log = std::fs::read(place.folder.path().join("ledger.sqlite-wal")).unwrap_or_default();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(!holds(&file) && !holds(&log));
    assert!(editor.revoke_token(&token.id, BEGAN + 1).unwrap());
    assert!(!editor.revoke_token(&token.id, BEGAN + 2).unwrap());
    assert_eq!(reader.bearer(&text).unwrap(), None);
    let tokens = reader.tokens().unwrap();
    assert_eq!(tokens.iter().map(|it| it.revoked_unix_ns).collect::<Vec<_>>(), [Some(BEGAN + 1), None]);
}
