//! The configuration a person writes, with the mistakes people make.

use std::path::Path;
use std::time::Duration;

use super::{Config, ConfigError};

const CLUSTER: &str = r#"
[cluster]
database = "app"
service_user = "pgshunt"
nodes = [{ name = "node1", host = "127.0.0.1" }]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("conf/pgshunt.toml"), None)
}

fn error(text: &str) -> String {
    parse(text).expect_err("the text is wrong").to_string()
}

#[test]
fn a_cluster_is_all_that_must_be_said() {
    let config = parse(CLUSTER).unwrap();
    assert_eq!(config.cluster.nodes[0].port, 5432);
    assert_eq!(config.server.listen.port(), 6432);
}

#[test]
fn units_are_read() {
    let more = "[move]\nready_lag = \"64kB\"\nmax_pause = \"1s\"\nsoak_time = \"2min\"\n\
                max_retained_wal = 1048576\n[limits]\nmax_message = \"1MB\"\n";
    let config = parse(&format!("{CLUSTER}{more}")).unwrap();
    assert_eq!(config.moves.ready_lag, 64 << 10);
    assert_eq!(config.moves.max_pause, Duration::from_secs(1));
    assert_eq!(config.moves.soak_time, Duration::from_secs(120));
    assert_eq!(config.moves.max_retained_wal, 1 << 20);
    assert_eq!(config.limits.max_message, 1 << 20);
}

#[test]
fn a_typo_is_shown_with_its_line_and_the_key_it_stands_for() {
    let text = format!("{CLUSTER}\n[pool]\nsize = 3\nqueue_timout = \"1s\"\n");
    assert_eq!(
        error(&text),
        "conf/pgshunt.toml:9: unknown key `queue_timout`, did you mean `queue_timeout`?"
    );
    assert_eq!(
        error(&format!("[serve]\n{CLUSTER}")),
        "conf/pgshunt.toml:1: unknown key `serve`, did you mean `server`?"
    );
}

#[test]
fn a_key_like_no_other_is_answered_with_what_there_is() {
    assert_eq!(
        error(&format!("{CLUSTER}\n[log]\nzzz = 1\n")),
        "conf/pgshunt.toml:8: unknown key `zzz`, known here are filter, format"
    );
}

#[test]
fn a_value_that_cannot_be_is_shown_with_its_line() {
    let wrong = |lines: &str| error(&format!("{CLUSTER}{lines}"));
    assert_eq!(
        wrong("[pool]\nqueue_timeout = \"5\"\n"),
        "conf/pgshunt.toml:7: \"5\" is not a duration like \"200ms\", \"5s\", \"2min\" or \"1h\""
    );
    assert!(wrong("[pool]\nqueue_timeout = 5\n").contains("toml:7: invalid type: integer `5`"));
    assert!(wrong("[move]\nready_lag = -1\n").contains("toml:7: -1 is not a number of bytes"));
    assert!(wrong("[server]\nlisten = \"6432\"\n").starts_with("conf/pgshunt.toml:7: "));
    assert!(wrong("[tls]\nclients = \"maybe\"\n").contains("toml:7: unknown variant `maybe`"));
    assert!(wrong("[pool]\nsize = 0\n").contains("toml:7: size must be at least 1"));
    assert!(wrong("[pool\n").contains("toml:6: "));
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let wrong = |lines: &str| error(&format!("{CLUSTER}{lines}"));
    assert!(wrong("[tls]\nclients = \"require\"\n").contains(":7: TLS to clients needs"));
    assert!(wrong("[tls]\nnodes = \"verify-full\"\n").contains("needs tls.node_roots"));
    assert!(wrong("[move]\nmax_pause = \"100ms\"\n").contains(":7: max_pause must be longer"));
}

#[test]
fn rules_that_cannot_mean_what_they_say_are_refused() {
    let wrong = |lines: &str| error(&format!("{CLUSTER}[auth]\n{lines}"));
    let rule = |text: &str| wrong(&format!("rules = [\n  {{ {text} }},\n]\n"));
    for (text, says) in [
        (
            "type = \"local\", address = \"all\", method = \"peer\"",
            "rule 1 (local all all all peer): a",
        ),
        ("type = \"host\", method = \"cert\"", "for rules of type \"hostssl\""),
        ("type = \"host\", method = \"peer\"", "for rules of type \"local\""),
        ("type = \"hostssl\", method = \"cert\"", "needs tls.client_ca"),
        ("type = \"host\", method = \"ident\"", "unknown variant `ident`"),
        ("type = \"hostgssenc\", method = \"trust\"", "unknown variant `hostgssenc`"),
        (
            "type = \"host\", database = \"/^app\", method = \"trust\"",
            "regular expressions are not",
        ),
        ("type = \"host\", user = [\"a\", \"@f\"], method = \"trust\"", "files of names are not"),
        ("type = \"host\", user = [], method = \"trust\"", "\"all\" means all"),
        ("type = \"host\", address = \"localhost\", method = \"trust\"", "is no address like"),
        ("type = \"host\", methd = \"trust\"", "unknown key `methd`, did you mean `method`?"),
        ("type = \"host\"", "missing field `method`"),
    ] {
        let message = rule(text);
        assert!(message.contains(says), "{text}: {message}");
        assert!(message.starts_with("conf/pgshunt.toml:"), "{message}");
    }
    assert!(wrong("method = \"reject\"\n").contains(":7: nobody could ever connect"));
    assert!(wrong("method = \"cert\"\n").contains(":7: method \"cert\" needs"));
    let missing = wrong("user_file = \"/nowhere/users\"\n");
    assert!(missing.contains(":7: cannot read the users from /nowhere/users"), "{missing}");
    let clear = error(&format!("{CLUSTER}[tls]\nclient_ca = \"/ca\"\n"));
    assert!(clear.contains(":7: certificates of clients come by TLS"), "{clear}");
    let server = |line: &str| error(&format!("{CLUSTER}[server]\n{line}\n"));
    assert!(server("unix_socket_mode = \"0999\"").contains(":7: \"0999\" is not a mode"));
    assert!(server("unix_socket_mode = \"1777\"").contains("is not a mode"));
    assert!(server("unix_socket_dir = \"run\"").contains(":7: run: the directory's whole path"));
    let long = format!("unix_socket_dir = \"/{}\"", "x".repeat(100));
    assert!(server(&long).contains("too long for a socket"));
}

#[test]
fn the_cluster_itself_is_checked() {
    let with = |from: &str, to: &str| error(&CLUSTER.replace(from, to));
    assert!(with("\"app\"", "\"pgshunt\"").contains(":3: \"pgshunt\" is how clients reach"));
    assert!(with("[{ name = \"node1\", host = \"127.0.0.1\" }]", "[]").contains(":5: a cluster"));
    let twins = "[{ name = \"a\", host = \"h\" }, { name = \"b\", host = \"h\" }]";
    let text = with("[{ name = \"node1\", host = \"127.0.0.1\" }]", twins);
    assert!(text.contains("nodes \"a\" and \"b\" are both at h:5432"), "{text}");
    let twins = "[{ name = \"a\", host = \"h\" }, { name = \"a\", host = \"i\" }]";
    let text = with("[{ name = \"node1\", host = \"127.0.0.1\" }]", twins);
    assert!(text.contains("two nodes are named \"a\""), "{text}");
    assert!(with("database = \"app\"\n", "").contains("missing field `database`"));
}

#[test]
fn the_password_comes_from_the_file_or_the_environment() {
    let dir = std::env::temp_dir().join(format!("pgshunt-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("password"), "secret\n").unwrap();
    let path = dir.join("pgshunt.toml");
    let text = CLUSTER.replace("nodes", "service_password_file = \"password\"\nnodes");

    let config = Config::parse(&text, &path, None).unwrap();
    assert_eq!(config.cluster.service_password.as_deref(), Some("secret"));
    assert!(!format!("{config:?}").contains("secret"), "a password is in no log");
    let config = Config::parse(&text, &path, Some("other".into())).unwrap();
    assert_eq!(config.cluster.service_password.as_deref(), Some("other"));

    let both = text.replace("nodes", "service_password = \"x\"\nnodes");
    let refused = Config::parse(&both, &path, None).unwrap_err().to_string();
    assert!(refused.contains("toml:5: service_password and"), "{refused}");
    let missing = Config::parse(&text, Path::new("/nowhere/pgshunt.toml"), None).unwrap_err();
    assert!(missing.to_string().contains(":5: cannot read the password"), "{missing}");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// `config/pgshunt.toml` is the reference: it must be accepted, and name every key there is, at its
/// default or commented out.
#[test]
fn the_reference_names_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pgshunt.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let shown = Config::parse(&text, &path, None).unwrap();
    let default = parse(CLUSTER).unwrap();
    let values = |c: &Config| {
        format!(
            "{:#?}",
            (&c.server, &c.tls, &c.auth, &c.pool, &c.limits, &c.moves, &c.log, &c.cluster.database)
        )
    };
    assert_eq!(values(&shown), values(&default), "the reference shows the defaults");

    let sections = known("zzz = 1\n");
    assert!(sections.contains(&"move".to_owned()), "{sections:?}");
    for section in &sections {
        let header = format!("[{section}]");
        let start = text.lines().position(|l| l == header);
        let start = start.unwrap_or_else(|| panic!("{header} is missing"));
        let body: Vec<&str> =
            text.lines().skip(start + 1).take_while(|l| !l.starts_with('[')).collect();
        for key in known(&format!("[{section}]\nzzz = 1\n")) {
            let named = body.iter().any(|l| {
                let setting = l.trim_start_matches('#').trim_start();
                setting.strip_prefix(key.as_str()).is_some_and(|r| r.trim_start().starts_with('='))
            });
            assert!(named || key == "nodes", "{header} does not name `{key}`");
        }
    }
    for key in known("[[auth.rules]]\nzzz = 1\n") {
        let rules = text.split("# rules = [").next().unwrap();
        assert!(rules.contains(&format!("`{key}`")), "auth.rules does not name `{key}`");
    }
    for key in known("[[cluster.nodes]]\nzzz = 1\n") {
        let nodes = text.split("[[cluster.nodes]]").nth(1).unwrap();
        assert!(nodes.contains(&format!("{key} = ")), "[[cluster.nodes]] does not name `{key}`");
    }
}

/// The cluster of docker-compose.yml: the file it mounts is valid, and its nodes are services there.
#[test]
fn the_compose_file_and_its_configuration_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("config/docker.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let config = Config::parse(&text, &path, Some("pgshunt".into())).unwrap();
    let compose = std::fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    for node in &config.cluster.nodes {
        let service = format!("\n  {}:\n    <<: *node\n", node.host);
        assert!(compose.contains(&service), "docker-compose.yml has no service {}", node.host);
    }
    assert!(compose.contains(&format!("POSTGRES_DB: {}\n", config.cluster.database)));
    assert!(compose.contains(&format!("POSTGRES_USER: {}\n", config.cluster.service_user)));
    assert!(compose.contains("./config/docker.toml:/etc/pgshunt/pgshunt.toml:ro"));
    assert!(compose.contains(&format!(":{}\"", config.server.listen.port())));
}

/// What the parser itself says it knows, where `text` has a key `zzz`.
fn known(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::UnknownKey { known, .. }) => known,
        other => panic!("zzz should be unknown: {other:?}"),
    }
}
