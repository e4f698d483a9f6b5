//! Bytes in, lines out, within a bound.
//!
//! Whatever arrives, a bad line costs that line alone: it is reported and the next one is read. Nothing here
//! knows what a line means; see [`crate::message`] for that.

/// One line that could not be used. Everything before and after it is intact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLine {
    /// Longer than the limit; discarded through its newline.
    #[error("a line of {length_bytes} bytes is longer than the limit")]
    TooLong {
        /// The line's full length without its newline.
        length_bytes: u64,
    },
    /// The connection ended inside a line.
    #[error("the connection ended {length_bytes} bytes into a line")]
    Truncated {
        /// How much of the line had arrived.
        length_bytes: u64,
    },
    /// Not UTF-8; a stray 0xFF (the reset byte of out-of-band clients) ends here too.
    #[error("not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// The offset of the first bad byte.
        valid_up_to: usize,
    },
    /// UTF-8, but not JSON.
    #[error("not JSON: {error}")]
    NotJson {
        /// What the parser said.
        error: String,
    },
    /// JSON, but none of QMP's messages.
    #[error("not a QMP message: {error}")]
    NotMessage {
        /// What is wrong with it.
        error: String,
    },
}

/// Splits a byte stream into lines of a bounded length.
///
/// The result does not depend on how the stream is cut into chunks.
#[derive(Debug)]
pub struct LineCodec {
    /// The start of a line whose end has not arrived; empty while `discarded_bytes` counts.
    partial: Vec<u8>,
    /// How much of the present, overlong line is gone already.
    discarded_bytes: u64,
    limit_bytes: usize,
}

/// Memory kept for the next line; what one large line (a schema) needed beyond it is given back. Most connections are
/// idle, and there are thousands.
const KEPT_BYTES: usize = 512;

impl LineCodec {
    /// A codec for lines of at most `limit_bytes`, their newline not counted.
    pub fn new(limit_bytes: usize) -> Self {
        Self { partial: Vec::new(), discarded_bytes: 0, limit_bytes }
    }

    /// Takes the next bytes and hands on every line that ends in them, without its newline.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(Result<&[u8], BadLine>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            bytes = tail;
            if self.partial.is_empty() && self.discarded_bytes == 0 && head.len() <= self.limit_bytes {
                line(Ok(head));
                continue;
            }
            self.keep(head);
            if self.discarded_bytes > 0 {
                line(Err(BadLine::TooLong { length_bytes: self.discarded_bytes }));
            } else {
                line(Ok(&self.partial));
            }
            self.reset();
        }
        self.keep(bytes);
    }

    /// Tells the codec that no more bytes come: reports the line that was cut off, if there is one.
    pub fn finish(&mut self) -> Option<BadLine> {
        let length_bytes = self.partial.len() as u64 + self.discarded_bytes;
        self.reset();
        (length_bytes > 0).then_some(BadLine::Truncated { length_bytes })
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.discarded_bytes == 0 && self.partial.len() + bytes.len() <= self.limit_bytes {
            self.partial.extend_from_slice(bytes);
        } else {
            self.discarded_bytes += (self.partial.len() + bytes.len()) as u64;
            self.partial = Vec::new();
        }
    }

    fn reset(&mut self) {
        self.discarded_bytes = 0;
        self.partial.clear();
        self.partial.shrink_to(KEPT_BYTES);
    }
}
