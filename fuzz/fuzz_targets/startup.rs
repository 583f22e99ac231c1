#![no_main]
//! The first packet of a connection, before anybody is known.

use libfuzzer_sys::fuzz_target;
use pgshunt::wire::startup;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(len)) = startup::packet_len(data) else { return };
    if let Some(packet) = data.get(..len) {
        let _ = startup::first(packet);
    }
    // As if the length had been right.
    let _ = startup::first(data);
});
