//! Protocol messages as the scripts write them: one word for the kind, then its fields.
//!
//! Several messages of one line stand between ` | `. A name that is empty is written `-`.

use std::fmt::Write;

use pgshunt::wire::backend::{
    Report, Routine, Severity, Status, put_bare, put_command_complete, put_data_row,
};
use pgshunt::wire::backend::{put_parameter_status, put_ready, report_field};
use pgshunt::wire::{frame, frontend};

/// The messages of a line, as bytes.
pub fn encode(line: &str, from_client: bool) -> Vec<Vec<u8>> {
    line.split(" | ").map(|m| encode_one(m.trim(), from_client)).collect()
}

fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn name(text: &str) -> &[u8] {
    if text == "-" { b"" } else { text.as_bytes() }
}

fn encode_one(text: &str, from_client: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let known = if from_client { client(text, &mut out) } else { server(text, &mut out) };
    assert!(known, "the script names an unknown message: {text}");
    out
}

fn client(text: &str, out: &mut Vec<u8>) -> bool {
    let (kind, rest) = word(text);
    match kind {
        "Query" => frontend::put_query(out, rest.as_bytes()),
        // A message of this tag and body, in hexadecimal digits.
        "Raw" => {
            let (tag, hex) = word(rest);
            let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            let body: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).unwrap()).collect();
            frame::put(out, tag.as_bytes()[0], |b| b.extend_from_slice(&body));
        }
        "Parse" => {
            let (n, sql) = word(rest);
            frontend::put_parse(out, name(n), sql.as_bytes(), b"");
        }
        "Bind" => {
            let mut parts = rest.split(' ');
            let portal = name(parts.next().unwrap_or("-"));
            let statement = name(parts.next().unwrap_or("-"));
            let values: Vec<_> = parts.collect();
            let mut body = vec![0, 0];
            body.extend((values.len() as u16).to_be_bytes());
            for v in values {
                if v == "NULL" {
                    body.extend((-1i32).to_be_bytes());
                } else {
                    body.extend((v.len() as u32).to_be_bytes());
                    body.extend(v.as_bytes());
                }
            }
            body.extend([0, 0]);
            frontend::put_bind(out, portal, statement, &body);
        }
        "DescribeStatement" => frontend::put_named(out, b'D', b'S', name(rest)),
        "DescribePortal" => frontend::put_named(out, b'D', b'P', name(rest)),
        "CloseStatement" => frontend::put_named(out, b'C', b'S', name(rest)),
        "ClosePortal" => frontend::put_named(out, b'C', b'P', name(rest)),
        "Execute" => {
            let (portal, limit) = word(rest);
            let limit: i32 = if limit.is_empty() { 0 } else { limit.parse().unwrap() };
            frame::put(out, b'E', |b| {
                b.extend_from_slice(name(portal));
                b.push(0);
                b.extend_from_slice(&limit.to_be_bytes());
            });
        }
        "Flush" => frontend::put_empty(out, b'H'),
        "Sync" => frontend::put_empty(out, b'S'),
        "Terminate" => frontend::put_empty(out, b'X'),
        "FunctionCall" => frame::put(out, b'F', |b| b.extend_from_slice(rest.as_bytes())),
        // `\n` ends a line of it.
        "CopyData" => {
            frame::put(out, b'd', |b| b.extend_from_slice(rest.replace("\\n", "\n").as_bytes()));
        }
        "CopyDone" => frontend::put_empty(out, b'c'),
        "CopyFail" => frame::put(out, b'f', |b| {
            b.extend_from_slice(rest.as_bytes());
            b.push(0);
        }),
        _ => return false,
    }
    true
}

fn server(text: &str, out: &mut Vec<u8>) -> bool {
    let (kind, rest) = word(text);
    let report = |severity| {
        let (code, message) = word(rest);
        Report { severity, ..Report::error(code.to_owned(), message) }
    };
    match kind {
        "ParseComplete" => put_bare(out, b'1'),
        "BindComplete" => put_bare(out, b'2'),
        "CloseComplete" => put_bare(out, b'3'),
        "NoData" => put_bare(out, b'n'),
        "EmptyQuery" => put_bare(out, b'I'),
        "Suspended" => put_bare(out, b's'),
        "Parameters" => frame::put(out, b't', |b| {
            let oids: Vec<u32> = rest.split_whitespace().map(|o| o.parse().unwrap()).collect();
            b.extend((oids.len() as u16).to_be_bytes());
            for o in oids {
                b.extend(o.to_be_bytes());
            }
        }),
        "Row" => {
            let columns: Vec<_> = rest.split_whitespace().collect();
            frame::put(out, b'T', |b| {
                b.extend((columns.len() as u16).to_be_bytes());
                for c in columns {
                    b.extend(c.as_bytes());
                    b.push(0);
                    b.extend([0; 6]);
                    b.extend(23u32.to_be_bytes());
                    b.extend([0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
                }
            });
        }
        "Data" => {
            // `~` stands for a space.
            let values: Vec<_> = rest.split_whitespace().map(|v| v.replace('~', " ")).collect();
            put_data_row(out, values.iter().map(|v| Some(v.as_bytes())));
        }
        "Complete" => put_command_complete(out, rest),
        "Ready" => {
            let status = rest.bytes().next().and_then(Status::from_byte);
            put_ready(out, status.expect("Ready I, T or E"));
        }
        "Error" => report(Severity::Error).put(out),
        // An error of the routine that finds a cached plan out of date.
        "Stale" => {
            report(Severity::Error).routine(Routine::RevalidateCachedQuery).put(out);
        }
        "Fatal" => report(Severity::Fatal).put(out),
        "Notice" => report(Severity::Notice).put(out),
        "Status" => {
            let (n, value) = word(rest);
            // `x*9` is nine times x.
            let times = value.split_once('*').and_then(|(of, n)| Some(of.repeat(n.parse().ok()?)));
            put_parameter_status(out, n, times.as_deref().unwrap_or(value));
        }
        "CopyIn" => frame::put(out, b'G', |b| b.extend_from_slice(&[0; 3])),
        "CopyOut" => frame::put(out, b'H', |b| b.extend_from_slice(&[0; 3])),
        "CopyData" => {
            frame::put(out, b'd', |b| b.extend_from_slice(rest.replace("\\n", "\n").as_bytes()))
        }
        "CopyDone" => put_bare(out, b'c'),
        "Answer" => frame::put(out, b'V', |b| b.extend_from_slice(rest.as_bytes())),
        _ => return false,
    }
    true
}

/// Whole messages, as the scripts write them.
pub fn decode(bytes: &[u8], from_client: bool) -> Vec<String> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some(h) = frame::header(rest).expect("a well-formed frame") {
        assert!(rest.len() >= h.len, "half a message was written: {rest:?}");
        let body = &rest[frame::HEADER..h.len];
        found.push(if from_client { client_text(h.tag, body) } else { server_text(h.tag, body) });
        rest = &rest[h.len..];
    }
    assert!(rest.is_empty(), "half a header was written");
    found
}

fn shown(name: &[u8]) -> String {
    if name.is_empty() { "-".to_owned() } else { String::from_utf8_lossy(name).into_owned() }
}

fn client_text(tag: u8, body: &[u8]) -> String {
    let lossy = |b: &[u8]| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned();
    match tag {
        b'Q' => format!("Query {}", lossy(body)),
        b'P' => {
            let p = frontend::parse(body).unwrap();
            // pgshunt's question what a transaction has left is long, and always the same.
            let text = if p.name == b"pgs_check" { "...".to_owned() } else { lossy(p.text) };
            let types = p.oids.chunks(4).map(|o| u32::from_be_bytes(o.try_into().unwrap()));
            let types: String = types.map(|o| format!(" :{o}")).collect();
            format!("Parse {} {text}{types}", shown(p.name))
        }
        b'B' => {
            let b = frontend::bind(body).unwrap();
            let mut text = format!("Bind {} {}", shown(b.portal), shown(b.statement));
            for i in 0.. {
                let Some(p) = b.param(i) else { break };
                let _ = write!(text, " {}", p.value.map_or("NULL".to_owned(), lossy));
            }
            text
        }
        b'D' | b'C' => {
            let verb = if tag == b'D' { "Describe" } else { "Close" };
            match frontend::named(body).unwrap() {
                frontend::Named::Statement(n) => format!("{verb}Statement {}", shown(n)),
                frontend::Named::Portal(n) => format!("{verb}Portal {}", shown(n)),
                frontend::Named::Other(kind) => format!("{verb} {kind}"),
            }
        }
        b'E' => {
            let (portal, limit) = frontend::execute(body).unwrap();
            let limit = if limit == 0 { String::new() } else { format!(" {limit}") };
            format!("Execute {}{limit}", shown(portal))
        }
        b'H' => "Flush".to_owned(),
        b'S' => "Sync".to_owned(),
        b'X' => "Terminate".to_owned(),
        b'F' => format!("FunctionCall {}", lossy(body)),
        b'd' => format!("CopyData {}", lossy(body).replace('\n', "\\n")),
        b'c' => "CopyDone".to_owned(),
        b'f' => format!("CopyFail {}", lossy(body)),
        other => panic!("the session wrote a message {:?} to the node", other as char),
    }
}

fn server_text(tag: u8, body: &[u8]) -> String {
    let lossy = |b: &[u8]| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned();
    match tag {
        b'1' => "ParseComplete".to_owned(),
        b'2' => "BindComplete".to_owned(),
        b'3' => "CloseComplete".to_owned(),
        b'n' => "NoData".to_owned(),
        b'I' => "EmptyQuery".to_owned(),
        b's' => "Suspended".to_owned(),
        b't' => {
            let oids = body[2..].chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap()));
            oids.fold("Parameters".to_owned(), |text, o| format!("{text} {o}"))
        }
        b'T' => {
            let mut rest = &body[2..];
            let mut text = "Row".to_owned();
            while let Some(end) = rest.iter().position(|&b| b == 0) {
                let _ = write!(text, " {}", lossy(&rest[..end]));
                rest = &rest[end + 19..];
            }
            text
        }
        b'D' => {
            let row = pgshunt::wire::backend::data_row(body).unwrap();
            row.iter().fold("Data".to_owned(), |text, v| {
                format!("{text} {}", v.map_or("NULL".to_owned(), lossy))
            })
        }
        b'C' => format!("Complete {}", lossy(body)),
        b'Z' => format!("Ready {}", char::from(body[0])),
        b'E' | b'N' => {
            let field = |c| lossy(report_field(body, c).unwrap_or_default());
            let kind = match field(b'V').as_str() {
                "ERROR" => "Error",
                "FATAL" => "Fatal",
                _ => "Notice",
            };
            let mut text = format!("{kind} {} {}", field(b'C'), field(b'M'));
            for (code, label) in [(b'D', "detail"), (b'H', "hint")] {
                let more = field(code);
                if !more.is_empty() {
                    let _ = write!(text, " ({label}: {more})");
                }
            }
            text
        }
        b'S' => {
            let text = lossy(body).replace('\0', " ");
            let name = text.split(' ').next().unwrap_or_default();
            let value = text[name.len()..].trim();
            match value.chars().next() {
                Some(of) if value.len() > 1000 && value.chars().all(|c| c == of) => {
                    format!("Status {name} {of}*{}", value.len())
                }
                _ => format!("Status {text}"),
            }
        }
        b'G' => "CopyIn".to_owned(),
        b'H' => "CopyOut".to_owned(),
        b'd' => format!("CopyData {}", lossy(body).replace('\n', "\\n")),
        b'c' => "CopyDone".to_owned(),
        b'V' => format!("Answer {}", lossy(body)),
        b'A' => {
            let (pid, text) = body.split_at(4);
            let pid = i32::from_be_bytes(pid.try_into().unwrap());
            format!("Notification {pid} {}", lossy(text).replace('\0', " "))
        }
        other => panic!("the session wrote a message {:?} to the client", other as char),
    }
}
