//! The process's allocator, and what it holds.

use std::ptr::null_mut;

// Slabs are made on one thread and freed on another: glibc's allocator takes a lock for that, mimalloc does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the allocator holds of the system's memory, in bytes, in use or not. SQLite has an allocator of its own.
#[allow(unsafe_code)]
pub(crate) fn committed_bytes() -> usize {
    let mut committed = 0;
    let none = null_mut();
    // SAFETY: mimalloc writes what a pointer that is not null points to, and each is null or points to a `usize`.
    unsafe {
        libmimalloc_sys::mi_process_info(none, none, none, none, none, &raw mut committed, none, none);
    }
    committed
}
