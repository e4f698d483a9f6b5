//! Counts what is allocated, thread by thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and a count of how often this thread asked it for memory.
pub(crate) struct Counting;

fn count() {
    // A thread that is being torn down may allocate after its count is gone; nobody asks for that count.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to `System` as it came, and `System` keeps the contract of `GlobalAlloc`. Counting
// touches one constant-initialised cell without a destructor, so it neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps what `GlobalAlloc::alloc` asks, which is what `System` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from `System` with this layout, because all of this allocator's memory does.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `dealloc`, and the caller keeps what is asked of `new_size`.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

/// How often this thread asked for memory while `act` ran, and what `act` returned.
pub(crate) fn during<T>(act: impl FnOnce() -> T) -> (T, u64) {
    let count = || ALLOCATIONS.with(Cell::get);
    let before = count();
    let result = act();
    (result, count() - before)
}

#[cfg(test)]
mod tests {
    use super::during;

    #[test]
    fn what_is_allocated_is_counted() {
        let (_, none) = during(|| 7);
        let (_kept, some) = during(|| (Box::new(7), vec![1_u8; 100]));
        assert_eq!((none, some), (0, 2));
    }
}
