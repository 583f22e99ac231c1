#![no_main]
//! A client's and a node's messages: the headers, and the contents that are read.

use libfuzzer_sys::fuzz_target;
use pgshunt::wire::{backend, frame, frontend};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some(header)) = frame::header(rest) {
        assert!(header.len >= frame::HEADER);
        let Some(whole) = rest.get(..header.len) else { break };
        read(&whole[frame::HEADER..]);
        rest = &rest[header.len..];
    }
    read(data);
});

/// Reads a body as every message it could be.
fn read(body: &[u8]) {
    let _ = frontend::query(body);
    let _ = frontend::parse(body);
    let _ = frontend::named(body);
    let _ = frontend::execute(body);
    if let Ok(bind) = frontend::bind(body) {
        let mut params = 0;
        // Finding a parameter walks over those before it: enough is enough.
        while params < 100 && bind.param(params).is_some() {
            params += 1;
        }
        assert!(params == 100 || bind.param(params + 1).is_none());
    }
    let _ = backend::report_field(body, b'C');
    let _ = backend::data_row(body);
}
