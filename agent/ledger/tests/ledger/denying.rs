//! Denials are kept, and never changed.

use dormouse_ledger::{Denial, Record};

use crate::support::{BEGAN, Place, SECOND, facts};

fn denial(who: &str, count: u64) -> Denial {
    Denial {
        who: who.to_owned(),
        method: "/dormouse.control.v1.Control/Destroy".to_owned(),
        reason: "ROLE_INSUFFICIENT".to_owned(),
        count,
        first_unix_ns: BEGAN,
        last_unix_ns: BEGAN + SECOND,
    }
}

#[test]
fn denials_are_read_back_in_order_the_last_ones_first_asked() {
    let place = Place::new();
    let ledger = place.open();
    let denials: Vec<_> = (1..=3).map(|count| denial("uid:7", count)).collect();
    facts(&ledger, denials.iter().cloned().map(Record::Denial).collect()).unwrap();
    assert_eq!(place.reader().denials(10).unwrap(), denials);
    assert_eq!(place.reader().denials(2).unwrap(), denials[1..]);
}

#[test]
fn a_denial_is_neither_changed_nor_deleted_and_never_of_nobody() {
    let place = Place::new();
    let ledger = place.open();
    facts(&ledger, vec![Record::Denial(denial("uid:7", 1))]).unwrap();
    for sql in ["UPDATE denials SET count = 9", "DELETE FROM denials"] {
        let error = place.raw().execute(sql, []).unwrap_err();
        assert!(error.to_string().contains("dormouse: a denial is never"), "{error}");
    }
    for wrong in [denial("", 1), denial(&"x".repeat(257), 1), denial("uid:7", 0)] {
        facts(&ledger, vec![Record::Denial(wrong)]).unwrap_err();
    }
    assert_eq!(place.reader().denials(10).unwrap().len(), 1);
}
