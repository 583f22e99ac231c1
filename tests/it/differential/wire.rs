//! A plain blocking client of the wire protocol, that keeps everything an application could see.

use std::io::{Read, Write};
use std::net::TcpStream;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;

use crate::support::{DATABASE, PASSWORD, PATIENCE, SUPERUSER};

/// A column as RowDescription tells it; the table it comes from is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub modifier: i32,
    pub format: i16,
}

/// What one statement answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    pub tag: String,
    pub copied: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Everything up to ReadyForQuery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub answers: Vec<Answer>,
    pub failure: Option<Failure>,
    /// What ParameterDescription said.
    pub param_types: Vec<u32>,
    pub status: u8,
}

/// One parameter of an extended query.
#[derive(Debug, Clone)]
pub struct Param {
    /// 0: not declared.
    pub type_oid: u32,
    pub binary: bool,
    pub value: Option<Vec<u8>>,
}

pub struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    /// What is being answered, to be named when no answer comes.
    asked: String,
}

impl Wire {
    pub fn connect(port: u16) -> Self {
        Self::connect_with(port, &[])
    }

    /// Logs in as the superuser, with further startup parameters.
    pub fn connect_with(port: u16, parameters: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Self { stream, input: Vec::new(), asked: String::new() };
        let mut all = vec![("user", SUPERUSER), ("database", DATABASE)];
        all.extend_from_slice(parameters);
        wire.send(|out| frontend::startup_message(all, out).unwrap());
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (tag, body) = wire.message();
            match (tag, body.get(..4)) {
                (b'Z', _) => return wire,
                (b'R', Some([0, 0, 0, 10])) => {
                    let first = scram.message().to_vec();
                    wire.send(|out| {
                        frontend::sasl_initial_response("SCRAM-SHA-256", &first, out).unwrap();
                    });
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    scram.update(&body[4..]).unwrap();
                    let next = scram.message().to_vec();
                    wire.send(|out| frontend::sasl_response(&next, out).unwrap());
                }
                (b'R', Some([0, 0, 0, 12])) => scram.finish(&body[4..]).unwrap(),
                (b'E', _) => panic!("login at port {port}: {:?}", failure(&body)),
                _ => {}
            }
        }
    }

    pub fn send(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        let mut out = bytes::BytesMut::new();
        write(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    pub fn message(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some(head) = self.input.get(..5) {
                let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.input.len() > len {
                    let tag = head[0];
                    let body = self.input[5..=len].to_vec();
                    self.input.drain(..=len);
                    return (tag, body);
                }
            }
            let mut buf = [0; 16 << 10];
            let n = self
                .stream
                .read(&mut buf)
                .unwrap_or_else(|e| panic!("no answer within {PATIENCE:?} to {}: {e}", self.asked));
            assert!(n > 0, "the server hung up instead of answering {}", self.asked);
            self.input.extend_from_slice(&buf[..n]);
        }
    }

    /// A text of one or several statements. `copy` answers each CopyIn.
    pub fn simple(&mut self, sql: &str, copy: Option<&str>) -> Reply {
        sql.clone_into(&mut self.asked);
        self.send(|out| frontend::query(sql, out).unwrap());
        self.reply(copy)
    }

    /// One statement with parameters: Parse, Bind, Describe, Execute, Sync. One with a name is
    /// prepared and described on its own, as drivers do it, unless it is there already.
    pub fn extended(
        &mut self,
        sql: &str,
        name: &str,
        parse: bool,
        params: &[Param],
        binary_result: bool,
    ) -> Reply {
        self.asked = format!("{sql} {params:?}");
        let types = params.iter().map(|p| p.type_oid);
        let mut described = Reply::default();
        if parse && !name.is_empty() {
            self.send(|out| {
                frontend::parse(name, sql, types.clone(), out).unwrap();
                frontend::describe(b'S', name, out).unwrap();
                frontend::sync(out);
            });
            described = self.reply(None);
            if described.failure.is_some() {
                return described;
            }
        }
        self.send(|out| {
            if name.is_empty() {
                frontend::parse(name, sql, types, out).unwrap();
            }
            put_execution(out, name, params, binary_result);
            frontend::sync(out);
        });
        Reply { param_types: described.param_types, ..self.reply(None) }
    }

    /// A statement executed in portions of so many rows, within one segment.
    pub fn portions(&mut self, sql: &str, portions: &[i32]) -> Reply {
        self.asked = sql.to_owned();
        self.send(|out| {
            frontend::parse("", sql, [], out).unwrap();
            put_bind(out, "", &[], false);
            frontend::describe(b'P', "", out).unwrap();
            for &rows in portions {
                frontend::execute("", rows, out).unwrap();
            }
            frontend::sync(out);
        });
        self.reply(None)
    }

    /// All texts at once, without waiting for an answer: as simple queries, or each as a segment of
    /// the extended protocol.
    pub fn write_all(&mut self, texts: &[&str], extended: bool) {
        self.asked = texts.join("; ");
        self.send(|out| {
            for sql in texts {
                if extended {
                    frontend::parse("", sql, [], out).unwrap();
                    put_execution(out, "", &[], false);
                    frontend::sync(out);
                } else {
                    frontend::query(sql, out).unwrap();
                }
            }
        });
    }

    /// Reads up to ReadyForQuery.
    pub fn reply(&mut self, copy: Option<&str>) -> Reply {
        let mut reply = Reply::default();
        let mut answer = Answer::default();
        loop {
            let (tag, body) = self.message();
            match tag {
                b'T' => answer.columns = columns(&body),
                b't' => {
                    let mut body = Body(&body);
                    reply.param_types = (0..body.i16()).map(|_| body.i32() as u32).collect();
                }
                // PortalSuspended ends an answer as CommandComplete does.
                b's' => {
                    "suspended".clone_into(&mut answer.tag);
                    reply.answers.push(std::mem::take(&mut answer));
                }
                b'D' => answer.rows.push(row(&body)),
                b'C' => {
                    answer.tag = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
                    reply.answers.push(std::mem::take(&mut answer));
                }
                b'I' => reply.answers.push(std::mem::take(&mut answer)),
                b'd' => answer.copied.extend_from_slice(&body),
                b'E' => {
                    reply.failure = Some(failure(&body));
                    answer = Answer::default();
                }
                b'G' => {
                    let data = copy.unwrap_or_default().as_bytes().to_vec();
                    self.send(|out| {
                        frontend::CopyData::new(&data[..]).unwrap().write(out);
                        frontend::copy_done(out);
                    });
                }
                b'Z' => {
                    reply.status = body[0];
                    return reply;
                }
                _ => {}
            }
        }
    }

    /// Runs what must work.
    pub fn does(&mut self, sql: &str) -> Vec<Answer> {
        let reply = self.simple(sql, None);
        assert_eq!(reply.failure, None, "{sql}");
        reply.answers
    }
}

fn put_execution(out: &mut bytes::BytesMut, name: &str, params: &[Param], binary_result: bool) {
    put_bind(out, name, params, binary_result);
    frontend::describe(b'P', "", out).unwrap();
    frontend::execute("", 0, out).unwrap();
}

fn put_bind(out: &mut bytes::BytesMut, name: &str, params: &[Param], binary_result: bool) {
    frontend::bind(
        "",
        name,
        params.iter().map(|p| i16::from(p.binary)),
        params,
        |p, out| match &p.value {
            Some(value) => {
                out.extend_from_slice(value);
                Ok(postgres_protocol::IsNull::No)
            }
            None => Ok(postgres_protocol::IsNull::Yes),
        },
        [i16::from(binary_result)],
        out,
    )
    .unwrap_or_else(|_| panic!("Bind of {name}"));
}

/// A cursor over a message's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }
    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    fn text(&mut self) -> String {
        let end = self.0.iter().position(|&b| b == 0).unwrap();
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.take(1);
        text
    }
}

fn columns(body: &[u8]) -> Vec<Column> {
    let mut body = Body(body);
    (0..body.i16())
        .map(|_| {
            let name = body.text();
            body.take(6);
            let type_oid = body.i32() as u32;
            body.take(2);
            Column { name, type_oid, modifier: body.i32(), format: body.i16() }
        })
        .collect()
}

fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut body = Body(body);
    (0..body.i16())
        .map(|_| match body.i32() {
            -1 => None,
            n => Some(body.take(n as usize).to_vec()),
        })
        .collect()
}

fn failure(body: &[u8]) -> Failure {
    let mut body = Body(body);
    let mut failure = Failure::default();
    while let [field, ..] = body.0 {
        let field = *field;
        body.take(1);
        match field {
            0 => break,
            b'C' => failure.sqlstate = body.text(),
            b'M' => failure.message = body.text(),
            b'H' => failure.hint = Some(body.text()),
            _ => drop(body.text()),
        }
    }
    failure
}
