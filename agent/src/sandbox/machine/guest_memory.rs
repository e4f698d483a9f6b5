//! What a guest says of its memory through virtio-balloon, and whether that can be believed.

use serde_json::Value;

/// What `guest-stats` of a virtio-balloon device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statistics {
    /// The guest uses so many bytes: its total less what is available.
    Used(u64),
    /// It has told nothing since then.
    NotNew,
    /// What it told cannot be.
    Nonsense(String),
}

/// Reads `guest-stats`. `not_before_s` is a second of the wall clock, by which QEMU stamps what it hears; `held_bytes` is
/// what the guest has.
pub(super) fn read(told: &Value, not_before_s: i64, held_bytes: u64) -> Statistics {
    let updated_s = told["last-update"].as_i64().unwrap_or(0);
    if updated_s == 0 || updated_s < not_before_s {
        return Statistics::NotNew;
    }
    // What the guest did not tell is -1 of 64 bits.
    let bytes = |name: &str| told["stats"][name].as_u64().filter(|bytes| *bytes != u64::MAX);
    let (Some(total), Some(available)) = (bytes("stat-total-memory"), bytes("stat-available-memory")) else {
        return Statistics::Nonsense("it does not tell what is available".to_owned());
    };
    if total == 0 || total > held_bytes {
        return Statistics::Nonsense(format!("it says to have {total} bytes and has {held_bytes}"));
    }
    match total.checked_sub(available) {
        Some(used) => Statistics::Used(used),
        None => Statistics::Nonsense(format!("of {total} bytes it says that {available} are available")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stats(total: u64, available: u64, updated_s: i64) -> Value {
        let stats = json!({"stat-total-memory": total, "stat-available-memory": available});
        json!({"stats": stats, "last-update": updated_s})
    }

    #[test]
    fn what_is_used_is_the_total_less_what_is_available() {
        assert_eq!(read(&stats(100, 30, 50), 50, 128), Statistics::Used(70));
    }

    #[test]
    fn what_is_old_absent_or_impossible_is_not_believed() {
        assert_eq!(read(&stats(100, 30, 49), 50, 128), Statistics::NotNew);
        assert_eq!(read(&stats(u64::MAX, u64::MAX, 0), 0, 128), Statistics::NotNew);
        assert_eq!(read(&json!({}), 50, 128), Statistics::NotNew);
        for told in [
            stats(100, 101, 50),
            stats(0, 0, 50),
            stats(129, 1, 50),
            stats(100, u64::MAX, 50),
            stats(u64::MAX, 1, 50),
            json!({"stats": {"stat-total-memory": 100}, "last-update": 50}),
            json!({"stats": {"stat-total-memory": -7, "stat-available-memory": "9"}, "last-update": 50}),
            json!({"stats": null, "last-update": 50}),
        ] {
            assert!(matches!(read(&told, 50, 128), Statistics::Nonsense(_)), "{told}");
        }
    }
}
