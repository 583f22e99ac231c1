//! How many files the process may have open. A client is one, and its server connection another.

#![expect(unsafe_code, reason = "the limit of descriptors is read and raised by the C library")]

use std::sync::OnceLock;

/// As the first call of [`limit`] has made it.
static LIMIT: OnceLock<usize> = OnceLock::new();

/// As many as the system lets us: the first call raises the soft limit to the hard one.
pub fn limit() -> usize {
    *LIMIT.get_or_init(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one struct of ours.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
            return 1024;
        }
        let soft = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads one struct of ours.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            limit.rlim_cur = soft;
        }
        usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
    })
}
