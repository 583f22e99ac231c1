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
    // It may be put anywhere.
    let config = Config::parse(&imported.toml, Path::new("/nowhere/pgshunt.toml"), None).unwrap();
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
    assert_eq!(lacks(&imported), [""; 0], "{imported}");
    assert_eq!((c.auth.method, c.auth.rules.len()), (AuthMethod::Md5, 0));
    let file = c.auth.user_file.as_deref().unwrap();
    assert!(file.is_absolute() && file.ends_with("userlist.txt"), "{}", file.display());
    assert_eq!((c.auth.users.get("bob"), c.auth.users.get("eve")), (Some("secret"), None));
    let told = imported.to_string();
    assert!(told.contains("auth_file = userlist.txt has 2 users"), "{told}");
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
auth_ldap_options = ldapserver=l ldapbindpasswd=secret
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
min_pool_size = 3
server_round_robin = 1
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
    let hba = "# TYPE DATABASE USER ADDRESS METHOD\nlocal all all scram-sha-256\nhostssl shop ann 10.0.0.0/8 ldap ldapserver=l ldapbindpasswd=\"se\"\"cret\"\n";
    let files = [("pgbouncer.ini", ini), ("databases.ini", databases), ("hba.conf", hba)];
    let (c, imported) = imported("lacks", &files, None);
    assert_eq!(c.server.listen.to_string(), "10.0.0.1:7000");
    assert_eq!((c.cluster.database.as_str(), c.cluster.nodes[0].host.as_str()), ("shop", "pg1"));
    assert_eq!((c.pool.size, c.pool.server_lifetime.as_secs()), (77, 1));
    assert_eq!((c.pool.min_size, c.pool.server_round_robin), (3, true));
    assert_eq!((c.tls.clients, c.tls.nodes), (ClientTls::Require, NodeTls::VerifyFull));
    assert_eq!(c.tls.cert.as_deref(), Some(Path::new("/etc/tls/pgb.crt")));
    assert_eq!(c.tls.node_roots.as_deref(), Some(Path::new("/etc/tls/nodes.crt")));
    assert_eq!(c.auth.method, AuthMethod::ScramSha256);
    let mut told = lacks(&imported);
    told.sort_unstable();
    let mut wanted = vec![
        "query_timeout = 30",
        "auth_ldap_options = ldapserver=l ...",
        "max_db_connections = 100",
        "not_a_setting = 1",
        "peer 1",
        "connect_query = SELECT set_config('a.b', 'c', false) of database shop",
        "database reports stands for shop_reports",
        "user of database reports",
        "password of database reports",
        "database logs is on pg2:5433, not on pg1:5432",
        "pool_mode=session max_user_connections=5 for user app_user",
        "server_tls_sslmode = verify-ca",
        "hostssl shop ann 10.0.0.0/8 ldap ldapserver=l ...",
        "pool_mode = statement",
        "listen_addr = 10.0.0.1,10.0.0.2",
        "server_lifetime = 0",
    ];
    wanted.sort_unstable();
    assert_eq!(told, wanted, "{imported}");
    let place =
        |what: &str| &imported.findings.iter().find(|f| f.what.starts_with(what)).unwrap().place;
    assert!(place("query_timeout").ends_with("pgbouncer.ini:17"), "{}", place("query_timeout"));
    assert!(place("password of").ends_with("databases.ini:4"));
    assert!(place("hostssl").ends_with("hba.conf:3"));
    assert!(!imported.toml.contains("cret") && !imported.to_string().contains("cret"));
    assert!(imported.toml.contains("# "), "comments tell where a key comes from");
    // Another one of its databases on request.
    let (c, _) = self::imported("lacks-logs", &files, Some("logs"));
    assert_eq!((c.cluster.nodes[0].host.as_str(), c.cluster.nodes[0].port), ("pg2", 5433));
}

/// With TLS, so that all methods are possible.
const RULES: &str = "\
[databases]
app = host=pg1
[pgbouncer]
auth_type = hba
auth_hba_file = hba.conf
client_tls_sslmode = verify-ca
client_tls_cert_file = /etc/tls/pgb.crt
client_tls_key_file = /etc/tls/pgb.key
client_tls_ca_file = /etc/tls/ca.crt
unix_socket_dir = /run/pgb
unix_socket_mode = 0770
";

#[test]
fn the_lines_of_an_hba_file_are_rules_in_their_order() {
    let hba = "\
local   all  postgres  peer   # ours
host    all  @blocked  all    reject

hostssl app,\"all\" ann  10.0.0.0 255.0.0.0  cert
host    all  all  db.example  trust
host    all  +staff  all  trust
local   all  all  peer map=admins
host    \"my db\"  all  ::1/128  md5
hostssl all  all  all  password
";
    let blocked = "eve # gone\n\n\"mal lory\", all\n";
    let files = [("pgbouncer.ini", RULES), ("hba.conf", hba), ("blocked", blocked)];
    let (c, imported) = imported("rules", &files, None);
    let rules: Vec<String> = c.auth.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "local all postgres peer",
            "host all eve,\"mal lory\",all all reject",
            "hostssl app,\"all\" ann 10.0.0.0/8 cert",
            // Whom it was for must not come under a later one.
            "local all all reject",
            "host \"my db\" all ::1/128 md5",
            "hostssl all all all password",
        ]
    );
    let lacks = lacks(&imported);
    assert_eq!(
        lacks,
        [
            "host    all  all  db.example  trust",
            "host    all  +staff  all  trust",
            "local   all  all  peer map=admins",
            "client_tls_sslmode = verify-ca",
        ],
        "{imported}"
    );
    let advice = |of: &str| &imported.findings.iter().find(|f| f.what.contains(of)).unwrap().advice;
    assert!(advice("db.example").starts_with("db.example is no address: PgBouncer passes over"));
    assert!(advice("map=").contains("is rejected now"));
    assert!(imported.findings.iter().any(|f| f.place.ends_with("hba.conf:7")), "{imported}");
    assert_eq!(c.tls.client_ca.as_deref(), Some(Path::new("/etc/tls/ca.crt")));
    assert_eq!(c.server.unix_socket_dir.as_deref(), Some(Path::new("/run/pgb")));
    assert_eq!(c.server.unix_socket_mode, 0o770);
}

#[test]
fn each_auth_type_has_its_method() {
    use AuthMethod::{Cert, Md5, Password, Peer, ScramSha256, Trust};
    let tls = RULES.replace("auth_hba_file = hba.conf\n", "");
    let plain = "[databases]\napp = host=pg1\n[pgbouncer]\nauth_type = hba\n";
    for (i, (ini, auth, method, lack)) in [
        (plain, "md5", Md5, None),
        (plain, "scram-sha-256", ScramSha256, None),
        (plain, "trust", Trust, None),
        (plain, "peer", Peer, None),
        (plain, "plain", Password, Some("auth_type: plain")),
        (plain, "any", Trust, Some("auth_type = any")),
        (plain, "cert", ScramSha256, Some("auth_type = cert")),
        (plain, "pam", ScramSha256, Some("auth_type = pam")),
        (plain, "hba", ScramSha256, Some("auth_type = hba without auth_hba_file")),
        (&tls, "cert", Cert, None),
        (&tls, "plain", Password, Some("client_tls_sslmode = verify-ca")),
    ]
    .into_iter()
    .enumerate()
    {
        let ini = ini.replace("auth_type = hba", &format!("auth_type = {auth}"));
        let (c, imported) = imported(&format!("method-{i}"), &[("pgbouncer.ini", &ini)], None);
        assert_eq!(c.auth.method, method, "{auth}");
        assert_eq!(lacks(&imported), Vec::from_iter(lack), "{auth}: {imported}");
        assert_eq!(c.tls.client_ca.is_some(), ini.contains("verify-ca"));
    }
}

#[test]
fn a_file_of_users_that_cannot_be_read_is_told() {
    for (name, users) in [("twice", Some("\"a\" \"x\"\n\"a\" \"y\"\n")), ("missing", None)] {
        let users = users.map(|text| ("userlist.txt", text));
        let files: Vec<_> = [("pgbouncer.ini", DEBIAN)].into_iter().chain(users).collect();
        let (c, imported) = imported(&format!("users-{name}"), &files, None);
        assert_eq!(c.auth.user_file, None);
        assert_eq!(lacks(&imported), ["auth_file = userlist.txt cannot be read"]);
    }
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
        err.contains(
            "Without a counterpart, to be looked at:\n  lacks.ini:15: auth_file = userlist.txt"
        ),
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
