//! What a console session takes along when another process goes on with it.

use std::io;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Portal, Session, prepare};
use crate::wire::backend::Status;

#[derive(Serialize, Deserialize)]
struct Luggage {
    status: Status,
    failed: bool,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Name and text.
    statements: Vec<(Vec<u8>, String)>,
    /// Name, text and formats.
    portals: Vec<(Vec<u8>, String, Vec<i16>)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Whether it can be packed: the rest of a half fetched result is nowhere else.
    pub(super) fn rests(&self) -> bool {
        self.portals.values().all(|p| p.rest.is_none())
    }

    pub(super) fn pack(&self) -> io::Result<String> {
        let portal = |(name, p): (&Vec<u8>, &Portal)| {
            (name.clone(), p.statement.text.clone(), p.formats.clone())
        };
        let statements = self.statements.iter().map(|(name, s)| (name.clone(), s.text.clone()));
        Ok(serde_json::to_string(&Luggage {
            status: self.status,
            failed: self.failed,
            input: self.input.to_vec(),
            out: self.out.clone(),
            statements: statements.collect(),
            portals: self.portals.iter().map(portal).collect(),
        })?)
    }

    pub(super) fn unpack(&mut self, packed: &str) -> io::Result<()> {
        let luggage: Luggage = serde_json::from_str(packed)?;
        (self.status, self.failed) = (luggage.status, luggage.failed);
        self.input = BytesMut::from(&luggage.input[..]);
        self.out = luggage.out;
        // What this process does not understand any more is as good as closed.
        for (name, text) in luggage.statements {
            if let Ok(statement) = prepare(text.as_bytes()) {
                self.statements.insert(name, statement);
            }
        }
        for (name, text, formats) in luggage.portals {
            if let Ok(statement) = prepare(text.as_bytes()) {
                self.portals.insert(name, Portal { statement, formats, rest: None });
            }
        }
        Ok(())
    }
}
