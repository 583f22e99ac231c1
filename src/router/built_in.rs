//! Types that every server comes with, by their names.

use pg_raw_parse::nodes;

/// Whether every server comes with a type, as far as its name tells.
pub fn is_built_in(ty: &nodes::TypeName) -> bool {
    const NAMES: [&str; 46] = [
        "text",
        "uuid",
        "json",
        "jsonb",
        "jsonpath",
        "bytea",
        "date",
        "timestamp",
        "timestamptz",
        "time",
        "timetz",
        "interval",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "money",
        "bool",
        "varchar",
        "bpchar",
        "name",
        "oid",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "point",
        "line",
        "lseg",
        "box",
        "path",
        "polygon",
        "circle",
        "xml",
        "tsvector",
        "tsquery",
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "serial",
        "bigserial",
    ];
    let parts: Option<Vec<&str>> = ty.names().iter().map(|n| n.sval()).collect();
    match parts.as_deref() {
        Some(["pg_catalog", _]) => true,
        Some([name]) => {
            NAMES.contains(name)
                || matches!(*name, "smallserial" | "serial4" | "serial8" | "serial2")
        }
        _ => false,
    }
}
