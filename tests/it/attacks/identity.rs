//! Nobody's statement on what is on all nodes runs as pgshunt's own role, whatever it says or calls.

use tokio_postgres::{Client, NoTls};

use super::*;

/// mallory may log in, and has a schema of her own; victor has distributed tables.
async fn scene(p: &Proxy) -> Client {
    let root = p.client().await;
    for sql in [
        "CREATE ROLE victor LOGIN PASSWORD 'v'",
        "CREATE ROLE mallory LOGIN NOINHERIT PASSWORD 'm'",
        "CREATE ROLE friends",
        "GRANT friends TO mallory",
        "CREATE SCHEMA hers AUTHORIZATION mallory",
        // Everybody may before PostgreSQL 15.
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "GRANT CREATE ON SCHEMA public TO victor",
    ] {
        root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let victor = connect_as(p.port(), DATABASE, "victor", "v").await.unwrap();
    for sql in [
        "CREATE TABLE t (id int, v int, w serial) PARTITION BY HASH (id)",
        "CREATE INDEX t_v ON t (v)",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
    ] {
        victor.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    root
}

/// All that the statements below could have changed.
const STATE: &str = "\
SELECT concat_ws(E'\\n', \
  (SELECT string_agg(concat_ws(' ', n.nspname, c.relname, pg_get_userbyid(c.relowner), c.relacl, \
     c.relrowsecurity, c.relfilenode), ', ' ORDER BY n.nspname, c.relname) \
   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
   WHERE n.nspname !~ '^(pg_|pgshunt$|information_schema$)'), \
  (SELECT string_agg(concat_ws(' ', a.attrelid::regclass, a.attname, a.attnotnull, a.atthasdef), ', ' \
     ORDER BY a.attrelid, a.attnum) FROM pg_attribute a WHERE a.attrelid >= 16384 AND a.attnum > 0 \
     AND a.attrelid IN (SELECT oid FROM pg_class WHERE relname = 't')), \
  (SELECT string_agg(concat_ws(' ', polrelid::regclass, polname), ', ') FROM pg_policy), \
  (SELECT string_agg(concat_ws(' ', rolname, rolsuper, rolcreaterole, rolpassword), ', ' ORDER BY rolname) \
   FROM pg_authid WHERE rolname !~ '^pg_'), \
  (SELECT string_agg(concat_ws(' ', roleid::regrole, member::regrole), ', ' ORDER BY roleid, member) \
   FROM pg_auth_members WHERE roleid >= 16384), \
  (SELECT string_agg(concat_ws(' ', setrole, setconfig), ', ') FROM pg_db_role_setting), \
  (SELECT string_agg(concat_ws(' ', nspname, nspowner::regrole, nspacl), ', ' ORDER BY nspname) \
   FROM pg_namespace WHERE nspname !~ '^pg_'))";

async fn state(p: &Proxy) -> Vec<String> {
    let mut all = Vec::new();
    for node in &p.nodes.nodes {
        all.push(value(&connect(node.port()).await, STATE).await);
    }
    all
}

/// One of each kind of statement that goes to all nodes.
const STATEMENTS: [&str; 33] = [
    "CREATE TABLE public.u (id int) PARTITION BY HASH (id)",
    "DROP TABLE t",
    "DROP TABLE t CASCADE",
    "TRUNCATE t",
    "TRUNCATE t RESTART IDENTITY CASCADE",
    "CREATE INDEX stolen ON t (id)",
    "DROP INDEX t_v",
    "DROP INDEX t_v CASCADE",
    "ALTER TABLE t ADD COLUMN x int",
    "ALTER TABLE t ADD COLUMN x timestamptz DEFAULT now()",
    "ALTER TABLE t DROP COLUMN v",
    "ALTER TABLE t RENAME COLUMN v TO x",
    "ALTER TABLE t ALTER v SET DEFAULT 1",
    "ALTER TABLE t ALTER v SET NOT NULL",
    "ALTER TABLE t ADD UNIQUE (id, v)",
    "ALTER TABLE t OWNER TO mallory",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON t USING (true)",
    "GRANT SELECT ON t TO mallory",
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO mallory",
    "REVOKE ALL ON t FROM victor",
    "ALTER SCHEMA public OWNER TO mallory",
    "GRANT SELECT ON pg_authid TO mallory",
    "CREATE ROLE mine SUPERUSER",
    "ALTER ROLE mallory SUPERUSER",
    "ALTER ROLE victor PASSWORD 'mine'",
    "ALTER ROLE victor SET work_mem = '1MB'",
    "GRANT victor TO mallory",
    "DROP ROLE friends",
    "ALTER DATABASE app SET work_mem = '1MB'",
    "REASSIGN OWNED BY victor TO mallory",
    "DROP OWNED BY victor CASCADE",
    "ALTER ROLE victor RENAME TO mine",
];

/// What a session says before it to be somebody else.
const GUISES: [&str; 12] = [
    "SELECT 1",
    "SET ROLE NONE",
    "SET ROLE 'none'",
    "SELECT set_config('role', 'none', false)",
    "RESET ROLE",
    "RESET ALL",
    "DISCARD ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET SESSION AUTHORIZATION",
    "SET SESSION AUTHORIZATION mallory",
    "SET ROLE friends",
    "SET session_authorization TO DEFAULT",
];

#[tokio::test]
async fn no_role_becomes_pgshunts_own_by_what_its_session_says() {
    let p = Proxy::start(2, 2).await;
    let root = scene(&p).await;
    let before = state(&p).await;
    let options = ["", "-c role=none", "-c session_authorization=mallory -c role=none"];
    for option in options {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(p.port()).dbname(DATABASE).user("mallory").password("m");
        let guises = if option.is_empty() { &GUISES[..] } else { &GUISES[..1] };
        for guise in guises {
            let (client, connection) = config.options(option).connect(NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(guise).await.unwrap_or_else(|e| panic!("{guise}: {e:?}"));
            // All of them once; behind the others, one of each kind of way.
            let few = STATEMENTS.iter().step_by(if *guise == "SELECT 1" { 1 } else { 11 });
            for sql in few.chain(["DROP TABLE t", "ALTER ROLE mallory SUPERUSER"].iter()) {
                let e = client.batch_execute(sql).await.expect_err(sql);
                let e = e.as_db_error().unwrap_or_else(|| panic!("{guise}; {sql}: {e:?}")).clone();
                assert_eq!(e.code().code(), "42501", "{option} {guise}; {sql}: {e:?}");
            }
        }
    }
    assert_eq!(state(&p).await, before);

    // Those who may be others are, and no more than that.
    let home = connect(p.nodes.nodes[0].port()).await;
    home.batch_execute("ALTER ROLE mallory SET role = 'friends'").await.unwrap();
    root.batch_execute("GRANT CREATE ON SCHEMA public TO friends").await.unwrap();
    let friend = connect_as(p.port(), DATABASE, "mallory", "m").await.unwrap();
    friend.batch_execute("CREATE TABLE f (id int) PARTITION BY HASH (id)").await.unwrap();
    friend.batch_execute("SET ROLE NONE").await.unwrap();
    let e = friend.batch_execute("CREATE TABLE g (id int) PARTITION BY HASH (id)").await;
    assert_eq!(e.unwrap_err().code().unwrap().code(), "42501");
    root.batch_execute("SET SESSION AUTHORIZATION victor").await.unwrap();
    root.batch_execute("CREATE TABLE h (id int) PARTITION BY HASH (id)").await.unwrap();
    let e = root.batch_execute("DROP TABLE f").await.unwrap_err();
    assert_eq!(e.as_db_error().unwrap().message(), "must be owner of table f");
    let owners = "SELECT string_agg(relname || relowner::regrole, ' ' ORDER BY relname) FROM pg_class \
        WHERE relname IN ('f', 'h') AND relkind = 'p'";
    for node in &p.nodes.nodes {
        let owners: String = value(&connect(node.port()).await, owners).await;
        assert_eq!(owners, "ffriends hvictor");
    }
}

/// Tries every way to be a superuser, and every schema of a shard; what it managed stays in sequences
/// when all else is undone.
const CLIMB: &str = "
CREATE FUNCTION hers.climb(int) RETURNS int LANGUAGE plpgsql KIND SECURITY WHOSE AS $$
DECLARE way text; shard name;
BEGIN
  PERFORM nextval('public.evaluated');
  FOREACH way IN ARRAY ARRAY['SET ROLE NONE', 'SET LOCAL ROLE NONE', 'RESET ROLE', 'SET ROLE postgres',
    'SET SESSION AUTHORIZATION DEFAULT', 'RESET SESSION AUTHORIZATION', 'RESET ALL',
    'SET SESSION AUTHORIZATION postgres', 'SELECT set_config(''role'', ''none'', false)',
    'SELECT set_config(''session_authorization'', ''postgres'', true)', 'DISCARD TEMP',
    'SELECT 1'] LOOP
    BEGIN EXECUTE way; EXCEPTION WHEN OTHERS THEN NULL; END;
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
      PERFORM nextval('public.climbed');
    END IF;
  END LOOP;
  FOR shard IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shard%' LOOP
    BEGIN
      EXECUTE format('CREATE TABLE %I.left_behind ()', shard);
      PERFORM nextval('public.made');
    EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
  RETURN $1;
END $$";

/// What mallory has on a node: functions, and all that can lead to them.
async fn plant(node: &Client, mallory: &Client) {
    // It is refused otherwise to make code that puts its SQL together.
    mallory.batch_execute("SET pgshunt.dynamic_sql = 'local'").await.unwrap();
    node.batch_execute(
        "CREATE SEQUENCE public.evaluated; CREATE SEQUENCE public.climbed; CREATE SEQUENCE public.made; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC",
    )
    .await
    .unwrap();
    let kinds = [("climb", "IMMUTABLE"), ("stable", "STABLE"), ("volatile", "VOLATILE")];
    for (name, kind) in kinds {
        for (suffix, whose) in [("", "INVOKER"), ("_definer", "DEFINER")] {
            let sql = CLIMB
                .replace("hers.climb", &format!("hers.{name}{suffix}"))
                .replace("KIND", kind)
                .replace("WHOSE", whose);
            mallory.batch_execute(&sql).await.unwrap();
        }
    }
    mallory
        .batch_execute(
            "CREATE DOMAIN hers.checked AS int CHECK (hers.climb(VALUE) IS NOT NULL); \
             CREATE FUNCTION hers.same(int, int) RETURNS bool LANGUAGE sql IMMUTABLE \
               AS 'SELECT hers.climb($1) IS NOT NULL'; \
             CREATE OPERATOR hers.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = hers.same); \
             CREATE TYPE hers.pair AS (a int); \
             CREATE FUNCTION hers.of_pair(hers.pair) RETURNS int LANGUAGE sql IMMUTABLE \
               AS 'SELECT hers.climb(1)'; \
             CREATE CAST (hers.pair AS int) WITH FUNCTION hers.of_pair(hers.pair); \
             CREATE FUNCTION hers.fires() RETURNS trigger LANGUAGE plpgsql \
               AS $$BEGIN PERFORM hers.climb(1); RETURN NULL; END$$",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn what_ddl_evaluates_is_never_pgshunts_role_and_leaves_nothing_in_shards() {
    let p = Proxy::start(2, 2).await;
    scene(&p).await;
    let mallory = connect_as(p.port(), DATABASE, "mallory", "m").await.unwrap();
    // Her table is on both nodes, and so is her schema.
    mallory
        .batch_execute("CREATE TABLE hers.m (id int, v int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    for id in 1..20 {
        mallory.batch_execute(&format!("INSERT INTO hers.m VALUES ({id}, 1)")).await.unwrap();
    }
    let mut nodes = Vec::new();
    for node in &p.nodes.nodes {
        let root = connect(node.port()).await;
        let direct = connect_as(node.port(), DATABASE, "mallory", "m").await.unwrap();
        plant(&root, &direct).await;
        nodes.push(root);
    }
    let said = [
        "climb(1)",
        "climb_definer(1)",
        "stable(1)",
        "stable_definer(1)",
        "volatile(1)",
        "volatile_definer(1)",
        "checked '1'",
    ];
    let mut statements: Vec<String> = Vec::new();
    for f in said {
        statements.push(format!("ALTER TABLE hers.m ADD COLUMN a int DEFAULT hers.{f}"));
    }
    for sql in [
        "ALTER TABLE hers.m ADD COLUMN a hers.checked DEFAULT 1",
        "ALTER TABLE hers.m ADD COLUMN a int DEFAULT ROW(1)::hers.pair::int",
        "ALTER TABLE hers.m ADD COLUMN a bool DEFAULT 1 OPERATOR(hers.===) 1",
        "ALTER TABLE hers.m ADD COLUMN a int DEFAULT hers.climb(1), ADD UNIQUE (id, v)",
        "CREATE INDEX i ON hers.m (hers.climb(v))",
        "CREATE INDEX i ON hers.m (hers.climb_definer(v))",
        "CREATE INDEX i ON hers.m (hers.climb(1))",
        "CREATE INDEX i ON hers.m (v) WHERE hers.climb(1) = 1",
        "CREATE INDEX i ON hers.m ((v OPERATOR(hers.===) 1))",
        "CREATE UNIQUE INDEX i ON hers.m (id, (hers.climb(v)))",
        "CREATE TABLE hers.n (id int, c int GENERATED ALWAYS AS (hers.climb(1)) STORED) PARTITION BY HASH (id)",
        "CREATE TABLE hers.n (id int, c int DEFAULT hers.climb(1)) PARTITION BY HASH (id)",
        "CREATE TABLE hers.n (id int, c int CHECK (hers.climb(1) = 1)) PARTITION BY HASH (id)",
        "CREATE TABLE hers.n (id int, c hers.checked) PARTITION BY HASH (id)",
        "CREATE TABLE hers.n (id int, c hers.pair DEFAULT ROW(1)) PARTITION BY HASH (id)",
        "CREATE TABLE hers.n (id int) PARTITION BY HASH ((hers.climb(1) + id))",
        "CREATE POLICY p ON hers.m USING (hers.climb(1) = 1)",
        "CREATE POLICY p ON hers.m USING (v OPERATOR(hers.===) 1)",
        "ALTER TABLE hers.m ALTER v TYPE int USING hers.climb(v)",
        "ALTER TABLE hers.m ADD CHECK (hers.climb(v) = v)",
    ] {
        statements.push(sql.into());
    }
    let code = async |sql: &str| {
        let e = mallory.batch_execute(sql).await.expect_err(sql);
        e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().code().to_owned()
    };
    for sql in &statements {
        assert_eq!(code(sql).await, "0A000", "{sql}");
    }
    // The default of a column that is there is computed by nobody here, and refused all the same.
    assert_eq!(code("ALTER TABLE hers.m ALTER v SET DEFAULT hers.climb(1)").await, "0A000");
    for node in &nodes {
        node.batch_execute(
            "CREATE TRIGGER tr BEFORE TRUNCATE ON hers.m EXECUTE FUNCTION hers.fires()",
        )
        .await
        .unwrap();
    }
    assert_eq!(code("TRUNCATE hers.m").await, "0A000");
    let seen = "SELECT concat_ws(' ', (SELECT is_called FROM public.climbed), \
        (SELECT is_called FROM public.made), (SELECT count(*) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname LIKE 'shard%' AND relname = 'left_behind'))";
    for node in &nodes {
        assert_eq!(value::<String>(node, seen).await, "f f 0");
    }
    let evaluated: bool = value(&nodes[0], "SELECT is_called FROM public.evaluated").await;
    assert!(evaluated, "else this shows nothing");
    for node in &nodes {
        node.batch_execute(
            "DROP TRIGGER tr ON hers.m; CREATE FUNCTION public.trusted(int) RETURNS int \
             LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        )
        .await
        .unwrap();
    }
    // What PostgreSQL comes with may be used, and a superuser's own, if it is everywhere.
    for sql in [
        "ALTER TABLE hers.m ADD COLUMN a text DEFAULT upper('x') || current_user",
        "CREATE INDEX i ON hers.m (abs(v))",
        "CREATE INDEX j ON hers.m (public.trusted(v))",
    ] {
        mallory.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}
