#![expect(clippy::disallowed_methods, reason = "the lexer is compared with the parser itself")]
#![expect(clippy::string_slice, reason = "the ranges are what is tested")]
use pg_raw_parse::{ConstValue, Node};
use proptest::prelude::*;

use super::LiteralClass::{Integer, Number, String as Text};
use super::*;

fn lexed(sql: &str) -> Option<Lexer> {
    let mut lexer = Lexer::new();
    lexer.normalise(sql.as_bytes(), Comments::Refuse).map(|()| lexer)
}

fn stripped(sql: &str) -> Option<Lexer> {
    let mut lexer = Lexer::new();
    lexer.normalise(sql.as_bytes(), Comments::Strip).map(|()| lexer)
}

/// The normalised text with `<i>`, `<n>`, `<s>` for the placeholders.
fn shape(lexer: &Lexer) -> String {
    let text = std::str::from_utf8(lexer.text()).unwrap();
    text.replace('\u{1}', "<i>").replace('\u{2}', "<n>").replace('\u{3}', "<s>")
}

fn literals(lexer: &Lexer, sql: &str) -> Vec<(LiteralClass, String)> {
    lexer.literals().iter().map(|l| (l.class, sql[l.range()].to_owned())).collect()
}

#[test]
fn literals_become_placeholders_and_the_rest_stays() {
    for (sql, expected) in [
        ("", ""),
        ("  \n", ""),
        ("SELECT * FROM t WHERE id = 42", "SELECT * FROM t WHERE id = <i>"),
        ("select  1,\t2.5 ,\n'x'\r\n", "select <i>, <n> , <s>"),
        ("UPDATE t SET a=a+1.,b='it''s' WHERE c=1e10", "UPDATE t SET a=a+<n>,b=<s> WHERE c=<n>"),
        ("select 1.5e-3, 1.e5, 1E+3", "select <n>, <n>, <n>"),
        ("select $1, $23", "select $1, $23"),
        ("select -5, - 5, 3-2", "select -<i>, - <i>, <i>-<i>"),
        ("select \"a  \"\"b'\", x", "select \"a  \"\"b'\", x"),
        ("select E'a\\'b', e'', 'a\\'", "select <s>, <s>, <s>"),
        ("select date'2020-01-01', fooe'x', a$1, _b'c'", "select date<s>, fooe<s>, a$1, _b<s>"),
        ("select größe, 'ä' from t2", "select größe, <s> from t2"),
        ("select a[1:2], x::int4, a.b.*", "select a[<i>:<i>], x::int4, a.b.*"),
        ("select 1;", "select <i>;"),
        ("select a#>>b, c@>d, e||f", "select a#>>b, c@>d, e||f"),
        ("select 'a' E'b'", "select <s> <s>"),
        ("select $1::text'x'", "select $1::text<s>"),
    ] {
        assert_eq!(lexed(sql).map(|l| shape(&l)).as_deref(), Some(expected), "{sql:?}");
    }
}

#[test]
fn what_is_rare_or_read_differently_is_refused() {
    for sql in [
        "select 1 -- x",
        "select 1 /* x */",
        "select a--b",
        "select a */* b */ c",
        "select $$x$$",
        "select $a$x$a$",
        "select $1a",
        "select $1$2",
        "select $",
        "select U&'x'",
        "select u&\"x\"",
        "select B'1'",
        "select x'1f'",
        "select N'x'",
        "select 'a'\n'b'",
        "select 'a'  'b'",
        "select e'a'\n'b'",
        "select .5",
        "select a.5",
        "select 1..2",
        "select 1.5.2",
        "select 0x1F",
        "select 1_000",
        "select 1a",
        "select 1e",
        "select 1e+",
        "select 1.5e+x",
        "select 1$1",
        "select 'x",
        "select 'x''",
        "select E'x\\'",
        "select E'x\\",
        "select \"x",
        "select \"x\u{1}\"",
        "select \\",
        "select {1}",
        "select a\0",
        "select 'a\0b'",
        "select E'a\0b'",
        "select E'a\\\0b'",
        "select a\u{b}b",
        "select \u{3}",
        "for i in 1 .. 2",
    ] {
        assert!(lexed(sql).is_none(), "{sql:?}");
    }
}

#[test]
fn a_refused_text_leaves_nothing_behind() {
    let mut lexer = Lexer::new();
    lexer.normalise(b"select 1, 2; select 3", Comments::Refuse).unwrap();
    assert!(lexer.several_statements());
    assert!(lexer.normalise(b"select 1, 2; select $$", Comments::Refuse).is_none());
    assert!(lexer.text().is_empty() && lexer.literals().is_empty());
    assert!(!lexer.several_statements());
}

#[test]
fn comments_are_blanks_if_asked_for() {
    for (sql, expected) in [
        ("/* a */ select 1 -- b", "select <i>"),
        ("select/**/1", "select <i>"),
        ("select a--b\n,c", "select a ,c"),
        ("select a--b\r,c", "select a ,c"),
        ("select 1 /* a /* b */ 'c */ + 2", "select <i> + <i>"),
        ("select 2*/*x*/3", "select <i>* <i>"),
        ("select 1 -/**/- 2", "select <i> - - <i>"),
        ("select '--', \"/*\" /*'*/", "select <s>, \"/*\""),
        ("--", ""),
        ("select 1 / * 2", "select <i> / * <i>"),
        ("select 1;--x\n/* y */;", "select <i>; ;"),
    ] {
        assert_eq!(stripped(sql).map(|l| shape(&l)).as_deref(), Some(expected), "{sql:?}");
    }
    for sql in ["select /* x", "select /* /* */", "select 'a'--x\n'b'", "select 'a'/**/'b'", "/*/"]
    {
        assert!(stripped(sql).is_none(), "{sql:?}");
    }
}

#[test]
fn several_statements_are_noticed() {
    for (sql, several) in [
        ("select 1", false),
        ("select 1;", false),
        ("select 1 ; ", false),
        ("select 1;;\n;", false),
        ("select ';', \";x\" ;", false),
        ("select 1; select 2", true),
        ("select 1;;x", true),
        ("; select 1", true),
        ("select 1;'x'", true),
        ("select 1; $1", true),
    ] {
        assert_eq!(lexed(sql).unwrap().several_statements(), several, "{sql:?}");
    }
    assert!(!stripped("select 1; -- end").unwrap().several_statements());
}

#[test]
fn literals_tell_class_place_and_text() {
    let sql = "SELECT 'it''s', E'x', E'a\\nb', 12, 1.5, '' FROM t";
    let lexer = lexed(sql).unwrap();
    assert_eq!(
        literals(&lexer, sql),
        [
            (Text, "'it''s'".to_owned()),
            (Text, "E'x'".to_owned()),
            (Text, "E'a\\nb'".to_owned()),
            (Integer, "12".to_owned()),
            (Number, "1.5".to_owned()),
            (Text, "''".to_owned()),
        ]
    );
    let texts: Vec<Option<Cow<'_, [u8]>>> =
        lexer.literals().iter().map(|l| l.text(sql.as_bytes())).collect();
    let expected: [Option<&[u8]>; 6] =
        [Some(b"it's"), Some(b"x"), None, Some(b"12"), Some(b"1.5"), Some(b"")];
    assert_eq!(texts.iter().map(|t| t.as_deref()).collect::<Vec<_>>(), expected);
    assert!(matches!(texts[1], Some(Cow::Borrowed(_))), "the usual case allocates nothing");
}

#[test]
fn a_text_that_is_not_the_source_gives_no_value() {
    let lexer = lexed("select 'abcdef'").unwrap();
    assert_eq!(lexer.literals()[0].text(b"select"), None);
    assert_eq!(lexer.literals()[0].text(b"select abcdefghi"), None);
}

#[test]
fn offsets_map_between_source_and_normalised() {
    let sql =
        "  SELECT  *\n FROM /* which? */ orders WHERE id = 12345  AND x IN ('a', 'bc') FOR UPDATE";
    let lexer = stripped(sql).unwrap();
    assert_eq!(shape(&lexer), "SELECT * FROM orders WHERE id = <i> AND x IN (<s>, <s>) FOR UPDATE");
    let place = |word: &str| lexer.text().windows(word.len()).position(|w| w == word.as_bytes());
    for word in ["SELECT", "*", "FROM", "orders", "WHERE", "AND", "IN", "FOR", "UPDATE"] {
        let at = place(word).unwrap();
        let source = sql.find(word).unwrap();
        assert_eq!(lexer.source_offset(at), source, "{word}");
        assert_eq!(lexer.normalised_offset(source), Some(at), "{word}");
    }
    for (n, literal) in ["12345", "'a'", "'bc'"].iter().enumerate() {
        let start = sql.find(literal).unwrap();
        assert_eq!(lexer.literal_at(start), Some(n));
        assert_eq!(lexer.normalised_offset(start + 1), None, "inside of {literal}");
        assert_eq!(
            lexer.text()[lexer.normalised_offset(start).unwrap()],
            lexer.literals()[n].class as u8
        );
    }
    assert_eq!(lexer.normalised_offset(sql.find("which").unwrap()), None);
    assert_eq!(lexer.normalised_offset(sql.len()), None);
    // The same shape, another text: the plan's offset finds the table there.
    let other = "SELECT * FROM orders WHERE id = 7 AND x IN ('', '') FOR UPDATE";
    let again = stripped(other).unwrap();
    assert_eq!(again.text(), lexer.text());
    let for_update = place("FOR").unwrap();
    assert_eq!(again.source_offset(for_update), other.find("FOR").unwrap());
}

#[test]
fn signs_are_part_of_the_parsers_constants() {
    let sql = "select -5, - 6, -(7), - -8, 9, -(1+2), a-3";
    let lexer = lexed(sql).unwrap();
    let signed: Vec<(usize, bool)> =
        constants(sql).iter().map(|at| lexer.constant_at(sql.as_bytes(), *at).unwrap()).collect();
    assert_eq!(
        signed,
        [
            (0, true),
            (1, true),
            (2, true),
            (3, false),
            (4, false),
            (5, false),
            (6, false),
            (7, false)
        ]
    );
    assert_eq!(lexer.constant_at(b"select", 3), None);
    assert_eq!(lexer.constant_at(b"---", 0), None);
}

/// Where the parser says the literals of a text start. Booleans and NULL are words for the lexer.
fn constants(sql: &str) -> Vec<usize> {
    let tree = pg_raw_parse::parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut found = Vec::new();
    for statement in tree.stmts() {
        pg_raw_parse::walk::walk(statement, |node| {
            if let Node::A_Const(constant) = node
                && let Some(ConstValue::Integer(_) | ConstValue::Float(_) | ConstValue::String(_)) =
                    constant.val()
            {
                found.push(usize::try_from(constant.location).unwrap());
            }
        });
    }
    found.sort_unstable();
    found
}

/// The parser's classes, in the order of the text.
fn classes(sql: &str) -> Vec<LiteralClass> {
    let tree = pg_raw_parse::parse(sql).unwrap();
    let mut found = Vec::new();
    for statement in tree.stmts() {
        pg_raw_parse::walk::walk(statement, |node| {
            if let Node::A_Const(constant) = node {
                let class = match constant.val() {
                    Some(ConstValue::Integer(_)) => Integer,
                    // A large integer is a "float" of digits only.
                    Some(ConstValue::Float(text))
                        if text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) =>
                    {
                        Integer
                    }
                    Some(ConstValue::Float(_)) => Number,
                    Some(ConstValue::String(_)) => Text,
                    _ => return,
                };
                found.push((constant.location, class));
            }
        });
    }
    found.sort_unstable_by_key(|(location, _)| *location);
    found.into_iter().map(|(_, class)| class).collect()
}

/// The normalised text with the source's own literals put back.
fn refilled(lexer: &Lexer, sql: &str) -> String {
    let mut literals = lexer.literals().iter();
    let mut text = Vec::new();
    for byte in lexer.text() {
        match byte {
            1..=3 => text.extend_from_slice(sql[literals.next().unwrap().range()].as_bytes()),
            _ => text.push(*byte),
        }
    }
    assert!(literals.next().is_none());
    String::from_utf8(text).unwrap()
}

fn deparsed(sql: &str) -> Option<String> {
    let tree = pg_raw_parse::parse(sql).ok()?;
    Some(pg_raw_parse::deparse_stmts(tree.stmts()).ok()?.to_string())
}

/// Every byte of the normalised text is where `source_offset` says.
fn check_offsets(lexer: &Lexer, sql: &str) {
    let mut literals = lexer.literals().iter();
    for (at, byte) in lexer.text().iter().enumerate() {
        let source = lexer.source_offset(at);
        match byte {
            1..=3 => {
                let literal = literals.next().unwrap();
                assert_eq!(
                    (literal.class as u8, literal.range().start),
                    (*byte, source),
                    "{sql:?}"
                );
            }
            // One blank stands for anything PostgreSQL takes for one.
            b' ' if sql.as_bytes()[source] != b' ' => continue,
            _ => assert_eq!(sql.as_bytes()[source], *byte, "{sql:?} at {at}"),
        }
        assert_eq!(lexer.normalised_offset(source), Some(at), "{sql:?} at {at}");
    }
}

// --- statements the parser accepts ---------------------------------------------------------------

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just(" "),
        1 => Just("  "),
        1 => Just("\n\t"),
        1 => Just(" /* ' /* \" */ */ "),
        1 => Just(" -- it's\n"),
    ]
}

fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u16>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| format!("{a}.{b}")),
        (any::<u8>(), 0..20i8).prop_map(|(a, b)| format!("{a}e{b}")),
        (any::<u8>(), -20..0i8).prop_map(|(a, b)| format!("{a}.E{b}")),
        "[a-z' äß%;$-]{0,8}".prop_map(|s| format!("'{}'", s.replace('\'', "''"))),
        "[a-z\\\\']{0,6}"
            .prop_map(|s| format!("e'{}'", s.replace('\\', "\\\\").replace('\'', "\\'"))),
        Just("date '2026-01-01'".to_owned()),
        Just("interval'1 day'".to_owned()),
        Just("$1".to_owned()),
        Just("TRUE".to_owned()),
        Just("null".to_owned()),
        Just("-(5)".to_owned()),
        Just("- - 5".to_owned()),
        Just("'7'::int4".to_owned()),
        Just("x::numeric(10,2)".to_owned()),
        Just("a.\"Strange ''name\"\"\"".to_owned()),
        Just("größe$1".to_owned()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    constant().prop_recursive(3, 12, 3, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "*", "||", "@>", "=", "<>", "%"]);
        prop_oneof![
            (inner.clone(), blank(), operator, blank(), inner.clone())
                .prop_map(|(a, s, op, t, b)| format!("({a}{s}{op}{t}{b})")),
            (inner.clone(), blank(), inner.clone()).prop_map(|(a, s, b)| format!("f({a},{s}{b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) IN (({b}), 3)")),
            inner.clone().prop_map(|a| format!("(arr)[({a})]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("CASE WHEN ({a}) THEN ({b}) END")),
        ]
    })
}

fn statement() -> impl Strategy<Value = String> {
    let e = || expression().prop_map(|e| format!("({e})"));
    prop_oneof![
        (blank(), e(), e()).prop_map(|(s, a, b)| format!(
            "{s}SELECT{s}*{s}FROM orders o WHERE{s}{a} AND id ={s}{b} ORDER BY 1 LIMIT 10;"
        )),
        (blank(), e(), e()).prop_map(|(s, a, b)| format!(
            "INSERT INTO{s}t (a,b){s}VALUES ({a},{s}{b}), (1,'x') RETURNING *{s}"
        )),
        (blank(), e(), e())
            .prop_map(|(s, a, b)| format!("UPDATE{s}t SET a={a} WHERE{s}id={b}{s};{s}")),
        (blank(), e()).prop_map(|(s, a)| format!("DELETE FROM{s}ONLY s.t WHERE{s}{a}")),
        (blank(), e(), e()).prop_map(|(s, a, b)| format!(
            "WITH x AS (SELECT {a}){s}SELECT{s}{b} FROM x JOIN y ON x.id=y.id;{s}SELECT 1"
        )),
    ]
}

// --- anything at all -----------------------------------------------------------------------------

fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "select", "a", "e", "E", "u&", "b", "x", "n", "'", "''", "'a'", "'b'", "\"", "\"q\"", "1",
        "23", ".", "..", "1.5", "1e5", "e5", "$", "$1", "$$", "-", "--", "/", "*", "/*", "*/", "+",
        ";", "(", ")", ",", "[", "]", ":", "::", "=", "\\", " ", "  ", "\n", "\r", "\t", "_", "ä",
        "\u{1}", "\0", "from t", "as", "#", "|", "?", "{",
    ]);
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn literals_are_where_the_parser_finds_constants(sql in statement()) {
        let lexer = stripped(&sql).expect("nothing in it is refused");
        let locations = constants(&sql);
        let found: Vec<usize> = locations
            .iter()
            .map(|at| lexer.constant_at(sql.as_bytes(), *at).expect("a literal there").0)
            .collect();
        let all: Vec<usize> = (0..lexer.literals().len()).collect();
        prop_assert_eq!(found, all, "{}", &sql);
        let ours: Vec<LiteralClass> = lexer.literals().iter().map(|l| l.class).collect();
        prop_assert_eq!(ours, classes(&sql), "{}", &sql);
        let count = pg_raw_parse::parse(&sql).unwrap().stmts().count();
        prop_assert_eq!(lexer.several_statements(), count > 1);
        check_offsets(&lexer, &sql);
        // The normalised text has the same tokens.
        let filled = refilled(&lexer, &sql);
        prop_assert_eq!(deparsed(&filled).unwrap(), deparsed(&sql).unwrap(), "{}", &filled);
    }

    #[test]
    fn strings_say_what_the_parser_reads(content in "[a-z'\\\\ä;$\n-]{0,12}") {
        let sql = format!("SELECT '{}'", content.replace('\'', "''"));
        let lexer = lexed(&sql).unwrap();
        let text = lexer.literals()[0].text(sql.as_bytes()).unwrap();
        prop_assert_eq!(text.as_ref(), content.as_bytes());
        let tree = pg_raw_parse::parse(&sql).unwrap();
        let mut parsed = None;
        for statement in tree.stmts() {
            pg_raw_parse::walk::walk(statement, |node| {
                if let Node::A_Const(constant) = node {
                    parsed = constant.val().and_then(|v| v.string_value().map(str::to_owned));
                }
            });
        }
        prop_assert_eq!(parsed.unwrap(), content);
    }

    #[test]
    fn soup_is_refused_or_keeps_its_meaning(tail in soup(), parsable: bool) {
        let sql = if parsable { format!("select {tail}") } else { tail };
        for comments in [Comments::Refuse, Comments::Strip] {
            let mut lexer = Lexer::new();
            if lexer.normalise(sql.as_bytes(), comments).is_none() {
                continue;
            }
            check_offsets(&lexer, &sql);
            let filled = refilled(&lexer, &sql);
            prop_assert_eq!(deparsed(&filled), deparsed(&sql), "{:?}", &filled);
            // The normal form of the normal form is itself.
            let mut again = Lexer::new();
            prop_assert!(again.normalise(filled.as_bytes(), Comments::Refuse).is_some());
            prop_assert_eq!(again.text(), lexer.text());
            if pg_raw_parse::parse(&sql).is_ok() {
                let found: Vec<usize> = constants(&sql)
                    .iter()
                    .map(|at| lexer.constant_at(sql.as_bytes(), *at).expect("a literal there").0)
                    .collect();
                for literal in found {
                    prop_assert!(literal < lexer.literals().len());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut lexer = Lexer::new();
        for comments in [Comments::Refuse, Comments::Strip] {
            let _ = lexer.normalise(&bytes, comments);
            for literal in lexer.literals() {
                let _ = literal.text(&bytes);
            }
        }
    }
}
