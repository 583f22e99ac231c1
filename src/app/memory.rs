//! How freed memory goes back to the system.

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
    // SAFETY: it sets two integers of the allocator, before another thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, OWN_PAGES);
    }
}
