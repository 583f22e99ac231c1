//! A session with all that surrounds it except sockets: routes, gate, plans, and a server that answers
//! what it was told beforehand. The benchmarks and the instruction counts send their messages through it.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use pgshunt::gate::machine::Gate;
use pgshunt::hash::KeyType;
use pgshunt::router::Planner;
use pgshunt::session::{Env, Facts, Flow, Io, Lender, Moments, Session};
use pgshunt::sight::Sights;
use pgshunt::topology::{
    ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow, PlacementState,
    RoutingTable, Rows, ShardId, ShardRow, TableId, TableRow,
};
use pgshunt::wire::backend::{self, Status};
use pgshunt::wire::{frame, frontend};

const SHARDS: u32 = 32;

/// Two nodes, and a table `t (id int, payload text)` of 32 shards.
pub fn routes() -> Arc<RoutingTable> {
    let node = |id: i32| Node {
        id: NodeId(id),
        name: format!("node{id}"),
        host: "127.0.0.1".into(),
        port: 5432,
        is_home: id == 1,
    };
    let shard = |remainder: u32| ShardRow {
        id: ShardId(remainder as i32 + 1),
        group: GroupId(1),
        modulus: SHARDS,
        remainder,
    };
    let placement = |remainder: u32| PlacementRow {
        shard: ShardId(remainder as i32 + 1),
        node: NodeId(remainder as i32 % 2 + 1),
        role: PlacementRole::Primary,
        state: PlacementState::Active,
        since: Epoch(1),
    };
    let rows = Rows {
        hidden: Default::default(),
        around: Default::default(),
        epoch: 1,
        nodes: vec![node(1), node(2)],
        groups: vec![GroupRow {
            id: GroupId(1),
            key_types: vec![KeyType::Int4],
            shard_count: SHARDS,
        }],
        tables: vec![TableRow {
            id: TableId(1),
            group: GroupId(1),
            schema: "public".into(),
            name: "t".into(),
            key_columns: vec!["id".into()],
            columns: vec![
                ColumnRow { name: "id".into(), type_oid: 23 },
                ColumnRow { name: "payload".into(), type_oid: 25 },
            ],
        }],
        shards: (0..SHARDS).map(shard).collect(),
        placements: (0..SHARDS).map(placement).collect(),
    };
    Arc::new(RoutingTable::build(&rows).expect("the rows fit together"))
}

/// A session with what surrounds it.
pub struct World {
    routes: Arc<RoutingTable>,
    gate: Gate,
    planner: Planner,
    moments: Moments,
    sights: Arc<Sights>,
    session: Session,
    client: Vec<u8>,
    server: Vec<u8>,
    facts: Option<Box<Facts>>,
    answer: Vec<u8>,
    input: BytesMut,
}

/// The one connection there is, between transactions.
struct Idle(Option<Box<Facts>>);

impl Lender for Idle {
    fn lend(&mut self, _: NodeId, _: &RoutingTable) -> Option<Box<Facts>> {
        self.0.take()
    }
}

impl World {
    pub fn new(answer: Vec<u8>) -> Self {
        Self {
            routes: routes(),
            gate: Gate::default(),
            planner: Planner::default(),
            moments: Moments::default(),
            sights: Arc::default(),
            session: Session::new(1, &[]),
            client: Vec::new(),
            server: Vec::new(),
            facts: Some(Box::default()),
            answer,
            input: BytesMut::new(),
        }
    }

    /// One transaction's messages in, leased, answered and let go. Gives the bytes the client gets.
    pub fn transaction(&mut self, mut messages: &[u8]) -> usize {
        let mut idle = Idle(self.facts.take());
        let mut env = Env {
            now: Instant::now(),
            lender: &mut idle,
            routes: &self.routes,
            gate: &mut self.gate,
            planner: &mut self.planner,
            max_prepared: 100,
            collect_limit: 16 << 20,
            max_session: 1 << 20,
            max_message: 1 << 20,
            moments: &self.moments,
            sights: Some(&self.sights),
        };
        let mut io = Io { client: &mut self.client, server: &mut self.server };
        while let Some(header) = frame::header(messages).expect("well-formed") {
            let (message, rest) = messages.split_at(header.len);
            let body = &message[frame::HEADER..];
            match self.session.client(header, body, &mut env, &mut io).expect("well-formed") {
                Flow::Done => {}
                flow => panic!("{flow:?} in a bench"),
            }
            messages = rest;
        }
        self.input.extend_from_slice(&self.answer);
        self.session.server(&mut self.input, &mut env, &mut io).expect("a good answer");
        self.facts = self.session.take_released(&mut env);
        assert!(self.facts.is_some(), "the transaction is over");
        self.gate.settle(&mut Vec::new());
        let sent = io.client.len();
        io.client.clear();
        io.server.clear();
        sent
    }
}

/// A server's answer to a query: rows of one column that is so wide, and ReadyForQuery.
pub fn answer(rows: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, b'T', |b| b.extend_from_slice(&[0, 0]));
    let value = vec![b'x'; width];
    for _ in 0..rows {
        backend::put_data_row(&mut out, [Some(value.as_slice())].into_iter());
    }
    backend::put_command_complete(&mut out, &format!("SELECT {rows}"));
    backend::put_ready(&mut out, Status::Idle);
    out
}

/// Key 421337 of the table, with the payload asked for.
pub fn simple() -> Vec<u8> {
    let mut query = Vec::new();
    frontend::put_query(&mut query, b"SELECT payload FROM t WHERE id = 421337");
    query
}

/// Parse of the statement that [`execute`] executes, under a name.
pub fn parse(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = b"SELECT payload FROM t WHERE id = $1";
    frontend::put_parse(&mut out, name, text, &23u32.to_be_bytes());
    out
}

/// Bind, Describe of the portal, Execute and Sync, as libpq sends them.
pub fn execute(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let value = b"\0\0\0\x01\0\0\0\x06421337\0\0";
    frontend::put_bind(&mut out, b"", name, value);
    frontend::put_named(&mut out, b'D', b'P', b"");
    frame::put(&mut out, b'E', |b| b.extend_from_slice(&[0; 5]));
    frontend::put_empty(&mut out, b'S');
    out
}

/// A server's answer to Parse (when it was sent one), Bind, Describe, Execute and Sync.
pub fn completed(parsed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if parsed {
        backend::put_bare(&mut out, b'1');
    }
    backend::put_bare(&mut out, b'2');
    out.extend(answer(1, 20));
    out
}

/// A session that has prepared the statement as `s`, and the messages that execute it.
pub fn prepared() -> (World, Vec<u8>) {
    let mut world = World::new(completed(true));
    world.transaction(&[parse(b"s"), execute(b"s")].concat());
    world.answer = completed(false);
    (world, execute(b"s"))
}
