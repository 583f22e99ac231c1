//! Values, spelled as nobody would and PostgreSQL reads them all the same.

use rand::Rng;

use super::super::cases::param;
use super::super::wire::Param;
use super::{Generator, Key};

impl Generator {
    /// The same parameter with another value.
    pub(super) fn other_value(&mut self, p: &Param) -> Param {
        let n = self.rng.random_range(-1..12i64);
        let value = match (&p.value, p.binary, p.type_oid) {
            (None, ..) | (_, _, 2950) => p.value.clone(),
            (Some(v), true, 0 | 20 | 21 | 23) => match v.len() {
                2 => Some((n as i16).to_be_bytes().to_vec()),
                4 => Some((n as i32).to_be_bytes().to_vec()),
                8 => Some(n.to_be_bytes().to_vec()),
                _ => p.value.clone(),
            },
            (_, true, 701) => Some((n as f64).to_be_bytes().to_vec()),
            (Some(v), false, _) if v.iter().all(u8::is_ascii_digit) => Some(n.to_string().into()),
            (Some(v), ..) if v.len() > 30 => p.value.clone(),
            _ => Some(self.text_value().into()),
        };
        let value = if self.chance(5) { None } else { value };
        Param { value, ..p.clone() }
    }

    /// The text with other literals in some places.
    pub fn other_literals(&mut self, sql: &str) -> String {
        let mut out = String::new();
        let mut rest = sql;
        let mut before = ' ';
        while let Some(c) = rest.chars().next() {
            let in_word = before.is_alphanumeric() || matches!(before, '_' | '"' | '$' | '&' | '.');
            let len = if c.is_ascii_digit() && !in_word {
                let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                if self.chance(60) {
                    out.push_str(&self.rng.random_range(0..13).to_string());
                } else {
                    out.push_str(&rest[..len]);
                }
                len
            } else if let Some(inner) =
                rest.strip_prefix('\'').filter(|_| !in_word).and_then(|r| r.find('\''))
            {
                let value = &rest[1..=inner];
                let digits = !value.is_empty() && value.trim().bytes().all(|b| b.is_ascii_digit());
                let doubled = rest[1 + inner..].starts_with("\'\'");
                if doubled || value.len() > 9 || self.chance(40) {
                    out.push_str(&rest[..inner + 2]);
                } else if digits {
                    out.push_str(&format!("'{}'", self.below(13)));
                } else {
                    out.push_str(&format!("'key{}'", self.below(9)));
                }
                inner + 2
            } else {
                out.push(c);
                c.len_utf8()
            };
            before = rest[..len].chars().next_back().unwrap_or(' ');
            rest = &rest[len..];
        }
        out
    }

    /// A parameter in place of a literal, if this statement has them.
    pub(super) fn maybe_param(&mut self, kind: Key, value: &str) -> Option<String> {
        if self.params.is_none() || self.chance(30) {
            return None;
        }
        let types: &[(&str, bool)] = match kind {
            Key::Int | Key::Several | Key::Local => &[
                ("", false),
                ("", false),
                ("int4", false),
                ("int4", true),
                ("?int4", true),
                ("int8", true),
                ("int8", false),
                ("int2", true),
                ("numeric", false),
                ("float8", true),
                ("text", false),
            ],
            Key::Text => &[
                ("", false),
                ("", true),
                ("text", false),
                ("varchar", true),
                ("bpchar", false),
                ("name", false),
                ("unknown", false),
            ],
            Key::Uuid => &[("", false), ("uuid", true), ("?uuid", true), ("text", false)],
        };
        let (ty, binary) = self.pick(types);
        let fits = match ty {
            "int2" => value.parse::<i16>().is_ok(),
            "int4" | "?int4" => value.parse::<i32>().is_ok(),
            "int8" => value.parse::<i64>().is_ok(),
            "float8" => value.parse::<f64>().is_ok(),
            _ => true,
        };
        if !fits {
            return None;
        }
        let made = param(ty, binary, (value != "NULL").then_some(value));
        let cast = self.chance(10);
        let params = self.params.as_mut()?;
        params.push(made);
        let n = params.len();
        Some(match kind {
            Key::Int if cast => format!("${n}::int8"),
            Key::Text if cast => format!("${n}::text"),
            _ => format!("${n}"),
        })
    }

    pub(super) fn int(&mut self) -> String {
        let n = match self.below(20) {
            0 => -1,
            1 => 70_000,
            2 => 3_000_000_000,
            _ => self.rng.random_range(0..12),
        };
        self.spell_int(n)
    }

    pub(super) fn spell_int(&mut self, n: i64) -> String {
        if let Some(p) = self.maybe_param(Key::Int, &n.to_string()) {
            return p;
        }
        match self.below(22) {
            0 => format!("'{n}'"),
            1 => format!("{n}::bigint"),
            2 => format!("CAST('{n}' AS int8)"),
            3 => format!("({n})"),
            4 => format!("{n}.0"),
            5 => format!("{n}e0"),
            6 => format!("{n} + 0"),
            7 => format!("- {}", -n).replace("- -", "- -"),
            8 => format!("' {n} '"),
            9 => format!("int8 '{n}'"),
            10 if n >= 0 => format!("00{n}"),
            11 => format!("{n}::numeric"),
            12 => format!("{n}::float8"),
            _ => n.to_string(),
        }
    }

    pub(super) fn text_value(&mut self) -> String {
        match self.below(14) {
            0 => String::new(),
            1 => "it's".to_owned(),
            2 => "Ünïcode".to_owned(),
            3 => "7".to_owned(),
            4 => "key3 ".to_owned(),
            5 => "a\\b".to_owned(),
            n => format!("key{}", n - 5),
        }
    }

    pub(super) fn text(&mut self) -> String {
        let value = self.text_value();
        if let Some(p) = self.maybe_param(Key::Text, &value) {
            return p;
        }
        let quoted = value.replace('\'', "''");
        match self.below(16) {
            0 => format!("E'{}'", quoted.replace('\\', "\\\\")),
            1 => format!("$${value}$$"),
            2 => format!("$q${value}$q$"),
            3 if !quoted.contains('\\') => format!("U&'{quoted}'"),
            4 => format!("'{quoted}'::text"),
            5 => format!("'{quoted}'::varchar"),
            6 => format!("'{quoted}'::char(6)"),
            7 => format!("text '{quoted}'"),
            8 => format!("('{quoted}' || '')"),
            9 => format!("'{quoted}' COLLATE \"C\""),
            10 => format!("'{quoted}'::name"),
            _ => format!("'{quoted}'"),
        }
    }

    pub(super) fn uuid(&mut self) -> String {
        let value = format!("00000000-0000-4000-8000-0000000000{:02x}", self.below(14) * 17);
        if let Some(p) = self.maybe_param(Key::Uuid, &value) {
            return p;
        }
        match self.below(6) {
            0 => format!("'{{{value}}}'"),
            1 => format!("'{}'", value.replace('-', "").to_uppercase()),
            2 => format!("uuid '{value}'"),
            _ => format!("'{value}'"),
        }
    }

    pub(super) fn key_value(&mut self, key: Key) -> String {
        if self.chance(4) {
            return "NULL".to_owned();
        }
        match (key, self.fixed) {
            (Key::Int | Key::Several, Some(n)) if self.params.is_none() => n.to_string(),
            (Key::Int | Key::Several, Some(n)) => self.spell_int(n),
            (Key::Int | Key::Several | Key::Local, _) => self.int(),
            (Key::Text, _) => self.text(),
            (Key::Uuid, _) => self.uuid(),
        }
    }
}
