//! A conversation in the wire protocol, message by message, as the golden scripts write it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pgshunt::wire::backend::{put_bare, report_field};
use pgshunt::wire::{frame, startup};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;

use super::messages;
use crate::support::{DATABASE, PASSWORD, PATIENCE, SUPERUSER};

pub struct Talk {
    stream: TcpStream,
    input: Vec<u8>,
    /// The parameters it was told, the last value of each.
    pub told: BTreeMap<String, String>,
    pub closed: bool,
    /// Its process id, as it was told.
    pub pid: i32,
    /// How long an answer is waited for.
    pub patience: Duration,
}

impl Talk {
    pub fn open(port: u16, parameters: &[(String, String)]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut talk = Self {
            stream,
            input: Vec::new(),
            told: BTreeMap::new(),
            closed: false,
            pid: 0,
            patience: PATIENCE,
        };
        let mut out = Vec::new();
        let own = [("user", SUPERUSER), ("database", DATABASE)];
        let more = parameters.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        startup::put_startup(&mut out, own.into_iter().chain(more));
        talk.stream.write_all(&out).unwrap();
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (tag, body) = talk.next(PATIENCE).expect("an answer to the login");
            let mut out = bytes::BytesMut::new();
            match (tag, body.get(..4)) {
                (b'Z', _) => return talk,
                (b'K', Some(&[a, b, c, d])) => talk.pid = i32::from_be_bytes([a, b, c, d]),
                (b'R', Some([0, 0, 0, 10])) => {
                    frontend::sasl_initial_response("SCRAM-SHA-256", scram.message(), &mut out)
                        .unwrap();
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    scram.update(&body[4..]).unwrap();
                    frontend::sasl_response(scram.message(), &mut out).unwrap();
                }
                (b'R', Some([0, 0, 0, 12])) => scram.finish(&body[4..]).unwrap(),
                (b'E', _) => panic!("login: {:?}", report_field(&body, b'M')),
                _ => {}
            }
            talk.stream.write_all(&out).unwrap();
        }
    }

    pub fn say(&mut self, line: &str) {
        let bytes = messages::encode(line, true).concat();
        // A server that has hung up is heard of by what it says last.
        let _ = self.stream.write_all(&bytes);
    }

    /// The next message within this time; `None`: nothing came, or nothing will.
    fn next(&mut self, within: Duration) -> Option<(u8, Vec<u8>)> {
        self.stream.set_read_timeout(Some(within)).unwrap();
        loop {
            if let Some(h) = frame::header(&self.input).expect("a well-formed frame")
                && self.input.len() >= h.len
            {
                let rest = self.input.split_off(h.len);
                let whole = std::mem::replace(&mut self.input, rest);
                let body = whole[frame::HEADER..].to_vec();
                if h.tag == b'S' {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let mut parts = text.split('\0');
                    let (name, value) = (parts.next().unwrap(), parts.next().unwrap());
                    self.told.insert(name.to_owned(), value.to_owned());
                    continue;
                }
                return Some((h.tag, body));
            }
            let mut buf = [0; 16 << 10];
            match self.stream.read(&mut buf) {
                Ok(0) => {
                    self.closed = true;
                    return None;
                }
                Ok(n) => self.input.extend_from_slice(&buf[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(_) => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// What is said up to the n-th ReadyForQuery, or the n-th message; or up to the end.
    pub fn hear(&mut self, until: Until) -> Vec<String> {
        let mut heard = Vec::new();
        let (mut ready, mut all) = (0, 0);
        while !self.closed {
            let enough = match until {
                Until::Ready(n) => ready >= n,
                Until::Messages(n) => all >= n,
                Until::End => false,
            };
            if enough {
                break;
            }
            let Some((tag, body)) = self.next(self.patience) else {
                if !self.closed {
                    heard.push(format!("(nothing more within {:?})", self.patience));
                }
                break;
            };
            ready += usize::from(tag == b'Z');
            all += 1;
            heard.push(text(tag, &body));
        }
        heard
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Until {
    Ready(usize),
    Messages(usize),
    End,
}

/// A message as a script writes it. Where a function of PostgreSQL's source said it is left out.
fn text(tag: u8, body: &[u8]) -> String {
    let mut whole = Vec::new();
    if body.is_empty() {
        put_bare(&mut whole, tag);
    } else {
        frame::put(&mut whole, tag, |b| b.extend_from_slice(body));
    }
    messages::decode(&whole, false).concat()
}
