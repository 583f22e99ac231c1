//! COPY by the simple protocol, message by message.

use bytes::BufMut;

use crate::differential::wire::Wire;

/// How the client ends its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    Fail,
    /// It says nothing more.
    Silence,
}

/// An error or notice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub sqlstate: String,
    pub message: String,
    pub context: String,
}

/// Everything up to ReadyForQuery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub tag: String,
    pub error: Option<Said>,
    pub notices: Vec<Said>,
    /// One message of COPY data each.
    pub data: Vec<Vec<u8>>,
    /// Columns' formats as CopyInResponse or CopyOutResponse says them.
    pub formats: Vec<u8>,
    pub status: u8,
}

/// COPY FROM STDIN, whose data comes in these chunks.
pub fn copy_in(on: &mut Wire, sql: &str, chunks: &[&[u8]], end: End) -> Told {
    on.send(|out| postgres_protocol::message::frontend::query(sql, out).unwrap());
    let mut told = Told::default();
    while told.formats.is_empty() {
        if hear(on, &mut told) {
            return told;
        }
    }
    give(on, chunks, end);
    if end != End::Silence {
        while !hear(on, &mut told) {}
    }
    told
}

/// Data, and its end.
pub fn give(on: &mut Wire, chunks: &[&[u8]], end: End) {
    for chunk in chunks {
        on.send(|out| put(out, b'd', chunk));
    }
    match end {
        End::Done => on.send(|out| put(out, b'c', b"")),
        End::Fail => on.send(|out| put(out, b'f', b"enough\0")),
        End::Silence => {}
    }
}

pub fn ask(on: &mut Wire, sql: &str) -> Told {
    on.send(|out| postgres_protocol::message::frontend::query(sql, out).unwrap());
    let mut told = Told::default();
    while !hear(on, &mut told) {}
    told
}

fn put(out: &mut bytes::BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
}

/// The next message; true if it is ReadyForQuery.
pub fn hear(on: &mut Wire, told: &mut Told) -> bool {
    let (tag, body) = on.message();
    match tag {
        b'C' => told.tag = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned(),
        b'E' => told.error = Some(said(&body)),
        b'N' => told.notices.push(said(&body)),
        b'd' => told.data.push(body),
        b'G' | b'H' => told.formats = body,
        b'Z' => told.status = body[0],
        _ => {}
    }
    tag == b'Z'
}

fn said(body: &[u8]) -> Said {
    let mut said = Said::default();
    for field in body.split(|b| *b == 0).filter(|f| !f.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => said.sqlstate = text,
            b'M' => said.message = text,
            b'W' => said.context = text,
            _ => {}
        }
    }
    said
}
