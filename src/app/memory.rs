//! How freed memory goes back to the system.

#![expect(unsafe_code, reason = "the allocator is told by two calls of the C library")]

/// Blocks of this many bytes and more have pages of their own, which go back when they are freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 1 << 20;

/// Lets what large messages needed go back to the system as soon as it is freed.
///
/// glibc raises its bound for pages of their own to 32 MB by the blocks it has seen freed. From then on a
/// text of 20 MB lies in the heap of the thread that asked for it, and its pages stay with the process.
/// A bound that is set is not raised. Other allocators are left as they are.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    for bound in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it sets an integer of the allocator, before another thread is started.
        unsafe { libc::mallopt(bound, OWN_PAGES) };
    }
}
