//! Reads without a fixed key: what several nodes answer together.
//!
//! Tables of one colocation group, joined on the key most often and on something else now and then.
//! Where there is LIMIT the order is by all columns of the answer, so that which rows come is certain.

use super::Generator;
use crate::differential::pair::{Compare, Step};
use crate::differential::wire::Param;

/// A table of the group, an integer column that is not the key, and a text.
const TABLES: &[(&str, &str, &str)] = &[
    ("i4", "v", "s"),
    ("i4b", "w", "s"),
    ("pk", "v", "s"),
    ("app.items", "v", "v::text"),
    ("col", "v", "s"),
    ("col", "v", "c"),
    ("col", "v", "t"),
    ("col", "v", "a"),
    ("col", "v", "m"),
];

/// Targets of one FROM item by its alias: `@` is the alias.
const VALUES: &[&str] = &[
    "@.k",
    "@.k",
    "@.k",
    "@.#",
    "@.#",
    "@.~",
    "@.# + 1",
    "coalesce(@.#, 7)",
    "abs(@.k)",
    "@.k % 3",
];
/// Columns of i4, of types of their own.
const OF_I4: &[&str] = &["a.n", "a.f", "a.d", "a.n * 2", "a.s", "a.d::timestamp", "a.k::bigint"];

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(@)",
    "sum(@)",
    "min(@)",
    "max(@)",
    "avg(@)",
    "count(DISTINCT @)",
    "sum(@) FILTER (WHERE @ > 1)",
    "sum(@::bigint)",
    "avg(@::numeric)",
    "bool_or(@ > 2)",
    "bit_or(@)",
    "stddev(@)",
    "variance(@)",
    "string_agg(@::text, ',' ORDER BY @)",
    "array_agg(@ ORDER BY @)",
    "count(*) + 1",
    "max(@) - min(@)",
];

/// What a generated query selects from.
struct From {
    sql: String,
    /// Alias, integer column and text of each table.
    items: Vec<(&'static str, usize)>,
}

impl Generator {
    /// One read of rows of several keys.
    pub fn read(&mut self) -> Step {
        let (sql, compare) = match self.below(20) {
            0 => (self.read_union(), Compare::Rows),
            1 => (self.read_with(), Compare::Rows),
            2..=5 => self.read_groups(),
            6..=7 => (self.read_aggregates(), Compare::Rows),
            8 => (self.read_windows(), Compare::Rows),
            _ => self.read_rows(),
        };
        let mut step = Step::new(sql);
        step.compare = compare;
        if self.chance(40) {
            step.params = Some(self.read_params(&mut step.sql));
            step.binary_result = self.chance(50);
        }
        step
    }

    /// Makes parameters of what stands behind LIMIT, OFFSET and HAVING count(*) >.
    fn read_params(&mut self, sql: &mut String) -> Vec<Param> {
        let mut params = Vec::new();
        let mut from = 0;
        while let Some((at, len)) = ["LIMIT ", "OFFSET ", "count(*) > "]
            .iter()
            .filter_map(|w| Some((sql[from..].find(w)? + from, w.len())))
            .min()
        {
            let start = at + len;
            let digits = sql[start..].chars().take_while(char::is_ascii_digit).count();
            from = start;
            if digits == 0 || self.chance(40) {
                continue;
            }
            let value: i64 = sql[start..start + digits].parse().unwrap_or_default();
            let (type_oid, binary) = self.pick(&[(0, false), (0, true), (20, true), (23, false)]);
            let bytes = match binary {
                true => value.to_be_bytes().to_vec(),
                false => value.to_string().into_bytes(),
            };
            let value = if self.chance(5) { None } else { Some(bytes) };
            params.push(Param { type_oid, binary, value });
            sql.replace_range(start..start + digits, &format!("${}", params.len()));
        }
        params
    }

    fn read_item(&mut self, alias: &'static str) -> (&'static str, usize) {
        (alias, self.below(TABLES.len()))
    }

    fn read_value(&mut self, item: (&str, usize)) -> String {
        let (_, int, text) = TABLES[item.1];
        let value = self.pick(VALUES);
        if value == "@.~" && text.contains("::") {
            return format!("({}.v)::text", item.0);
        }
        value.replace('@', item.0).replace('#', int).replace('~', text)
    }

    fn read_from(&mut self) -> From {
        let a = if self.chance(50) { ("a", 0) } else { self.read_item("a") };
        let table = TABLES[a.1].0;
        let alone = From { sql: format!("{table} a"), items: vec![a] };
        if self.chance(50) {
            return match self.below(6) {
                0 => From { sql: format!("(SELECT * FROM {table}) a"), ..alone },
                1 => From { sql: format!("{table} a, generate_series(1, 2) g"), ..alone },
                _ => alone,
            };
        }
        let b = self.read_item("b");
        let (other, int, _) = TABLES[b.1];
        let on = match self.below(10) {
            0 => format!("a.{} = b.k", TABLES[a.1].1),
            1 => format!("a.k = b.k OR a.k = b.{int}"),
            2 => format!("a.k = b.k AND b.{int} > 0"),
            _ => "a.k = b.k".to_owned(),
        };
        let sql = match self.below(12) {
            0..=3 => format!("{table} a JOIN {other} b ON {on}"),
            4..=5 => format!("{table} a LEFT JOIN {other} b ON {on}"),
            6 => format!("{table} a RIGHT JOIN {other} b ON {on}"),
            7 => format!("{table} a FULL JOIN {other} b ON a.k = b.k"),
            8 => format!("{table} a JOIN {other} b USING (k)"),
            9 => format!("{table} a LEFT JOIN {other} b USING (k)"),
            10 => format!(
                "{table} a JOIN (SELECT k, max({int}) AS {int}, min(k)::text AS s FROM {other} GROUP BY k) b ON {on}"
            ),
            _ => format!(
                "{table} a CROSS JOIN LATERAL (SELECT * FROM {other} z WHERE z.k = a.k ORDER BY {int}, k LIMIT 2) b"
            ),
        };
        From { sql, items: vec![a, b] }
    }

    fn read_where(&mut self, from: &From) -> String {
        let item = from.items[self.below(from.items.len())];
        let (alias, at) = item;
        let (_, int, _) = TABLES[at];
        let (other, w, _) = TABLES[self.below(TABLES.len())];
        let condition = match self.below(16) {
            0 => format!("{alias}.{int} > {}", self.below(3)),
            1 => format!("{alias}.{int} IS NULL"),
            2 => format!("EXISTS (SELECT 1 FROM {other} q WHERE q.k = {alias}.k)"),
            3 => {
                format!("NOT EXISTS (SELECT 1 FROM {other} q WHERE q.k = {alias}.k AND q.{w} > 1)")
            }
            4 => format!("{alias}.k IN (SELECT k FROM {other})"),
            5 => format!("{alias}.k NOT IN (SELECT k FROM {other})"),
            6 => format!("{alias}.k IN (SELECT k FROM {other} GROUP BY k HAVING count(*) > 1)"),
            7 => {
                format!("{alias}.{int} = (SELECT max(q.{w}) FROM {other} q WHERE q.k = {alias}.k)")
            }
            8 => format!("{alias}.k IN (SELECT {w} FROM {other})"),
            9 => format!("{alias}.k IN (1, 2, 3, {})", self.below(9)),
            10 => "false".to_owned(),
            _ => return String::new(),
        };
        format!(" WHERE {condition}")
    }

    fn read_targets(&mut self, from: &From) -> Vec<String> {
        let mut targets = Vec::new();
        for _ in 0..1 + self.below(3) {
            let item = from.items[self.below(from.items.len())];
            let value = match item {
                ("a", 0) if self.chance(40) => self.pick(OF_I4).to_owned(),
                item => self.read_value(item),
            };
            targets.push(value);
        }
        if self.chance(15) {
            let (alias, at) = from.items[0];
            let (_, int, _) = TABLES[at];
            targets.push(format!(
                "(SELECT count(*) FROM pk q WHERE q.k = {alias}.k AND q.v >= {alias}.{int})"
            ));
        }
        targets
    }

    /// ORDER BY some of so many columns; true: by all of them.
    fn read_order(&mut self, columns: usize, all: bool) -> String {
        let count = if all { columns } else { 1 + self.below(columns) };
        let mut order: Vec<usize> = (1..=columns).collect();
        if all {
            let by = self.below(columns);
            order.rotate_left(by);
        }
        let keys: Vec<String> = order[..count]
            .iter()
            .map(|n| {
                let direction = self.pick(&["", "", " ASC", " DESC", " DESC"]);
                let nulls = self.pick(&["", "", "", " NULLS FIRST", " NULLS LAST"]);
                format!("{n}{direction}{nulls}")
            })
            .collect();
        format!(" ORDER BY {}", keys.join(", "))
    }

    fn read_limit(&mut self) -> String {
        let (n, skip) = (self.below(6), self.below(4));
        match self.below(8) {
            0 => format!(" OFFSET {skip}"),
            1 => format!(" OFFSET {skip} ROWS FETCH FIRST {n} ROWS WITH TIES"),
            2 => format!(" LIMIT {n} OFFSET {skip}"),
            3 => format!(" LIMIT ALL OFFSET {skip}"),
            4 => " FETCH FIRST ROW ONLY".to_owned(),
            5 => format!(" LIMIT {}", 20 + n),
            _ => format!(" LIMIT {n}"),
        }
    }

    fn read_rows(&mut self) -> (String, Compare) {
        let from = self.read_from();
        let condition = self.read_where(&from);
        let targets = self.read_targets(&from);
        let distinct = self.pick(&["", "", "", "", "DISTINCT "]);
        let star = targets.len() == 1 && distinct.is_empty() && self.chance(40);
        let list = if star { "*".to_owned() } else { targets.join(", ") };
        let sql = format!("SELECT {distinct}{list} FROM {}{condition}", from.sql);
        if star {
            let (alias, at) = from.items[0];
            return match self.below(4) {
                0 => (format!("{sql} LIMIT {}", self.below(3)), Compare::Shape),
                1 => (format!("{sql} ORDER BY {alias}.k, {alias}.{}", TABLES[at].1), Compare::Rows),
                _ => (sql, Compare::Rows),
            };
        }
        self.read_ordered(sql, targets.len())
    }

    fn read_ordered(&mut self, sql: String, columns: usize) -> (String, Compare) {
        match self.below(10) {
            0..=3 => (sql, Compare::Rows),
            4..=5 => (format!("{sql}{}", self.read_order(columns, false)), Compare::Rows),
            6..=7 => (format!("{sql}{}", self.read_order(columns, true)), Compare::Ordered),
            _ => {
                let order = self.read_order(columns, true);
                (format!("{sql}{order}{}", self.read_limit()), Compare::Ordered)
            }
        }
    }

    fn read_calls(&mut self, from: &From, most: usize) -> Vec<String> {
        (0..1 + self.below(most))
            .map(|_| {
                let (alias, at) = from.items[self.below(from.items.len())];
                let column = self.pick(&["k", TABLES[at].1]);
                self.pick(AGGREGATES).replace('@', &format!("{alias}.{column}"))
            })
            .collect()
    }

    fn read_groups(&mut self) -> (String, Compare) {
        let from = self.read_from();
        let condition = self.read_where(&from);
        let by: Vec<String> = (0..1 + self.below(2))
            .map(|_| {
                let item = from.items[self.below(from.items.len())];
                match item {
                    ("a", 0) if self.chance(25) => self.pick(OF_I4).to_owned(),
                    item => self.read_value(item),
                }
            })
            .collect();
        let calls = self.read_calls(&from, 2);
        let group = match self.below(8) {
            0 => format!("ROLLUP ({})", by.join(", ")),
            1 => format!("GROUPING SETS (({}), ())", by.join(", ")),
            2..=3 => (1..=by.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
            _ => by.join(", "),
        };
        let having = match self.below(6) {
            0 => " HAVING count(*) > 1".to_owned(),
            1 => format!(" HAVING {} IS NOT NULL", calls[0]),
            _ => String::new(),
        };
        let columns = by.len() + calls.len();
        let sql = format!(
            "SELECT {}, {} FROM {}{condition} GROUP BY {group}{having}",
            by.join(", "),
            calls.join(", "),
            from.sql
        );
        self.read_ordered(sql, columns)
    }

    fn read_aggregates(&mut self) -> String {
        let from = self.read_from();
        let condition = self.read_where(&from);
        let calls = self.read_calls(&from, 3).join(", ");
        let value = self.read_value(from.items[0]);
        let table = from.sql.clone();
        match self.below(10) {
            6 => {
                let inner = format!("SELECT {value} AS x, count(*) AS y FROM {table}{condition}");
                format!("SELECT q.y, count(*), max(x) FROM ({inner} GROUP BY 1) q GROUP BY q.y")
            }
            7 => {
                let inner = format!("SELECT DISTINCT {value} AS x FROM {table}{condition}");
                format!("SELECT count(*) FROM ({inner}) q")
            }
            8 => {
                let column = self.pick(&["v", "q.s", "q.*"]);
                let inner = "SELECT * FROM i4 ORDER BY k, v, n, f, s, d LIMIT 5";
                format!("SELECT k, {column} FROM ({inner}) q WHERE v > 0")
            }
            0 => format!(
                "SELECT count(*) FROM (SELECT DISTINCT a.k, a.{} FROM {}{condition}) q",
                TABLES[from.items[0].1].1, from.sql
            ),
            1 => format!("SELECT {calls} FROM {}{condition} HAVING count(*) > 3", from.sql),
            2 => format!("SELECT {calls} FROM {}{condition} LIMIT {}", from.sql, self.below(2)),
            _ => format!("SELECT {calls} FROM {}{condition}", from.sql),
        }
    }

    fn read_windows(&mut self) -> String {
        let from = self.read_from();
        let condition = self.read_where(&from);
        let (alias, at) = from.items[0];
        let int = TABLES[at].1;
        let window = match self.below(5) {
            0 => format!("ORDER BY {alias}.{int}"),
            1 => format!("PARTITION BY {alias}.{int}"),
            _ => format!("PARTITION BY {alias}.k ORDER BY {alias}.{int}"),
        };
        let call = self.pick(&["rank()", "count(*)", "dense_rank()"]);
        format!(
            "SELECT {alias}.k, {alias}.{int}, {call} OVER ({window}) FROM {}{condition}",
            from.sql
        )
    }

    fn read_union(&mut self) -> String {
        let mut arm = || {
            let (table, int, _) = TABLES[self.below(TABLES.len())];
            let columns = self.pick(&["k", "k, #", "#, k", "#", "k, k"]);
            let condition = self.pick(&["", "", " WHERE k > 2", " GROUP BY 1, 2"]);
            let columns = if condition.contains("GROUP") { "k, #" } else { columns };
            format!("SELECT {} FROM {table}{condition}", columns.replace('#', int))
        };
        let (a, b) = (arm(), arm());
        let op = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
        format!("{a} {op} {b}")
    }

    fn read_with(&mut self) -> String {
        let (table, int, _) = TABLES[self.below(TABLES.len())];
        let (other, w, _) = TABLES[self.below(TABLES.len())];
        let body = match self.below(5) {
            0 => format!("SELECT k, count(*) AS v FROM {table} GROUP BY k"),
            1 => format!("SELECT {int} AS k, count(*) AS v FROM {table} GROUP BY 1"),
            2 => format!("SELECT k, {int} AS v FROM {table}"),
            3 => format!("SELECT DISTINCT k, {int} AS v FROM {table}"),
            _ => "SELECT 1 AS k, 2 AS v".to_owned(),
        };
        let main = match self.below(4) {
            0 => format!("SELECT c.k, c.v, o.{w} FROM c JOIN {other} o ON o.k = c.k"),
            1 => format!(
                "SELECT k, {w} FROM {other} o WHERE EXISTS (SELECT 1 FROM c WHERE c.k = o.k)"
            ),
            2 => "SELECT count(*), sum(v) FROM c".to_owned(),
            _ => format!("SELECT c.k, o.k FROM {other} o LEFT JOIN c USING (k)"),
        };
        format!("WITH c AS ({body}) {main}")
    }
}
