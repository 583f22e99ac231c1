//! Statements from a seed.
//!
//! They are meant to be answered in one way only: no LIMIT without a total order, no aggregate
//! whose result depends on the order of rows. What has a name that hides another, a literal in an
//! odd spelling or a key in an odd place comes up far more often than anybody would write it.

mod across;
mod cursors;
mod literals;
mod reads;
mod writes;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::pair::{Compare, Step};
use super::wire::Param;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Int,
    Text,
    Uuid,
    Several,
    Local,
}

/// A table as the generator uses it.
pub struct Known {
    pub sql: &'static str,
    pub key: Key,
    pub ints: &'static [&'static str],
    pub texts: &'static [&'static str],
    pub all: &'static [&'static str],
}

const WIDE: &[&str] = &["k", "v", "n", "f", "s", "d"];

pub const KNOWN: &[Known] = &[
    Known { sql: "i4", key: Key::Int, ints: &["k", "v"], texts: &["s"], all: WIDE },
    Known {
        sql: "i4b",
        key: Key::Int,
        ints: &["k", "w"],
        texts: &["s"],
        all: &["k", "w", "s", "r"],
    },
    Known { sql: "i8", key: Key::Int, ints: &["k", "v"], texts: &["s"], all: WIDE },
    Known { sql: "i2", key: Key::Int, ints: &["k", "v"], texts: &["s"], all: WIDE },
    Known { sql: "pk", key: Key::Int, ints: &["k", "v"], texts: &["s"], all: &["v", "k", "s"] },
    Known { sql: "tx", key: Key::Text, ints: &["v"], texts: &["k", "s"], all: WIDE },
    Known { sql: "vc", key: Key::Text, ints: &["v"], texts: &["k", "s"], all: WIDE },
    Known { sql: "uu", key: Key::Uuid, ints: &["v"], texts: &["s"], all: WIDE },
    Known {
        sql: "mk",
        key: Key::Several,
        ints: &["a", "v"],
        texts: &["b", "s"],
        all: &["a", "b", "v", "s"],
    },
    Known { sql: "app.items", key: Key::Int, ints: &["k", "v"], texts: &[], all: &["k", "v"] },
    Known {
        sql: "loc",
        key: Key::Local,
        ints: &["id", "k", "v"],
        texts: &["s"],
        all: &["id", "k", "v", "s"],
    },
];

/// A FROM item in scope.
#[derive(Clone)]
struct Item {
    alias: String,
    table: usize,
}

pub struct Generator {
    rng: StdRng,
    /// Some: literals become parameters, now and then.
    params: Option<Vec<Param>>,
    /// The key that a transaction's statements share, so that they stay on one node.
    pub fixed: Option<i64>,
    /// Earlier texts, to come again with other literals.
    earlier: Vec<String>,
    /// A prepared statement that is to be executed again.
    again: Vec<Step>,
    prepared: usize,
}

type Scope<'a> = &'a [Item];

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            params: None,
            fixed: None,
            earlier: Vec::new(),
            again: Vec::new(),
            prepared: 0,
        }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Another session: nothing is prepared there.
    pub fn new_session(&mut self) {
        self.again.clear();
    }

    /// One statement for both sides.
    pub fn step(&mut self, in_transaction: bool) -> Step {
        if let Some(step) = self.again.pop() {
            return step;
        }
        if self.earlier.len() > 4 && self.chance(20) {
            let at = self.below(self.earlier.len());
            let earlier = self.earlier[at].clone();
            return Step::new(self.other_literals(&earlier));
        }
        let mut step = self.new_step(in_transaction);
        match &step.params {
            None if step.compare == Compare::Rows
                && !["CREATE", "TRUNC"].iter().any(|w| step.sql.starts_with(w)) =>
            {
                if self.earlier.len() > 30 {
                    let at = self.below(30);
                    self.earlier.swap_remove(at);
                }
                self.earlier.push(step.sql.clone());
            }
            Some(params) if self.chance(30) => {
                let params = params.clone();
                self.prepared += 1;
                step.statement = Some((format!("s{}", self.prepared), true));
                for _ in 0..1 + self.below(3) {
                    let mut next = step.clone();
                    next.statement = Some((format!("s{}", self.prepared), false));
                    next.params = Some(params.iter().map(|p| self.other_value(p)).collect());
                    self.again.push(next);
                }
            }
            _ => {}
        }
        step
    }

    fn new_step(&mut self, in_transaction: bool) -> Step {
        self.params = self.chance(30).then(Vec::new);
        let mut step = Step::new("");
        step.sql = match self.below(100) {
            0..=59 => {
                let (sql, ordered) = self.query(2);
                step.compare = if ordered { Compare::Ordered } else { Compare::Rows };
                sql
            }
            60..=74 => self.insert(),
            75..=86 => self.update(),
            87..=93 => self.delete(),
            94..=95 => {
                self.params = None;
                let (sql, _) = self.query(1);
                format!("COPY ({sql}) TO STDOUT")
            }
            96 if !in_transaction => {
                self.params = None;
                let name = self.pick(&["i4b", "app.items", "i2"]);
                format!("TRUNCATE {name}")
            }
            _ => {
                self.params = None;
                self.oddity()
            }
        };
        if self.chance(5) {
            step.sql.push_str(self.pick(&[" ;", " -- end", " /* end */", "\n", ";;"]));
        }
        step.params = self.params.take();
        step.binary_result = step.params.is_some() && self.chance(30);
        step
    }

    /// Statements that change what others mean.
    fn oddity(&mut self) -> String {
        let table = self.table();
        match self.below(16) {
            8 => "SELECT k FROM i4 WHERE k = 5 AND 'i4'::regclass::text = 'i4'".to_owned(),
            9 => "MERGE INTO loc USING (SELECT 3 AS x) s ON loc.id = s.x WHEN MATCHED THEN DELETE"
                .to_owned(),
            10 => format!("DO $$ BEGIN PERFORM 1 FROM {table}; END $$"),
            11 => "SET LOCAL search_path = app".to_owned(),
            12 => format!("DECLARE c CURSOR FOR SELECT k FROM {table} WHERE k = 5 ORDER BY 1"),
            13 => "FETCH ALL FROM c".to_owned(),
            14 => format!("SELECT * INTO TEMP made FROM {table}"),
            0 => "SET search_path = app, public".to_owned(),
            1 => "RESET search_path".to_owned(),
            2 => format!("CREATE TEMP TABLE {} (k int, v int)", self.pick(&["i4", "loc", "tmp"])),
            3 => "SELECT plus_one(1), loc_count()".to_owned(),
            4 => format!("PREPARE p{} AS SELECT count(*) FROM {table}", self.below(3)),
            5 => format!("EXECUTE p{}", self.below(3)),
            6 => "SHOW search_path".to_owned(),
            7 => "SELECT * FROM locview".to_owned(),
            _ => format!("LOCK TABLE {table}"),
        }
    }

    fn table(&mut self) -> &'static str {
        KNOWN[self.index()].sql
    }

    /// Most often a table of the first few: joins should meet.
    fn index(&mut self) -> usize {
        if self.chance(45) { self.below(2) } else { self.below(KNOWN.len()) }
    }

    /// The table's name as it may be written.
    fn spelled(&mut self, table: usize) -> String {
        let sql = KNOWN[table].sql;
        match self.below(12) {
            0 if !sql.contains('.') => format!("public.{sql}"),
            1 if !sql.contains('.') => format!("\"{sql}\""),
            2 => sql.to_uppercase(),
            3 => format!("ONLY {sql}"),
            4 => format!("{sql} *"),
            _ => sql.to_owned(),
        }
    }

    /// A column, qualified or not.
    fn column(
        &mut self,
        scope: Scope<'_>,
        of: impl Fn(&Known) -> &'static [&'static str],
    ) -> Option<String> {
        let item = &scope[self.below(scope.len())];
        let columns = of(&KNOWN[item.table]);
        if columns.is_empty() {
            return None;
        }
        let column = columns[self.below(columns.len())];
        let bare = scope.len() == 1 && self.chance(50) || self.chance(8);
        Some(if bare { column.to_owned() } else { format!("{}.{column}", item.alias) })
    }

    fn int_expression(&mut self, scope: Scope<'_>, depth: usize) -> String {
        let column = self.column(scope, |t| t.ints).unwrap_or_else(|| "1".to_owned());
        if depth == 0 {
            return if self.chance(75) { column } else { self.int() };
        }
        match self.below(12) {
            0 => format!("{column} + {}", self.below(5)),
            1 => format!("coalesce({column}, {})", self.below(5)),
            2 => {
                let when = self.condition(scope, depth - 1);
                format!("CASE WHEN {when} THEN {column} ELSE {} END", self.below(5))
            }
            3 => format!("nullif({column}, {})", self.below(5)),
            4 => format!("(SELECT {})", self.below(5)),
            5 => format!("({})", self.scalar_query(scope, depth - 1)),
            6 => format!("greatest({column}, {})", self.below(5)),
            7 => self.column(scope, |t| t.texts).map_or(column, |s| format!("length({s})")),
            8 if self.chance(20) => format!("plus_one({column})"),
            _ => column,
        }
    }

    /// The condition that fixes an item's key.
    fn key_condition(&mut self, item: &Item) -> String {
        let known = &KNOWN[item.table];
        let a = &item.alias;
        if known.key == Key::Several {
            let (x, y) = (self.key_value(Key::Int), format!("'b{}'", self.below(3)));
            return format!("{a}.a = {x} AND {a}.b = {y}");
        }
        let value = self.key_value(known.key);
        let column = match (known.key, self.below(4)) {
            (Key::Local, _) => format!("{a}.id"),
            (_, 0) => "k".to_owned(),
            _ => format!("{a}.k"),
        };
        if self.chance(15) { format!("{value} = {column}") } else { format!("{column} = {value}") }
    }

    fn condition(&mut self, scope: Scope<'_>, depth: usize) -> String {
        let item = scope[self.below(scope.len())].clone();
        if depth == 0 {
            return match self.below(4) {
                0 => {
                    let column = self.column(scope, |t| t.ints).unwrap_or_else(|| "1".to_owned());
                    let op = self.pick(&["=", "<", ">", "<>", ">=", "<="]);
                    format!("{column} {op} {}", self.below(6))
                }
                1 => {
                    let column = self.column(scope, |t| t.all).unwrap_or_else(|| "1".to_owned());
                    format!("{column} IS {}NULL", self.pick(&["", "NOT "]))
                }
                _ => self.key_condition(&item),
            };
        }
        let d = depth - 1;
        match self.below(20) {
            0..=5 => self.key_condition(&item),
            6..=8 => format!("{} AND {}", self.condition(scope, d), self.condition(scope, d)),
            9 => format!("({} OR {})", self.condition(scope, d), self.condition(scope, d)),
            10 => format!("NOT ({})", self.condition(scope, d)),
            11 => format!("({}) IS {}TRUE", self.condition(scope, d), self.pick(&["", "NOT "])),
            12 => {
                let x = self.int_expression(scope, d);
                format!("{x} IN ({}, {})", self.int(), self.int())
            }
            13 => {
                let x = self.int_expression(scope, d);
                format!("{x} = ANY ('{{{},{}}}')", self.below(9), self.below(9))
            }
            14 => {
                let x = self.int_expression(scope, d);
                format!("{x} BETWEEN {} AND {}", self.below(5), self.below(9))
            }
            15 => {
                let x = self.int_expression(scope, d);
                format!("{x} IS NOT DISTINCT FROM {}", self.int())
            }
            16 => match self.column(scope, |t| t.texts) {
                Some(s) => {
                    let t = self.text();
                    let op = self.pick(&["=", "<", "LIKE", "<>"]);
                    format!("{s} {op} {t}")
                }
                None => "true".to_owned(),
            },
            17 => {
                let not = self.pick(&["", "NOT "]);
                format!("{not}EXISTS ({})", self.inner_query(scope, d))
            }
            18 => {
                let x = self.int_expression(scope, 0);
                format!("{x} IN ({})", self.inner_query(scope, d))
            }
            _ => {
                let x = self.int_expression(scope, d);
                let op = self.pick(&["=", "<", ">", "<>"]);
                format!("{x} {op} {}", self.int_expression(scope, 0))
            }
        }
    }

    /// A sub-select of one integer column, correlated or not.
    fn inner_query(&mut self, outer: Scope<'_>, depth: usize) -> String {
        let table = self.index();
        let alias = if self.chance(20) { outer[0].alias.clone() } else { "q".to_owned() };
        let inner = [Item { alias: alias.clone(), table }];
        let column = KNOWN[table].ints[0];
        let from = format!("{} {alias}", self.spelled(table).trim_end_matches(" *"));
        let key = if KNOWN[table].key == Key::Several { "a" } else { "k" };
        let condition = match self.below(4) {
            0 => self.condition(&inner, depth),
            1 => format!("{alias}.{key} = {}.{}", outer[0].alias, KNOWN[outer[0].table].all[0]),
            2 => format!("{key} = {}.{}", outer[0].alias, KNOWN[outer[0].table].all[0]),
            _ => self.key_condition(&inner[0]),
        };
        format!("SELECT {alias}.{column} FROM {from} WHERE {condition}")
    }

    fn scalar_query(&mut self, outer: Scope<'_>, depth: usize) -> String {
        let inner = self.inner_query(outer, depth);
        let rest = inner.strip_prefix("SELECT ").unwrap_or(&inner);
        let (column, from) = rest.split_once(" FROM ").unwrap_or((rest, ""));
        format!("SELECT {}({column}) FROM {from}", self.pick(&["count", "max", "min", "sum"]))
    }

    fn from(&mut self, depth: usize) -> (String, Vec<Item>) {
        let first = self.index();
        let name = self.spelled(first);
        let alias = match self.below(6) {
            0 => self.pick(&["x", "loc", "i4b", "tx"]).to_owned(),
            _ => KNOWN[first].sql.rsplit('.').next().unwrap_or("x").to_owned(),
        };
        let a = Item { alias: alias.clone(), table: first };
        let from = if alias == KNOWN[first].sql { name } else { format!("{name} AS {alias}") };
        if depth == 0 || self.chance(60) {
            return (from, vec![a]);
        }
        // Of one colocation group, most often.
        let second = if self.chance(70) { self.pick(&[0, 1, 1, 4, 9]) } else { self.index() };
        let b = Item { alias: "y".to_owned(), table: second };
        let (ka, kb) = (KNOWN[first].all[0], KNOWN[second].all[0]);
        let other = KNOWN[second].sql;
        let scope = vec![a.clone(), b.clone()];
        let on = match self.below(5) {
            0 => self.condition(&scope, depth - 1),
            1 => format!("{alias}.{ka} = y.{kb} AND {}", self.key_condition(&b)),
            _ => format!("{alias}.{ka} = y.{kb}"),
        };
        let joined = match self.below(12) {
            0 => format!("{from}, {other} y"),
            1 => format!("{from} CROSS JOIN {other} y"),
            2 => format!("{from} LEFT JOIN {other} y ON {on}"),
            3 => format!("{from} RIGHT JOIN {other} y ON {on}"),
            4 => format!("{from} FULL JOIN {other} y ON {alias}.{ka} = y.{kb}"),
            5 if ka == kb => {
                format!("{from} {}JOIN {other} y USING ({ka})", self.pick(&["", "LEFT "]))
            }
            6 => {
                let sub = format!(
                    "SELECT * FROM {other} WHERE {}",
                    self.key_condition(&Item {
                        alias: other.rsplit('.').next().unwrap_or(other).to_owned(),
                        table: second
                    })
                );
                format!("{from} JOIN ({sub}) y ON {on}")
            }
            7 => format!(
                "{from} JOIN LATERAL (SELECT * FROM {other} z WHERE z.{kb} = {alias}.{ka}) y ON true"
            ),
            8 => format!("{from}, generate_series(1, 2) g (g), {other} y"),
            _ => format!("{from} JOIN {other} y ON {on}"),
        };
        (joined, scope)
    }

    /// A whole query, and whether its order is total.
    pub fn query(&mut self, depth: usize) -> (String, bool) {
        if depth > 0 && self.chance(6) {
            let op = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
            let mut arm = || {
                let table = self.index();
                let alias = KNOWN[table].sql.rsplit('.').next().unwrap_or("x").to_owned();
                let key = self.key_condition(&Item { alias, table });
                format!("SELECT {} FROM {} WHERE {key}", KNOWN[table].ints[0], KNOWN[table].sql)
            };
            let (a, b) = (arm(), arm());
            return (format!("{a} {op} {b}"), false);
        }
        if depth > 0 && self.chance(8) {
            return (self.with_query(depth), false);
        }
        let (from, scope) = self.from(depth);
        let condition = match self.below(10) {
            0 => None,
            1..=5 => {
                let keys: Vec<String> =
                    scope.iter().map(|i| self.key_condition(&i.clone())).collect();
                Some(keys.join(" AND "))
            }
            _ => Some(self.condition(&scope, depth)),
        };
        let mut sql_where = condition.map_or(String::new(), |c| format!(" WHERE {c}"));
        if let Some(key) = scope.last().cloned().filter(|_| self.chance(20)) {
            let more = self.key_condition(&key);
            let before = if sql_where.is_empty() { " WHERE" } else { " AND" };
            sql_where = format!("{sql_where}{before} {more}");
        }
        match self.below(10) {
            0..=2 => (self.aggregate(&from, &sql_where, &scope), false),
            3 => {
                let (i, key) = (self.int_expression(&scope, 1), self.int_expression(&scope, 0));
                (format!("SELECT {i}, rank() OVER (ORDER BY {key}) FROM {from}{sql_where}"), false)
            }
            4..=5 => {
                let targets: Vec<String> =
                    (0..1 + self.below(3)).map(|_| self.int_expression(&scope, depth)).collect();
                let distinct = self.pick(&["", "", "", "DISTINCT "]);
                let order: Vec<String> = (1..=targets.len()).map(|n| n.to_string()).collect();
                let sql = format!("SELECT {distinct}{} FROM {from}{sql_where}", targets.join(", "));
                match self.below(3) {
                    0 => (sql, false),
                    1 => (format!("{sql} ORDER BY {}", order.join(", ")), true),
                    _ => {
                        let (l, o) = (self.below(4), self.below(2));
                        (format!("{sql} ORDER BY {} LIMIT {l} OFFSET {o}", order.join(", ")), true)
                    }
                }
            }
            _ => {
                let lock = if self.chance(6) { " FOR UPDATE" } else { "" };
                let what = self.column(&scope, |t| t.all).filter(|_| self.chance(30));
                let what = what.unwrap_or_else(|| "*".to_owned());
                (format!("SELECT {what} FROM {from}{sql_where}{lock}"), false)
            }
        }
    }

    fn aggregate(&mut self, from: &str, condition: &str, scope: Scope<'_>) -> String {
        let column = self.int_expression(scope, 1);
        let all: Vec<String> = (0..1 + self.below(2))
            .map(|_| match self.below(8) {
                0 => "count(*)".to_owned(),
                1 => format!("count({column})"),
                2 => format!("sum({column})"),
                3 => format!("min({column}), max({column})"),
                4 => format!("count(DISTINCT {column})"),
                5 => format!("sum({column}) FILTER (WHERE {column} > 1)"),
                6 => format!("avg({column})"),
                _ => format!("string_agg({column}::text, ',' ORDER BY {column})"),
            })
            .collect();
        let all = all.join(", ");
        match self.below(5) {
            0 => {
                let by = self.column(scope, |t| t.ints).unwrap_or_else(|| "1".to_owned());
                let having = self.pick(&["", " HAVING count(*) > 1"]);
                format!("SELECT {by}, {all} FROM {from}{condition} GROUP BY {by}{having}")
            }
            _ => format!("SELECT {all} FROM {from}{condition}"),
        }
    }

    fn with_query(&mut self, depth: usize) -> String {
        let name = self.pick(&["c", "i4", "loc", "i4b"]);
        let recursive = self.pick(&["", "", "RECURSIVE "]);
        let body = match self.below(4) {
            0 => "SELECT 1 AS k, 2 AS v".to_owned(),
            1 => "SELECT k, v FROM i4".to_owned(),
            2 => {
                let key = self.key_condition(&Item { alias: "i4".to_owned(), table: 0 });
                format!("SELECT k, v FROM i4 WHERE {key}")
            }
            _ => "SELECT k, v FROM loc".to_owned(),
        };
        let main = match self.below(4) {
            0 => format!("SELECT count(*) FROM {name}"),
            1 => format!("SELECT {name}.k FROM {name} JOIN i8 ON {name}.k = i8.k"),
            2 => {
                let table = self.table();
                format!("SELECT count(*) FROM {table} WHERE EXISTS (SELECT 1 FROM {name})")
            }
            _ => self.query(depth - 1).0,
        };
        format!("WITH {recursive}{name} AS ({body}) {main}")
    }
}
