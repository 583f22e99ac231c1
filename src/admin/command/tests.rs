//! The console's language, with the mistakes people make.

use super::*;

fn one(text: &str) -> Command {
    let mut all = parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

#[test]
fn commands_are_read_without_case_and_with_quotes() {
    assert_eq!(one("show Nodes;"), Command::Show(Show::Nodes));
    assert_eq!(
        one("add node \"no de\" 'db.example:5433' ; "),
        Command::AddNode { name: "no de".into(), host: "db.example".into(), port: 5433 }
    );
    assert_eq!(
        one("ADD NODE n '[::1]:5432'"),
        Command::AddNode { name: "n".into(), host: "::1".into(), port: 5432 }
    );
    let moved = |wait| Command::MoveShard { shard: ShardId(1), to: "node3".into(), wait };
    assert_eq!(one("MOVE SHARD 1 TO node3"), moved(true));
    assert_eq!(one("move shard 1 to 'node3' nowait"), moved(false));
    assert_eq!(one("ROLLBACK MOVE"), Command::RollbackMove { id: None, wait: true });
    assert_eq!(one("CANCEL MOVE 7"), Command::CancelMove(Some(MoveId(7))));
    assert_eq!(one("PAUSE"), Command::Pause(Target::All));
    assert_eq!(one("resume shard 4"), Command::Resume(Target::Shard(ShardId(4))));
    assert_eq!(one("pause node n-1"), Command::Pause(Target::Node("n-1".into())));
    assert_eq!(one("PAUSE app;"), Command::Pause(Target::Database("app".into())));
    assert_eq!(one("RESUME \"shard\""), Command::Resume(Target::Database("shard".into())));
    assert_eq!(one("kill"), Command::Kill(None));
    assert_eq!(one("KILL_CLIENT 12"), Command::KillClient(12));
    assert_eq!(one("wait_close app"), Command::WaitClose(Some("app".into())));
    assert_eq!(one("SHUTDOWN"), Command::Shutdown(Stop::Immediately));
    assert_eq!(one("shutdown wait_for_servers"), Command::Shutdown(Stop::Transactions));
    let set = Command::Set { name: "shard_count".into(), value: "32".into() };
    assert_eq!(one("SET shard_count = 32"), set);
    assert_eq!(one("set pgshunt.shard_count to '32'"), set);
}

#[test]
fn what_drivers_say_is_understood() {
    assert_eq!(one("SELECT 1"), Command::SelectOne);
    assert_eq!(one("select version();"), Command::SelectVersion);
    assert_eq!(one("SELECT pools"), Command::Show(Show::Pools));
    assert_eq!(one("BEGIN ISOLATION LEVEL SERIALIZABLE"), Command::Nothing("BEGIN"));
    assert_eq!(one("ROLLBACK"), Command::Nothing("ROLLBACK"));
    assert_eq!(one("SET application_name = 'x'"), Command::SetIgnored);
    assert_eq!(one("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), Command::SetIgnored);
    assert_eq!(one("SET DateStyle TO ISO, MDY"), Command::SetIgnored);
    assert_eq!(
        one("SHOW TRANSACTION ISOLATION LEVEL"),
        Command::ShowParameter("transaction_isolation", "read committed")
    );
    assert_eq!(parse(" ; -- nothing\n /* at all */ "), Ok(vec![]));
    assert_eq!(parse("SHOW NODES; SHOW HELP").unwrap().len(), 2);
}

#[test]
fn a_wrong_command_is_told_what_was_meant() {
    for (text, sqlstate, hint) in [
        ("SHOW NODE", "42601", "Did you mean SHOW NODES?"),
        ("mvoe shard 1 to x", "42601", "Did you mean MOVE SHARD?"),
        ("RELAOD", "42601", "Did you mean RELOAD?"),
        ("SELECT pool", "42601", "Did you mean SHOW POOLS?"),
        ("DISABLE", "42601", "Write DISABLE database"),
        ("KILL_CLIENT app", "42601", "Write KILL_CLIENT id"),
        ("SHUTDOWN WAIT", "42601", "Write SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]"),
        ("frobnicate everything now", "42601", "SHOW HELP lists the commands."),
        ("MOVE SHARD x TO n", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
        ("MOVE SHARD 1", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
        ("MOVE SHARD 99999999999 TO n", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
        ("ADD NODE n 'host'", "42601", "Write ADD NODE name 'host:port'"),
        ("ADD NODE n 'host:99999'", "42601", "Write ADD NODE name 'host:port'"),
        ("CANCEL MOVE 1 2", "42601", "Write CANCEL MOVE [id]"),
        ("SET x", "42601", "Write SET name = value"),
        ("SET x = 'unended", "42601", "Close it with '."),
        (
            "SELECT * FROM pg_class",
            "0A000",
            "Connect to your database for SQL. SHOW HELP lists the console's commands.",
        ),
        ("\u{1F980} = (", "42601", "SHOW HELP lists the commands."),
    ] {
        let e = parse(text).expect_err(text);
        assert_eq!((e.sqlstate, e.hint.as_str()), (sqlstate, hint), "{text}: {e:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_command_or_an_error(text in "\\PC{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_words_are_a_command_or_an_error(
        text in "((SHOW|MOVE|SHARD|TO|SET|PAUSE|NODE|ADD|1|=|;|'|\"|--|x|ROLLBACK|SELECT|\\() ?){0,9}"
    ) {
        let _ = parse(&text);
    }
}
