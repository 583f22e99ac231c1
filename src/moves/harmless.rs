//! What a leaf and its parent would have evaluated with the service role's rights.
//!
//! Whoever owns a distributed table writes its CHECKs, indexes and generated columns, and can do so
//! on a node, behind pgshunt's back. A move has them evaluated by a superuser:
//!
//! - **by its own steps**, on every version: ATTACH folds the constant parts of CHECKs, index
//!   expressions and predicates, VALIDATE compares columns, and what the source prints is read in again
//!   on the target;
//! - **by rows**, up to PostgreSQL 15: there the copy and the changes behind it are applied with the
//!   rights of the subscription's owner. From 16 on they are with those of the table's owner.
//!
//! So a shard moves only when all of it is proven to call nothing but PostgreSQL's own functions that
//! neither run SQL nor touch files. The proof is read from the stored expressions, not from their text.
//! It holds as long as nobody changes the tables: [`Proof::guard`] asks under a lock whether they still
//! are what was proven, in the transaction that has them evaluated.

use super::error::StepError;
use super::link::Link;
use super::sql::literal;

/// PostgreSQL from here on applies replicated rows with the rights of the table's owner.
pub const APPLIES_AS_OWNER: i32 = 160_000;

/// Something that cannot be proven harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    pub when: Evaluated,
    /// What it is and where, in words.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluated {
    /// By ATTACH, VALIDATE or another step of the move.
    ByMove,
    /// For each row that is copied or followed.
    ByRows,
}

impl Doubt {
    /// Whether it would run with the service role's rights when nodes of at least this version apply
    /// the rows.
    pub fn counts(&self, version: i32) -> bool {
        match self.when {
            Evaluated::ByMove => true,
            Evaluated::ByRows => version < APPLIES_AS_OWNER,
        }
    }

    /// Why the shard does not move.
    pub fn refusal(&self, node: &str) -> String {
        let why = match self.when {
            Evaluated::ByMove => "a move evaluates it with the service role's rights",
            Evaluated::ByRows => {
                "PostgreSQL before 16 evaluates it with the service role's rights for every copied row"
            }
        };
        format!(
            "{node}: {}; {why}, so only PostgreSQL's own immutable functions are allowed; \
             drop it until the shard has moved",
            self.what
        )
    }
}

/// The doubts about these relations (quoted and qualified names), gravest first.
pub async fn doubts(link: &Link, relations: &[&str]) -> Result<Vec<Doubt>, StepError> {
    let rows = link
        .query("looking at what is evaluated", include_str!("harmless.sql"), &[&relations])
        .await?;
    let doubt = |r: &tokio_postgres::Row| Doubt {
        when: if r.get(0) { Evaluated::ByMove } else { Evaluated::ByRows },
        what: r.get(1),
    };
    Ok(rows.iter().map(doubt).collect())
}

/// Relations of one node about which there was no doubt, and what they consisted of then.
#[derive(Debug, Clone)]
pub struct Proof {
    relations: Vec<u32>,
    parts: Vec<u32>,
}

/// The numbers of everything that belongs to relations and is evaluated. An expression cannot be
/// changed without another number, save that of a generated column, which no step evaluates.
const PARTS: &str = "
    SELECT oid AS part, conrelid AS rel FROM pg_constraint WHERE contype IN ('c', 'f')
    UNION ALL SELECT indexrelid, indrelid FROM pg_index
    UNION ALL SELECT oid, stxrelid FROM pg_statistic_ext
    UNION ALL SELECT oid, polrelid FROM pg_policy
    UNION ALL SELECT oid, ev_class FROM pg_rewrite
    UNION ALL SELECT oid, tgrelid FROM pg_trigger
        WHERE NOT tgisinternal AND tgfoid IS DISTINCT FROM to_regprocedure('pgshunt.fence()')";

impl Proof {
    /// Proves that what a move evaluates of these relations on the node is harmless.
    ///
    /// # Errors
    /// Refused, naming the first thing that is not.
    pub async fn of(link: &Link, relations: &[&str]) -> Result<Self, StepError> {
        let doing = "looking at what is evaluated";
        // Before the doubts: what comes between is not among the parts, and the guard finds it.
        let row = link
            .one(
                doing,
                &format!(
                    "SELECT coalesce(array_agg(part ORDER BY part), '{{}}'),
                            array(SELECT to_regclass(unnest($1::text[]))::oid)
                     FROM ({PARTS}) p WHERE rel = ANY (SELECT to_regclass(unnest($1::text[])))"
                ),
                &[&relations],
            )
            .await?;
        let version: i32 =
            link.one(doing, "SELECT current_setting('server_version_num')::int", &[]).await?.get(0);
        match doubts(link, relations).await?.iter().find(|d| d.counts(version)) {
            Some(doubt) => Err(StepError::Refused(doubt.refusal(&link.node.name))),
            None => {
                let relations: Vec<Option<u32>> = row.get(1);
                Ok(Self { relations: relations.into_iter().flatten().collect(), parts: row.get(0) })
            }
        }
    }

    /// Whether this part was there when the proof was made.
    ///
    /// # Errors
    /// It was made since then: try again.
    pub fn covers(&self, part: u32, name: &str) -> Result<(), StepError> {
        match self.parts.contains(&part) {
            true => Ok(()),
            false => Err(StepError::Blocked(format!("{name} was made while the shard moves"))),
        }
    }

    /// A statement that fails with 55006 unless the relations consist of what was proven. To be run
    /// behind a lock that keeps DDL out, in front of what evaluates.
    pub fn guard(&self) -> String {
        let array = |oids: &[u32]| {
            let all: Vec<String> = oids.iter().map(u32::to_string).collect();
            literal(&format!("{{{}}}", all.join(",")))
        };
        let body = format!(
            "BEGIN IF (SELECT array_agg(part ORDER BY part) FROM ({PARTS}) p \
             WHERE rel = ANY ({rel}::oid[])) IS DISTINCT FROM nullif({parts}::oid[], '{{}}') THEN \
             RAISE EXCEPTION 'a table was changed while its shard moves' USING ERRCODE = '55006'; \
             END IF; END",
            rel = array(&self.relations),
            parts = array(&self.parts),
        );
        format!("DO {}", literal(&body))
    }
}
