//! INSERT, UPDATE and DELETE of rows of one node and of several, and what is wrong with some of them.

use super::writer::Writer;

/// A table that is changed: its name, its keys in full, integer and text columns that may be set.
struct Target {
    name: &'static str,
    unique: &'static str,
    ints: &'static [&'static str],
    text: Option<&'static str>,
}

const TARGETS: &[Target] = &[
    Target { name: "acc", unique: "k, id", ints: &["v", "v", "r"], text: Some("s") },
    Target { name: "ord", unique: "k", ints: &["v"], text: Some("s") },
    Target { name: "heap", unique: "", ints: &["v"], text: Some("s") },
    Target { name: "words", unique: "k", ints: &["v"], text: Some("s") },
    Target { name: "late", unique: "k, u", ints: &["u"], text: None },
    Target { name: "ref", unique: "id", ints: &["v"], text: Some("name") },
    Target { name: "near", unique: "id", ints: &["v"], text: Some("s") },
];

impl Writer {
    fn key(&mut self) -> String {
        let n = self.below(13) as i64;
        self.number(n)
    }

    fn word(&mut self) -> String {
        format!("'w{}'", self.below(12))
    }

    /// A value for an integer column: now and then one that a CHECK or NOT NULL refuses.
    fn value(&mut self) -> String {
        match self.below(40) {
            0 => "NULL".to_owned(),
            1 => self.number(95),
            2 => "DEFAULT".to_owned(),
            3 => {
                let n = self.below(3) as i64;
                format!("12 / {}", self.number(n))
            }
            4 => "abs(-3)".to_owned(),
            _ => {
                let n = self.below(9) as i64;
                self.number(n)
            }
        }
    }

    fn text_value(&mut self) -> String {
        match self.below(12) {
            0 => "NULL".to_owned(),
            1 => "DEFAULT".to_owned(),
            2 => "upper('a')".to_owned(),
            n => format!("'t{}'", n % 3),
        }
    }

    fn returning(&mut self, target: &Target) -> String {
        match self.below(6) {
            0 => " RETURNING *".to_owned(),
            1 => format!(" RETURNING {} + 1 AS more", target.ints[0]),
            2 => " RETURNING 1".to_owned(),
            _ => String::new(),
        }
    }

    fn target(&mut self) -> &'static Target {
        // The first few more often: they have constraints.
        &TARGETS[if self.chance(60) { self.below(3) } else { self.below(TARGETS.len()) }]
    }

    pub fn insert(&mut self) -> String {
        if self.chance(15) {
            return self.insert_rows_of_a_query();
        }
        let target = self.target();
        let rows = if self.chance(45) { 1 } else { 2 + self.below(4) };
        // Of several rows a parameter may be in each.
        let rows: Vec<String> = (0..rows).map(|_| self.row(target.name)).collect();
        let columns = match target.name {
            "acc" => "(k, id, v, s, r)",
            "ord" => "(k, v, s)",
            "heap" => "(k, v, s)",
            "words" => "(v, k, s)",
            "late" => "(k, u)",
            "ref" => "(id, v, name)",
            _ => "(id, v, s)",
        };
        let conflict = self.conflict(target);
        let returning = self.returning(target);
        format!(
            "INSERT INTO {} {columns} VALUES {}{conflict}{returning}",
            target.name,
            rows.join(", ")
        )
    }

    fn row(&mut self, table: &str) -> String {
        let values = match table {
            "acc" => {
                let (id, r) = (self.below(5) as i64, 1 + self.below(6) as i64);
                let (k, id, v) = (self.key(), self.number(id), self.value());
                let r = if self.chance(15) { "NULL".to_owned() } else { self.number(r) };
                let s = self.text_value();
                vec![k, id, v, s, r]
            }
            "words" => vec![self.value(), self.word(), self.text_value()],
            "late" => vec![self.key(), self.key()],
            "ord" | "heap" => {
                let k = if self.chance(3) { "NULL".to_owned() } else { self.key() };
                vec![k, self.value(), self.text_value()]
            }
            _ => vec![self.key(), self.value(), self.text_value()],
        };
        format!("({})", values.join(", "))
    }

    fn conflict(&mut self, target: &Target) -> String {
        if target.unique.is_empty() || target.name == "late" || !self.chance(40) {
            return String::new();
        }
        let (name, keys, v) = (target.name, target.unique, target.ints[0]);
        let text = target.text.unwrap_or(v);
        match self.below(6) {
            0 | 1 => " ON CONFLICT DO NOTHING".to_owned(),
            2 => format!(" ON CONFLICT ({keys}) DO UPDATE SET {v} = {name}.{v} + excluded.{v}"),
            3 => format!(" ON CONFLICT ({keys}) DO UPDATE SET {text} = excluded.{text}, {v} = 1"),
            4 => {
                let n = self.below(6) as i64;
                let n = self.number(n);
                format!(" ON CONFLICT ({keys}) DO UPDATE SET {v} = 2 WHERE {name}.{v} > {n}")
            }
            _ => format!(" ON CONFLICT ({keys}) DO UPDATE SET {v} = excluded.{v}"),
        }
    }

    fn insert_rows_of_a_query(&mut self) -> String {
        let (n, k) = (self.below(5) as i64, self.key());
        let n = self.number(n);
        match self.below(11) {
            0 => format!("INSERT INTO heap (k, v, s) SELECT k, v, s FROM ord WHERE v > {n}"),
            1 => format!(
                "INSERT INTO acc (k, id, v, s) SELECT k, 7, v, s FROM ord WHERE v < {n} ON CONFLICT DO NOTHING"
            ),
            2 => "INSERT INTO heap (k, v) SELECT g, 1 FROM generate_series(3, 6) g".to_owned(),
            3 => "INSERT INTO heap (k, v, s) SELECT id, v, s FROM near RETURNING k, v".to_owned(),
            4 => format!("INSERT INTO heap (k, v) SELECT id, v FROM ref WHERE id > {n}"),
            5 => "INSERT INTO heap (k, v) SELECT v, k FROM ord".to_owned(),
            6 => format!("INSERT INTO heap (k, v) SELECT v, k FROM ord WHERE k = {k}"),
            7 => format!("INSERT INTO words (k, v) VALUES ('w' || {k}::text, {n})"),
            8 => format!("INSERT INTO ord (k, v) VALUES (abs({k}::int), {n}) ON CONFLICT DO NOTHING"),
            9 => format!("INSERT INTO acc (k, id, v) SELECT k, id + 5, v FROM acc WHERE v > {n} RETURNING k, id"),
            _ => "INSERT INTO heap (k, v) SELECT * FROM unnest('{1,2,3,9}'::int[], '{4,5,6,7}'::int[])"
                .to_owned(),
        }
    }

    /// A condition on the rows that are changed, and whether it names a key.
    fn condition(&mut self, target: &Target, alias: &str) -> String {
        let key = match target.name {
            "ref" | "near" => "id",
            _ => "k",
        };
        let v = target.ints[0];
        let n = self.below(8) as i64;
        let n = self.number(n);
        let key_value = if target.name == "words" { self.word() } else { self.key() };
        let other = if target.name == "words" { self.word() } else { self.key() };
        let alike = matches!(target.name, "acc" | "ord" | "heap" | "late");
        match self.below(16) {
            0..=3 => format!("{alias}.{key} = {key_value}"),
            4 => format!("{alias}.{key} IN ({key_value}, {other})"),
            5 => format!("{alias}.{key} = {key_value} OR {alias}.{key} = {other}"),
            6 => format!("{alias}.{v} > {n}"),
            7 => format!("{alias}.{key} = {key_value} AND {alias}.{v} < {n}"),
            8 if target.name != "words" => format!("{alias}.{key} = ANY ('{{1,4,7,11}}')"),
            9 if target.name != "words" => format!("{alias}.{key} BETWEEN {n} AND 9"),
            10 if alike => {
                format!("EXISTS (SELECT 1 FROM ord x WHERE x.k = {alias}.k AND x.v > {n})")
            }
            11 if alike => format!("{alias}.k IN (SELECT k FROM ord WHERE v = {n})"),
            12 if alike => format!("{alias}.{v} = (SELECT max(id) FROM ref)"),
            13 if target.name == "acc" => format!("({alias}.k, {alias}.id) = ({key_value}, 1)"),
            14 => "false".to_owned(),
            15 => "true".to_owned(),
            _ => format!("{alias}.{v} = {n}"),
        }
    }

    fn set(&mut self, target: &Target, alias: &str) -> String {
        let column = self.pick(target.ints);
        let key = match target.name {
            "ref" | "near" => "id",
            _ => "k",
        };
        let n = self.below(9) as i64;
        let n = self.number(n);
        match (self.below(20), target.text) {
            (0..=2, Some(text)) => format!("{text} = {alias}.{text} || 'u'"),
            (3, Some(text)) => {
                let value = self.text_value();
                format!("{text} = {value}, {column} = {n}")
            }
            (4, _) if target.name != "words" => {
                format!("{column} = 12 / ({alias}.{key} - {n})")
            }
            (5, Some(text)) => format!("{column} = length({alias}.{text})"),
            (6, _) => format!("{column} = (SELECT count(*) FROM ref)"),
            (7, _) => format!("{column} = CASE WHEN {alias}.{column} > 3 THEN 1 ELSE {n} END"),
            (8, _) => format!("{key} = {alias}.{key}"),
            (9, _) if self.chance(25) && target.name != "words" => {
                format!("{key} = {alias}.{key} + 20")
            }
            (10 | 11, _) => {
                let value = self.value();
                format!("{column} = {value}")
            }
            (12, _) => format!("{column} = {n}"),
            _ => format!("{column} = {alias}.{column} + 1"),
        }
    }

    /// Another table that the change looks at, and the condition it is joined on; each row of the target meets one
    /// of its rows at most.
    fn beside(&mut self, target: &Target, alias: &str) -> Option<(String, String)> {
        let alike = matches!(target.name, "acc" | "heap" | "late");
        let v = target.ints[0];
        let n = self.below(6) as i64;
        let n = self.number(n);
        match self.below(9) {
            0 if alike => Some(("ord o".to_owned(), format!("o.k = {alias}.k AND o.v > {n}"))),
            1 if alike => {
                let values = "(VALUES (1, 'a'), (4, 'b'), (8, 'c')) w (k, s)";
                Some((values.to_owned(), format!("w.k = {alias}.k")))
            }
            2 if target.name != "ref" => {
                Some(("ref x".to_owned(), format!("x.id = {alias}.{v} AND x.v > {n}")))
            }
            3 => Some(("near x".to_owned(), format!("x.id = {alias}.{v}"))),
            _ => None,
        }
    }

    pub fn update(&mut self) -> String {
        let target = self.target();
        let alias = if self.chance(30) { "z" } else { target.name };
        let name = if alias == "z" { format!("{} AS z", target.name) } else { alias.to_owned() };
        let set = self.set(target, alias);
        let condition = self.condition(target, alias);
        let returning = self.returning(target);
        match self.beside(target, alias) {
            Some((from, on)) => {
                let returning = if returning.contains('1') { returning } else { String::new() };
                let returning =
                    returning.replace(target.ints[0], &format!("{alias}.{}", target.ints[0]));
                format!(
                    "UPDATE {name} SET {set} FROM {from} WHERE {on} AND ({condition}){returning}"
                )
            }
            None => format!("UPDATE {name} SET {set} WHERE {condition}{returning}"),
        }
    }

    pub fn delete(&mut self) -> String {
        let target = self.target();
        let alias = if self.chance(30) { "z" } else { target.name };
        let name = if alias == "z" { format!("{} AS z", target.name) } else { alias.to_owned() };
        let condition = self.condition(target, alias);
        match self.beside(target, alias) {
            Some((using, on)) => {
                format!("DELETE FROM {name} USING {using} WHERE {on} AND ({condition})")
            }
            None => {
                let returning = self.returning(target);
                format!("DELETE FROM {name} WHERE {condition}{returning}")
            }
        }
    }
}
