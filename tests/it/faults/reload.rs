//! RELOAD, and SIGHUP: what changes while clients are served, and what says that it does not.

use super::binary::{Binary, configuration};
use super::wire::{Wire, query};
use super::*;
use crate::login::Certificates;

impl Binary {
    fn configure(&self, more: &str) {
        std::fs::write(&self.file, configuration(&self.nodes, more)).unwrap();
    }
}

async fn setting(console: &Console, key: &str) -> String {
    let lines = console.lines("SHOW CONFIG").await;
    let of = |line: &Vec<(String, Option<String>)>, name: &str| {
        line.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone()).unwrap_or_default()
    };
    let line = lines.iter().find(|l| of(l, "key") == key);
    of(line.unwrap_or_else(|| panic!("no {key}")), "value")
}

#[tokio::test]
async fn what_can_change_does_and_what_cannot_is_named() {
    let b = Binary::start(1, "[pool]\nsize = 1\nqueue_timeout = \"20s\"\n");
    let mut console = Console::open(b.port, "pgshunt").await;
    let mut one = Wire::login(b.port).await;
    let mut two = Wire::login(b.port).await;
    let mut three = Wire::login(b.port).await;
    assert_eq!(one.ask("BEGIN; SELECT 1").await, "CTDCZ");
    two.send(&query("BEGIN; SELECT 1")).await;
    console.told();

    // A file that is wrong changes nothing, not even what is right in it.
    b.configure("[pool]\nsize = 2\nqueue_timout = \"20s\"\n");
    let e = console.refused("RELOAD").await;
    assert_eq!(e.code().code(), "F0000");
    assert!(
        e.message().contains("unknown key `queue_timout`, did you mean `queue_timeout`?"),
        "{e}"
    );
    b.configure("[pool]\nsize = 2\n[log]\nfilter = \"pgshunt=loudly\"\n");
    let e = console.refused("RELOAD").await;
    assert!(e.message().starts_with("log.filter \"pgshunt=loudly\": "), "{e}");
    b.configure("[pool]\nsize = 2\n[tls]\nclients = \"allow\"\ncert = \"/no\"\nkey = \"/no\"\n");
    let e = console.refused("RELOAD").await;
    assert!(e.message().starts_with("TLS: /no: "), "{e}");
    assert_eq!(setting(&console, "pool.size").await, "1");
    assert_eq!(console.told(), [""; 0]);

    b.configure(
        "[pool]\nsize = 2\nqueue_timeout = \"300ms\"\n[limits]\nmax_clients = 3\n\
         [move]\nsoak_time = \"1min\"\n[log]\nfilter = \"warn\"\n",
    );
    console.does("RELOAD").await;
    assert_eq!(
        console.told(),
        [
            "limits.max_clients: 10000 -> 3",
            "log.filter: info -> warn",
            "pool.queue_timeout: 20s -> 300ms",
            "pool.size: 1 -> 2",
            "needs a restart: move.soak_time: 10min -> 1min",
        ]
    );
    assert_eq!(setting(&console, "pool.size").await, "2");
    assert_eq!(setting(&console, "move.soak_time").await, "10min", "what is in force");
    assert_eq!(two.ready().await, "CTDCZ", "the line moved up");
    assert_eq!(three.ask("SELECT 1").await, "E53300Z", "with the new patience");
    let mut fourth = Wire::dial(b.port).await;
    fourth.send(&super::wire::startup(DATABASE)).await;
    assert_eq!(fourth.last_words().await.0, "53300");

    // Smaller again: what is in use stays until it comes back.
    b.configure("[pool]\nsize = 1\n");
    b.signal(libc::SIGHUP);
    wait_for("SIGHUP to be heeded", async || {
        (setting(&console, "pool.size").await == "1").then_some(())
    })
    .await;
    let home = connect(b.nodes.nodes[0].port()).await;
    let count = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = '' \
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        value::<i64>(&home, sql).await
    };
    assert_eq!(count().await, 2);
    assert_eq!(one.ask("COMMIT").await, "CZ");
    assert_eq!(two.ask("COMMIT").await, "CZ");
    wait_for("the second connection to go", async || (count().await == 1).then_some(())).await;
    assert_eq!(three.ask("SELECT 1").await, "TDCZ");
}

#[tokio::test]
async fn certificates_and_admins_are_exchanged_under_way() {
    let b = Binary::start(1, "");
    let console = Console::open(b.port, "pgshunt").await;
    let home = connect(b.nodes.nodes[0].port()).await;
    home.batch_execute("CREATE ROLE ann LOGIN").await.unwrap();
    let ann = async || connect_as(b.port, "pgshunt", "ann", "").await;
    assert!(ann().await.is_err());
    let text = std::fs::read_to_string(&b.file).unwrap();
    std::fs::write(&b.file, text.replace("admins = []", "admins = [\"ann\"]")).unwrap();
    console.does("RELOAD").await;
    ann().await.unwrap().simple_query("SHOW CONFIG").await.unwrap();

    let binaries = pgshunt::local::Binaries::find().unwrap();
    let psql = async |roots: &Certificates| {
        let roots = roots.dir.join("ca.crt");
        let conninfo = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} dbname=app sslmode=verify-full sslrootcert={}",
            b.port,
            roots.display()
        );
        let done = tokio::process::Command::new(binaries.program("psql"))
            .args(["-X", "-c", "SELECT 1", &conninfo])
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        done.status.success()
    };
    let (old, new) = (Certificates::new("reload-old"), Certificates::new("reload-new"));
    assert!(!psql(&old).await);
    let file = |name: &str| old.dir.join(name);
    b.configure(&format!(
        "[tls]\nclients = \"allow\"\ncert = {:?}\nkey = {:?}\n",
        file("server.crt"),
        file("server.key")
    ));
    console.does("RELOAD").await;
    assert!(psql(&old).await);
    assert!(!psql(&new).await);
    // The same names, other contents: as a renewal does it.
    for name in ["server.crt", "server.key"] {
        std::fs::copy(new.dir.join(name), file(name)).unwrap();
    }
    assert!(psql(&old).await, "read when told to");
    console.does("RELOAD").await;
    assert!(psql(&new).await);
    assert!(!psql(&old).await);
}
