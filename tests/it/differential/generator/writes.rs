//! INSERT, UPDATE and DELETE.

use rand::Rng;

use super::{Generator, Item, KNOWN, Key};

impl Generator {
    pub(super) fn returning(&mut self) -> &'static str {
        self.pick(&["", "", " RETURNING *", " RETURNING 1 AS one"])
    }

    pub(super) fn value_for(&mut self, column: &str) -> String {
        match column {
            "n" => format!("{}.{}", self.below(50), self.pick(&["5", "25", "0"])),
            "f" => format!("{}.5", self.below(9)),
            "d" => format!("'2024-02-{:02}'", 1 + self.below(28)),
            "r" => "1.25".to_owned(),
            "s" => format!("'{}'", self.pick(&["x", "y", "s1"])),
            _ => match self.below(8) {
                0 => "NULL".to_owned(),
                1 => "DEFAULT".to_owned(),
                2 => "(SELECT max(v) FROM loc)".to_owned(),
                _ => self.below(5).to_string(),
            },
        }
    }

    pub(super) fn insert(&mut self) -> String {
        let table = self.index();
        let known = &KNOWN[table];
        let key: &[&str] = match known.key {
            Key::Several => &["a", "b"],
            Key::Local => &["id"],
            _ => &["k"],
        };
        let others: Vec<&str> = known.all.iter().copied().filter(|c| !key.contains(c)).collect();
        let mut columns: Vec<&str> = key.to_vec();
        for c in others {
            if self.chance(50) {
                let at = self.below(columns.len() + 1);
                columns.insert(at, c);
            }
        }
        let rows = if self.chance(20) { 2 + self.below(2) } else { 1 };
        let rows: Vec<String> = (0..rows)
            .map(|_| {
                let values: Vec<String> = columns
                    .iter()
                    .map(|c| match (known.key, *c) {
                        (Key::Several, "a") => self.key_value(Key::Int),
                        (Key::Several, "b") => format!("'b{}'", self.below(4)),
                        (Key::Local, "id") => {
                            (1000 + self.rng.random_range(0..1_000_000)).to_string()
                        }
                        (kind, "k") if kind != Key::Local => self.key_value(kind),
                        (_, c) => self.value_for(c),
                    })
                    .collect();
                format!("({})", values.join(", "))
            })
            .collect();
        let conflict = match (known.sql, self.below(3)) {
            ("pk", 0) => " ON CONFLICT DO NOTHING",
            ("pk", 1) => " ON CONFLICT (k) DO UPDATE SET s = excluded.s, v = pk.v + 1",
            _ => "",
        };
        let returning = self.returning();
        let into = known.sql;
        match self.below(20) {
            0 => format!("INSERT INTO {into} SELECT * FROM {into} WHERE false"),
            1 => format!("INSERT INTO {into} VALUES ({})", self.key_value(known.key)),
            _ => format!(
                "INSERT INTO {into} ({}) VALUES {}{conflict}{returning}",
                columns.join(", "),
                rows.join(", ")
            ),
        }
    }

    pub(super) fn target(&mut self) -> (String, Item) {
        let table = self.index();
        let known = &KNOWN[table];
        let plain = known.sql.rsplit('.').next().unwrap_or("x").to_owned();
        if self.chance(20) {
            (format!("{} AS z", known.sql), Item { alias: "z".to_owned(), table })
        } else {
            (known.sql.to_owned(), Item { alias: plain, table })
        }
    }

    pub(super) fn write_condition(&mut self, item: &Item) -> String {
        let scope = [item.clone()];
        match self.below(8) {
            0 => self.condition(&scope, 2),
            1 => format!("{} AND {}", self.key_condition(item), self.condition(&scope, 1)),
            _ => self.key_condition(item),
        }
    }

    pub(super) fn update(&mut self) -> String {
        let (sql, item) = self.target();
        let known = &KNOWN[item.table];
        let settable: Vec<&str> =
            known.all.iter().copied().filter(|c| !matches!(*c, "a" | "b" | "id")).collect();
        let mut column = settable[self.below(settable.len())];
        if column == "k" && known.key != Key::Local && self.chance(80) {
            column = settable[settable.len() - 1];
        }
        let value = if self.chance(25) && known.ints.contains(&column) {
            let mut scope = vec![item.clone()];
            scope.truncate(1);
            self.int_expression(&scope, 1)
        } else {
            self.value_for(column)
        };
        let from = if self.chance(6) { " FROM i4b y" } else { "" };
        let condition = self.write_condition(&item);
        format!("UPDATE {sql} SET {column} = {value}{from} WHERE {condition}{}", self.returning())
    }

    pub(super) fn delete(&mut self) -> String {
        let (sql, item) = self.target();
        let using = if self.chance(6) { " USING i4b y" } else { "" };
        let condition = self.write_condition(&item);
        format!("DELETE FROM {sql}{using} WHERE {condition}{}", self.returning())
    }
}
