//! An hour is complete on its own host's word alone.

use dormouse_ledger::fleet::{FleetLedger, Lost};
use dormouse_ledger::{Class, HostName, Ledger, Record, Watermark};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};

use crate::scene::{Scene, store, stored};

const REASONS: &str = "SELECT string_agg(reason, ' ' ORDER BY reason) FROM quarantine";

#[tokio::test]
async fn the_watermark_that_a_host_itself_writes_closes_its_hour() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let name = HostName { cell: "cell".to_owned(), host: "h1".to_owned() };
    let host = Ledger::open(&folder.path().join("ledger.sqlite"), &name).unwrap();
    let watermark = Watermark { hour_unix_ns: BEGAN_NS, at_unix_ns: BEGAN_NS + SECOND_NS };
    host.writer().write(Class::Fact, vec![Record::Watermark(watermark)]).unwrap();
    let events = host.reader().unwrap().outbox(0, 10).unwrap();
    let events: Vec<_> = events.into_iter().map(|event| event.payload).collect();
    let mut ledger = scene.ledger().await;
    assert_eq!(store(&mut ledger, &events).await, stored(1, 0, 0, 0));
    let check = ledger.check(BEGAN_NS).await.unwrap();
    assert!(check.is_clean() && check.hosts == 1, "{check:?}");
}

#[tokio::test]
async fn a_forged_signature_and_another_key_close_no_hour_and_are_kept_apart() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let (mut host, mut life) = (Host::new("h1"), Life::new("org", "sb"));
    let first = [host.slice(&life.lasts(SECOND_NS)), host.watermark(BEGAN_NS + HOUR_NS)];
    assert_eq!(store(&mut ledger, &first).await, stored(2, 1, 0, 0));
    let text = String::from_utf8(host.clone().watermark(BEGAN_NS + 2 * HOUR_NS)).unwrap();
    let later = (BEGAN_NS + 3 * HOUR_NS).to_string();
    // The data of another hour under the same signature; the hash of the data is right.
    let mut event: serde_json::Value =
        serde_json::from_str(&text.replace(&(BEGAN_NS + 2 * HOUR_NS).to_string(), &later)).unwrap();
    let hash = blake3::hash(event["data"].to_string().as_bytes()).to_hex().to_string();
    event["payloadhash"] = hash.into();
    assert_eq!(store(&mut ledger, &[event.to_string().into_bytes()]).await, stored(0, 0, 0, 1));
    let mut thief = host.clone().signing_with([7; 32]);
    let claim = [thief.watermark(BEGAN_NS + 2 * HOUR_NS)];
    assert_eq!(store(&mut ledger, &claim).await, stored(0, 0, 0, 1));
    assert_eq!(scene.says(REASONS).await, "FORGED OTHER_KEY");
    for hour in [2, 3] {
        assert_eq!(ledger.check(BEGAN_NS + hour * HOUR_NS).await.unwrap().silent.len(), 1);
    }
    // The host's own word for the same hour is believed; the number that was claimed for it is still free.
    let own = [host.slice(&life.lasts(SECOND_NS)), host.watermark(BEGAN_NS + 2 * HOUR_NS)];
    assert_eq!(store(&mut ledger, &own).await, stored(2, 1, 0, 0));
    assert!(ledger.check(BEGAN_NS + 2 * HOUR_NS).await.unwrap().silent.is_empty());
}

#[tokio::test]
async fn a_key_that_was_noted_before_is_believed_and_the_first_that_comes_is_not() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let noted = "INSERT INTO host_keys (source, public_key) VALUES ('//dormouse/cell/h1', \
                 decode(repeat('00', 32), 'hex'))";
    scene.client().await.batch_execute(noted).await.unwrap();
    let (mut host, mut other) = (Host::new("h1"), Host::new("h2"));
    let messages = [host.watermark(BEGAN_NS + HOUR_NS), other.watermark(BEGAN_NS + HOUR_NS)];
    assert_eq!(store(&mut ledger, &messages).await, stored(1, 0, 0, 1));
    assert_eq!(store(&mut ledger, &messages).await, stored(0, 0, 1, 1), "and again when it comes again");
    assert_eq!(scene.says(REASONS).await, "OTHER_KEY");
    assert_eq!(ledger.check(BEGAN_NS + HOUR_NS).await.unwrap().silent[0].source, host.source());
}

#[tokio::test]
async fn only_a_hosts_own_word_calls_an_event_lost() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let (mut host, mut life) = (Host::new("h1"), Life::new("org", "sb"));
    let mut told: Vec<_> = (0..3).map(|_| host.slice(&life.lasts(SECOND_NS))).collect();
    let gone = told.remove(1);
    told.push(host.watermark(BEGAN_NS + HOUR_NS));
    assert_eq!(store(&mut ledger, &told).await, stored(3, 2, 0, 0));
    let thief = host.clone().signing_with([7; 32]).retention(2, BEGAN_NS);
    // Of another place in the chain; and of more than there is before it.
    let elsewhere = String::from_utf8(host.clone().retention(2, BEGAN_NS)).unwrap();
    let elsewhere = elsewhere.replace("\"hostseq\":\"5\"", "\"hostseq\":\"6\"").into_bytes();
    let too_much = host.clone().retention(5, BEGAN_NS);
    assert_eq!(store(&mut ledger, &[thief, elsewhere, too_much]).await, stored(0, 0, 0, 3));
    assert_eq!(scene.says(REASONS).await, "FORGED OTHER_KEY UNDECODABLE");
    let runs = async |ledger: &mut FleetLedger| {
        let check = ledger.check(BEGAN_NS + HOUR_NS).await.unwrap();
        let missing: Vec<_> = check.missing.iter().map(|run| (run.first_seq, run.last_seq)).collect();
        (missing, check.lost)
    };
    assert_eq!(runs(&mut ledger).await, (vec![(2, 2)], vec![]));
    // A message behind it is missing, too, and that can be had.
    let own = host.retention(2, BEGAN_NS + SECOND_NS);
    let (late, last) = (host.slice(&life.lasts(SECOND_NS)), host.slice(&life.lasts(SECOND_NS)));
    // A later word of more: what is lost was gone by the first.
    let more = host.retention(3, BEGAN_NS + 2 * SECOND_NS);
    assert_eq!(store(&mut ledger, &[own, last, more]).await, stored(3, 1, 0, 0));
    let let_go = Lost {
        source: host.source().to_owned(),
        first_seq: 2,
        last_seq: 2,
        holds_open_unix_ns: Some(BEGAN_NS + HOUR_NS),
        since_unix_ns: BEGAN_NS + SECOND_NS,
    };
    assert_eq!(runs(&mut ledger).await, (vec![(6, 6)], vec![let_go]));
    assert_eq!(ledger.request_missing().await.unwrap(), 1);
    assert_eq!(ledger.open_requests().await.unwrap()[0].first_seq, 6);
    assert_eq!(store(&mut ledger, &[late, gone]).await, stored(2, 2, 0, 0));
    assert_eq!(runs(&mut ledger).await, (vec![], vec![]));
}
