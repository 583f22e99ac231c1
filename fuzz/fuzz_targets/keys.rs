#![no_main]
//! Key values as they stand in statements and Binds; certificates, whose hash SCRAM binds to.

use libfuzzer_sys::fuzz_target;
use pgshunt::hash::{KeyType, KeyValue};
use pgshunt::net::tls::end_point_hash;

const TYPES: [KeyType; 6] =
    [KeyType::Int2, KeyType::Int4, KeyType::Int8, KeyType::Text, KeyType::Varchar, KeyType::Uuid];

fuzz_target!(|data: &[u8]| {
    for column in TYPES {
        if let Ok(key) = column.from_text(data) {
            let _ = key.row_hash();
            if let KeyValue::Int(n) = key {
                // What was read is what the text says.
                let text = std::str::from_utf8(data).expect("digits");
                let trimmed = text.trim_matches(|c: char| c == ' ' || ('\t'..='\r').contains(&c));
                assert_eq!(trimmed.parse::<i64>(), Ok(n));
            }
        }
        for declared in [0, 20, 21, 23, 25, 705, 1043, 1700, 2950] {
            for binary in [false, true] {
                if let Ok(key) = column.from_param(declared, binary, data) {
                    let _ = (key.row_hash(), column.stores_as_given(&key));
                }
            }
        }
    }
    let _ = end_point_hash(data);
});
