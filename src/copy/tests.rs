use super::*;

fn key(at: usize, ty: KeyType) -> KeyColumn {
    KeyColumn { at, ty, force_null: false, force_not_null: false }
}

fn int_key() -> Form {
    Form::text(Box::new([key(0, KeyType::Int8)]))
}

fn text_key(at: usize) -> Form {
    Form::text(Box::new([key(at, KeyType::Text)]))
}

fn csv(form: Form) -> Form {
    let layout = Layout::Csv { quote: b'"', escape: b'"' };
    Form { layout, delimiter: b',', null: Vec::new(), ..form }
}

type Got = Vec<(To, Vec<u8>, u64)>;

/// What becomes of the data, which comes in chunks of `size` bytes.
fn split(form: &Form, data: &[u8], size: usize) -> Result<Got, Unplaced> {
    let mut splitter = Splitter::new(form.clone(), CsvMark::Ends, 1 << 20);
    let mut got = Vec::new();
    for chunk in data.chunks(size.max(1)) {
        splitter.push(chunk);
        while let Some(p) = splitter.piece()? {
            got.push((p.to, p.bytes.to_vec(), p.lines));
        }
    }
    splitter.end();
    while let Some(p) = splitter.piece()? {
        got.push((p.to, p.bytes.to_vec(), p.lines));
    }
    Ok(got)
}

fn of_int(n: i64) -> To {
    To::Hash(KeyValue::Int(n).row_hash())
}

fn of_text(text: &str) -> To {
    To::Hash(KeyValue::Bytes(text.as_bytes().into()).row_hash())
}

fn all(form: &Form, data: &[u8]) -> Got {
    split(form, data, usize::MAX).unwrap()
}

fn places(form: &Form, data: &[u8]) -> Vec<To> {
    all(form, data).into_iter().map(|(to, _, _)| to).collect()
}

#[test]
fn lines_end_as_the_first_one_does() {
    for eol in ["\n", "\r", "\r\n"] {
        let data = ["1\ta", "2\tb", "3"].join(eol);
        let got = all(&int_key(), data.as_bytes());
        assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), [1, 2, 3].map(of_int), "{eol:?}");
        assert_eq!(got.iter().flat_map(|g| g.1.clone()).collect::<Vec<_>>(), data.as_bytes());
    }
    for bad in ["1\n2\r\n3\n", "1\r2\n3\r", "1\r\n2\r3\r\n", "1\r\n2\n"] {
        let got = places(&int_key(), bad.as_bytes());
        assert_eq!(got, [of_int(1), To::First], "{bad:?}");
    }
}

#[test]
fn a_backslash_takes_the_next_byte_along() {
    let text = places(&text_key(0), b"a\\\nb\tx\n\\\\.\ty\n\\x41\\102\\n\\q\t\nc\\\n");
    assert_eq!(text, [of_text("a\nb"), of_text("\\."), of_text("AB\nq"), of_text("c\n")]);
    assert_eq!(places(&text_key(0), b"c\\"), [of_text("c")], "left out at the end");
    assert_eq!(places(&text_key(0), b"\\N\n\\\\N\n")[0], To::Hash(0), "NULL");
    assert_eq!(places(&text_key(1), b"a\\\tb\tkey\n"), [of_text("key")]);
}

#[test]
fn the_mark_of_the_end_ends_the_data() {
    assert_eq!(places(&int_key(), b"1\n\\.\n2\n"), [of_int(1)]);
    assert_eq!(places(&int_key(), b"\\.\n2\n"), []);
    assert_eq!(places(&int_key(), b"1\r\n\\.\r\n2"), [of_int(1)]);
    for corrupt in ["1\n\\.x\n", "1\n\\.", "1\n\\.\r", "1\r\n\\.\n"] {
        let got = places(&int_key(), corrupt.as_bytes());
        assert_eq!(got, [of_int(1), To::First], "{corrupt:?}");
    }
    let got = all(&int_key(), b"1\n2\\.\n3\n");
    assert_eq!(got[1], (of_int(2), b"2\\.\n".to_vec(), 1), "the node decides about it");
    assert_eq!(got.len(), 2);
}

#[test]
fn csv_is_quoted_with_newlines_within() {
    let form = csv(text_key(1));
    let data = b"1,\"a\"\"b\nc\"\n2,x\"y,z\"w\n\"3\n\n\",,\n4,\"\"\n\\.\n5,6\n";
    let got = all(&form, data);
    let wanted = [of_text("a\"b\nc"), of_text("xy,zw"), To::Hash(0), of_text("")];
    assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), wanted);
    // How lines end is not known yet in the first one.
    assert_eq!(got.iter().map(|g| g.2).collect::<Vec<_>>(), [1, 1, 3, 1]);
    let mut later = Splitter::new(form.clone(), CsvMark::IsData, 1 << 20);
    later.push(b"1,a\n\\.\n2,b\n");
    let mut to = Vec::new();
    while let Some(p) = later.piece().unwrap() {
        to.push(p.to);
    }
    assert_eq!(to, [of_text("a"), To::Any, of_text("b")], "a line without the key");
    let escape = Form { layout: Layout::Csv { quote: b'\'', escape: b'\\' }, ..form };
    assert_eq!(
        places(&escape, b"1,'a\\'b\\\\'\n2,'it\\n'\n"),
        [of_text("a'b\\"), of_text("it\\n")]
    );
    assert_eq!(places(&escape, b"1,'a\n"), [To::Any], "a quote is not closed");
}

#[test]
fn forced_nulls_and_markers() {
    let mut form = csv(text_key(0));
    form.null = b"nil".to_vec();
    assert_eq!(places(&form, b"nil\n\"nil\"\n"), [To::Hash(0), of_text("nil")]);
    form.keys[0].force_null = true;
    assert_eq!(places(&form, b"nil\n\"nil\"\n"), [To::Hash(0), To::Hash(0)]);
    form.keys[0].force_null = false;
    form.keys[0].force_not_null = true;
    assert_eq!(places(&form, b"nil\n"), [of_text("nil")]);
    form.default = Some(b"\\D".to_vec());
    assert_eq!(split(&form, b"\\D\n", 99), Err(Unplaced::Default));
    assert_eq!(places(&form, b"\"\\D\"\n"), [of_text("\\D")]);
}

#[test]
fn what_no_server_takes_goes_to_any_and_what_it_might_is_refused() {
    assert_eq!(places(&int_key(), b"x\n\n99999999999999999999\n"), [To::Any; 3]);
    assert_eq!(places(&text_key(1), b"a\n"), [To::Any], "the column is missing");
    let got = split(&int_key(), b"0x1F\n", 99);
    assert!(matches!(got, Err(Unplaced::Value(KeyType::Int8, _))), "{got:?}");
    let form = Form::text(Box::new([key(0, KeyType::Varchar)]));
    assert_eq!(split(&form, b"a \n", 99), Err(Unplaced::Blanks));
    let mut splitter = Splitter::new(int_key(), CsvMark::Ends, 10);
    splitter.push(b"1\t345678901");
    assert_eq!(splitter.piece(), Err(Unplaced::TooLong(10)));
}

#[test]
fn a_header_is_for_all() {
    let form = Form { header: true, ..csv(int_key()) };
    let got = all(&form, b"\"a\nb\",c\n7,8\n");
    assert_eq!(got[0], (To::All, b"\"a\nb\",c\n".to_vec(), 1));
    assert_eq!(got[1].0, of_int(7));
    assert_eq!(places(&form, b""), []);
}

fn binary_row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = (fields.len() as i16).to_be_bytes().to_vec();
    for f in fields {
        row.extend_from_slice(&f.map_or(-1, |f| f.len() as i32).to_be_bytes());
        row.extend_from_slice(f.unwrap_or_default());
    }
    row
}

const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x02xx";

#[test]
fn binary_rows_are_of_fields() {
    let form = Form { layout: Layout::Binary, ..text_key(1) };
    let mut data = HEAD.to_vec();
    data.extend(binary_row(&[Some(b"1"), Some(b"key"), Some(b"\n\n")]));
    data.extend(binary_row(&[None, None, None]));
    let bare = data.clone();
    data.extend([0xff, 0xff]);
    let wanted = [To::All, of_text("key"), To::Hash(0), To::All];
    assert_eq!(places(&form, &data), wanted);
    assert_eq!(places(&form, &bare), wanted[..3]);
    data.push(0);
    assert_eq!(places(&form, &data)[3..], [To::All, To::Any], "data behind the end");
    for broken in [&bare[..bare.len() - 1], b"PGCOPX\n", &[HEAD, &[0, 1, 0]].concat()] {
        assert_eq!(places(&form, broken).last(), Some(&To::Any), "{broken:?}");
    }
    let narrow = [HEAD, &binary_row(&[Some(b"1")])].concat();
    assert_eq!(places(&form, &narrow), [To::All, To::Any], "the key is missing");
    let int = Form { layout: Layout::Binary, ..Form::text(Box::new([key(0, KeyType::Int4)])) };
    let data = [HEAD, &binary_row(&[Some(&7i32.to_be_bytes())]), &binary_row(&[Some(b"7")])];
    assert_eq!(places(&int, &data.concat()), [To::All, of_int(7), To::Any]);
}

/// A small generator, so that what fails fails again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

#[test]
fn where_the_messages_are_cut_makes_no_difference() {
    let alphabets: [&[u8]; 2] = [b"1\\.\n\r\tNa\"x07", b"1\\.\n\r,\"'aN "];
    let escape = Form { layout: Layout::Csv { quote: b'"', escape: b'\\' }, ..csv(text_key(0)) };
    let two = Form::text(Box::new([key(1, KeyType::Text), key(0, KeyType::Text)]));
    let odd = Form { layout: Layout::Csv { quote: b'\\', escape: b'\\' }, ..csv(text_key(1)) };
    let binary = Form { layout: Layout::Binary, ..text_key(0) };
    let forms = [text_key(0), two, csv(text_key(1)), escape, odd, binary];
    let mut dice = Dice(88_172_645_463_325_252);
    for round in 0..20_000 {
        let form = &forms[round % forms.len()];
        let alphabet = alphabets[round % 2];
        let length = dice.roll(40);
        let mut data: Vec<u8> = (0..length).map(|_| alphabet[dice.roll(alphabet.len())]).collect();
        if form.layout == Layout::Binary {
            let field = |dice: &mut Dice| (dice.roll(5) > 0).then(|| vec![b'k'; dice.roll(6)]);
            data = HEAD.to_vec();
            for _ in 0..dice.roll(4) {
                let fields = [field(&mut dice), field(&mut dice)];
                data.extend(binary_row(&fields.each_ref().map(|f| f.as_deref())));
            }
            data.truncate(data.len() - dice.roll(3));
        }
        let whole = split(form, &data, usize::MAX);
        for size in [1, 2, 3, 7] {
            let cut = split(form, &data, size);
            let joined = |got: &Result<Got, Unplaced>| got.clone().map(rest_as_one);
            assert_eq!(joined(&cut), joined(&whole), "{form:?} {data:?} by {size}");
        }
    }
}

/// What nobody takes may come in several pieces.
fn rest_as_one(got: Got) -> Got {
    let mut all: Got = Vec::new();
    for (to, bytes, lines) in got {
        match all.last_mut() {
            Some((To::Any, before, n)) if to == To::Any && lines == 0 && *n == 0 => {
                before.extend(bytes);
            }
            _ => all.push((to, bytes, lines)),
        }
    }
    all
}
