//! What is asked of whom: pg_hba.conf's methods and rules.

use std::path::Path;

use pgshunt::config::{Auth, AuthMethod, ClientTls, PasswordMethod, Users};

use super::unix::Directory;
use super::*;
use crate::login::Certificates;

pub fn auth(text: &str) -> Auth {
    toml::from_str(text).unwrap()
}

/// Puts other rules in force on a node itself.
pub async fn node_asks(node: &LocalNode, rules: &str) {
    std::fs::write(node.data_dir().join("pg_hba.conf"), rules).unwrap();
    let client = connect(node.port()).await;
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Logs in, and gives the role one is, or the error's SQLSTATE and message.
pub async fn who(host: &str, port: u16, user: &str, password: &str) -> Result<String, String> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).dbname(DATABASE).user(user).password(password);
    let said = |e: tokio_postgres::Error| match e.as_db_error() {
        Some(e) => format!("{} {}", e.code().code(), e.message()),
        None => format!("{e:?}"),
    };
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(said)?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT session_user::text", &[]).await.map_err(said)?;
    Ok(row.get(0))
}

/// The code of the first authentication request.
async fn asked(port: u16, user: &str) -> i32 {
    let mut wire = Wire::dial(port).await;
    wire.send(&first(3 << 16, format!("user\0{user}\0database\0app\0\0").as_bytes())).await;
    let (tag, body) = wire.next().await.expect("a request");
    assert_eq!(tag, b'R');
    i32::from_be_bytes(body[..4].try_into().unwrap())
}

const MD5: i32 = 5;
const SASL: i32 = 10;

fn wrong(user: &str) -> Result<String, String> {
    Err(format!("28P01 password authentication failed for user \"{user}\""))
}

const ROLES: &str = "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'o'; \
    SET password_encryption = 'scram-sha-256'; CREATE ROLE new LOGIN PASSWORD 'n'; \
    CREATE ROLE mute LOGIN; CREATE ROLE nologin PASSWORD 'x'; \
    CREATE ROLE late LOGIN PASSWORD 'l' VALID UNTIL '2020-01-01'";

#[tokio::test]
async fn md5_is_asked_of_roles_that_have_an_md5_secret() {
    let p = Proxy::start_with(1, 1, |c| {
        c.auth.method = AuthMethod::Md5;
        c.tls.node_auth = PasswordMethod::Md5;
    })
    .await;
    let home = &p.nodes.nodes[0];
    let client = connect(home.port()).await;
    client.batch_execute(ROLES).await.unwrap();
    // As PostgreSQL: SCRAM for those who have such a secret.
    node_asks(home, "host all all 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 reject\n").await;
    let ask = async |user: &str, password: &str| who("127.0.0.1", p.port(), user, password).await;
    assert_eq!(ask("old", "o").await, Ok("old".into()));
    assert_eq!(ask("new", "n").await, Ok("new".into()));
    for (user, password) in
        [("old", "x"), ("new", "x"), ("mute", "x"), ("nobody", "x"), ("late", "l")]
    {
        assert_eq!(ask(user, password).await, wrong(user), "{user}");
        assert_eq!(who("127.0.0.1", home.port(), user, password).await, wrong(user), "{user}");
    }
    let refused = Err("28000 role \"nologin\" is not permitted to log in".to_owned());
    assert_eq!(ask("nologin", "x").await, refused);
    assert_eq!(who("127.0.0.1", home.port(), "nologin", "x").await, refused);
    // Who is unknown is asked what a new role would be asked.
    assert_eq!((asked(p.port(), "old").await, asked(p.port(), "new").await), (MD5, SASL));
    assert_eq!((asked(p.port(), "nobody").await, asked(p.port(), "mute").await), (SASL, SASL));
    client.batch_execute("ALTER SYSTEM SET password_encryption = 'md5'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    wait_for("unknown roles to be asked by md5", async || {
        (asked(p.port(), "nobody").await == MD5).then_some(())
    })
    .await;
    assert_eq!(ask("nobody", "x").await, wrong("nobody"));
    assert_eq!(ask("new", "n").await, Ok("new".into()));
}

#[tokio::test]
async fn trap_8_an_md5_role_is_not_let_in_by_scram() {
    let p = Proxy::start(1, 1).await;
    let home = &p.nodes.nodes[0];
    connect(home.port()).await.batch_execute(ROLES).await.unwrap();
    assert_eq!(asked(p.port(), "old").await, SASL);
    for (port, user, password) in
        [(p.port(), "old", "o"), (home.port(), "old", "o"), (p.port(), "late", "l")]
    {
        assert_eq!(who("127.0.0.1", port, user, password).await, wrong(user));
    }
}

#[tokio::test]
async fn a_clear_password_is_taken_where_nobody_listens() {
    let dir = Directory::new("clear");
    let p = Proxy::start_with(1, 1, |c| {
        c.auth.method = AuthMethod::Password;
        c.tls.node_auth = PasswordMethod::Password;
        c.server.unix_socket_dir = Some(dir.0.clone());
    })
    .await;
    let home = &p.nodes.nodes[0];
    connect(home.port()).await.batch_execute(ROLES).await.unwrap();
    node_asks(home, "host all all 127.0.0.1/32 md5\n").await;
    let unix = dir.0.to_str().unwrap();
    let ask = async |user: &str, password: &str| who(unix, p.port(), user, password).await;
    assert_eq!(ask("old", "o").await, Ok("old".into()));
    assert_eq!(ask("new", "n").await, Ok("new".into()));
    for user in ["old", "new", "mute", "nobody", "late"] {
        assert_eq!(ask(user, "wrong").await, wrong(user));
    }
    assert_eq!(ask("late", "l").await, wrong("late"));
    assert_eq!(ask("old", "").await, Err("28P01 empty password returned by client".into()));
    let e = who("127.0.0.1", p.port(), "new", "n").await.unwrap_err();
    assert!(e.starts_with("28000 a password in clear is taken only under TLS"), "{e}");
    // The password given is good for a node that wants it in clear, too.
    node_asks(home, "host all all 127.0.0.1/32 password\n").await;
    let home = connect(home.port()).await;
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'new'";
    wait_for("its connections to end", async || {
        (value::<i64>(&home, kill).await == 0).then_some(())
    })
    .await;
    assert_eq!(ask("new", "n").await, Ok("new".into()));
}

#[tokio::test]
async fn the_first_rule_that_fits_decides() {
    let dir = Directory::new("rules");
    let me = tokio::process::Command::new("id").arg("-un").output().await.unwrap();
    let me = String::from_utf8(me.stdout).unwrap().trim().to_owned();
    let p = Proxy::start_with(1, 1, |c| {
        c.server.unix_socket_dir = Some(dir.0.clone());
        c.auth = auth(
            r#"
            rules = [
              { type = "local", user = "+staff", method = "trust" },
              { type = "local", method = "peer" },
              { type = "host", user = "bob", method = "reject" },
              { type = "hostssl", method = "trust" },
              { type = "host", database = "app", address = "127.0.0.0/8", method = "scram-sha-256" },
            ]
            "#,
        );
    })
    .await;
    let home = &p.nodes.nodes[0];
    let client = connect(home.port()).await;
    client
        .batch_execute(&format!(
            "CREATE ROLE \"{me}\" LOGIN; CREATE ROLE staff; CREATE ROLE chief IN ROLE staff; \
             CREATE ROLE ann LOGIN PASSWORD 'a' IN ROLE chief; CREATE ROLE bob LOGIN PASSWORD 'b'"
        ))
        .await
        .unwrap();
    let unix = dir.0.to_str().unwrap();
    let local = async |user: &str| who(unix, p.port(), user, "none").await;
    let remote =
        async |user: &str, password: &str| who("127.0.0.1", p.port(), user, password).await;
    assert_eq!(remote("ann", "a").await, Ok("ann".into()));
    assert_eq!(
        remote("bob", "b").await.unwrap_err(),
        "28000 pg_hba.conf rejects connection for host \"127.0.0.1\", user \"bob\", \
         database \"app\", no encryption"
    );
    let console = connect_as(p.port(), "pgshunt", SUPERUSER, PASSWORD).await.unwrap_err();
    assert_eq!(
        console.as_db_error().unwrap().message(),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"postgres\", database \"pgshunt\", \
         no encryption"
    );
    // Ann is trusted, and what she has proven above logs in to the node.
    assert_eq!(local("ann").await, Ok("ann".into()));
    assert_eq!(
        local("bob").await.unwrap_err(),
        "28000 Peer authentication failed for user \"bob\""
    );
    // Who has shown no password cannot be logged in where the node asks for one; and is told so.
    let e = local(&me).await.unwrap_err();
    assert!(e.starts_with("28000 cannot log in to node node1 as role"), "{e}");
    node_asks(home, &format!("host all {me} 127.0.0.1/32 trust\nhost all all all scram-sha-256\n"))
        .await;
    assert_eq!(local(&me).await, Ok(me.clone()));
    // As PostgreSQL, of a role that is none.
    client.batch_execute(&format!("DROP ROLE \"{me}\"")).await.unwrap();
    assert_eq!(local(&me).await.unwrap_err(), format!("28000 role \"{me}\" does not exist"));
}

#[tokio::test]
async fn a_certificate_names_the_role() {
    let files = Certificates::new("cert");
    let strangers = Certificates::new("cert-strangers");
    let p = Proxy::start_with(1, 1, |c| {
        c.tls.clients = ClientTls::Allow;
        c.tls.cert = Some(files.dir.join("server.crt"));
        c.tls.key = Some(files.dir.join("server.key"));
        c.tls.client_ca = Some(files.dir.join("ca.crt"));
        c.auth = auth(
            r#"
            rules = [
              { type = "hostssl", user = ["ann", "bob"], method = "cert" },
              { type = "hostssl", method = "password" },
            ]
            "#,
        );
        // What logs ann in to the nodes.
        c.auth.users = Users::parse("\"ann\" \"p\"\n").unwrap();
    })
    .await;
    connect(p.nodes.nodes[0].port())
        .await
        .batch_execute(
            "CREATE ROLE ann LOGIN PASSWORD 'p'; CREATE ROLE bob LOGIN PASSWORD 'p'; \
             CREATE ROLE carl LOGIN PASSWORD 'p'",
        )
        .await
        .unwrap();
    let shows = |dir: &Path| {
        let (cert, key) = (dir.join("ann.crt"), dir.join("ann.key"));
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let anns = shows(&files.dir);
    assert_eq!(psql(p.port(), "ann", &anns).await, "ann");
    let refused = psql(p.port(), "bob", &anns).await;
    assert!(refused.contains("certificate authentication failed for user \"bob\""), "{refused}");
    let refused = psql(p.port(), "ann", "sslmode=require sslcert=/no sslkey=/no").await;
    assert!(refused.contains("connection requires a valid client certificate"), "{refused}");
    // Of an authority nobody has named.
    let refused = psql(p.port(), "ann", &shows(&strangers.dir)).await;
    assert!(!refused.contains("authentication") && refused.contains("failed"), "{refused}");
    // Others are asked in clear, under TLS only.
    assert_eq!(psql(p.port(), "carl", "sslmode=require sslcert=/no sslkey=/no").await, "carl");
    let refused = psql(p.port(), "carl", "sslmode=disable").await;
    assert!(refused.contains("no pg_hba.conf entry for host"), "{refused}");
}
