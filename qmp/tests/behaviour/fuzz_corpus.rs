//! The seeds of the fuzz target, and what it once found, on a stable toolchain.

#[path = "../../fuzz/exercise.rs"]
mod exercise;

#[test]
fn the_fuzz_corpus_holds() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/session");
    let seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|seed| seed.unwrap().path()).collect();
    assert!(seeds.len() >= 8);
    for seed in seeds {
        exercise::session(&std::fs::read(seed).unwrap());
    }
}
