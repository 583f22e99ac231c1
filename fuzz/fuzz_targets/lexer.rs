#![no_main]
//! The plan cache's normaliser: what it does not refuse must keep its meaning.

use libfuzzer_sys::fuzz_target;
use pgshunt::sql::lexer::{Comments, Lexer};

fuzz_target!(|data: &[u8]| {
    for comments in [Comments::Refuse, Comments::Strip] {
        let mut lexer = Lexer::new();
        if lexer.normalise(data, comments).is_none() {
            continue;
        }
        // Every byte is where the lexer says, and the literals can be put back.
        let mut literals = lexer.literals().iter();
        let mut refilled = Vec::new();
        for (at, byte) in lexer.text().iter().enumerate() {
            let source = lexer.source_offset(at);
            match byte {
                1..=3 => {
                    let literal = literals.next().expect("a literal per placeholder");
                    assert_eq!((literal.class as u8, literal.range().start), (*byte, source));
                    let _ = literal.text(data);
                    refilled.extend_from_slice(&data[literal.range()]);
                }
                b' ' => refilled.push(b' '),
                _ => {
                    assert_eq!(data[source], *byte);
                    assert_eq!(lexer.normalised_offset(source), Some(at));
                    refilled.push(*byte);
                }
            }
        }
        assert!(literals.next().is_none());

        // Normal text is its own normal form.
        let mut again = Lexer::new();
        again.normalise(&refilled, Comments::Refuse).expect("normal text is not refused");
        assert_eq!(again.text(), lexer.text());

        // The parser reads both alike.
        if let (Ok(source), Ok(refilled)) =
            (std::str::from_utf8(data), std::str::from_utf8(&refilled))
        {
            assert_eq!(meaning(source), meaning(refilled));
        }
    }
});

fn meaning(sql: &str) -> Option<String> {
    let tree = pg_raw_parse::parse(sql).ok()?;
    Some(pg_raw_parse::deparse_stmts(tree.stmts()).ok()?.to_string())
}
