//! A client that speaks the protocol by hand, and says what no library would.

use std::collections::BTreeMap;

use pgshunt::net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

pub struct Wire {
    pub tcp: Stream,
    pub pid: i32,
    pub secret: Vec<u8>,
    /// The parameters it was told, the last value of each.
    pub told: BTreeMap<String, String>,
}

/// A message's bytes.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// A first packet: its code and what follows.
pub fn first(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn startup(database: &str) -> Vec<u8> {
    startup_with(database, &[])
}

pub fn startup_with(database: &str, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = format!("user\0{SUPERUSER}\0database\0{database}\0");
    for (name, value) in params {
        body += &format!("{name}\0{value}\0");
    }
    body += "\0";
    first(3 << 16, body.as_bytes())
}

pub const TERMINATE: &[u8] = b"X\0\0\0\x04";
pub const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

impl Wire {
    pub async fn dial(port: u16) -> Self {
        Self::over(Stream::Plain(TcpStream::connect(("127.0.0.1", port)).await.unwrap().into()))
    }

    pub fn over(tcp: Stream) -> Self {
        Self { tcp, pid: 0, secret: Vec::new(), told: BTreeMap::new() }
    }

    /// Logs in where clients are trusted.
    pub async fn login(port: u16) -> Self {
        Self::login_with(port, &[]).await
    }

    pub async fn login_with(port: u16, params: &[(&str, &str)]) -> Self {
        let mut wire = Self::dial(port).await;
        wire.log_in(params).await;
        wire
    }

    pub async fn log_in(&mut self, params: &[(&str, &str)]) {
        self.send(&startup_with(DATABASE, params)).await;
        let answer = self.ready().await;
        assert!(answer.ends_with('Z'), "{answer}");
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
        self.tcp.flush().await.unwrap();
    }

    /// One byte, as the answer to a request for encryption.
    pub async fn byte(&mut self) -> Option<u8> {
        let read = self.tcp.read_u8();
        tokio::time::timeout(PATIENCE, read).await.expect("a byte within the deadline").ok()
    }

    /// The next message; `None` at the end of the stream, however it came.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let tag = self.tcp.read_u8().await.ok()?;
            let len = self.tcp.read_u32().await.ok()? as usize;
            let mut body = vec![0; len.checked_sub(4).expect("a length")];
            self.tcp.read_exact(&mut body).await.ok()?;
            Some((tag, body))
        };
        let next =
            tokio::time::timeout(PATIENCE, read).await.expect("an answer within the deadline");
        if let Some((b'K', key)) = &next {
            self.pid = i32::from_be_bytes(key[..4].try_into().unwrap());
            self.secret = key[4..].to_vec();
        }
        if let Some((b'S', body)) = &next {
            let text = String::from_utf8(body.clone()).unwrap();
            let (name, value) = text.strip_suffix('\0').unwrap().split_once('\0').unwrap();
            self.told.insert(name.to_owned(), value.to_owned());
        }
        next
    }

    /// The next message's tag and length, its body read and thrown away.
    pub async fn skip(&mut self) -> Option<(u8, u64)> {
        let tag = self.tcp.read_u8().await.ok()?;
        let len = u64::from(self.tcp.read_u32().await.ok()?) - 4;
        let mut left = usize::try_from(len).unwrap();
        let mut sink = vec![0; left.min(64 << 10)];
        while left > 0 {
            let room = left.min(sink.len());
            left -= match self.tcp.read(&mut sink[..room]).await.ok()? {
                0 => return None,
                n => n,
            };
        }
        Some((tag, len))
    }

    /// Everything up to and with ReadyForQuery, or up to the end: the tags, and each error's code
    /// behind its tag.
    pub async fn ready(&mut self) -> String {
        let mut seen = String::new();
        while let Some((tag, body)) = self.next().await {
            seen.push(tag as char);
            if tag == b'E' {
                seen += &field(&body, b'C');
            }
            if tag == b'Z' {
                break;
            }
        }
        seen
    }

    /// The error that ends the connection: its code and message.
    pub async fn last_words(&mut self) -> (String, String) {
        let mut words = None;
        while let Some((tag, body)) = self.next().await {
            if tag == b'E' {
                words = Some((field(&body, b'C'), field(&body, b'M')));
            }
        }
        words.expect("an error before the end")
    }

    pub async fn ask(&mut self, sql: &str) -> String {
        self.send(&query(sql)).await;
        self.ready().await
    }

    /// Sends a CancelRequest for this client and waits until it has been dealt with.
    pub async fn cancel(&self, port: u16) {
        let key = [&self.pid.to_be_bytes()[..], &self.secret].concat();
        let mut other = Self::dial(port).await;
        other.send(&first(80_877_102, &key)).await;
        assert!(other.next().await.is_none(), "a cancel has no answer");
    }
}

pub fn field(report: &[u8], code: u8) -> String {
    let value = pgshunt::wire::backend::report_field(report, code).expect("the field");
    String::from_utf8(value.to_vec()).unwrap()
}
