//! Cursors: a place in an answer, signed, so that only what was handed out comes back.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::LedgerError;

const MAC_BYTES: usize = 32;

/// What cursors are signed with: kept in the ledger, so that they hold after a restart.
#[derive(Clone)]
pub struct CursorKey(pub(crate) [u8; 32]);

impl CursorKey {
    /// Writes a place down for the question that it belongs to.
    pub fn seal<T: Serialize>(&self, question: &str, place: &T) -> Result<String, LedgerError> {
        let mut bytes =
            serde_json::to_vec(place).map_err(|error| LedgerError::rejected(error.to_string()))?;
        bytes.extend_from_slice(self.mac(question, &bytes).as_bytes());
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads what `seal` wrote for the same question. `None` if it did not, or for another.
    pub fn open<T: DeserializeOwned>(&self, question: &str, cursor: &str) -> Option<T> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (place, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        // Comparing hashes takes the same time whatever is in them.
        (self.mac(question, place) == blake3::Hash::from_slice(mac).ok()?)
            .then(|| serde_json::from_slice(place).ok())?
    }

    fn mac(&self, question: &str, place: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(blake3::hash(question.as_bytes()).as_bytes());
        hasher.update(place);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_was_changed_or_belongs_to_another_question_is_refused() {
        let key = CursorKey([7; 32]);
        let cursor = key.seal("by sandbox", &("sb-1", 3)).unwrap();
        let open = |key: &CursorKey, question: &str, cursor: &str| key.open::<(String, u8)>(question, cursor);
        assert_eq!(open(&key, "by sandbox", &cursor), Some(("sb-1".to_owned(), 3)));
        assert_eq!(open(&key, "by tag", &cursor), None);
        assert_eq!(open(&CursorKey([8; 32]), "by sandbox", &cursor), None);
        assert_eq!(open(&key, "by sandbox", ""), None);
        for at in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(open(&key, "by sandbox", &String::from_utf8(changed).unwrap()), None, "at {at}");
        }
    }
}
