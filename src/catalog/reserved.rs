//! Schemas that are pgshunt's own: `pgshunt` and those of the shards.
//!
//! Whoever owns a schema can drop what others have in it, and whoever may create in it can plant there
//! what the service role looks up by name. So these schemas must belong to a superuser, and nobody
//! else may create in them. Their names are known beforehand: a role that may create schemas could have
//! made one already.

use postgres_protocol::escape::escape_literal as literal;

/// A statement that fails with 42939 if one of these schemas is somebody else's. To be run behind
/// what makes them, in the same transaction. The names are ours: letters, digits and underscores.
pub fn must_be_ours(schemas: &[String]) -> String {
    let names = schemas.join(",");
    let body = format!(
        "DECLARE taken record; BEGIN \
         SELECT n.nspname AS name, pg_catalog.pg_get_userbyid(n.nspowner) AS owner, o.rolsuper INTO taken \
         FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner \
         WHERE n.nspname = ANY ('{{{names}}}'::name[]) AND (NOT o.rolsuper OR EXISTS (\
           SELECT FROM pg_catalog.aclexplode(n.nspacl) g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee \
           WHERE g.privilege_type = 'CREATE' AND r.rolsuper IS NOT TRUE)) LIMIT 1; \
         IF NOT FOUND THEN RETURN; END IF; \
         RAISE EXCEPTION 'schema \"%\" is reserved for pgshunt', taken.name USING ERRCODE = '42939', \
           DETAIL = CASE WHEN taken.rolsuper THEN 'Other roles may create objects in it.' \
             ELSE pg_catalog.format('It belongs to role %I.', taken.owner) END, \
           HINT = 'Drop it, or make it a superuser''s own and revoke CREATE on it from all others.'; \
         END"
    );
    format!("DO {}", literal(&body))
}
