//! Failpoints: places where a test makes the process die, or stop.
//!
//! `PGSHUNT_FAILPOINT=<name>` aborts the process when [`hit`] is called with that name, as a
//! power cut would: no destructor runs, no connection is closed politely. The crash matrix sets it
//! before and after every step of a move. `<name>=stop` stops the process there once, until SIGCONT,
//! so that a test can do something to a node at just that moment; `<name>=panic` lets the task that comes
//! there panic, once. Unset, a hit is one comparison with a
//! cached `None`.

#![expect(unsafe_code, reason = "a process stops itself by a signal")]
#![expect(clippy::print_stderr, reason = "only when a failpoint is set")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Aborts, stops or panics here if the environment asked for this failpoint.
pub fn hit(name: &str) {
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("PGSHUNT_FAILPOINT").ok());
    let Some(armed) = armed.as_deref() else { return };
    if armed == name {
        eprintln!("failpoint {name}: aborting");
        std::process::abort();
    }
    let Some((_, action)) = armed.split_once('=').filter(|(point, _)| *point == name) else {
        return;
    };
    static ACTED: AtomicBool = AtomicBool::new(false);
    if ACTED.swap(true, Ordering::Relaxed) {
        return;
    }
    eprintln!("failpoint {name}: {action}");
    match action {
        // SAFETY: raise() has no memory effects.
        "stop" => unsafe {
            libc::raise(libc::SIGSTOP);
        },
        #[expect(clippy::panic, reason = "it is what the test has asked for")]
        "panic" => panic!("failpoint {name}"),
        _ => eprintln!("failpoint {name}: there is no such action"),
    }
}
