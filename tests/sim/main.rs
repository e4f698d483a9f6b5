//! Whole histories in virtual time: the real machine, accounts and meter against a model QEMU, a model ledger and an
//! oracle. One seed is one history.
//!
//! ```text
//!   cargo test -p dormouse-tests --test sim                   some seconds of new histories
//!   SIM_SEED=n cargo test -p dormouse-tests --test sim        that history alone, told step by step
//!   SIM_HISTORIES=n, SIM_SECONDS=n                            so many, or for so long
//!   SIM_FROM=n                                                the first seed
//! ```
//!
//! What a seed draws depends on its range, so that those that found something replay what they found: from 100,000,000 on
//! guests have up to three memory devices, from 200,000,000 on somebody suppresses them and takes that back besides, and from
//! 300,000,000 on the host is booted again, and guests are power-cycled and limited in their CPU time; from 400,000,000 on
//! sandboxes are created.

mod agent;
mod boot;
mod create;
mod event;
mod known;
mod ledger;
mod life;
mod limit;
mod link;
mod oracle;
mod places;
mod qemu;
mod random;
mod spans;
mod suppressed;
mod trouble;
mod world;

use world::World;

/// Seeds that have found something; CHANGELOG.md says what.
const FOUND_SOMETHING: &[u64] = &[
    65, 66, 102, 201, 209, 308, 501, 786, 854, 1037, 1128, 1131, 1886, 2467, 2471, 2695, 3411, 3489, 3530,
    3592, 6789, 10_399, 11_116, 12_183, 12_412, 1_001_136, 1_001_198, 1_001_495, 1_001_597, 1_002_056,
    1_002_440, 1_002_897, 1_003_658, 1_003_698, 1_004_459, 1_005_991, 1_008_420, 1_008_879, 1_009_119,
    1_010_786, 1_011_293, 1_011_960, 1_012_403, 1_017_642, 1_017_909, 1_020_444, 1_024_241, 1_024_456,
    1_024_545, 1_025_852, 1_027_587, 1_028_110, 1_030_151, 1_031_678, 1_033_979, 1_034_359, 1_034_360,
    1_034_388, 2_007_556, 2_010_893, 2_012_295, 2_014_884, 2_028_315, 2_031_164, 2_037_923, 2_050_944,
    2_056_568, 2_059_662, 2_062_411, 2_063_745, 2_065_162, 2_066_754, 2_066_864, 2_068_605, 2_071_652,
    2_072_077, 2_088_204, 2_088_946, 2_089_594, 2_096_136, 2_096_431, 2_097_431, 3_071_507, 3_072_303,
    3_081_058, 3_099_413, 3_159_023, 4_069_145, 4_181_890, 4_196_118, 10_064_559, 10_095_371, 10_103_979,
    10_138_217, 10_157_581, 10_189_846, 10_215_190, 10_219_792, 10_220_220, 10_270_057, 10_616_304,
    10_630_059, 10_649_689, 10_676_544, 10_737_394, 10_843_491, 20_176_343, 20_668_038, 20_673_921,
    40_029_550, 40_581_283, 40_727_649, 40_759_454, 41_076_722, 45_557_271, 45_568_722, 45_634_463,
    50_018_537, 54_034_453, 59_083_655, 60_090_257, 60_110_420, 60_178_612, 64_062_028, 64_149_760,
    66_052_871, 70_099_191, 70_187_131, 70_276_246, 78_005_907, 81_137_290, 83_136_090, 90_166_351,
];

/// The same with several memory devices.
const FOUND_SOMETHING_WITH_SEVERAL: &[u64] = &[
    100_000_932,
    100_006_767,
    100_012_929,
    100_023_185,
    100_033_143,
    101_004_644,
    101_087_990,
    102_027_903,
    102_031_860,
    102_071_666,
    103_047_675,
    152_167_672,
    165_126_318,
    166_201_752,
    176_041_451,
    181_182_043,
    241_174_266,
    260_055_961,
    271_077_419,
];

/// The same where the host is booted again, or guests are limited.
const FOUND_SOMETHING_AT_A_BOOT: &[u64] = &[
    300_000_016,
    300_000_060,
    300_000_078,
    300_000_697,
    300_000_723,
    300_001_070,
    300_001_174,
    300_001_231,
    300_001_496,
    300_003_329,
    300_003_594,
    300_003_843,
    300_034_808,
    301_015_734,
    302_009_196,
    302_026_678,
    303_029_223,
    341_042_019,
    341_087_810,
    342_032_559,
    342_106_888,
    342_192_300,
    350_004_169,
    350_084_807,
    352_060_130,
    354_061_511,
    355_020_316,
    355_030_075,
    357_101_469,
    360_085_439,
    360_166_514,
    361_086_582,
    361_111_635,
    364_059_702,
    366_125_106,
    367_165_794,
    368_023_543,
    369_075_088,
    369_092_079,
    369_126_797,
    370_063_660,
    370_350_638,
    370_354_575,
    373_002_106,
    375_233_305,
    379_087_688,
    407_004_517,
    414_020_719,
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, traces: bool) -> World {
    let mut world = World::new(seed, traces);
    world.run();
    world.judge();
    world
}

fn check(seed: u64, traces: bool) -> u64 {
    let world = run(seed, traces);
    assert!(world.violations.is_empty(), "SIM_SEED={seed}\n{}", world.violations.join("\n"));
    world.steps
}

#[test]
fn what_was_found_once_stays_found() {
    let found = [FOUND_SOMETHING, FOUND_SOMETHING_WITH_SEVERAL, FOUND_SOMETHING_AT_A_BOOT].concat();
    for seed in &found {
        check(*seed, false);
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in 1..20 {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!((one.steps, one.now, one.violations), (other.steps, other.now, other.violations));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
fn every_history_is_billed_as_the_oracle_says() {
    if let Some(seed) = number("SIM_SEED") {
        check(seed, true);
        return;
    }
    let histories_max = number("SIM_HISTORIES").unwrap_or(u64::MAX);
    let default_seconds = if histories_max == u64::MAX { 20 } else { u64::MAX };
    let seconds = number("SIM_SECONDS").unwrap_or(default_seconds);
    let from = number("SIM_FROM");
    // Without a word, of every range in turn.
    let ranges = [1_000_000, 101_000_000, 201_000_000, 301_000_000, 401_000_000];
    let seed = |history: u64| {
        from.map_or_else(
            || ranges[usize::try_from(history % 5).unwrap_or(0)] + history / 5,
            |first| first + history,
        )
    };
    let began = std::time::Instant::now();
    let (mut histories, mut steps, mut bad) = (0, 0, 0);
    while histories < histories_max && began.elapsed().as_secs() < seconds {
        let world = run(seed(histories), false);
        steps += world.steps;
        if let Some(first_violation) = world.violations.first() {
            bad += 1;
            eprintln!(
                "SIM_SEED={} kinds={:04x} {first_violation}",
                seed(histories),
                world.knobs.troubles & 0xffff
            );
        }
        histories += 1;
    }
    let took = began.elapsed();
    let per_second = |count: u64| u128::from(count) * 1_000 / took.as_millis().max(1);
    eprintln!(
        "{histories} histories ({} a second), {steps} steps ({} a second), {took:.1?}, {bad} differ",
        per_second(histories),
        per_second(steps)
    );
    assert_eq!(bad, 0, "of {histories} histories");
}
