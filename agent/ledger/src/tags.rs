//! What a tag may be.

use std::collections::BTreeMap;

use crate::{LedgerError, TagsNow};

const TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;
const RESERVED_PREFIX: &str = "dm:";

/// Checks a sandbox's tags: at most 50; keys of 1 to 128 of `[A-Za-z0-9_.:-]`, none that begins with `dm:`;
/// values of at most 256 characters. The error names the first key that breaks a rule.
pub fn validate_tags(tags: &BTreeMap<String, String>) -> Result<(), LedgerError> {
    tags.iter().enumerate().try_for_each(|(index, (key, value))| {
        let broken =
            if index >= TAGS_MAX { Some("a sandbox has at most 50 tags") } else { broken_rule(key, value) };
        broken.map_or(Ok(()), |why| Err(LedgerError::InvalidTag { key: key.clone(), why }))
    })
}

/// Checks the key of a tag by itself, as [`validate_tags`] does.
pub fn validate_tag_key(key: &str) -> Result<(), LedgerError> {
    broken_rule(key, "").map_or(Ok(()), |why| Err(LedgerError::InvalidTag { key: key.to_owned(), why }))
}

fn broken_rule(key: &str, value: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
        Some("a key has 1 to 128 characters")
    } else if !key.chars().all(allowed) {
        Some("a key is made of letters, digits, '_', '.', ':' and '-'")
    } else if key.starts_with(RESERVED_PREFIX) {
        Some("keys that begin with 'dm:' are reserved")
    } else if value.chars().count() > VALUE_CHARS_MAX {
        Some("a value has at most 256 characters")
    } else if value.contains('\0') {
        Some("a value has no NUL character")
    } else {
        None
    }
}

/// What replacing a sandbox's tags changes.
pub(crate) struct TagChanges<'a> {
    /// When, in nanoseconds since the Unix epoch.
    pub(crate) at_unix_ns: i64,
    /// The keys whose values end.
    pub(crate) ended: Vec<&'a String>,
    /// What begins.
    pub(crate) begun: Vec<(&'a String, &'a String)>,
}

impl<'a> TagChanges<'a> {
    /// `None` if the tags are as they were: then nothing changes, not even the time of the last change.
    pub(crate) fn between(
        was: &'a TagsNow,
        wanted: &'a BTreeMap<String, String>,
        at_unix_ns: i64,
    ) -> Option<Self> {
        if was.tags == *wanted {
            return None;
        }
        let ended = was.tags.iter().filter(|(key, value)| wanted.get(*key) != Some(*value));
        let begun = wanted.iter().filter(|(key, value)| was.tags.get(*key) != Some(*value));
        Some(Self {
            // A wall clock that was set back must not end a tag before it began.
            at_unix_ns: was.updated_unix_ns.map_or(at_unix_ns, |last| last.max(at_unix_ns)),
            ended: ended.map(|(key, _)| key).collect(),
            begun: begun.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn tags_within_the_rules_are_accepted() {
        assert!(validate_tags(&BTreeMap::new()).is_ok());
        assert!(validate_tags(&one("team:a.b-c_9", &"ü".repeat(256))).is_ok());
        assert!(validate_tags(&one(&"k".repeat(128), "")).is_ok());
        let fifty = (0..50).map(|n| (format!("key{n}"), String::new())).collect();
        assert!(validate_tags(&fifty).is_ok());
    }

    #[test]
    fn each_broken_rule_is_named() {
        let fifty_one = (0..51).map(|n| (format!("key{n}"), String::new())).collect();
        for (tags, rule) in [
            (one("", "v"), "1 to 128"),
            (one(&"k".repeat(129), "v"), "1 to 128"),
            (one("with space", "v"), "letters"),
            (one("dm:owner", "v"), "reserved"),
            (one("key", &"v".repeat(257)), "at most 256"),
            (one("key", "a\0b"), "NUL"),
            (fifty_one, "at most 50"),
        ] {
            let error = validate_tags(&tags).unwrap_err();
            assert_eq!(error.reason(), "INVALID_TAG");
            assert!(error.to_string().contains(rule), "{error} does not name {rule}");
        }
    }
}
