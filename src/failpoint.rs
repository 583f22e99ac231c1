//! Failpoints: places where a test makes the process die.
//!
//! `PGSHUNT_FAILPOINT=<name>` aborts the process when [`hit`] is called with that name, as a
//! power cut would: no destructor runs, no connection is closed politely. The crash matrix sets it
//! before and after every step of a move. Unset, a hit is one comparison with a cached `None`.

use std::sync::OnceLock;

/// Aborts here if the environment asked for this failpoint.
pub fn hit(name: &str) {
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("PGSHUNT_FAILPOINT").ok());
    if armed.as_deref() == Some(name) {
        eprintln!("failpoint {name}: aborting");
        std::process::abort();
    }
}
