//! Fills memory of the test guest with random data, and sums up what is there. Under emulation this is many times
//! faster than /dev/urandom and md5sum, and the demo has a gigabyte to go through.
//!
//!     guest-memory fill FILE MIB      guest-memory sum FILE

use std::fs::File;
use std::io::{Read, Result, Write};

const MIB: usize = 1 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", path, mib] => fill(path, mib.parse().map_err(std::io::Error::other)?),
        ["sum", path] => sum(path),
        _ => Err(std::io::Error::other("usage: guest-memory fill FILE MIB | guest-memory sum FILE")),
    }
}

/// Random from a random seed (splitmix64): no page equals another, so none can stand for another, and no page of an
/// earlier fill can stand for one of this.
fn fill(path: &str, mib: usize) -> Result<()> {
    let mut seed = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut state = u64::from_le_bytes(seed);
    let mut file = File::create(path)?;
    let mut block = vec![0; MIB];
    for _ in 0..mib {
        for word in block.as_chunks_mut::<8>().0 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (mixed ^ (mixed >> 31)).to_le_bytes();
        }
        file.write_all(&block)?;
    }
    Ok(())
}

/// Each step is a bijection of the sum so far and of the word alike: one wrong word always shows, any number of them
/// but for one chance in 2^64.
fn sum(path: &str) -> Result<()> {
    let mut file = File::open(path)?;
    let mut block = vec![0; MIB];
    let mut sum = 0_u64;
    let mut mebibytes = 0_u64;
    while file.read_exact(&mut block).is_ok() {
        for word in block.as_chunks::<8>().0 {
            sum = (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        mebibytes += 1;
    }
    println!("{mebibytes}:{sum:016x}");
    Ok(())
}
