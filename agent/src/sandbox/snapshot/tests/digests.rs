//! What a digest is of, and that nothing of a state file is left out of it.

use std::os::unix::fs::FileExt;

use super::*;

const BLOCK: usize = 64 * 1024;
const SPAN: usize = 16 * BLOCK;

/// As the manifest's documentation has it, and no faster than that.
fn as_it_is_written_down(bytes: &[u8]) -> String {
    let behind_offset = |at: usize, bytes: &[u8]| [&(at as u64).to_le_bytes(), bytes].concat();
    let holds_something = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let mut spans = Vec::new();
    for (index, span) in bytes.chunks(SPAN).enumerate().filter(|(_, span)| holds_something(span)) {
        let blocks = span.chunks(BLOCK).enumerate().filter(|(_, block)| holds_something(block));
        let blocks: Vec<u8> =
            blocks.flat_map(|(number, block)| behind_offset(index * SPAN + number * BLOCK, block)).collect();
        spans.extend(behind_offset(index * SPAN, blake3::hash(&blocks).as_bytes()));
    }
    blake3::hash(&spans).to_hex().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_digest_is_what_is_written_down_wherever_the_file_has_holes(
        length in 0..(9 * SPAN),
        pieces in prop::collection::vec((any::<prop::sample::Index>(), 1..(3 * BLOCK), any::<u8>()), 0..12),
    ) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length as u64).unwrap();
        for (at, bytes, byte) in pieces.into_iter().filter(|_| length > 0) {
            let at = at.index(length);
            file.write_all_at(&vec![byte; bytes.min(length - at)], at as u64).unwrap();
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let digest = digest::digest(3, &file, &to_the_end).unwrap();
        prop_assert_eq!(digest, as_it_is_written_down(&bytes));
    }
}

#[test]
fn a_digest_that_nobody_wants_any_more_is_given_up() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![1; 3 * SPAN], 0).unwrap();
    for version in [1, 2, 3] {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let wanted = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        digest::digest(version, &file, &wanted).unwrap_err();
    }
}

#[test]
fn holes_and_zeros_are_the_same_and_a_bit_in_either_is_seen() {
    const LENGTH: u64 = 5 << 20;
    let with_a_bit_at = |places: &[u64], filled: bool| {
        let file = tempfile::tempfile().unwrap();
        if filled {
            file.write_all_at(&vec![0; usize::try_from(LENGTH).unwrap()], 0).unwrap();
        }
        file.set_len(LENGTH).unwrap();
        for place in places {
            file.write_all_at(&[1], *place).unwrap();
        }
        [1, 2, 3].map(|version| (version, digest::digest(version, &file, &to_the_end).unwrap()))
    };
    let mut digests = std::collections::BTreeSet::new();
    for places in [&[][..], &[0], &[65_535], &[65_536], &[1 << 20], &[0, 1 << 20], &[LENGTH - 1]] {
        assert_eq!(with_a_bit_at(places, false), with_a_bit_at(places, true), "{places:?}");
        for digest in with_a_bit_at(places, false) {
            assert!(digests.insert(digest), "{places:?}");
        }
    }
}

#[test]
fn a_snapshot_is_held_to_the_digest_of_the_version_that_it_was_written_in() {
    let state = b"state of a guest".as_slice();
    let block = [&0_u64.to_le_bytes(), state].concat();
    let span = [0_u64.to_le_bytes().as_slice(), blake3::hash(&block).as_bytes()].concat();
    for (version, digested) in [(1, state), (2, &block), (3, &span)] {
        let saved = Saved::new();
        let mut manifest = saved.snapshot(Method::MappedRam, state);
        manifest.version = version;
        manifest.state.as_mut().unwrap().blake3 = blake3::hash(digested).to_hex().to_string();
        fs::write(manifest.path(), manifest.to_file().unwrap()).unwrap();
        intact(&manifest);
        flip(&manifest.state_path(), 3, 1);
        assert!(damage(&manifest).contains("does not match its digest"), "{version}");
    }
}
