//! The system's allocator.

#![allow(unsafe_code, reason = "mallopt has no safe wrapper; it takes two numbers")]

/// Larger blocks are returned to the system when they are freed. Smaller blocks, which a search with an
/// ordinary picture needs, are reused. That is faster.
const LARGE_BLOCK_BYTES: i32 = 4 << 20;

/// Makes the allocator of the whole process return large blocks to the system as soon as they are freed. A
/// program may call this at its start.
///
/// By itself, glibc keeps freed blocks of up to 32 MB once it has seen one of that size, in a heap for each
/// thread. A server that has read large bodies would keep hundreds of megabytes. Other allocators need no
/// such setting.
pub(crate) fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt may be called at any time; it locks the allocator's state.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = LARGE_BLOCK_BYTES;
}
