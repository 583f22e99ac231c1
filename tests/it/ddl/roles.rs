//! Roles: the same on all nodes, with one verifier, or the statement changes nothing.

use super::*;

/// Everything a node knows about the roles of users, apart from their numbers.
const ROLES: &str = "\
    SELECT concat_ws(E'\\n', \
      (SELECT string_agg(concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, \
         rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolpassword, \
         rolvaliduntil AT TIME ZONE 'UTC'), E'\\n' ORDER BY rolname) \
       FROM pg_authid WHERE rolname !~ '^pg_' AND rolname <> 'alice'), \
      (SELECT string_agg(concat_ws(' ', g.rolname, m.rolname, a.admin_option, w.rolname), E'\\n' \
         ORDER BY g.rolname, m.rolname) FROM pg_auth_members a \
       JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
       JOIN pg_roles w ON w.oid = a.grantor WHERE g.rolname !~ '^pg_'), \
      (SELECT string_agg(concat_ws(' ', coalesce(rolname, 'ALL'), setdatabase <> 0, setconfig), E'\\n' \
         ORDER BY rolname, setdatabase) FROM pg_db_role_setting \
       LEFT JOIN pg_roles r ON r.oid = setrole))";

impl Cluster {
    /// What all nodes know alike.
    async fn roles(&self) -> String {
        let each: Vec<String> = self.on_each(ROLES).await;
        for other in &each {
            assert_eq!(*other, each[0]);
        }
        each[0].clone()
    }

    pub(super) async fn root(&self, sql: &str) -> &'static str {
        match self.run_as(SUPERUSER, sql).await {
            Ok(outcome) => outcome.tag,
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }
}

#[tokio::test]
async fn all_statements_on_roles_reach_all_nodes() {
    let c = Cluster::start(3).await;
    for (sql, tag, shows) in [
        ("CREATE ROLE team", "CREATE ROLE", "team f t f f f"),
        (
            "CREATE USER \"Bo b\" PASSWORD 'pw' CREATEDB CONNECTION LIMIT 7 \
             VALID UNTIL '2100-01-01 00:00+02' IN ROLE team",
            "CREATE ROLE",
            "Bo b f t f t t f f 7 SCRAM-SHA-256$4096:",
        ),
        ("CREATE GROUP staff ADMIN team", "CREATE ROLE", "staff team t postgres"),
        ("ALTER USER \"Bo b\" CREATEROLE NOCREATEDB", "ALTER ROLE", "Bo b f t t f t f f 7 SCRAM"),
        ("ALTER GROUP staff ADD USER \"Bo b\"", "ALTER ROLE", "staff Bo b f postgres"),
        ("GRANT staff TO \"Bo b\" WITH ADMIN OPTION", "GRANT ROLE", "staff Bo b t postgres"),
        ("ALTER ROLE team SET search_path = \"A b\", public, ''", "ALTER ROLE", "team f {\"search"),
        (
            "ALTER ROLE team IN DATABASE app SET \"my.own\" = '1, 2; \"x''y'",
            "ALTER ROLE",
            "team t {\"my.own=1, 2; \\\"x'y\"}",
        ),
        ("ALTER ROLE ALL SET work_mem = '5MB'", "ALTER ROLE", "ALL f {work_mem=5MB}"),
        ("CREATE ROLE old LOGIN", "CREATE ROLE", "old f t f f t"),
    ] {
        assert_eq!(c.root(sql).await, tag, "{sql}");
        let roles = c.roles().await;
        assert!(roles.contains(shows), "{sql}: {roles}");
    }
    let node = c.nodes.nodes[2].port();
    connect_as(node, DATABASE, "Bo b", "pw").await.unwrap();
    for (sql, tag, lacks) in [
        ("ALTER ROLE team RESET search_path", "ALTER ROLE", "search_path"),
        ("ALTER ROLE team IN DATABASE app RESET ALL", "ALTER ROLE", "my.own"),
        ("ALTER ROLE ALL RESET ALL", "ALTER ROLE", "work_mem"),
        ("REVOKE ADMIN OPTION FOR staff FROM team", "REVOKE ROLE", "staff team t"),
        ("REVOKE staff FROM \"Bo b\"", "REVOKE ROLE", "staff Bo b"),
        ("ALTER GROUP team DROP USER \"Bo b\"", "ALTER ROLE", "team Bo b"),
        ("ALTER ROLE \"Bo b\" RENAME TO bob", "ALTER ROLE", "Bo b"),
        ("ALTER ROLE bob PASSWORD NULL", "ALTER ROLE", "SCRAM-SHA-256$4096:\nbob"),
        ("DROP ROLE team, old", "DROP ROLE", "team"),
        ("DROP ROLE IF EXISTS bob, nobody_here", "DROP ROLE", "bob"),
    ] {
        assert_eq!(c.root(sql).await, tag, "{sql}");
        let roles = c.roles().await;
        assert!(!roles.contains(lacks), "{sql}: {roles}");
    }
    c.nothing_left().await;
}

#[tokio::test]
async fn a_password_is_hashed_once_and_a_verifier_is_kept() {
    let c = Cluster::start(3).await;
    let kept = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
        tFQ6jE0TNHmBXjYkXBHfyLPQbdxfOFY1FJJqRVvkJ0I=:fkwZ7zrwFlUYJSYlHzdbCwBcNsZKTsKGIT8BULC6zx0=";
    c.root(&format!("CREATE ROLE kept LOGIN PASSWORD '{kept}'")).await;
    assert!(c.roles().await.contains(kept));
    let request = DdlRequest::new(
        SUPERUSER,
        vec![setting("password_encryption", "md5")],
        "CREATE ROLE md LOGIN PASSWORD 'm'",
    );
    ddl::execute(&c.store, &request).await.unwrap();
    assert!(c.roles().await.contains("-1 md5"));
    // It holds the name, so PostgreSQL clears it.
    c.root("ALTER ROLE md RENAME TO md2").await;
    assert!(!c.roles().await.contains("-1 md5"));
}

#[tokio::test]
async fn roles_known_at_home_only_are_brought_along_and_others_mended() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE ROLE outer_team; CREATE ROLE team IN ROLE outer_team; \
             ALTER ROLE team SET work_mem = '3MB'; CREATE ROLE bob LOGIN PASSWORD 'b'",
        )
        .await
        .unwrap();
    c.clients[1]
        .batch_execute(
            "CREATE ROLE ann SUPERUSER PASSWORD 'x' VALID UNTIL '2000-01-01'; CREATE ROLE local; \
             GRANT ann TO local; ALTER ROLE ann SET work_mem = '1MB'",
        )
        .await
        .unwrap();
    c.root("GRANT team TO bob").await;
    let bob = "SELECT concat_ws(' ', rolpassword, pg_has_role('bob', 'outer_team', 'member'), \
        (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'team'::regrole)) \
        FROM pg_authid WHERE rolname = 'bob'";
    let each: Vec<String> = c.on_each(bob).await;
    assert_eq!(each[0], each[1]);
    assert!(each[0].ends_with(" t {work_mem=3MB}"), "{each:?}");
    // A node knows another one of this name.
    c.root("CREATE ROLE ann LOGIN PASSWORD 'a'").await;
    let ann = "SELECT concat_ws(' ', rolsuper, rolpassword, \
        coalesce(rolvaliduntil, 'infinity') = 'infinity', \
        (SELECT count(*) FROM pg_auth_members WHERE roleid = 'ann'::regrole), \
        (SELECT count(*) FROM pg_db_role_setting WHERE setrole = 'ann'::regrole)) \
        FROM pg_authid WHERE rolname = 'ann'";
    let each: Vec<String> = c.on_each(ann).await;
    assert_eq!(each[0], each[1]);
    assert!(each[0].ends_with(" t 0 0"), "{each:?}");
    // Memberships the statement does not name are the node's own.
    c.clients[1].batch_execute("GRANT outer_team TO local").await.unwrap();
    c.root("GRANT outer_team TO ann").await;
    let left: bool =
        value(&c.clients[1], "SELECT pg_has_role('local', 'outer_team', 'member')").await;
    assert!(left);
}

/// A role may do with itself what it may not do with others, and who asks is who logged in.
#[tokio::test]
async fn rights_and_errors_are_those_of_the_home_node() {
    let c = Cluster::start(2).await;
    c.root("CREATE ROLE bob").await;
    c.root("CREATE ROLE chief SUPERUSER").await;
    c.root("GRANT chief TO alice").await;
    let before = c.roles().await;
    let home = connect_as(c.nodes.nodes[0].port(), DATABASE, "alice", "secret").await.unwrap();
    for (sql, sqlstate) in [
        ("CREATE ROLE eve", "42501"),
        ("ALTER ROLE bob PASSWORD 'x'", "42501"),
        ("GRANT bob TO alice", "42501"),
        ("DROP ROLE bob", "42501"),
        ("ALTER ROLE nobody_here LOGIN", "42704"),
    ] {
        let e = c.refused(sql).await;
        let own = home.batch_execute(sql).await.unwrap_err();
        let own = own.as_db_error().unwrap();
        assert_eq!((e.sqlstate.as_str(), own.code().code()), (sqlstate, sqlstate), "{sql}");
        assert_eq!(
            (e.message.as_str(), e.detail.as_deref()),
            (own.message(), own.detail()),
            "{sql}"
        );
    }
    let chief = async |sql: &str| {
        let settings = vec![setting("role", "chief")];
        let request = DdlRequest::new("alice", settings, sql);
        ddl::execute(&c.store, &request).await
    };
    let e = chief("DROP ROLE alice").await.unwrap_err();
    assert_eq!(e.message, "session user cannot be dropped");
    let e = chief("ALTER ROLE alice RENAME TO bea").await.unwrap_err();
    assert_eq!(e.message, "session user cannot be renamed");
    let e = c.run_as(SUPERUSER, "CREATE ROLE bob").await.unwrap_err();
    assert_eq!((e.sqlstate.as_str(), e.detail), ("42710", None));
    assert_eq!(c.roles().await, before);

    for sql in ["ALTER ROLE CURRENT_USER PASSWORD 'new'", "ALTER USER SESSION_USER PASSWORD 'new'"]
    {
        c.alice(sql).await;
        let each: Vec<String> =
            c.on_each("SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'").await;
        assert_eq!(each[0], each[1]);
        connect_as(c.nodes.nodes[1].port(), DATABASE, "alice", "new").await.unwrap();
    }
    chief("ALTER ROLE CURRENT_USER SET work_mem = '6MB'").await.unwrap();
    assert!(c.roles().await.contains("chief f {work_mem=6MB}"));
}

#[tokio::test]
async fn a_node_that_refuses_or_is_down_keeps_all_from_changing() {
    let mut c = Cluster::start(3).await;
    c.root("CREATE ROLE bob LOGIN PASSWORD 'b'").await;
    let before = c.roles().await;
    c.clients[1].batch_execute("CREATE TABLE his (); ALTER TABLE his OWNER TO bob").await.unwrap();
    let e = c.run_as(SUPERUSER, "DROP ROLE bob").await.unwrap_err();
    assert_eq!(e.sqlstate, "2BP01");
    assert!(e.detail.as_deref().is_some_and(|d| d.contains("\"node2\"")), "{e:?}");
    assert_eq!(c.roles().await, before);
    c.nodes.nodes[2].kill().unwrap();
    c.clients.truncate(2);
    for sql in
        ["CREATE ROLE eve", "ALTER ROLE bob PASSWORD 'new'", "DROP ROLE bob", "GRANT alice TO bob"]
    {
        let e = c.run_as(SUPERUSER, sql).await.unwrap_err();
        assert_eq!(e.sqlstate, "08001", "{sql}: {e:?}");
        assert_eq!(c.roles().await, before, "{sql}");
    }
    c.nothing_left().await;
}
