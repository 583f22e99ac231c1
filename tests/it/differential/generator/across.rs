//! Queries whose tables meet on no key: joins on whatever column, tables of other groups, local tables,
//! sub-selects in all places, recursion, windows over rows, set operations.

use super::Generator;
use crate::differential::pair::{Compare, Step};
use crate::differential::wire::Param;

/// A table, two integer columns of it, and a text.
const TABLES: &[(&str, [&str; 2], &str)] = &[
    ("i4", ["k", "v"], "s"),
    ("i4b", ["k", "w"], "s"),
    ("i8", ["k", "v"], "s"),
    ("i2", ["v", "k"], "s"),
    ("pk", ["k", "v"], "s"),
    ("tx", ["v", "v"], "k"),
    ("mk", ["a", "v"], "b"),
    ("public.i4", ["v", "k"], "s"),
    ("app.items", ["v", "k"], "v::text"),
    ("col", ["v", "k"], "s"),
    ("col", ["k", "v"], "c"),
    ("col", ["k", "v"], "a"),
    ("col", ["v", "k"], "m"),
    ("loc", ["id", "v"], "s"),
    ("loc2", ["k", "k"], "s"),
    ("locview", ["k", "v"], "v::text"),
    ("uu", ["v", "v"], "s"),
    ("\"Odd Name\"", ["\"select\"", "v"], "v::text"),
];

/// A table as it stands in a query, by its alias.
type Item = (&'static str, usize);

impl Generator {
    pub fn across(&mut self) -> Step {
        let (mut sql, compare) = match self.below(14) {
            0..=2 => self.across_join(),
            3 => self.across_groups(),
            4 => self.across_comma(),
            5 => self.across_windows(),
            6 => (self.across_set(), Compare::Rows),
            7 => (self.across_recursive(), Compare::Rows),
            8 => (self.across_with(), Compare::Rows),
            9 => (self.across_lateral(), Compare::Rows),
            10 => (self.across_scalars(), Compare::Rows),
            11 => (self.across_stars(), Compare::Rows),
            _ => self.across_one(),
        };
        let params = self.chance(40).then(|| self.across_params(&mut sql));
        let mut step = Step::new(sql);
        step.compare = compare;
        step.binary_result = params.is_some() && self.chance(50);
        step.params = params;
        step
    }

    /// Makes parameters of some numbers that something is compared with.
    fn across_params(&mut self, sql: &mut String) -> Vec<Param> {
        let mut params = Vec::new();
        let mut from = 0;
        while let Some(at) = [" > ", " < ", " <> "]
            .iter()
            .filter_map(|w| Some(sql[from..].find(w)? + from + w.len()))
            .min()
        {
            from = at;
            let digits = sql[at..].chars().take_while(char::is_ascii_digit).count();
            if digits == 0 || self.chance(40) {
                continue;
            }
            let value = sql.as_bytes()[at..at + digits].to_vec();
            let type_oid = self.pick(&[0, 20, 23, 23]);
            params.push(Param { type_oid, binary: false, value: Some(value) });
            sql.replace_range(at..at + digits, &format!("${}", params.len()));
        }
        params
    }

    fn across_item(&mut self, alias: &'static str) -> (Item, String) {
        let at = if self.chance(30) { self.below(2) } else { self.below(TABLES.len()) };
        ((alias, at), format!("{} {alias}", TABLES[at].0))
    }

    fn across_int(&mut self, (alias, at): Item) -> String {
        format!("{alias}.{}", TABLES[at].1[self.below(2)])
    }

    fn across_text(&self, (alias, at): Item) -> String {
        format!("{alias}.{}", TABLES[at].2)
    }

    fn across_value(&mut self, item: Item) -> String {
        match self.below(6) {
            0 => self.across_text(item),
            1 => format!("{} + 1", self.across_int(item)),
            2 => format!("coalesce({}, 7)", self.across_int(item)),
            _ => self.across_int(item),
        }
    }

    /// A condition on one table, or with a sub-select.
    fn across_condition(&mut self, item: Item, depth: usize) -> String {
        let int = self.across_int(item);
        let text = self.across_text(item);
        if depth == 0 || self.chance(50) {
            return match self.below(9) {
                0 => format!("{int} > {}", self.below(4)),
                1 => format!("{int} < {}", self.below(6)),
                2 => format!("{int} <> {}", self.below(4)),
                3 => format!("{int} IS NULL"),
                4 => format!("{text} LIKE 's%'"),
                5 => format!("{int} IN (1, 2, {})", self.below(9)),
                6 => format!("({int} > 2 OR {text} IS NOT NULL)"),
                7 => format!("abs({int}) < {}", self.below(6)),
                _ => format!("{int} BETWEEN 1 AND {}", self.below(6)),
            };
        }
        let (q, table) = self.across_item("q");
        let (other, inner) = (self.across_int(q), self.across_condition(q, depth - 1));
        let not = self.pick(&["", "NOT "]);
        match self.below(7) {
            0 => format!("{int} {not}IN (SELECT {other} FROM {table} WHERE {inner})"),
            1 => format!("{int} {not}IN (SELECT {other} FROM {table})"),
            2 => format!("{not}EXISTS (SELECT 1 FROM {table} WHERE {other} = {int} AND {inner})"),
            3 => format!("{not}EXISTS (SELECT * FROM {table} WHERE {inner})"),
            4 => format!("{int} > (SELECT min({other}) FROM {table} WHERE {inner})"),
            5 => format!("{int} = ANY (SELECT {other} FROM {table} WHERE {other} > {int})"),
            _ => format!("{int} <= ALL (SELECT {other} FROM {table} WHERE {inner})"),
        }
    }

    fn across_where(&mut self, items: &[Item]) -> String {
        let item = items[self.below(items.len())];
        match self.below(5) {
            0 => String::new(),
            1 => {
                let other = items[self.below(items.len())];
                let (a, b) = (self.across_condition(item, 1), self.across_condition(other, 0));
                format!(" WHERE {a} AND {b}")
            }
            2 => {
                // Arms that say something of the same tables, or of others.
                let mut arm = || {
                    let other = items[self.below(items.len())];
                    let (a, b) = (self.across_condition(item, 0), self.across_condition(other, 0));
                    format!("{a} AND {b}")
                };
                let (one, two) = (arm(), arm());
                format!(" WHERE {one} OR {two}")
            }
            _ => format!(" WHERE {}", self.across_condition(item, 1)),
        }
    }

    fn across_from(&mut self) -> (String, Vec<Item>) {
        let (a, left) = self.across_item("a");
        let (b, right) = self.across_item("b");
        let join = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let on = format!("{} = {}", self.across_int(a), self.across_int(b));
        let more = match self.below(4) {
            0 if join != "FULL JOIN" => format!(" AND {}", self.across_condition(b, 0)),
            1 if join != "FULL JOIN" => format!(" AND {}", self.across_condition(a, 0)),
            _ => String::new(),
        };
        let two = format!("{left} {join} {right} ON {on}{more}");
        if self.chance(75) {
            return (two, vec![a, b]);
        }
        let (c, third) = self.across_item("c");
        let join = self.pick(&["JOIN", "LEFT JOIN", "FULL JOIN"]);
        let on = format!("{} = {}", self.across_int(b), self.across_int(c));
        (format!("{two} {join} {third} ON {on}"), vec![a, b, c])
    }

    /// A query of so many columns, in an order or not.
    fn across_ordered(&mut self, sql: String, columns: usize) -> (String, Compare) {
        let all: Vec<_> = (1..=columns).map(|n| n.to_string()).collect();
        match self.below(4) {
            0 => (format!("{sql} ORDER BY {}", all.join(", ")), Compare::Ordered),
            1 => {
                let limit = 1 + self.below(6);
                (format!("{sql} ORDER BY {} LIMIT {limit}", all.join(" DESC, ")), Compare::Ordered)
            }
            _ => (sql, Compare::Rows),
        }
    }

    fn across_targets(&mut self, items: &[Item]) -> Vec<String> {
        (0..1 + self.below(3))
            .map(|_| {
                let item = items[self.below(items.len())];
                self.across_value(item)
            })
            .collect()
    }

    fn across_join(&mut self) -> (String, Compare) {
        let (from, items) = self.across_from();
        let condition = self.across_where(&items);
        let targets = self.across_targets(&items);
        let distinct = self.pick(&["", "", "", "DISTINCT "]);
        let sql = format!("SELECT {distinct}{} FROM {from}{condition}", targets.join(", "));
        self.across_ordered(sql, targets.len())
    }

    fn across_one(&mut self) -> (String, Compare) {
        let (a, from) = self.across_item("a");
        let condition = self.across_condition(a, 2);
        let targets = self.across_targets(&[a]);
        let sql = format!("SELECT {} FROM {from} WHERE {condition}", targets.join(", "));
        self.across_ordered(sql, targets.len())
    }

    fn across_comma(&mut self) -> (String, Compare) {
        let (a, first) = self.across_item("a");
        let (b, second) = self.across_item("b");
        let (c, third) = self.across_item("c");
        let on = format!(
            "{} = {} AND {} = {}",
            self.across_int(a),
            self.across_int(b),
            self.across_int(c),
            self.across_int(a)
        );
        let condition = self.across_condition(b, 1);
        let targets = self.across_targets(&[a, b, c]);
        let list = targets.join(", ");
        let sql =
            format!("SELECT {list} FROM {first}, {second}, {third} WHERE {on} AND {condition}");
        self.across_ordered(sql, targets.len())
    }

    fn across_groups(&mut self) -> (String, Compare) {
        let (from, items) = self.across_from();
        let condition = self.across_where(&items);
        let by = self.across_value(items[0]);
        let of = self.across_int(items[1]);
        let call = self.pick(&[
            "count(*)",
            "sum(@)",
            "count(DISTINCT @)",
            "max(@)",
            "avg(@)",
            "array_agg(@ ORDER BY @)",
            "sum(@) FILTER (WHERE @ > 1)",
        ]);
        let call = call.replace('@', &of);
        let group = self.pick(&["1", "ROLLUP (1)", "GROUPING SETS ((1), ())"]);
        let group = group.replace('1', &by);
        let having = self.pick(&["", "", " HAVING count(*) > 1"]);
        let sql = format!("SELECT {by}, {call} FROM {from}{condition} GROUP BY {group}{having}");
        self.across_ordered(sql, 2)
    }

    fn across_windows(&mut self) -> (String, Compare) {
        let (a, from) = self.across_item("a");
        let (x, y) = (self.across_int(a), self.across_int(a));
        let call = self.pick(&["rank()", "sum(@)", "count(*)", "dense_rank()", "max(@)"]);
        let by = self.across_value(a);
        let window = match self.below(3) {
            0 => format!("PARTITION BY {by} ORDER BY {y}"),
            1 => format!("ORDER BY {y} DESC, {by}"),
            _ => format!("PARTITION BY {by}"),
        };
        let condition = self.across_where(&[a]);
        let call = call.replace('@', &x);
        let sql = format!("SELECT {x}, {y}, {call} OVER ({window}) FROM {from}{condition}");
        self.across_ordered(sql, 3)
    }

    fn across_arm(&mut self, alias: &'static str) -> String {
        let (a, from) = self.across_item(alias);
        let condition = self.across_where(&[a]);
        format!("SELECT {}, {} FROM {from}{condition}", self.across_int(a), self.across_int(a))
    }

    fn across_set(&mut self) -> String {
        let (a, b, c) = (self.across_arm("a"), self.across_arm("b"), self.across_arm("c"));
        let op = self.pick(&[
            "UNION",
            "INTERSECT",
            "EXCEPT",
            "EXCEPT ALL",
            "INTERSECT ALL",
            "UNION ALL",
        ]);
        match self.below(4) {
            0 => format!("({a}) {op} ({b}) UNION {c}"),
            1 => format!("SELECT count(*) FROM ({a} {op} {b}) AS u"),
            2 => format!("({a} {op} {b}) INTERSECT ({c})"),
            _ => format!("{a} {op} {b}"),
        }
    }

    fn across_recursive(&mut self) -> String {
        let (a, from) = self.across_item("a");
        let (b, next) = self.across_item("b");
        let (x, y) = (self.across_int(b), self.across_int(b));
        let (start, condition) = (self.across_int(a), self.across_condition(a, 0));
        format!(
            "WITH RECURSIVE r (n, d) AS (SELECT {start}::bigint, 0 FROM {from} WHERE {condition} UNION \
             SELECT {x}::bigint, d + 1 FROM r JOIN {next} ON {y} = r.n WHERE d < 3) SELECT n, d FROM r"
        )
    }

    fn across_with(&mut self) -> String {
        let arm = self.across_arm("a");
        let (b, from) = self.across_item("b");
        let (x, condition) = (self.across_int(b), self.across_condition(b, 0));
        match self.below(3) {
            0 => format!(
                "WITH w (x, y) AS ({arm}) SELECT w.x, {x} FROM w JOIN {from} ON w.y = {x} WHERE {condition}"
            ),
            1 => format!(
                "WITH w (x, y) AS ({arm}) SELECT count(*), max(p.x) FROM w p JOIN w q ON p.x = q.y"
            ),
            _ => format!(
                "WITH w (x, y) AS MATERIALIZED ({arm}) SELECT {x} FROM {from} \
                 WHERE {x} > (SELECT min(y) FROM w) AND {condition}"
            ),
        }
    }

    fn across_lateral(&mut self) -> String {
        let (a, from) = self.across_item("a");
        let (b, other) = self.across_item("b");
        let (x, y, z) = (self.across_int(a), self.across_int(b), self.across_int(b));
        let left =
            self.pick(&["CROSS JOIN LATERAL @", "LEFT JOIN LATERAL @ ON true", ", LATERAL @"]);
        let sub = match self.below(2) {
            0 => format!("(SELECT {y} AS z FROM {other} WHERE {z} = {x} ORDER BY 1 LIMIT 2) l"),
            _ => format!("(SELECT count(*) AS z FROM {other} WHERE {y} > {x}) l"),
        };
        format!("SELECT {x}, l.z FROM {from} {}", left.replace('@', &sub)).replace(" , ", ", ")
    }

    fn across_scalars(&mut self) -> String {
        let (a, from) = self.across_item("a");
        let (b, other) = self.across_item("b");
        let (x, y) = (self.across_int(a), self.across_int(b));
        let (c, d) = (self.across_condition(a, 1), self.across_condition(b, 0));
        match self.below(4) {
            0 => format!("SELECT EXISTS (SELECT 1 FROM {from} WHERE {c})"),
            1 => format!(
                "SELECT (SELECT max({x}) FROM {from} WHERE {c}), (SELECT count(*) FROM {other})"
            ),
            2 => format!(
                "SELECT {x}, (SELECT count(*) FROM {other} WHERE {y} = {x} AND {d}) FROM {from}"
            ),
            _ => format!(
                "SELECT CASE WHEN {x} > (SELECT avg({y}) FROM {other}) THEN 'more' ELSE 'less' END FROM {from} \
                 WHERE {c}"
            ),
        }
    }

    fn across_stars(&mut self) -> String {
        let (a, from) = self.across_item("a");
        let (b, other) = self.across_item("b");
        let (x, y) = (self.across_int(a), self.across_int(b));
        let condition = self.across_where(&[a, b]);
        match self.below(6) {
            0 => format!("SELECT * FROM {from} JOIN {other} ON {x} = {y}{condition}"),
            1 => format!("SELECT b.*, {x} FROM {from} JOIN {other} ON {x} = {y}{condition}"),
            2 => format!("SELECT row_to_json(a) FROM {from} JOIN {other} ON {x} = {y}{condition}"),
            3 => "SELECT * FROM i4 NATURAL JOIN i4b".to_owned(),
            4 => "SELECT * FROM i4 a FULL JOIN i8 b USING (v)".to_owned(),
            _ => format!(
                "SELECT count(a), count(b) FROM {from} LEFT JOIN {other} ON {x} = {y}{condition}"
            ),
        }
    }
}
