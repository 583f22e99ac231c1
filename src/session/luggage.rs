//! What a session takes along when its client is handed to another pgshunt process.
//!
//! Only a session that owes nothing and holds nothing travels: no open transaction, no unsynced
//! message, no server connection, no channel that it listens to. What is left is what it knows: its settings, its prepared
//! statements, and what its client was told of the server's parameters.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Env, Session, Statement};
use crate::wire::backend::Status;

/// A session without its plans, which the routing table of the other process makes anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luggage {
    /// The startup packet's parameters, and what was SET since.
    startup: Vec<(String, String)>,
    settings: Vec<(String, String)>,
    statements: Vec<Packed>,
    /// ParameterStatus, as the client was last told.
    told: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Packed {
    /// Empty: the unnamed one.
    #[serde(with = "text")]
    name: Vec<u8>,
    #[serde(with = "text")]
    text: Vec<u8>,
    #[serde(with = "text")]
    oids: Vec<u8>,
    described: bool,
}

/// Bytes as base64.
mod text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Session {
    /// What the session takes along; `None`: it cannot travel now.
    pub fn pack(&self) -> Option<Luggage> {
        let rests = self.status == Status::Idle
            && self.link.is_none()
            && self.pinned.is_none()
            && self.pending.is_empty()
            && self.portals.is_empty()
            && self.begin.is_empty()
            && !self.skipping
            && self.channels.is_idle()
            && !self.retry.is_again();
        if !rests {
            return None;
        }
        let (startup, settings) = self.settings.pack()?;
        let named = self.statements.iter().map(|(name, s)| (name.as_slice(), s));
        let unnamed = self.unnamed.iter().map(|s| (&b""[..], s));
        let statements = named.chain(unnamed).map(|(name, s)| Packed {
            name: name.to_vec(),
            text: s.text.clone(),
            oids: s.types(),
            described: s.described.get(),
        });
        Some(Luggage {
            startup,
            settings,
            statements: statements.collect(),
            told: self.told.list().to_vec(),
        })
    }

    /// The session of `client`, as it was when it was packed.
    pub fn unpack(client: u64, luggage: Luggage, env: &mut Env<'_>) -> Self {
        let mut session = Self::new(client, &luggage.startup);
        session.settings.unpack(luggage.settings);
        session.told(luggage.told);
        for p in luggage.statements {
            let plan = env.planner.plan_text(&p.text, env.routes, session.speech());
            let statement = Rc::new(Statement::new(&p.text, &p.oids, plan));
            statement.described.set(p.described);
            if p.name.is_empty() {
                session.unnamed = Some(statement);
            } else {
                session.statements.insert(p.name, statement);
            }
        }
        session
    }
}
