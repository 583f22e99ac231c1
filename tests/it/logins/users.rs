//! PgBouncer's file of users beside the roles of the home node.

use pgshunt::config::{AuthMethod, PasswordMethod, Users};

use super::rules::{node_asks, who};
use super::*;
use crate::faults::binary::{Binary, configuration};

#[tokio::test]
async fn a_user_of_the_file_is_checked_against_it_and_logged_in_with_it() {
    let p = Proxy::start_with(1, 1, |c| {
        c.auth.method = AuthMethod::Md5;
        c.tls.node_auth = PasswordMethod::Md5;
    })
    .await;
    let home = &p.nodes.nodes[0];
    let client = connect(home.port()).await;
    client
        .batch_execute(
            "CREATE ROLE clear LOGIN PASSWORD 'c'; CREATE ROLE scram LOGIN PASSWORD 's'; \
             CREATE ROLE other LOGIN PASSWORD 'o'; CREATE ROLE stale LOGIN PASSWORD 'x'; \
             SET password_encryption = 'md5'; CREATE ROLE md LOGIN PASSWORD 'm'",
        )
        .await
        .unwrap();
    let stored = async |role: &str| {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        value::<String>(&client, &sql).await
    };
    let (scram, md) = (stored("scram").await, stored("md").await);
    assert!(md.starts_with("md5"));
    let file = format!(
        "\"clear\" \"c\"\n\"scram\" \"{scram}\"\n\"md\" \"{md}\"\n\"stale\" \"y\"\n\"ghost\" \"g\"\n"
    );
    let mut config = (**p.server.shared.config.load()).clone();
    config.auth.users = Users::parse(&file).unwrap();
    p.server.shared.config.store(config.clone().into());
    node_asks(home, "host all all 127.0.0.1/32 md5\n").await;
    let ask = async |user: &str, password: &str| who("127.0.0.1", p.port(), user, password).await;
    let wrong =
        |user: &str| Err(format!("28P01 password authentication failed for user \"{user}\""));
    for method in [AuthMethod::Md5, AuthMethod::ScramSha256] {
        config.auth.method = method;
        p.server.shared.config.store(config.clone().into());
        assert_eq!(ask("clear", "c").await, Ok("clear".into()));
        assert_eq!(ask("clear", "x").await, wrong("clear"));
        assert_eq!(ask("scram", "s").await, Ok("scram".into()));
        assert_eq!(ask("scram", "x").await, wrong("scram"));
        assert_eq!(ask("other", "o").await, Ok("other".into()), "not in the file");
        let md = ask("md", "m").await;
        assert_eq!(md.is_ok(), method == AuthMethod::Md5, "{md:?}");
        // The file's password let it in, and the node has another.
        assert_eq!(ask("stale", "y").await, wrong("stale"));
        assert_eq!(ask("stale", "x").await, wrong("stale"));
        assert_eq!(ask("ghost", "g").await, Err("28000 role \"ghost\" does not exist".into()));
        assert_eq!(ask("ghost", "x").await, wrong("ghost"));
    }
    // Trusted: the file has what logs them in, or the home node has an md5 secret.
    config.auth.method = AuthMethod::Trust;
    config.auth.users = Users::parse("\"clear\" \"c\"\n").unwrap();
    p.server.shared.config.store(config.into());
    assert_eq!(ask("clear", "").await, Ok("clear".into()));
    assert_eq!(ask("md", "").await, Ok("md".into()));
    let fresh = "SET password_encryption = 'scram-sha-256'; CREATE ROLE fresh LOGIN PASSWORD 'f'";
    client.batch_execute(fresh).await.unwrap();
    let e = ask("fresh", "f").await.unwrap_err();
    assert!(e.starts_with("28000 cannot log in to node node1 as role \"fresh\""), "{e}");
    // An empty password is none, even where the node would ask for nothing.
    node_asks(home, "host all all 127.0.0.1/32 trust\n").await;
    let mut config = (**p.server.shared.config.load()).clone();
    config.auth.users = Users::parse("\"fresh\" \"\"\n").unwrap();
    for method in [AuthMethod::Md5, AuthMethod::ScramSha256] {
        config.auth.method = method;
        p.server.shared.config.store(config.clone().into());
        assert_eq!(ask("fresh", "").await, wrong("fresh"));
    }
    config.auth.method = AuthMethod::Trust;
    p.server.shared.config.store(config.into());
    assert_eq!(ask("fresh", "").await, Ok("fresh".into()));
}

#[tokio::test]
async fn the_file_is_read_again_by_reload() {
    let b = Binary::start(1, "");
    let users = b.file.with_file_name("userlist.txt");
    let text = configuration(&b.nodes, "");
    let text = text.replace(
        "method = \"trust\"\n",
        "method = \"scram-sha-256\"\nuser_file = \"userlist.txt\"\n",
    );
    std::fs::write(&b.file, text).unwrap();
    let mut console = Console::open(b.port, "pgshunt").await;
    let e = console.refused("RELOAD").await;
    assert!(e.message().contains("cannot read the users from"), "{e}");
    std::fs::write(&users, "\"ann\" \"one\"\nann two\n").unwrap();
    let e = console.refused("RELOAD").await;
    assert!(e.message().ends_with("userlist.txt:2: expected \"name\" \"password\""), "{e}");
    let home = connect(b.nodes.nodes[0].port()).await;
    home.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'one'").await.unwrap();
    for (password, other) in [("one", "two"), ("two", "one")] {
        std::fs::write(&users, format!("\"ann\" \"{password}\"\n")).unwrap();
        console.told();
        console.does("RELOAD").await;
        let told = console.told();
        assert!(told.contains(&"auth.user_file has changed: 1 users".to_owned()), "{told:?}");
        home.batch_execute(&format!("ALTER ROLE ann PASSWORD '{password}'")).await.unwrap();
        let ask = async |password| who("127.0.0.1", b.port, "ann", password).await;
        assert_eq!(ask(password).await, Ok("ann".into()));
        assert!(ask(other).await.is_err());
    }
}

/// Logs in by SCRAM with a password that no library sends: none at all.
async fn without_a_password(port: u16, user: &str) -> (String, String) {
    use pgshunt::auth::{ClientSecret, Nonce, ScramClient};
    let mut wire = Wire::dial(port).await;
    wire.send(&first(3 << 16, format!("user\0{user}\0database\0app\0\0").as_bytes())).await;
    let (_, offer) = wire.next().await.expect("an offer");
    let answer = |body: &[u8]| crate::faults::wire::message(b'p', body);
    if offer[..4] == [0, 0, 0, 5] {
        let salt = offer[4..8].try_into().unwrap();
        let hash = pgshunt::auth::Md5Secret::of(user, b"").answer(salt) + "\0";
        wire.send(&answer(hash.as_bytes())).await;
        return wire.last_words().await;
    }
    let secret = ClientSecret::Password(Vec::new());
    let mut scram = ScramClient::new(secret, &offer[4..], None, Nonce::random()).unwrap();
    let (mechanism, initial) = scram.initial();
    let mut body = [mechanism.as_bytes(), b"\0"].concat();
    body.extend_from_slice(&(initial.len() as u32).to_be_bytes());
    body.extend_from_slice(&initial);
    wire.send(&answer(&body)).await;
    let (_, challenge) = wire.next().await.expect("a challenge");
    let proof = scram.on_continue(&challenge[4..]).unwrap();
    wire.send(&answer(&proof)).await;
    wire.last_words().await
}

#[tokio::test]
async fn no_password_is_nobodys_password() {
    let p = Proxy::start(1, 1).await;
    let client = connect(p.nodes.nodes[0].port()).await;
    client
        .batch_execute(
            "CREATE ROLE filed LOGIN PASSWORD 'x'; CREATE ROLE mute LOGIN; \
             CREATE ROLE empty LOGIN PASSWORD ''",
        )
        .await
        .unwrap();
    let mut config = (**p.server.shared.config.load()).clone();
    config.auth.users = Users::parse("\"filed\" \"\"\n").unwrap();
    for method in [AuthMethod::Md5, AuthMethod::ScramSha256] {
        config.auth.method = method;
        p.server.shared.config.store(config.clone().into());
        for user in ["filed", "mute", "empty", "nobody"] {
            let (code, said) = without_a_password(p.port(), user).await;
            assert_eq!(code, "28P01", "{method:?} {user}: {said}");
        }
    }
    // Of two lines with one name neither is guessed.
    for (file, line) in [
        ("\"ann\" \"a\"\n\"bob\" \"b\"\n\"ann\" \"c\"\n", 3),
        ("\"ann\" \"a\"\n\"ann\" \"a\"\n", 2),
    ] {
        assert_eq!(Users::parse(file).unwrap_err(), (line, "this name is there twice"));
    }
}
