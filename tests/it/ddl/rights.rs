//! Who may do what: the same on all nodes, leaves as their tables.

use super::*;

/// Everything a node knows about who may do what with a table, its leaves, its sequences and its schema.
fn access(schema: &str, table: &str) -> String {
    format!(
        "SELECT concat_ws(E'\\n', \
           (SELECT string_agg(DISTINCT concat_ws(' ', c.relname, c.relkind = 'S', \
              pg_get_userbyid(c.relowner), c.relacl, c.relrowsecurity, c.relforcerowsecurity, \
              (SELECT string_agg(concat(attname, attacl), ' ' ORDER BY attnum) FROM pg_attribute \
               WHERE attrelid = c.oid AND attacl IS NOT NULL), \
              (SELECT string_agg(concat_ws(' ', polname, polpermissive, polcmd, \
                 pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), \
                 (SELECT string_agg(pg_get_userbyid(r)::text, ',') FROM unnest(polroles) r)), '; ' \
                 ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid), \
              (SELECT string_agg(DISTINCT concat(objsubid, refobjid::regrole), ' ') \
               FROM pg_shdepend d WHERE classid = 'pg_class'::regclass AND objid = c.oid \
                 AND deptype = 'a')), E'\\n') \
            FROM pg_class c WHERE c.oid = '{schema}.{table}'::regclass \
              OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = '{schema}.{table}'::regclass) \
              OR c.oid IN (SELECT objid FROM pg_depend WHERE refobjid = '{schema}.{table}'::regclass \
                AND deptype IN ('a', 'i') AND classid = 'pg_class'::regclass)), \
           (SELECT concat_ws(' ', pg_get_userbyid(nspowner), nspacl) FROM pg_namespace \
            WHERE nspname = '{schema}'), \
           (SELECT concat_ws(' ', pg_get_userbyid(datdba), datacl) FROM pg_database \
            WHERE datname = current_database()))"
    )
}

impl Cluster {
    /// What all nodes know alike; a leaf is not told from its parent.
    async fn access(&self, schema: &str, table: &str) -> String {
        let each: Vec<String> = self.on_each(&access(schema, table)).await;
        for other in &each {
            assert_eq!(*other, each[0]);
        }
        let (lines, named) = (each[0].lines().count(), format!("{table} f "));
        let tables = each[0].lines().filter(|l| l.starts_with(&named)).count();
        assert_eq!(tables, 1, "leaves have what their parent has ({lines} lines): {}", each[0]);
        each[0].clone()
    }

    /// All rights on a table that its owner has, as this version writes them.
    async fn all_rights(&self, owner: &str) -> String {
        let sql = format!("SELECT acldefault('r', '{owner}'::regrole)::text");
        let list: String = value(&self.clients[0], &sql).await;
        list.trim_matches(['{', '}']).to_owned()
    }

    async fn roles_named(&self, names: &[&str]) {
        for name in names {
            self.root(&format!("CREATE ROLE {name} LOGIN PASSWORD '{name}'")).await;
        }
    }
}

#[tokio::test]
async fn grants_reach_parents_leaves_and_sequences_on_all_nodes() {
    let c = Cluster::start(3).await;
    c.roles_named(&["ann", "bob", "eve"]).await;
    c.clients[0]
        .batch_execute("CREATE TABLE local (a int); ALTER TABLE local OWNER TO alice")
        .await
        .unwrap();
    c.alice("CREATE TABLE t (id serial, v int, w text) PARTITION BY HASH (id)").await;
    let owner = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'";
    let by_owner = format!("ann=U/{}", value::<String>(&c.clients[0], owner).await);
    for (who, sql, tag, shows) in [
        ("alice", "GRANT SELECT ON t TO ann WITH GRANT OPTION", "GRANT", "ann=r*/alice"),
        ("ann", "GRANT SELECT ON t TO bob", "GRANT", "bob=r/ann"),
        ("alice", "GRANT UPDATE (v), INSERT (id, v) ON TABLE t TO eve", "GRANT", "v{eve=aw/alice}"),
        ("alice", "GRANT USAGE ON SEQUENCE t_id_seq TO eve", "GRANT", "eve=U/alice"),
        ("alice", "GRANT INSERT, DELETE ON local, t TO PUBLIC", "GRANT", "=ad/alice"),
        (SUPERUSER, "GRANT UPDATE ON ALL TABLES IN SCHEMA public TO eve", "GRANT", "eve=w/alice"),
        (SUPERUSER, "GRANT USAGE ON SCHEMA public TO ann", "GRANT", &by_owner),
        (SUPERUSER, "GRANT TEMPORARY ON DATABASE app TO bob", "GRANT", "bob=T/postgres"),
    ] {
        assert_eq!(c.run_as(who, sql).await.unwrap().tag, tag, "{sql}");
        let access = c.access("public", "t").await;
        assert!(access.contains(shows), "{sql}: {access}");
    }
    for (who, sql, lacks) in [
        ("alice", "REVOKE GRANT OPTION FOR SELECT ON t FROM ann CASCADE", "bob=r/ann"),
        ("alice", "REVOKE ALL ON t FROM eve", "eve=w/alice"),
        ("alice", "REVOKE ALL ON SEQUENCE t_id_seq FROM eve", "eve=U/alice"),
        (SUPERUSER, "REVOKE USAGE ON SCHEMA public FROM ann", "ann=U/"),
        (SUPERUSER, "REVOKE ALL ON DATABASE app FROM bob", "bob=T/"),
        ("alice", "REVOKE ALL ON t FROM PUBLIC", "=ad/alice"),
    ] {
        assert_eq!(c.run_as(who, sql).await.unwrap().tag, "REVOKE", "{sql}");
        let access = c.access("public", "t").await;
        assert!(!access.contains(lacks), "{sql}: {access}");
    }
    // All of it, and some of it again.
    for (object, says) in [("t", "t f alice {}"), ("SEQUENCE t_id_seq", "t_id_seq t alice {}")] {
        c.alice(&format!("REVOKE ALL ON {object} FROM PUBLIC, alice, ann, bob, eve")).await;
        let access = c.access("public", "t").await;
        assert!(access.contains(says), "{access}");
    }
    let may = "SELECT has_table_privilege('alice', 't', 'SELECT') \
        OR has_sequence_privilege('alice', 't_id_seq', 'USAGE')";
    assert_eq!(c.on_each::<bool>(may).await, [false; 3]);
    c.alice("GRANT ALL ON t TO alice, eve").await;
    let all = c.all_rights("alice").await;
    let eves = all.replace("alice=", "eve=");
    assert!(c.access("public", "t").await.contains(&format!("{{{all},{eves}}}")));
    c.alice("REVOKE ALL ON t FROM eve").await;
    let local: String =
        value(&c.clients[0], "SELECT relacl::text FROM pg_class WHERE relname = 'local'").await;
    assert_eq!(local, format!("{{{all},=ad/alice,eve=w/alice}}"));
    // PostgreSQL's words, and nothing has changed.
    let before = c.access("public", "t").await;
    let e = c.run_as("eve", "GRANT SELECT ON t TO eve").await.unwrap_err();
    assert_eq!(
        (e.sqlstate.as_str(), e.message.as_str()),
        ("42501", "permission denied for table t")
    );
    let e = c.refused("GRANT SELECT ON t TO nobody_here").await;
    assert_eq!(e.message, "role \"nobody_here\" does not exist");
    let e = c.refused("GRANT SELECT (nope) ON t TO eve").await;
    assert_eq!(e.sqlstate, "42703");
    c.alice("GRANT SELECT ON t TO ann").await;
    let without = c.run_as("ann", "GRANT ALL ON t TO eve").await.unwrap();
    assert_eq!(without.notices[0].message, "no privileges were granted for \"t\"");
    c.alice("REVOKE ALL ON t FROM ann").await;
    assert_eq!(c.access("public", "t").await, before);
    c.alice("GRANT SELECT ON t TO ann").await;
    // Nodes know that the role is needed, and that it is not any more.
    assert_eq!(c.run_as(SUPERUSER, "DROP ROLE ann").await.unwrap_err().sqlstate, "2BP01");
    c.alice("REVOKE ALL ON t, local FROM ann, eve").await;
    c.root("DROP ROLE ann, bob, eve").await;
}

#[tokio::test]
async fn what_is_made_later_has_what_one_postgres_would_give_it() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann", "bob"]).await;
    c.clients[0]
        .batch_execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE alice GRANT SELECT ON TABLES TO ann; \
             ALTER DEFAULT PRIVILEGES FOR ROLE alice GRANT USAGE ON SEQUENCES TO ann; \
             ALTER DEFAULT PRIVILEGES FOR ROLE alice REVOKE TRUNCATE ON TABLES FROM alice",
        )
        .await
        .unwrap();
    // What would be given to a table of the service role's is not the client's affair.
    c.clients[1]
        .batch_execute(
            "CREATE ROLE stranger; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO stranger",
        )
        .await
        .unwrap();
    c.alice("CREATE TABLE t (id serial, v int) PARTITION BY HASH (id)").await;
    let access = c.access("public", "t").await;
    let without_truncate = c.all_rights("alice").await.replace('D', "");
    assert!(access.contains(&format!("{{{without_truncate},ann=r/alice}}")), "{access}");
    assert!(access.contains("{alice=rwU/alice,ann=U/alice}"), "{access}");
    // A schema that comes with its first table, and goes with its last.
    c.clients[0]
        .batch_execute("CREATE SCHEMA s AUTHORIZATION alice; GRANT USAGE ON SCHEMA s TO bob")
        .await
        .unwrap();
    c.alice("CREATE TABLE s.u (id int) PARTITION BY HASH (id)").await;
    assert!(c.access("s", "u").await.contains("bob=U/alice"));
    c.alice("REVOKE USAGE ON SCHEMA s FROM bob").await;
    assert!(!c.access("s", "u").await.contains("bob="));
    c.alice("REVOKE ALL ON SCHEMA s FROM alice").await;
    assert!(c.access("s", "u").await.contains("alice {}"));
    c.alice("GRANT ALL ON SCHEMA s TO alice").await;
    assert!(c.access("s", "u").await.contains("{alice=UC/alice}"));
    c.alice("GRANT CREATE ON SCHEMA s TO bob").await;
    c.alice("DROP TABLE s.u").await;
    c.clients[0].batch_execute("REVOKE CREATE ON SCHEMA s FROM bob").await.unwrap();
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 's'";
    assert_eq!(c.on_each::<i64>(there).await, [1, 0]);
    c.root("DROP ROLE bob").await;
}

/// Roles of a server that had them before it became a cluster's home node.
#[tokio::test]
async fn whoever_may_log_in_at_home_may_where_a_table_is() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE ROLE readers; CREATE ROLE carl LOGIN PASSWORD 'c' IN ROLE readers; \
             ALTER ROLE carl SET work_mem = '9MB'",
        )
        .await
        .unwrap();
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    c.alice("GRANT SELECT ON t TO readers").await;
    let carl = connect_as(c.nodes.nodes[1].port(), DATABASE, "carl", "c").await.unwrap();
    assert_eq!(value::<i64>(&carl, "SELECT count(*) FROM public.t").await, 0);
    assert_eq!(value::<String>(&carl, "SHOW work_mem").await, "9MB");
}

#[tokio::test]
async fn owners_change_everywhere() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann", "bob"]).await;
    c.clients[0].batch_execute("CREATE SCHEMA s AUTHORIZATION alice").await.unwrap();
    c.root("GRANT ann TO alice").await;
    c.root("GRANT CREATE ON SCHEMA public TO ann").await;
    c.alice("CREATE TABLE t (id serial, v int) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE s.u (id int) PARTITION BY HASH (id)").await;
    c.alice("GRANT SELECT ON t TO bob").await;
    assert_eq!(c.alice("ALTER TABLE t OWNER TO ann").await, "ALTER TABLE");
    let access = c.access("public", "t").await;
    let all = c.all_rights("ann").await;
    assert!(access.contains(&format!("t f ann {{{all},bob=r/ann}}")), "{access}");
    assert!(access.contains("t_id_seq t ann"), "{access}");
    let e = c.run_as("bob", "ALTER TABLE t OWNER TO bob").await.unwrap_err();
    assert_eq!(e.message, "must be owner of table t");
    c.root("ALTER SCHEMA s OWNER TO bob").await;
    c.root("ALTER DATABASE app OWNER TO bob").await;
    let access = c.access("s", "u").await;
    assert!(access.contains("\nbob") && access.contains("u f alice"), "{access}");
    c.root("ALTER DATABASE app OWNER TO postgres").await;

    assert_eq!(c.root("REASSIGN OWNED BY ann, alice TO bob").await, "REASSIGN OWNED");
    assert!(c.access("s", "u").await.contains("u f bob"));
    assert!(c.access("public", "t").await.contains("t f bob"));
    let e = c.run_as(SUPERUSER, "DROP OWNED BY bob").await.unwrap_err();
    assert_eq!(e.sqlstate, "0A000");
    assert!(e.hint.is_some_and(|h| h.contains("REASSIGN")), "{}", e.message);
    assert!(c.access("public", "t").await.contains("t f bob"));

    c.root("CREATE POLICY p ON t TO ann USING (v > 0)").await;
    c.root("CREATE POLICY q ON t TO ann, bob USING (v > 1)").await;
    c.root("GRANT SELECT, UPDATE (v) ON t TO ann").await;
    c.root("GRANT USAGE ON SCHEMA s TO ann").await;
    c.root("GRANT CONNECT ON DATABASE app TO ann").await;
    assert!(c.access("public", "t").await.contains("v{ann=w/bob}"));
    assert_eq!(c.root("DROP OWNED BY ann").await, "DROP OWNED");
    for (schema, table) in [("public", "t"), ("s", "u")] {
        let access = c.access(schema, table).await;
        assert!(!access.contains("ann"), "{access}");
    }
    c.root("DROP ROLE ann").await;
    let e = c.run_as(SUPERUSER, "REASSIGN OWNED BY postgres TO bob").await.unwrap_err();
    assert_eq!(e.sqlstate, "0A000");
    c.root("REASSIGN OWNED BY bob TO alice").await;
    c.root("DROP OWNED BY bob").await;
    c.root("DROP ROLE bob").await;
}

#[tokio::test]
async fn policies_and_row_security_reach_all_leaves() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann"]).await;
    c.alice("CREATE TABLE t (id int, who text, v int) PARTITION BY HASH (id)").await;
    for (sql, tag, shows) in [
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "ALTER TABLE", "t t"),
        (
            "CREATE POLICY mine ON t USING (who = current_user) WITH CHECK (v > 0)",
            "CREATE POLICY",
            "mine t * (who = CURRENT_USER) (v > 0) ",
        ),
        (
            "CREATE POLICY \"No w\" ON t AS RESTRICTIVE FOR SELECT TO ann, alice \
             USING (current_setting('app.tenant', true) = who)",
            "CREATE POLICY",
            "No w f r (current_setting('app.tenant'::text, true) = who) ann,alice",
        ),
        ("ALTER POLICY mine ON t TO ann USING (who = 'x')", "ALTER POLICY", "(who = 'x'::text)"),
        ("ALTER POLICY mine ON public.t RENAME TO yours", "ALTER POLICY", "yours t * (who"),
    ] {
        assert_eq!(c.alice(sql).await, tag, "{sql}");
        let access = c.access("public", "t").await;
        assert!(access.contains(shows), "{sql}: {access}");
    }
    // A table that is changed otherwise keeps them, and one that is made later in the group has none.
    c.alice("ALTER TABLE t ADD COLUMN x int").await;
    assert!(c.access("public", "t").await.contains("yours t"));
    for (sql, lacks) in [
        ("DROP POLICY \"No w\" ON t", "No w"),
        ("DROP POLICY IF EXISTS yours ON t", "yours"),
        ("ALTER TABLE t NO FORCE ROW LEVEL SECURITY", " t t"),
        ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", " t f"),
    ] {
        c.alice(sql).await;
        let access = c.access("public", "t").await;
        let of_table = access.lines().find(|l| l.starts_with("t f")).unwrap();
        assert!(!of_table[3..].contains(lacks), "{sql}: {access}");
    }
    let skipped = c.run_as("alice", "DROP POLICY IF EXISTS yours ON t").await.unwrap();
    assert_eq!(
        skipped.notices[0].message,
        "policy \"yours\" for relation \"t\" does not exist, skipping"
    );

    c.clients[0]
        .batch_execute(
            "CREATE FUNCTION ok(int) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
             CREATE TABLE rights (who text); ALTER TABLE rights OWNER TO alice; GRANT ALL ON rights TO alice",
        )
        .await
        .unwrap();
    let before = c.access("public", "t").await;
    for sql in [
        "CREATE POLICY p ON t USING (ok(v))",
        "CREATE POLICY p ON t USING (who IN (SELECT who FROM rights))",
        "CREATE POLICY p ON rights USING (who IN (SELECT who FROM t))",
        "ALTER TABLE t OWNER TO alice, ADD COLUMN y int",
    ] {
        let e = c.refused(sql).await;
        assert_eq!(e.sqlstate, "0A000", "{sql}: {e:?}");
        assert!(e.hint.is_some(), "{sql}: {e:?}");
    }
    let e = c.run_as("ann", "CREATE POLICY p ON t USING (true)").await.unwrap_err();
    assert_eq!(e.message, "must be owner of table t");
    assert_eq!(c.access("public", "t").await, before);
}

#[tokio::test]
async fn what_every_server_has_is_granted_on_every_server() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann"]).await;
    for sql in [
        "REVOKE EXECUTE ON FUNCTION pg_sleep(float8) FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION pg_sleep(float8), pg_ls_logdir() TO ann",
        "GRANT SELECT ON pg_statistic TO ann",
        "GRANT SELECT (rolpassword) ON pg_authid TO ann",
        "ALTER DATABASE app SET work_mem = '7MB'",
    ] {
        c.root(sql).await;
    }
    let says = "SELECT concat_ws(' ', has_function_privilege('ann', 'pg_sleep(float8)', 'EXECUTE'), \
        has_function_privilege('alice', 'pg_sleep(float8)', 'EXECUTE'), \
        has_table_privilege('ann', 'pg_statistic', 'SELECT'), \
        has_column_privilege('ann', 'pg_authid', 'rolpassword', 'SELECT'), \
        (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase <> 0))";
    c.clients[1].batch_execute("CREATE ROLE alice").await.unwrap();
    assert_eq!(c.on_each::<String>(says).await, vec!["t f t t {work_mem=7MB}"; 2]);
    c.root("ALTER DATABASE app RESET ALL").await;
    assert_eq!(c.on_each::<String>(says).await, vec!["t f t t"; 2]);
    c.root("DROP OWNED BY ann").await;
    assert_eq!(c.on_each::<String>(says).await, vec!["f f f f"; 2]);
    c.root("DROP ROLE ann").await;
}

/// From PostgreSQL 15 on; before, the words are none.
#[tokio::test]
async fn parameters_are_granted_on_every_server() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann"]).await;
    if !c.is_since(15).await {
        let e = c.run_as(SUPERUSER, "GRANT SET ON PARAMETER log_statement TO ann").await;
        assert_eq!(e.unwrap_err().sqlstate, "42601");
        return;
    }
    let says = "SELECT has_parameter_privilege('ann', 'log_statement', 'SET')";
    c.root("GRANT SET ON PARAMETER log_statement TO ann").await;
    assert_eq!(c.on_each::<bool>(says).await, [true; 2]);
    c.root("REVOKE SET ON PARAMETER log_statement FROM ann").await;
    assert_eq!(c.on_each::<bool>(says).await, [false; 2]);
    c.root("GRANT SET, ALTER SYSTEM ON PARAMETER log_statement, my.own TO ann WITH GRANT OPTION")
        .await;
    let ann = c.run_as("ann", "GRANT SET ON PARAMETER my.own TO PUBLIC").await;
    assert_eq!(ann.unwrap().tag, "GRANT");
    let parameters = "SELECT coalesce(string_agg(parname || paracl::text, ' ' ORDER BY parname), '') \
        FROM pg_parameter_acl";
    let each: Vec<String> = c.on_each(parameters).await;
    assert_eq!(each[0], each[1]);
    assert!(each[0].contains("ann=s*A*/postgres") && each[0].contains("=s/ann"), "{each:?}");
    c.root("REVOKE ALL ON PARAMETER my.own FROM ann CASCADE").await;
    // Whatever was granted on these goes with the role's rights.
    c.root("DROP OWNED BY ann").await;
    assert_eq!(c.on_each::<String>(parameters).await, ["", ""]);
    assert_eq!(c.on_each::<bool>(says).await, [false; 2]);
    c.root("DROP ROLE ann").await;
}

#[tokio::test]
async fn tables_that_move_are_not_granted_and_the_service_roles_shards_are_nobodys() {
    let c = Cluster::start(2).await;
    c.roles_named(&["ann"]).await;
    c.alice("CREATE TABLE t (id int, v int) PARTITION BY HASH (id)").await;
    c.alice("CREATE POLICY own ON t TO alice USING (v > 0)").await;
    c.clients[0]
        .batch_execute(
            "INSERT INTO pgshunt.moves (shard_id, group_id, source_id, target_id, table_ids, state) \
             SELECT 1, group_id, 1, 2, '{}', 'soaking' FROM pgshunt.colocation_groups",
        )
        .await
        .unwrap();
    let before = c.access("public", "t").await;
    for sql in [
        "GRANT SELECT ON t TO ann",
        "ALTER TABLE t OWNER TO ann",
        "CREATE POLICY p ON t USING (true)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "REASSIGN OWNED BY alice TO ann",
    ] {
        let e = c.run_as(SUPERUSER, sql).await.unwrap_err();
        assert_eq!(e.sqlstate, "55006", "{sql}");
    }
    assert_eq!(c.access("public", "t").await, before);
    // What has nothing to do with them goes on, however the session has names printed.
    let request = DdlRequest::new(
        SUPERUSER,
        vec![setting("quote_all_identifiers", "on")],
        "DROP POLICY IF EXISTS of_none ON pg_class",
    );
    ddl::execute(&c.store, &request).await.unwrap();
    c.root("GRANT TEMPORARY ON DATABASE app TO ann").await;
    for sql in ["GRANT SELECT ON shard_1.t TO ann", "GRANT CREATE ON SCHEMA shard_1 TO ann"] {
        assert_eq!(c.run_as(SUPERUSER, sql).await.unwrap_err().sqlstate, "0A000", "{sql}");
    }
}

#[tokio::test]
async fn a_node_that_lacks_the_table_keeps_all_from_changing() {
    let mut c = Cluster::start(3).await;
    c.roles_named(&["ann"]).await;
    c.alice("CREATE TABLE t (id int, v int) PARTITION BY HASH (id)").await;
    let before = c.access("public", "t").await;
    c.nodes.nodes[2].kill().unwrap();
    let lost = c.clients.pop();
    for sql in ["GRANT SELECT ON t TO ann", "ALTER TABLE t ENABLE ROW LEVEL SECURITY"] {
        let e = c.refused(sql).await;
        assert_eq!(e.sqlstate, "08001", "{sql}: {e:?}");
        assert_eq!(c.access("public", "t").await, before, "{sql}");
    }
    drop(lost);
    c.clients[1].batch_execute("DROP TABLE t CASCADE").await.unwrap();
    c.nodes.nodes[2].restart().unwrap();
    let e = c.refused("GRANT SELECT ON t TO ann").await;
    assert!(e.detail.as_deref().is_some_and(|d| d.contains("\"node2\"")), "{e:?}");
    c.clients.truncate(1);
    assert_eq!(c.access("public", "t").await, before);
}
