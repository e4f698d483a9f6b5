//! The words of a command line, kept together.

use serde::{Deserialize, Serialize};

/// Words in their order, in one block: QEMU has dozens of them, and they are kept of every sandbox. Written as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Words {
    text: Box<str>,
    /// Where each of them ends in the text, in bytes. Any byte may be in a word.
    ends: Box<[usize]>,
}

impl Words {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.text[*start..*end])
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl<W: AsRef<str>> FromIterator<W> for Words {
    fn from_iter<I: IntoIterator<Item = W>>(words: I) -> Self {
        let mut text = String::new();
        let ends = words.into_iter().map(|word| {
            text.push_str(word.as_ref());
            text.len()
        });
        let ends = ends.collect();
        Self { text: text.into(), ends }
    }
}

impl From<Vec<String>> for Words {
    fn from(words: Vec<String>) -> Self {
        words.iter().collect()
    }
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        words.iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_and_are_written_as_a_list() {
        for text in [r#"["qemu","","-append","a b\u0000c","ä",""]"#, r#"[""]"#, "[]"] {
            let words: Words = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&words).unwrap(), text);
            let list: Vec<String> = serde_json::from_str(text).unwrap();
            assert!(words.iter().eq(&list), "{text}");
            assert_eq!(words.is_empty(), list.is_empty());
        }
        assert_ne!(Words::from_iter(["ab", "c"]), Words::from_iter(["a", "bc"]));
    }
}
