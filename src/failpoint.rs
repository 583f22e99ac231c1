//! Failpoints: places where a test makes the process die, or stop.
//!
//! `PGSHUNT_FAILPOINT=<name>` aborts the process when [`hit`] is called with that name, as a
//! power cut would: no destructor runs, no connection is closed politely. The crash matrix sets it
//! before and after every step of a move. `<name>=stop` stops the process there once, until SIGCONT,
//! so that a test can do something to a node at just that moment. Unset, a hit is one comparison with a
//! cached `None`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Aborts or stops here if the environment asked for this failpoint.
pub fn hit(name: &str) {
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("PGSHUNT_FAILPOINT").ok());
    let Some(armed) = armed.as_deref() else { return };
    if armed == name {
        eprintln!("failpoint {name}: aborting");
        std::process::abort();
    }
    static STOPPED: AtomicBool = AtomicBool::new(false);
    if armed.strip_suffix("=stop") == Some(name) && !STOPPED.swap(true, Ordering::Relaxed) {
        eprintln!("failpoint {name}: stopping");
        // SAFETY: raise() has no memory effects.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}
