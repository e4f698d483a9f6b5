//! Has the kernel write a guest's memory out, or read it back: advice over the RAM mappings of its QEMU.
//!
//! Advice may be taken or not. What came of it is measured, by what of the process is resident before and after, and
//! never assumed. Nothing here changes what the guest's memory holds.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use super::advise::process_madvise;
use super::pidfd::Process;

/// So much is advised at once: a destroyed QEMU is noticed in between.
const CHUNK_BYTES: usize = 256 << 20;

/// What the kernel is advised to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Write it out: to swap, or to the file that it is mapped from.
    PageOut,
    /// Read it back, in the kernel's own time.
    WillNeed,
}

/// A memory backend of QEMU, as it shows among the mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ram {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The file behind it, where there is one.
    pub path: Option<PathBuf>,
}

/// What a process has in memory and in swap, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `Rss` of `/proc/<pid>/smaps_rollup`.
    pub resident_bytes: u64,
    /// `Swap` of it.
    pub swapped_bytes: u64,
}

/// What came of advice, as it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// Before.
    pub before: Held,
    /// After.
    pub after: Held,
    /// For how many bytes the kernel took the advice.
    pub advised_bytes: u64,
    /// What was refused, in words.
    pub refused: Vec<String>,
    /// Whether the host has swap, without which anonymous memory stays where it is.
    pub has_swap: bool,
}

/// Why nothing was tried, or nothing is known of what came of it.
#[derive(Debug, thiserror::Error)]
pub enum PagingError {
    /// `/proc` cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `/proc` says something else than proc(5) describes.
    #[error("{} is not as proc(5) describes", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Advises the kernel about the RAM of a QEMU. Blocks for as long as the kernel takes.
pub fn advise(process: &Process, ram: &[Ram], advice: Advice) -> Result<Paging, PagingError> {
    let of_process = |file: &str| PathBuf::from(format!("/proc/{}/{file}", process.pid()));
    let ranges = ram_ranges(&read(&of_process("maps"))?, ram);
    let rollup = of_process("smaps_rollup");
    let held = || Held::parse(&read(&rollup)?).ok_or(PagingError::Malformed { path: rollup.clone() });
    let mut paging = Paging { before: held()?, has_swap: has_swap()?, ..Paging::default() };
    if advice == Advice::PageOut {
        // The kernel pages out no dirty page of a file.
        let files = ram.iter().filter_map(|ram| ram.path.as_deref());
        paging.refused.extend(files.filter_map(|path| write_back(path).err()));
    }
    for range in ranges {
        if !give(process, range, advice, &mut paging) {
            break;
        }
    }
    paging.after = held()?;
    Ok(paging)
}

/// Advises about one range, piece by piece. False when there is no sense in going on.
fn give(process: &Process, range: Range<usize>, advice: Advice, paging: &mut Paging) -> bool {
    let number = match advice {
        Advice::PageOut => libc::MADV_PAGEOUT,
        Advice::WillNeed => libc::MADV_WILLNEED,
    };
    for start in range.clone().step_by(CHUNK_BYTES) {
        let length_bytes = CHUNK_BYTES.min(range.end - start);
        match process_madvise(process.pidfd(), start, length_bytes, number) {
            Ok(taken) => paging.advised_bytes += taken as u64,
            // This part was unmapped, or is of a kind that cannot be advised about.
            Err(Errno::ENOMEM | Errno::EINVAL | Errno::EBADF) => {}
            Err(errno) => {
                let needs = if errno == Errno::EPERM { " (it takes CAP_SYS_NICE)" } else { "" };
                paging.refused.push(format!("process_madvise: {}{needs}", errno.desc()));
                return false;
            }
        }
    }
    true
}

fn write_back(path: &Path) -> Result<(), String> {
    File::open(path)
        .and_then(|file| file.sync_data())
        .map_err(|error| format!("{} was not written back: {error}", path.display()))
}

fn read(path: &Path) -> Result<String, PagingError> {
    fs::read_to_string(path).map_err(|source| PagingError::Read { path: path.to_owned(), source })
}

fn has_swap() -> Result<bool, PagingError> {
    let path = Path::new("/proc/meminfo");
    let total = field_bytes(&read(path)?, "SwapTotal:");
    total.map(|bytes| bytes > 0).ok_or_else(|| PagingError::Malformed { path: path.to_owned() })
}

impl Held {
    fn parse(rollup: &str) -> Option<Self> {
        let [resident_bytes, swapped_bytes] = ["Rss:", "Swap:"].map(|name| field_bytes(rollup, name));
        Some(Self { resident_bytes: resident_bytes?, swapped_bytes: swapped_bytes? })
    }
}

/// `Rss:   123 kB`
fn field_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// The mappings of `/proc/<pid>/maps` that are guest RAM: those of a backend's file, and anonymous ones that are as large
/// as the smallest backend without a file. QEMU's own memory comes in smaller pieces, and its translated code can be
/// executed.
fn ram_ranges(maps: &str, ram: &[Ram]) -> Vec<Range<usize>> {
    let smallest = ram.iter().filter(|ram| ram.path.is_none()).map(|ram| ram.size_bytes).min();
    let of_file = |path: &str| ram.iter().any(|ram| ram.path.as_deref() == Some(Path::new(path)));
    let is_ram = |(range, path): &(Range<usize>, &str)| {
        let anonymous = path.is_empty() || path.starts_with("/memfd:") || *path == "/dev/zero";
        let large = smallest.is_some_and(|smallest| (range.end - range.start) as u64 >= smallest);
        of_file(path) || (anonymous && large)
    };
    maps.lines().filter_map(mapping).filter(is_ram).map(|(range, _)| range).collect()
}

/// `7f00-7f10 rw-p 00000000 00:00 0    /a path`: where it lies and what of. Only what is written and not executed.
fn mapping(line: &str) -> Option<(Range<usize>, &str)> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
        rest = after;
        word
    };
    let (start, end) = word().split_once('-')?;
    let flags = word();
    let (_offset, _device, _inode) = (word(), word(), word());
    let path = rest.trim_start();
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    (flags.starts_with("rw-") && range.start < range.end).then_some((range, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const MAPS: &str = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0 
7f0020000000-7f0020100000 rw-p 00000000 00:00 0 
7f0030000000-7f0070000000 rwxp 00000000 00:00 0 
7f0080000000-7f0090000000 rw-s 00000000 08:01 42                         /ram/ram 0.ram
7f00a0000000-7f00b0000000 ---p 00000000 00:00 0 
7f00c0000000-7f00d0000000 rw-s 00000000 00:01 77                         /memfd:memory-backend-memfd (deleted)
55d000000000-55d000100000 rw-p 00000000 00:00 0                          [heap]
nonsense
";

    fn ram(mib: u64, path: Option<&str>) -> Ram {
        Ram { size_bytes: mib * MIB, path: path.map(PathBuf::from) }
    }

    fn starts(ram: &[Ram]) -> Vec<usize> {
        ram_ranges(MAPS, ram).into_iter().map(|range| range.start).collect()
    }

    #[test]
    fn guest_ram_is_found_by_its_file_or_by_its_size() {
        assert_eq!(starts(&[ram(256, Some("/ram/ram 0.ram"))]), [0x7f00_8000_0000]);
        assert_eq!(starts(&[ram(256, None)]), [0x7f00_0000_0000, 0x7f00_c000_0000]);
        assert_eq!(starts(&[ram(512, None)]), [0_usize; 0]);
        assert_eq!(starts(&[]), [0_usize; 0]);
    }

    #[test]
    fn what_is_held_is_read_as_the_kernel_writes_it() {
        let rollup =
            "55d0-7ffc ---p 0 00:00 0 [rollup]\nRss:    300 kB\nPss:  1 kB\nSwap:   4 kB\nSwapPss: 4 kB\n";
        assert_eq!(Held::parse(rollup), Some(Held { resident_bytes: 300 << 10, swapped_bytes: 4 << 10 }));
        assert_eq!(Held::parse("Rss: 300 kB\n"), None);
        assert_eq!(Held::parse("Rss: lots kB\nSwap: 0 kB\n"), None);
    }

    #[tokio::test]
    async fn what_came_of_advice_is_measured_on_a_real_process() {
        let this = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let backends = [ram(1 << 30, None)];
        let paging = advise(&this, &backends, Advice::PageOut).unwrap();
        assert!(paging.before.resident_bytes > 0 && paging.after.resident_bytes > 0);
        assert_eq!((paging.advised_bytes, paging.refused), (0, Vec::new()));
    }
}
