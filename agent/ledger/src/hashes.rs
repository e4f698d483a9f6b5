//! BLAKE3 of many short inputs side by side.
//!
//! The crate hashes one input at a time, and of one that has hardly more than a KiB nothing can be done side by side: most
//! of its time is waiting for itself. An audit hashes three such inputs for each slice, an ingest two. So blocks that lie at the same place
//! of different inputs are compressed together, by what the crate does it with in long inputs; last blocks are not, nor
//! what is longer than two chunks. What comes out is what [`blake3::hash`] makes of each.

use blake3::platform::{self, Platform};
use blake3::{Hash, IncrementCounter};

/// So many inputs are worth hashing together, and stay in the processor's caches meanwhile.
pub(crate) const INPUTS_AT_ONCE: usize = 64;

const BLOCK_BYTES: usize = 64;
const CHUNK_BYTES: usize = 1024;
const VALUE_BYTES: usize = 32;

// What BLAKE3 tells a compression about its block, and what it begins with.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;
const BEGINNING: Value =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What compressing blocks one after another comes to.
type Value = [u32; 8];

/// A chunk of an input.
struct Chunk<'a> {
    bytes: &'a [u8],
    /// Which input.
    input: usize,
    /// Which chunk of it: 0 or 1.
    number: u64,
    /// It is all of its input.
    is_whole: bool,
    value: Value,
}

/// The hash of each input.
pub(crate) fn hash_all(inputs: &[&[u8]]) -> Vec<Hash> {
    let platform = Platform::detect();
    let mut hashes = vec![Hash::from_bytes([0; VALUE_BYTES]); inputs.len()];
    let mut chunks = Vec::with_capacity(2 * inputs.len());
    for (input, bytes) in inputs.iter().enumerate() {
        if bytes.len() > 2 * CHUNK_BYTES {
            hashes[input] = blake3::hash(bytes);
            continue;
        }
        let (first, second) = bytes.split_at(bytes.len().min(CHUNK_BYTES));
        let is_whole = second.is_empty();
        chunks.push(Chunk { bytes: first, input, number: 0, is_whole, value: BEGINNING });
        if !is_whole {
            chunks.push(Chunk { bytes: second, input, number: 1, is_whole, value: BEGINNING });
        }
    }
    chunks.sort_unstable_by_key(|chunk| (chunk.number, chunk.blocks_before_last(), chunk.input));
    for alike in chunks.chunk_by_mut(Chunk::is_like) {
        compress_all_but_last(platform, alike);
    }
    // Those of number 0 come first.
    let mut parents = vec![[0; BLOCK_BYTES]; inputs.len()];
    for chunk in &mut chunks {
        let value = chunk.end(platform);
        let parent = &mut parents[chunk.input];
        match (chunk.is_whole, chunk.number) {
            (true, _) => hashes[chunk.input] = Hash::from_bytes(value),
            (false, 0) => parent[..VALUE_BYTES].copy_from_slice(&value),
            (false, _) => {
                parent[VALUE_BYTES..].copy_from_slice(&value);
                let root = compressed(platform, BEGINNING, parent, 0, PARENT | ROOT);
                hashes[chunk.input] = Hash::from_bytes(platform::le_bytes_from_words_32(&root));
            }
        }
    }
    hashes
}

impl Chunk<'_> {
    /// How many blocks are compressed with those of others. All of them are full.
    fn blocks_before_last(&self) -> usize {
        self.bytes.len().saturating_sub(1) / BLOCK_BYTES
    }

    fn is_like(&self, other: &Self) -> bool {
        self.number == other.number && self.blocks_before_last() == other.blocks_before_last()
    }

    /// Compresses the last block.
    fn end(&self, platform: Platform) -> [u8; VALUE_BYTES] {
        let before = self.blocks_before_last();
        let first = if before == 0 { CHUNK_START } else { 0 };
        let root = if self.is_whole { ROOT } else { 0 };
        let last = &self.bytes[before * BLOCK_BYTES..];
        let value = compressed(platform, self.value, last, self.number, first | CHUNK_END | root);
        platform::le_bytes_from_words_32(&value)
    }
}

/// Compresses what comes before the last block of chunks that are alike.
fn compress_all_but_last(platform: Platform, alike: &mut [Chunk<'_>]) {
    macro_rules! by_blocks {
        ($($blocks:literal)*) => {
            match alike[0].blocks_before_last() {
                $($blocks => compress_first::<{ $blocks * BLOCK_BYTES }>(platform, alike),)*
                _ => {}
            }
        };
    }
    by_blocks!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

fn compress_first<const BYTES: usize>(platform: Platform, alike: &mut [Chunk<'_>]) {
    let number = alike[0].number;
    let inputs: Vec<&[u8; BYTES]> = alike.iter().filter_map(|chunk| chunk.bytes.first_chunk()).collect();
    let mut values = vec![0; VALUE_BYTES * inputs.len()];
    platform.hash_many(&inputs, &BEGINNING, number, IncrementCounter::No, 0, CHUNK_START, 0, &mut values);
    for (chunk, value) in alike.iter_mut().zip(values.as_chunks().0) {
        chunk.value = platform::words_from_le_bytes_32(value);
    }
}

/// Compresses one block, which may be short.
fn compressed(platform: Platform, mut value: Value, bytes: &[u8], number: u64, flags: u8) -> Value {
    let mut block = [0; BLOCK_BYTES];
    block[..bytes.len()].copy_from_slice(bytes);
    let length = u8::try_from(bytes.len()).unwrap_or_default();
    platform.compress_in_place(&mut value, &block, length, number, flags);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_of_every_length_have_the_hashes_that_the_crate_gives_them_alone() {
        let bytes: Vec<u8> = (0..4_000_u32).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect();
        let lengths = (0..2_200).chain([3_072, 3_500]);
        let inputs: Vec<&[u8]> = lengths.map(|length| &bytes[length / 9..][..length]).collect();
        let alone = |inputs: &[&[u8]]| inputs.iter().map(|input| blake3::hash(input)).collect::<Vec<_>>();
        assert_eq!(hash_all(&inputs), alone(&inputs));
        for some in inputs.chunks(7) {
            let alike: Vec<&[u8]> = some.iter().flat_map(|input| [*input; 5]).collect();
            assert_eq!(hash_all(&alike), alone(&alike));
        }
        assert!(hash_all(&[]).is_empty());
    }
}
