//! What leads to a distributed table without its name in the statement: views, rules, policies,
//! functions, and what is behind a change of a local table.
//!
//! All of these run on the node that carries the statement out and see that node's rows. Which there are
//! is told by the home node's catalogs, whoever has made them. A function's text counts as far as its words
//! go; code that puts its SQL together may reach anything.

use std::collections::{BTreeMap, HashMap, HashSet};

/// How something leads to distributed tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It names this one, or what leads to it.
    Table(String),
    /// It runs SQL that its text does not show.
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    Relation(u32),
    Function(u32),
}

/// A function that the server did not come with.
#[derive(Debug, Clone)]
pub struct Routine {
    pub oid: u32,
    pub name: String,
    pub language: String,
    pub source: String,
}

/// A relation or a function uses another one.
#[derive(Debug, Clone)]
pub struct Use {
    pub user: Object,
    pub name: String,
    pub used: Object,
    /// Only when the relation is changed.
    pub by_change: bool,
}

/// The catalogs' rows.
#[derive(Debug, Default)]
pub struct Uses {
    /// Distributed tables and their leaves, by the table's name.
    pub tables: BTreeMap<u32, String>,
    pub routines: Vec<Routine>,
    pub uses: Vec<Use>,
}

/// Names of what leads to distributed tables. Schemas are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hidden {
    read: HashMap<String, Reach>,
    changed: HashMap<String, Reach>,
    functions: HashMap<String, Reach>,
}

impl Hidden {
    /// Follows all uses to their ends.
    pub fn find(all: &Uses) -> Self {
        let mut read: HashMap<Object, Reach> = HashMap::new();
        let mut changed: HashMap<Object, Reach> = HashMap::new();
        let words: Vec<_> = all.routines.iter().map(|r| (r, words(&r.source))).collect();
        let mut named: HashMap<String, Reach> = HashMap::new();
        for name in all.tables.values() {
            named.insert(name.to_lowercase(), Reach::Table(name.clone()));
        }
        loop {
            let before = read.len() + changed.len();
            for (routine, words) in &words {
                let by_name = || words.iter().find_map(|w| named.get(w).cloned());
                let by_itself = || is_dynamic(routine, words).then_some(Reach::Dynamic);
                let object = Object::Function(routine.oid);
                if !read.contains_key(&object)
                    && let Some(reach) = by_name().or_else(by_itself)
                {
                    named.entry(routine.name.to_lowercase()).or_insert(reach.clone());
                    read.insert(object, reach);
                }
            }
            for u in &all.uses {
                let of_table = |o| match o {
                    Object::Relation(oid) => all.tables.get(&oid).cloned().map(Reach::Table),
                    Object::Function(_) => None,
                };
                if of_table(u.user).is_some() {
                    continue;
                }
                let reach = of_table(u.used).or_else(|| read.get(&u.used).cloned());
                let side = if u.by_change { &mut changed } else { &mut read };
                if let Some(reach) = reach.filter(|_| !side.contains_key(&u.user)) {
                    named.entry(u.name.to_lowercase()).or_insert(reach.clone());
                    side.insert(u.user, reach);
                }
            }
            if read.len() + changed.len() == before {
                break;
            }
        }
        let of_uses = |side: &HashMap<Object, Reach>| {
            let relations = all.uses.iter().filter(|u| matches!(u.user, Object::Relation(_)));
            let reached =
                relations.filter_map(|u| Some((u.name.clone(), side.get(&u.user)?.clone())));
            reached.collect()
        };
        let functions = all.routines.iter();
        let reach = |r: &Routine| read.get(&Object::Function(r.oid)).cloned();
        let functions = functions.filter_map(|r| Some((r.name.clone(), reach(r)?))).collect();
        Self { read: of_uses(&read), changed: of_uses(&changed), functions }
    }

    /// How a relation leads to distributed tables; `changes`: when it is changed, too.
    pub fn relation(&self, name: &str, changes: bool) -> Option<&Reach> {
        self.read.get(name).or_else(|| self.changed.get(name).filter(|_| changes))
    }

    pub fn function(&self, name: &str) -> Option<&Reach> {
        self.functions.get(name)
    }
}

/// Functions of extensions that run the SQL they are given.
const RUNS_TEXT: [&str; 7] =
    ["crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby", "xpath_table"];

/// Whether a function runs SQL that its text does not show.
fn is_dynamic(r: &Routine, words: &HashSet<String>) -> bool {
    match r.language.as_str() {
        "c" | "internal" => RUNS_TEXT.contains(&&*r.name) || r.name.starts_with("dblink"),
        "sql" => reads_by_text(words),
        _ => runs_text(words) || reads_by_text(words),
    }
}

/// Whether code of a procedural language with these words may put SQL together.
pub fn runs_text(words: &HashSet<String>) -> bool {
    words.iter().any(|w| matches!(w.as_str(), "execute" | "plpy" | "plv8") || w.starts_with("spi_"))
}

fn reads_by_text(words: &HashSet<String>) -> bool {
    let of_text =
        ["query_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "cursor_to_xml"];
    words.iter().any(|w| w == "ts_stat" || of_text.iter().any(|f| w.starts_with(f)))
}

/// The words of a text, in lower case.
pub fn words(text: &str) -> HashSet<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.split(|c| !is_part(c)).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routine(oid: u32, language: &str, source: &str) -> Routine {
        let (name, language) = (format!("f{oid}"), language.to_owned());
        Routine { oid, name, language, source: source.to_owned() }
    }

    fn uses(user: Object, name: &str, used: Object, by_change: bool) -> Use {
        Use { user, name: name.to_owned(), used, by_change }
    }

    #[test]
    fn what_leads_to_a_table_is_followed_over_views_functions_and_triggers() {
        use Object::{Function, Relation};
        let found = Hidden::find(&Uses {
            tables: BTreeMap::from([(1, "d".into()), (2, "d".into())]),
            routines: vec![
                routine(10, "sql", "SELECT count(*) FROM V2"),
                routine(11, "plpgsql", "BEGIN EXECUTE x; END"),
                routine(12, "plpgsql", "BEGIN PERFORM f11(); END"),
                routine(13, "plpgsql", "BEGIN RETURN (SELECT count(*) FROM l); END"),
                routine(14, "sql", "SELECT query_to_xml(x)"),
                routine(15, "sql", ""),
            ],
            uses: vec![
                uses(Relation(21), "v2", Relation(20), false),
                uses(Relation(20), "v", Relation(1), false),
                uses(Relation(22), "l", Function(12), true),
                uses(Relation(23), "m", Function(13), true),
                uses(Relation(2), "d", Function(11), true),
                uses(Function(15), "f15", Relation(2), false),
            ],
        });
        let table = Reach::Table("d".into());
        for (name, changes, reach) in [
            ("v", false, Some(&table)),
            ("v2", false, Some(&table)),
            ("l", false, None),
            ("l", true, Some(&Reach::Dynamic)),
            ("m", false, None),
            ("m", true, Some(&Reach::Dynamic)),
            ("d", true, None),
        ] {
            assert_eq!(found.relation(name, changes), reach, "{name}");
        }
        for (name, reach) in [
            ("f10", Some(&table)),
            ("f11", Some(&Reach::Dynamic)),
            ("f12", Some(&Reach::Dynamic)),
            // It only reads l, but its words do not tell that from a change.
            ("f13", Some(&Reach::Dynamic)),
            ("f14", Some(&Reach::Dynamic)),
            ("f15", Some(&table)),
        ] {
            assert_eq!(found.function(name), reach, "{name}");
        }
    }
}
