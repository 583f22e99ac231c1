//! The planner: plans from the cache, or made and put there. One per worker, without locks.

use std::sync::Arc;

use quick_cache::unsync::{Cache, DefaultLifecycle};

use super::analysis::{Order, Unlexed, is_long};
use super::constant::{Literals as AtLocation, Slot};
use super::functions::Functions;
use super::make::make;
use super::place::{Given, Values};
use super::plan::Plan;
use super::scope::{Sees, Speech};
use crate::sql::lexer::{Comments, Lexer, Literal, LiteralClass};
use crate::topology::{RoutingTable, Schema, SchemaEpoch};

/// What the plans of one worker may take, in bytes. Past it those go that were asked for least.
const MOST_BYTES: u64 = 32 << 20;
/// How many plans that is about.
const PLANS: usize = 16_000;

/// Plans by what they are of ([`key`]).
type Plans = Cache<Vec<u8>, Arc<Plan>, Weigh, foldhash::fast::RandomState>;

/// What a plan takes with its key.
#[derive(Debug, Clone)]
struct Weigh;

impl quick_cache::Weighter<Vec<u8>, Arc<Plan>> for Weigh {
    fn weight(&self, key: &Vec<u8>, plan: &Arc<Plan>) -> u64 {
        (key.len() + plan.weight()) as u64
    }
}

/// Makes plans, and keeps them. A plan that is asked for again and again outlives any number of others
/// that are not, so that no client can take away those of all.
#[derive(Debug)]
pub struct Planner {
    functions: Functions,
    lexer: Lexer,
    /// The text that the lexer tells about, if it was not refused. A message that has waited for its
    /// connection is planned again at once.
    lexed: Option<Vec<u8>>,
    key: Vec<u8>,
    plans: Plans,
    /// What they were made from.
    schema: Option<SchemaEpoch>,
    pub parsed: u64,
    /// Plans that were in the cache.
    pub found: u64,
}

/// A plan, and the literals its keys refer to.
pub struct Planned<'a> {
    pub plan: Arc<Plan>,
    pub literals: Literals<'a>,
    /// Set when the plan's offsets are those of the normalised text.
    lexer: Option<&'a Lexer>,
}

impl<'a> Planned<'a> {
    /// The plan of a text that was analysed for itself alone.
    pub fn alone(plan: Arc<Plan>, text: &'a [u8]) -> Self {
        Self { plan, literals: Literals { text, spans: &[] }, lexer: None }
    }

    /// Where the plan's n-th statement is in the text.
    pub fn span(&self, n: usize) -> (usize, usize) {
        let (start, end) = self.plan.statements.get(n).map_or((0, 0), |s| s.span);
        match self.lexer {
            Some(lexer) => (lexer.source_offset(start), lexer.source_offset(end)),
            None => (start, end),
        }
    }
}

/// The literals of a text, by index.
pub struct Literals<'a> {
    text: &'a [u8],
    spans: &'a [Literal],
}

impl Values for Literals<'_> {
    fn param(&self, _: usize) -> Option<Given<'_>> {
        None
    }

    fn literal(&self, index: usize) -> Option<Given<'_>> {
        let literal = self.spans.get(index)?;
        match literal.class {
            LiteralClass::Integer | LiteralClass::Number => {
                self.text.get(literal.range()).map(Given::Digits)
            }
            LiteralClass::String => literal.text(self.text).map(Given::Text),
        }
    }
}

/// Ties the parser's constants to the lexer's literals.
struct Lexed<'a>(&'a Lexer, &'a [u8]);

impl AtLocation for Lexed<'_> {
    fn at(&self, location: usize) -> Slot {
        let Some((index, negative)) = self.0.constant_at(self.1, location) else {
            return Slot::Unknown;
        };
        match self.0.literals().get(index).map(|l| l.class) {
            Some(LiteralClass::Number) => Slot::Number(index, negative),
            Some(LiteralClass::Integer | LiteralClass::String) => Slot::Literal(index, negative),
            None => Slot::Unknown,
        }
    }
}

impl Default for Planner {
    fn default() -> Self {
        Self::new(Functions::default())
    }
}

impl Planner {
    pub fn new(functions: Functions) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Self {
            functions,
            lexer: Lexer::default(),
            lexed: None,
            key: Vec::new(),
            plans: Cache::with(PLANS, MOST_BYTES, Weigh, hasher, DefaultLifecycle::default()),
            schema: None,
            parsed: 0,
            found: 0,
        }
    }

    /// Another one, for a session that goes by a schema of its own for a while.
    pub fn beside(&self) -> Self {
        const FEW: usize = 16;
        let hasher = foldhash::fast::RandomState::default();
        let plans = Cache::with(FEW, MOST_BYTES / 32, Weigh, hasher, DefaultLifecycle::default());
        Self { plans, ..Self::new(self.functions.clone()) }
    }

    /// Forgets the plans that were made from another schema.
    fn fresh(&mut self, schema: &Schema) {
        if self.schema.as_ref() != Some(schema.epoch()) {
            self.schema = Some(schema.epoch().clone());
            self.plans.clear();
        }
    }

    /// Has the lexer tell about this text; false: it refuses to.
    fn lex(&mut self, text: &[u8]) -> bool {
        if self.lexed.as_deref() == Some(text) {
            return true;
        }
        let mut lexed = self.lexed.take().unwrap_or_default();
        if self.lexer.normalise(text, Comments::Strip).is_none() {
            return false;
        }
        lexed.clear();
        lexed.extend_from_slice(text);
        self.lexed = Some(lexed);
        true
    }

    /// Has a long text analysed elsewhere.
    pub fn order(&mut self, text: &[u8], routes: &RoutingTable, speech: Speech<'_>) -> Box<Order> {
        self.parsed += 1;
        Box::new(Order::new(text, routes, &self.functions, speech))
    }

    /// The plan of a simple query's text.
    pub fn plan<'a>(
        &'a mut self,
        text: &'a [u8],
        routes: &RoutingTable,
        speech: Speech<'_>,
    ) -> Planned<'a> {
        let schema: &Schema = routes.schema();
        self.fresh(schema);
        let cached = !is_long(text)
            && !speech.foreign_text
            && self.lex(text)
            && !self.lexer.several_statements()
            && self.lexer.literals().iter().all(|l| is_plain(*l, text));
        if cached {
            key(&mut self.key, self.lexer.text(), Of::Shape, schema, speech);
            if let Some(plan) = self.plans.get(self.key.as_slice()) {
                self.found += 1;
                let literals = Literals { text, spans: self.lexer.literals() };
                return Planned { plan: plan.clone(), literals, lexer: Some(&self.lexer) };
            }
        }
        self.parsed += 1;
        let lexed = Lexed(&self.lexer, text);
        let literals: &dyn AtLocation = if cached { &lexed } else { &Unlexed };
        let (mut plan, by_shape) = make(text, schema, &self.functions, speech, literals);
        let shaped = cached && by_shape;
        if let (true, [only]) = (shaped, plan.statements.as_mut_slice()) {
            // The next text of this shape has its tokens elsewhere.
            only.span = (0, self.lexer.text().len());
        }
        let plan = Arc::new(plan);
        if shaped {
            self.plans.insert(self.key.clone(), plan.clone());
        }
        let spans = if cached { self.lexer.literals() } else { &[] };
        let lexer = shaped.then_some(&self.lexer);
        Planned { plan, literals: Literals { text, spans }, lexer }
    }

    /// The plan of a prepared statement's text: its literals are part of it.
    pub fn plan_text(
        &mut self,
        text: &[u8],
        routes: &RoutingTable,
        speech: Speech<'_>,
    ) -> Arc<Plan> {
        let schema: &Schema = routes.schema();
        self.fresh(schema);
        key(&mut self.key, text, Of::Text, schema, speech);
        if let Some(plan) = self.plans.get(self.key.as_slice()) {
            self.found += 1;
            return plan.clone();
        }
        self.parsed += 1;
        let (plan, _) = make(text, schema, &self.functions, speech, &Unlexed);
        let plan = Arc::new(plan);
        if !is_long(text) {
            self.plans.insert(self.key.clone(), plan.clone());
        }
        plan
    }
}

/// Not `E'...'`, whose value may need backslashes worked out.
fn is_plain(literal: Literal, text: &[u8]) -> bool {
    literal.class != LiteralClass::String || text.get(literal.range().start) == Some(&b'\'')
}

/// What a cached plan is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// All texts of a shape: simple queries.
    Shape,
    /// One text: prepared statements.
    Text,
}

fn key(out: &mut Vec<u8>, text: &[u8], of: Of, schema: &Schema, speech: Speech<'_>) {
    out.clear();
    out.extend_from_slice(text);
    if let Some(path) = speech.path {
        // NUL cannot stand in a text, so the parts cannot run into each other.
        out.push(0);
        out.extend_from_slice(path.as_bytes());
    }
    let flags = [
        speech.temporary,
        speech.foreign_text,
        speech.local_code,
        schema.is_plain(),
        speech.sees == Sees::Dump,
        speech.sees == Sees::Shards,
        of == Of::Shape,
    ];
    out.push(flags.into_iter().fold(0, |all, flag| all << 1 | u8::from(flag)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::KeyType;
    use crate::router::place::{NoValues, Place, place};
    use crate::topology::{
        ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow,
        PlacementState, Routes, Rows, ShardId, ShardRow, TableId, TableRow,
    };

    /// Table t of one shard, on the first of two nodes.
    fn rows() -> Rows {
        let node = |id| Node {
            id: NodeId(id),
            name: format!("node{id}"),
            host: "127.0.0.1".into(),
            port: 5432,
            is_home: id == 1,
        };
        let (group, shard) = (GroupId(1), ShardId(1));
        Rows {
            epoch: 1,
            nodes: vec![node(1), node(2)],
            groups: vec![GroupRow { id: group, key_types: vec![KeyType::Int4], shard_count: 1 }],
            tables: vec![TableRow {
                id: TableId(1),
                group,
                schema: "public".into(),
                name: "t".into(),
                key_columns: vec!["id".into()],
                columns: vec![ColumnRow { name: "id".into(), type_oid: 23 }],
            }],
            shards: vec![ShardRow { id: shard, group, modulus: 1, remainder: 0 }],
            placements: vec![PlacementRow {
                shard,
                node: NodeId(1),
                role: PlacementRole::Primary,
                state: PlacementState::Active,
                since: Epoch(1),
            }],
            ..Rows::default()
        }
    }

    fn routes() -> RoutingTable {
        RoutingTable::build(&rows()).unwrap()
    }

    /// Where the text goes now, and how many texts have been parsed until then.
    fn ask(planner: &mut Planner, routes: &RoutingTable) -> (Place, u64) {
        let plan = planner.plan_text(b"SELECT * FROM t WHERE id = 1", routes, Speech::default());
        (place(&plan.kind, &NoValues, routes).unwrap(), planner.parsed)
    }

    fn node_of(place: &Place) -> Option<NodeId> {
        match place {
            Place::Node { node, .. } => Some(*node),
            Place::Any | Place::Every { .. } => None,
        }
    }

    #[test]
    fn plans_outlive_moves_and_are_forgotten_when_a_table_changes() {
        let (mut planner, routes) = (Planner::default(), Routes::new(routes()));
        let mut now = |rows: &Rows| {
            routes.publish(RoutingTable::build(rows).unwrap());
            ask(&mut planner, &routes.load())
        };
        let (before, parsed) = now(&rows());
        assert_eq!((node_of(&before), parsed), (Some(NodeId(1)), 1));

        // The catalog is read anew behind a move: all that has changed is where the shard is.
        let mut moved = Rows { epoch: 2, ..rows() };
        moved.placements[0].node = NodeId(2);
        let (behind, parsed) = now(&moved);
        assert_eq!((node_of(&behind), parsed), (Some(NodeId(2)), 1));

        let mut changed = Rows { epoch: 3, ..moved };
        changed.tables[0].columns.push(ColumnRow { name: "v".into(), type_oid: 25 });
        assert_eq!(now(&changed).1, 2);
        changed.epoch = 4;
        changed.around.needs_others = true;
        assert_eq!(now(&changed).1, 3);
        changed.nodes.pop();
        changed.placements[0].node = NodeId(1);
        assert_eq!(now(&changed).1, 4, "with one node other statements are DDL");
        assert_eq!(now(&changed).1, 4);
    }

    #[test]
    fn a_cutover_leaves_the_plans_and_so_do_clients_of_other_databases() {
        let (mut planner, routes) = (Planner::default(), Arc::new(routes()));
        assert_eq!(ask(&mut planner, &routes).1, 1);
        let moved = Arc::new(routes.with_moved(ShardId(1), NodeId(2), Epoch(2)).unwrap());
        let (place, parsed) = ask(&mut planner, &moved);
        assert_eq!((node_of(&place), parsed), (Some(NodeId(2)), 1));
        let (place, parsed) = ask(&mut planner, moved.plain());
        assert_eq!((node_of(&place), parsed), (Some(NodeId(1)), 2), "at home, for it is another t");
        for routes in [&moved, routes.plain(), &routes] {
            assert_eq!(ask(&mut planner, routes).1, 2);
        }
    }

    #[test]
    fn made_up_texts_are_bounded_and_do_not_take_the_plans_of_others_away() {
        let (mut planner, routes, speech) = (Planner::default(), routes(), Speech::default());
        let ours: Vec<String> = (0..50).map(|n| format!("SELECT a{n} FROM t")).collect();
        let ask = |planner: &mut Planner, text: &str| {
            planner.plan(text.as_bytes(), &routes, speech);
        };
        for text in ours.iter().chain(&ours).chain(&ours) {
            ask(&mut planner, text);
        }
        let padding = "x".repeat(4000);
        for n in 0..20_000 {
            ask(&mut planner, &format!("SELECT b{n} AS {padding}"));
            if n % 20 == 0 {
                ask(&mut planner, &ours[n / 20 % ours.len()]);
            }
        }
        assert!(planner.plans.weight() <= MOST_BYTES, "{}", planner.plans.weight());
        let parsed = planner.parsed;
        for text in &ours {
            ask(&mut planner, text);
        }
        assert_eq!(planner.parsed, parsed, "all of them are there still");
    }
}
