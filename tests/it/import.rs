//! `pgshunt import` of configurations as people have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgshunt::config::{AuthMethod, ClientTls, Config, NodeTls};
use pgshunt::import::{Imported, import};

/// A directory with files, gone with the test.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir =
            std::env::temp_dir().join(format!("pgshunt-import-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
        Self(dir)
    }

    fn ini(&self) -> PathBuf {
        self.0.join("pgbouncer.ini")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn imported(name: &str, files: &[(&str, &str)], database: Option<&str>) -> (Config, Imported) {
    let files = Files::new(name, files);
    let imported = import(&files.ini(), database).unwrap();
    let config = Config::parse(&imported.toml, Path::new("pgshunt.toml"), None).unwrap();
    (config, imported)
}

/// Every lack names what stands there and says something about it.
fn lacks(imported: &Imported) -> Vec<&str> {
    assert!(imported.findings.iter().all(|f| !f.place.is_empty() && f.advice.ends_with('.')));
    imported.findings.iter().filter(|f| f.is_lack).map(|f| f.what.as_str()).collect()
}

/// What Debian installs, but for its comments, and a database.
const DEBIAN: &str = "\
[databases]
;foodb =
app =

[users]
;user1 = pool_mode=transaction max_user_connections=10

[pgbouncer]
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
listen_addr = localhost
listen_port = 6432
unix_socket_dir = /var/run/postgresql
auth_type = md5
auth_file = userlist.txt
";

#[test]
fn debians_goes_on_as_it_was() {
    let users =
        "\"ann\" \"md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n\"bob\" \"secret\"\n; \"eve\" \"x\"\n";
    let files = [("pgbouncer.ini", DEBIAN), ("userlist.txt", users)];
    let (c, imported) = imported("debian", &files, None);
    assert_eq!(c.server.listen.to_string(), "127.0.0.1:6432");
    assert_eq!(c.server.unix_socket_dir.as_deref(), Some(Path::new("/var/run/postgresql")));
    // A database without a host is where PgBouncer's own socket is.
    assert_eq!(
        (c.cluster.nodes[0].host.as_str(), c.cluster.nodes[0].port),
        ("/var/run/postgresql", 5432)
    );
    assert_eq!(c.cluster.database, "app");
    // PgBouncer's defaults, not ours.
    assert_eq!((c.limits.max_clients, c.pool.size, c.pool.queue_timeout.as_secs()), (100, 20, 120));
    assert_eq!((c.limits.login_timeout.as_secs(), c.pool.connect_timeout.as_secs()), (60, 15));
    assert_eq!(lacks(&imported), ["auth_type = md5"]);
    let told = imported.to_string();
    assert!(told.contains("ann (an md5 hash), bob (a password in clear)"), "{told}");
    assert!(
        !imported.toml.contains("secret") && !told.contains("secret"),
        "no password is repeated"
    );
    let installed = Path::new("/etc/pgbouncer/pgbouncer.ini");
    if installed.exists() {
        // As it is installed it names no database.
        let refused = import(installed, None).unwrap_err().to_string();
        assert!(refused.contains("names no database"), "{refused}");
    }
}

#[test]
fn a_wildcard_serves_every_database_of_its_host() {
    let ini = "\
[databases]
* = host=db.example port=5433 auth_user=pgb
[pgbouncer]
listen_addr = *
unix_socket_dir =
auth_type = scram-sha-256
auth_query = SELECT usename, passwd FROM user_lookup($1)
pool_mode = transaction
max_client_conn = 2000
default_pool_size = 50
admin_users = ann, bob
stats_users = watcher
query_wait_timeout = 0
ignore_startup_parameters = extra_float_digits
server_reset_query = DISCARD ALL
verbose = 1
";
    let (c, imported) = imported("wildcard", &[("pgbouncer.ini", ini)], Some("shop"));
    assert_eq!(c.server.listen.to_string(), "0.0.0.0:6432");
    assert_eq!(c.server.unix_socket_dir, None);
    assert_eq!(
        (c.cluster.database.as_str(), c.cluster.nodes[0].host.as_str()),
        ("shop", "db.example")
    );
    assert_eq!((c.limits.max_clients, c.pool.size, c.cluster.nodes[0].port), (2000, 50, 5433));
    assert_eq!(
        (c.auth.admins, c.auth.stats_users),
        (vec!["ann".into(), "bob".into()], vec!["watcher".to_owned()])
    );
    assert!(c.pool.queue_timeout.as_secs() > 365 * 86_400, "0 is for ever");
    assert_eq!(c.log.filter, "debug");
    assert_eq!(lacks(&imported), [""; 0], "{imported}");
    assert!(imported.is_whole());

    let (c, imported) = self::imported("wildcard-unnamed", &[("pgbouncer.ini", ini)], None);
    assert_eq!(c.cluster.database, "postgres");
    assert_eq!(lacks(&imported), ["* names no database; postgres is taken"]);
}

#[test]
fn what_has_no_counterpart_is_told() {
    let ini = "\
%include databases.ini
[users]
app_user = pool_mode=session max_user_connections=5
[pgbouncer]
listen_addr = 10.0.0.1,10.0.0.2
listen_port = 7000
auth_type = hba
auth_hba_file = hba.conf
client_tls_sslmode = verify-full
client_tls_cert_file = /etc/tls/pgb.crt
client_tls_key_file = /etc/tls/pgb.key
client_tls_ca_file = /etc/tls/ca.crt
server_tls_sslmode = verify-ca
server_tls_ca_file = /etc/tls/nodes.crt
pool_mode = statement
query_timeout = 30
server_lifetime = 0
max_db_connections = 100
default_pool_size = many
tcp_keepalive = 0
not_a_setting = 1
[peers]
1 = host=/tmp/1
";
    let databases = "\
[databases]
; The shop's
shop = host=pg1 dbname=shop pool_size=77 connect_query='SELECT set_config(''a.b'', ''c'', false)'
reports = host=pg1 dbname=shop_reports user=reader password='se''cret'
logs = host=pg2 port=5433
legacy = host=pg1
";
    let hba = "# TYPE DATABASE USER ADDRESS METHOD\nlocal all all scram-sha-256\nhostssl shop ann 10.0.0.0/8 scram-sha-256\n";
    let files = [("pgbouncer.ini", ini), ("databases.ini", databases), ("hba.conf", hba)];
    let (c, imported) = imported("lacks", &files, None);
    assert_eq!(c.server.listen.to_string(), "10.0.0.1:7000");
    assert_eq!((c.cluster.database.as_str(), c.cluster.nodes[0].host.as_str()), ("shop", "pg1"));
    assert_eq!((c.pool.size, c.pool.server_lifetime.as_secs()), (77, 1));
    assert_eq!((c.tls.clients, c.tls.nodes), (ClientTls::Require, NodeTls::VerifyFull));
    assert_eq!(c.tls.cert.as_deref(), Some(Path::new("/etc/tls/pgb.crt")));
    assert_eq!(c.tls.node_roots.as_deref(), Some(Path::new("/etc/tls/nodes.crt")));
    assert_eq!(c.auth.method, AuthMethod::ScramSha256);
    let mut told = lacks(&imported);
    told.sort_unstable();
    let mut wanted = vec![
        "query_timeout = 30",
        "max_db_connections = 100",
        "not_a_setting = 1",
        "peer 1",
        "connect_query = SELECT set_config('a.b', 'c', false) of database shop",
        "database reports stands for shop_reports",
        "user of database reports",
        "password of database reports",
        "database logs is on pg2:5433, not on pg1:5432",
        "pool_mode=session max_user_connections=5 for user app_user",
        "client_tls_sslmode = verify-full",
        "server_tls_sslmode = verify-ca",
        "hostssl shop ann 10.0.0.0/8 scram-sha-256",
        "pool_mode = statement",
        "listen_addr = 10.0.0.1,10.0.0.2",
        "server_lifetime = 0",
    ];
    wanted.sort_unstable();
    assert_eq!(told, wanted, "{imported}");
    let place =
        |what: &str| &imported.findings.iter().find(|f| f.what.starts_with(what)).unwrap().place;
    assert!(place("query_timeout").ends_with("pgbouncer.ini:16"), "{}", place("query_timeout"));
    assert!(place("password of").ends_with("databases.ini:4"));
    assert!(place("hostssl").ends_with("hba.conf:3"));
    assert!(!imported.toml.contains("cret") && !imported.to_string().contains("cret"));
    assert!(imported.toml.contains("# "), "comments tell where a key comes from");
    // Another one of its databases on request.
    let (c, _) = self::imported("lacks-logs", &files, Some("logs"));
    assert_eq!((c.cluster.nodes[0].host.as_str(), c.cluster.nodes[0].port), ("pg2", 5433));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    for (name, ini, wanted) in [
        ("section", "[databases\n", "pgbouncer.ini:1: a section ends with ]"),
        (
            "nothing",
            "[pgbouncer]\n\nlisten_addr\n",
            "pgbouncer.ini:3: \"listen_addr\" sets nothing",
        ),
        ("before", "a = b\n", "pgbouncer.ini:1: a stands before the first section"),
        ("ring", "%include pgbouncer.ini\n", "too many files include each other"),
        ("missing", "%include nowhere.ini\n", "nowhere.ini"),
        ("string", "[databases]\na = host='x\n", "pgbouncer.ini:2: the value of host does not end"),
        ("none", "[pgbouncer]\n", "names no database"),
    ] {
        let files = Files::new(name, &[("pgbouncer.ini", ini)]);
        let e = import(&files.ini(), None).unwrap_err().to_string();
        assert!(e.contains(wanted), "{name}: {e}");
    }
    let files = Files::new("unknown", &[("pgbouncer.ini", "[databases]\na = host=x\n")]);
    let e = import(&files.ini(), Some("b")).unwrap_err().to_string();
    assert_eq!(e, "there is no database b, but a");
}

#[test]
fn the_program_says_how_it_ended() {
    let whole =
        "[databases]\na = host=x\n[pgbouncer]\nauth_type = scram-sha-256\nunix_socket_dir =\n";
    let files = Files::new(
        "program",
        &[("pgbouncer.ini", whole), ("lacks.ini", DEBIAN), ("wrong.ini", "x")],
    );
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgshunt"));
        command.current_dir(&files.0).arg("import").args(args);
        let done = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let (code, out, err) = run(&["pgbouncer.ini"]);
    assert_eq!(code, Some(0), "{err}");
    Config::parse(&out, Path::new("pgshunt.toml"), None).unwrap();
    let (code, out, err) = run(&["lacks.ini", "--output", "pgshunt.toml"]);
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(
        err.contains("Without a counterpart, to be looked at:\n  lacks.ini:14: auth_type = md5\n"),
        "{err}"
    );
    Config::load(&files.0.join("pgshunt.toml")).unwrap();
    let (code, _, err) = run(&["pgbouncer.ini", "--output", "pgshunt.toml"]);
    assert_eq!(code, Some(1), "what is there is not overwritten");
    assert!(err.contains("pgshunt.toml cannot be written"), "{err}");
    assert_eq!(run(&["wrong.ini"]).0, Some(1));
    assert_eq!(run(&["nowhere.ini"]).0, Some(1));
    assert_eq!(run(&[]).0, Some(2));
}
