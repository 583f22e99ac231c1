//! From a key's value, as it stands in a statement or a Bind, to the row hash.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pgshunt::hash::{KeyType, KeyValue, row_hash};

fn hash(c: &mut Criterion) {
    let mut group = c.benchmark_group("row hash");
    let uuid = b"6f9619ff-8b86-d011-b42d-00c04fc964ff";
    let texts: [(&str, KeyType, &[u8]); 5] = [
        ("int4 from text", KeyType::Int4, b"421337"),
        ("int8 from text", KeyType::Int8, b"-4213370000000000"),
        ("text of 4 bytes", KeyType::Text, b"acme"),
        ("text of 66 bytes", KeyType::Text, &[b'x'; 66]),
        ("uuid from text", KeyType::Uuid, uuid),
    ];
    for (name, column, text) in texts {
        group.bench_function(name, |b| {
            b.iter(|| column.from_text(black_box(text)).map(|key| key.row_hash()));
        });
    }
    let binaries: [(&str, KeyType, &[u8]); 3] = [
        ("int4 from binary", KeyType::Int4, &[0, 6, 109, 217]),
        ("int8 from binary", KeyType::Int8, &[0, 6, 109, 217, 0, 0, 0, 1]),
        ("uuid from binary", KeyType::Uuid, &[7; 16]),
    ];
    for (name, column, bytes) in binaries {
        group.bench_function(name, |b| {
            b.iter(|| column.from_param(0, true, black_box(bytes)).map(|key| key.row_hash()));
        });
    }
    let key = [Some(KeyValue::Int(42)), Some(KeyValue::Bytes(b"acme".into()))];
    group.bench_function("two columns", |b| b.iter(|| row_hash(black_box(&key))));
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
