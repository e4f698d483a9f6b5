//! What is in a state file, in 256 bits.
//!
//! ```text
//!   span of 1 MiB ─▶ blocks of 64 KiB that are not zeros alone, each behind its offset ─▶ BLAKE3 ─┐
//!   span of 1 MiB ─▶ ...                                                                 ─▶ BLAKE3 ─┼─▶ BLAKE3
//!   span of 1 MiB ─▶ nothing: a hole, or zeros alone                                                ┘   of all, each
//!                                                                                                       behind its offset
//! ```
//!
//! With the length beside it, this says as much as a digest of every byte; but holes, which most of a `mapped-ram` file is,
//! are not read, and spans are digested on several cores at once: a guest that is saved or woken waits for nothing else
//! meanwhile. Zeros have the same digest whether a copy has made a hole of them or not.
//!
//! Manifests before version 3 have other digests of the same file, which are still understood.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use blake3::{Hash, Hasher};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::joined;

/// How much is read at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// How long an offset is.
const OFFSET_BYTES: usize = size_of::<u64>();

/// How much of a file is digested by itself: no more than a core's own cache holds, and many chunks of BLAKE3 at once.
const SPAN_BYTES: u64 = 16 * BLOCK_BYTES as u64;

/// How long the blocks of a span are at the most, each behind its offset.
const BLOCKS_BYTES: usize = (BLOCK_BYTES + OFFSET_BYTES) * 16;

/// How many cores are taken at the most: the host has other guests, and its disk is no faster for more.
const THREADS_MAX: usize = 4;

/// Whether anybody still wants to know.
pub(super) type Wanted<'a> = &'a (dyn Fn() -> bool + Sync);

/// Of a digest that is wanted however long it takes.
pub(crate) fn to_the_end() -> bool {
    true
}

/// The digest as manifests of this version have it, in hexadecimal digits. An error where nobody wants it any more.
pub(super) fn digest(version: u32, file: &File, wanted: Wanted<'_>) -> io::Result<String> {
    let digest = match version {
        1 => of_all(file, wanted),
        2 => of_blocks(file, wanted),
        _ => of_spans(file, wanted),
    };
    Ok(digest?.to_hex().to_string())
}

/// Of every byte.
fn of_all(file: &File, wanted: Wanted<'_>) -> io::Result<Hash> {
    Ok(Hasher::new().update_reader(WhileWanted { file, wanted })?.finalize())
}

/// Of all blocks that are not zeros alone, each behind its offset, one after the other.
fn of_blocks(file: &File, wanted: Wanted<'_>) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    let mut blocks = vec![0; BLOCKS_BYTES];
    let mut at_bytes = 0;
    while let Some(data_bytes) = data_from(file, at_bytes)? {
        check(wanted)?;
        let filled = read_span(file, span_of(data_bytes), &mut blocks)?;
        hasher.update(&blocks[..filled]);
        at_bytes = span_of(data_bytes) + SPAN_BYTES;
    }
    Ok(hasher.finalize())
}

/// Of the digests of all spans that are not zeros alone, each behind its offset.
fn of_spans(file: &File, wanted: Wanted<'_>) -> io::Result<Hash> {
    let spans = usize::try_from(file.metadata()?.len().div_ceil(SPAN_BYTES)).unwrap_or(usize::MAX);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(THREADS_MAX).min(spans);
    let next_bytes = AtomicU64::new(0);
    let digest_some = || digest_spans(file, &next_bytes, wanted);
    let mut digests = thread::scope(|scope| {
        // Where the host has no room for another, fewer do it.
        let beside =
            (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, digest_some).ok());
        let beside: Vec<_> = beside.collect();
        let mut digests = digest_some()?;
        for thread in beside {
            digests.extend(joined(thread)?);
        }
        io::Result::Ok(digests)
    })?;
    digests.sort_unstable_by_key(|(offset, _)| *offset);
    let mut hasher = Hasher::new();
    for (offset, digest) in digests {
        hasher.update(&offset.to_le_bytes()).update(digest.as_bytes());
    }
    Ok(hasher.finalize())
}

/// Digests one span after the other that nobody else has begun, until none is left.
fn digest_spans(file: &File, next_bytes: &AtomicU64, wanted: Wanted<'_>) -> io::Result<Vec<(u64, Hash)>> {
    let mut digests = Vec::new();
    let mut blocks = vec![0; BLOCKS_BYTES];
    loop {
        check(wanted)?;
        let span_bytes = next_bytes.fetch_add(SPAN_BYTES, Ordering::Relaxed);
        let Some(data_bytes) = data_from(file, span_bytes)? else { return Ok(digests) };
        if span_of(data_bytes) > span_bytes {
            // Nothing is in between, however long that is.
            next_bytes.fetch_max(span_of(data_bytes), Ordering::Relaxed);
            continue;
        }
        let filled = read_span(file, span_bytes, &mut blocks)?;
        if filled > 0 {
            digests.push((span_bytes, blake3::hash(&blocks[..filled])));
        }
    }
}

/// Where the span begins that this is in.
const fn span_of(at_bytes: u64) -> u64 {
    at_bytes - at_bytes % SPAN_BYTES
}

/// Reads the blocks of a span that are not zeros alone, each behind its offset. How many bytes that are.
fn read_span(file: &File, span_bytes: u64, blocks: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    let mut at_bytes = span_bytes;
    while at_bytes < span_bytes + SPAN_BYTES
        && let Some(data_bytes) = data_from(file, at_bytes)?
        && span_of(data_bytes) == span_bytes
    {
        at_bytes = data_bytes - data_bytes % BLOCK_BYTES as u64;
        let (offset, block) = blocks[filled..].split_at_mut(OFFSET_BYTES);
        let read = read_at(file, &mut block[..BLOCK_BYTES], at_bytes)?;
        if block[..read].iter().any(|byte| *byte != 0) {
            offset.copy_from_slice(&at_bytes.to_le_bytes());
            filled += OFFSET_BYTES + read;
        }
        at_bytes += BLOCK_BYTES as u64;
    }
    Ok(filled)
}

fn check(wanted: Wanted<'_>) -> io::Result<()> {
    if wanted() { Ok(()) } else { Err(io::Error::other("nobody waits for its digest")) }
}

/// A file that can be read for as long as somebody wants to know what is in it.
struct WhileWanted<'a> {
    file: &'a File,
    wanted: Wanted<'a>,
}

impl Read for WhileWanted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        check(self.wanted)?;
        self.file.read(bytes)
    }
}

/// Where there is something to read, from here on.
fn data_from(file: &File, at_bytes: u64) -> io::Result<Option<u64>> {
    let at = i64::try_from(at_bytes).map_err(io::Error::other)?;
    match lseek(file, at, Whence::SeekData) {
        Ok(data) => Ok(Some(data.unsigned_abs())),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Fills the block, but for the last of a file.
fn read_at(file: &File, block: &mut [u8], at_bytes: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < block.len() {
        match file.read_at(&mut block[read..], at_bytes + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
