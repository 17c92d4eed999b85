//! The allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// What one thread has asked the allocator for so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allocated {
    /// How many blocks, those that grew in place or moved included.
    pub(crate) blocks: u64,
    /// Bytes that are asked for and not given back.
    pub(crate) live: i64,
}

thread_local! {
    static ALLOCATED: Cell<Allocated> = const { Cell::new(Allocated { blocks: 0, live: 0 }) };
}

/// What this thread has asked for so far.
pub(crate) fn allocated() -> Allocated {
    ALLOCATED.get()
}

/// Leaves free blocks of all small sizes with this thread, so that what cases measured before have freed
/// makes no difference to how long the system's allocator takes. It first takes all that lies about: what is
/// taken last comes from fresh memory and is of the very size, and is freed first.
pub(crate) fn settle() {
    for size in (16..=256).step_by(16) {
        let mut blocks: Vec<Vec<u8>> = (0..10_000).map(|_| Vec::with_capacity(size)).collect();
        while let Some(block) = std::hint::black_box(&mut blocks).pop() {
            drop(block);
        }
    }
}

fn note(blocks: u64, bytes: i64) {
    let before = ALLOCATED.get();
    ALLOCATED.set(Allocated { blocks: before.blocks + blocks, live: before.live + bytes });
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged, and counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}
