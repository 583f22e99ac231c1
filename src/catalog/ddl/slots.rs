//! Sequences that distributed tables own: each node has a slot in them, so that no value is given out twice.

use postgres_protocol::escape::escape_identifier as ident;
use tokio_postgres::{GenericClient, Row};

use super::DdlError;

/// A sequence owned by a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub schema: String,
    pub name: String,
    pub column: String,
    /// Made by GENERATED AS IDENTITY, so it comes with the column.
    pub identity: bool,
    pub data_type: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

impl Sequence {
    pub fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }

    /// The statement by which it goes on behind the value that was given out last, in its own steps.
    ///
    /// # Errors
    /// It has no more values.
    pub fn goes_on_behind(&self, last: i64) -> Result<String, DdlError> {
        let behind = |value: i64| if self.increment > 0 { value > last } else { value < last };
        let next = match behind(self.start) {
            true => Some(self.start),
            false => {
                let way = last.checked_sub(self.start);
                let steps = way.and_then(|way| way.checked_div(self.increment)?.checked_add(1));
                let way = steps.and_then(|steps| steps.checked_mul(self.increment));
                way.and_then(|way| self.start.checked_add(way))
            }
        };
        let next = next.filter(|n| (self.min..=self.max).contains(n)).ok_or_else(|| {
            DdlError::new("22023", format!("sequence \"{}\" has too few values left", self.name))
                .hint("Use bigint or a wider MINVALUE and MAXVALUE.")
        })?;
        Ok(format!(
            "ALTER SEQUENCE {} INCREMENT BY {} START WITH {} RESTART WITH {next}",
            self.quoted(),
            self.increment,
            self.start
        ))
    }

    /// The same sequence, giving out its every `stride`th value from the `slot`th (from 1) on.
    ///
    /// # Errors
    /// When it would give out values twice, or none.
    pub fn in_slot(&self, slot: i32, stride: i64) -> Result<Self, DdlError> {
        if self.cycle {
            return Err(DdlError::unsupported(format!(
                "sequence \"{}\" of a distributed table cannot CYCLE",
                self.name
            ))
            .hint("Nodes take turns in giving out its values; after a cycle they would collide."));
        }
        let too_narrow = || {
            DdlError::new("22023", format!("sequence \"{}\" has too few values", self.name))
                .detail(format!("Each node gives out every {stride}th value."))
                .hint("Use bigint or a wider MINVALUE and MAXVALUE.")
        };
        let increment = self.increment.checked_mul(stride).ok_or_else(too_narrow)?;
        let start = self
            .increment
            .checked_mul(i64::from(slot) - 1)
            .and_then(|ahead| self.start.checked_add(ahead))
            .filter(|s| (self.min..=self.max).contains(s))
            .ok_or_else(too_narrow)?;
        Ok(Self { start, increment, ..self.clone() })
    }

    /// The other way round: what was declared, from what a node's slot was given.
    pub fn out_of_slot(&self, slot: i32, stride: i64) -> Self {
        let increment = self.increment / stride;
        Self { start: self.start - increment * (i64::from(slot) - 1), increment, ..self.clone() }
    }

    /// The statement that gives an existing sequence this start and increment.
    pub fn restart(&self) -> String {
        format!(
            "ALTER SEQUENCE {} INCREMENT BY {} START WITH {} RESTART",
            self.quoted(),
            self.increment,
            self.start
        )
    }

    pub fn options(&self) -> String {
        format!(
            "INCREMENT BY {} MINVALUE {} MAXVALUE {} START WITH {} CACHE {} NO CYCLE",
            self.increment, self.min, self.max, self.start, self.cache
        )
    }

    /// Those that a table's columns own.
    pub async fn of_table<C: GenericClient + Sync>(
        client: &C,
        table: u32,
    ) -> Result<Vec<Self>, DdlError> {
        client.query(SEQUENCES, &[&table]).await?.iter().map(Self::from_row).collect()
    }

    fn from_row(row: &Row) -> Result<Self, DdlError> {
        Ok(Self {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            column: row.try_get(2)?,
            identity: row.try_get(3)?,
            data_type: row.try_get(4)?,
            start: row.try_get(5)?,
            increment: row.try_get(6)?,
            min: row.try_get(7)?,
            max: row.try_get(8)?,
            cache: row.try_get(9)?,
            cycle: row.try_get(10)?,
        })
    }
}

const SEQUENCES: &str = "\
SELECT n.nspname::text, s.relname::text, a.attname::text, d.deptype = 'i', format_type(q.seqtypid, NULL),
  q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle
FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
  AND d.deptype IN ('a', 'i') ORDER BY a.attnum, s.oid";

#[cfg(test)]
mod tests {
    use super::*;

    fn serial() -> Sequence {
        Sequence {
            schema: "public".into(),
            name: "t_id_seq".into(),
            column: "id".into(),
            identity: false,
            data_type: "integer".into(),
            start: 1,
            increment: 1,
            min: 1,
            max: i32::MAX.into(),
            cache: 1,
            cycle: false,
        }
    }

    #[test]
    fn slots_give_out_disjoint_values() {
        for declared in [
            serial(),
            Sequence { start: 100, increment: 10, ..serial() },
            Sequence { start: -1, increment: -1, min: i64::from(i32::MIN), max: -1, ..serial() },
        ] {
            let mut seen = std::collections::BTreeSet::new();
            for slot in 1..=4 {
                let s = declared.in_slot(slot, 4).unwrap();
                assert_eq!(s.out_of_slot(slot, 4), declared);
                for n in 0..20 {
                    let value = s.start + n * s.increment;
                    assert!(seen.insert(value), "{value} twice");
                    assert_eq!((value - declared.start) % declared.increment, 0);
                }
            }
        }
    }

    #[test]
    fn a_sequence_goes_on_behind_what_was_given_out() {
        for (declared, last) in [
            (serial(), 0),
            (serial(), 1),
            (serial(), 1000),
            (Sequence { start: 100, increment: 10, ..serial() }, 215),
            (Sequence { start: -1, increment: -1, min: -5000, max: -1, ..serial() }, -77),
        ] {
            for slot in 1..=4 {
                let s = declared.in_slot(slot, 4).unwrap();
                let sql = s.goes_on_behind(last).unwrap();
                let next: i64 = sql.rsplit(' ').next().unwrap().parse().unwrap();
                let (step, way) = (s.increment.signum(), next - s.start);
                assert_eq!(way % s.increment, 0, "{sql}: in its slot");
                assert!(way * step >= 0 && (next - last) * step > 0, "{sql}: behind {last}");
                assert!((next - s.increment - last) * step <= 0 || way == 0, "{sql}: no further");
            }
        }
        let narrow = Sequence { max: 100, ..serial() };
        assert_eq!(narrow.goes_on_behind(100).unwrap_err().sqlstate, "22023");
        let wide = Sequence { start: i64::MIN, min: i64::MIN, max: i64::MAX, ..serial() };
        assert_eq!(wide.goes_on_behind(i64::MAX).unwrap_err().sqlstate, "22023");
    }

    #[test]
    fn a_sequence_that_would_collide_or_has_no_values_is_refused() {
        let e = Sequence { cycle: true, ..serial() }.in_slot(1, 32).unwrap_err();
        assert_eq!(e.sqlstate, "0A000");
        let narrow = Sequence { max: 3, ..serial() };
        assert!(narrow.in_slot(3, 32).is_ok());
        assert_eq!(narrow.in_slot(4, 32).unwrap_err().sqlstate, "22023");
        let wide = Sequence { increment: i64::MAX / 2, max: i64::MAX, ..serial() };
        assert_eq!(wide.in_slot(1, 32).unwrap_err().sqlstate, "22023");
    }
}
