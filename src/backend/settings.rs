//! The parameters of pgshunt's own sessions on the nodes.
//!
//! The service role is a superuser, and the owner of a database says by ALTER DATABASE .. SET what
//! its sessions begin with; in `public` and in a schema of the session's name others may put operators
//! and functions that fit a statement of ours better than PostgreSQL's own. So every parameter that
//! decides what is found, what a text means, who acts, whether it may write or how long it may take is
//! in the startup packet, which wins over all of that. What costs only time, and what only superusers
//! can set for others (logging, preloaded libraries, event triggers), is left as the node has it.

/// Known to every version. A value has no quoting of its own.
const AT_STARTUP: &[(&str, &str)] = &[
    // Who acts, what may be done and how long it may take.
    ("role", "none"),
    ("row_security", "on"),
    ("local_preload_libraries", ""),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("synchronous_commit", "on"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("exit_on_error", "off"),
    ("gin_fuzzy_search_limit", "0"),
    ("client_min_messages", "warning"),
    ("plan_cache_mode", "auto"),
    // Planning would evaluate the CHECKs of whatever table is read.
    ("constraint_exclusion", "partition"),
    ("jit", "off"),
    // What a text means, in and out, and where what it makes is put. While a client's DDL runs on a session
    // of ours these are the client's.
    ("search_path", "pg_catalog,pg_temp"),
    ("default_transaction_read_only", "off"),
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    ("default_table_access_method", "heap"),
    ("check_function_bodies", "off"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("quote_all_identifiers", "off"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("timezone_abbreviations", "Default"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("xmlbinary", "base64"),
    ("default_text_search_config", "pg_catalog.simple"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
];

/// What a server would refuse the startup packet for: known to some versions only, or for superusers
/// only, and `pgshunt check` shall say that the service role is none.
const WHERE_POSSIBLE: &[(&str, &str)] = &[
    ("session_replication_role", "origin"),
    ("transaction_timeout", "0"),
    ("restrict_nonsystem_relation_kind", ""),
    ("createrole_self_grant", ""),
];

/// The startup packet's `options`.
pub(super) fn options() -> String {
    let mut text = String::new();
    for (name, value) in AT_STARTUP {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        text += &format!("-c {name}={value} ");
    }
    text
}

/// What the session runs first.
pub(super) fn where_possible() -> String {
    let rows: Vec<_> = WHERE_POSSIBLE.iter().map(|(n, v)| format!("('{n}', '{v}')")).collect();
    format!(
        "SELECT set_config(s.name, v.value, false) FROM pg_settings s \
         JOIN (VALUES {}) v (name, value) ON v.name = s.name \
         WHERE s.context = 'user' OR current_setting('is_superuser') = 'on'",
        rows.join(", ")
    )
}

/// Back to all of this, within a transaction, from whatever the session has been for a client.
pub fn back() -> String {
    let possible = where_possible();
    format!("SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE; RESET ALL; {possible}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_one_word_each() {
        let options = options();
        assert!(options.contains("-c search_path=pg_catalog,pg_temp "), "{options}");
        assert!(
            options.contains(r"-c default_transaction_isolation=read\ committed "),
            "{options}"
        );
        let plain = options.replace("\\ ", "");
        assert!(plain.split_whitespace().step_by(2).all(|word| word == "-c"), "{options}");
    }
}
