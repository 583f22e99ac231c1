"""psycopg2's own tests, in a database of their own: it is not the cluster's, so nothing is sharded.

With those of replication connections, which need a superuser and the plugin test_decoding.
"""

import os

import foreign
from harness import psql
from prepare import enter

DATABASE = "psycopg2_test"

# What cannot say the same, and why.
NOTIFIER = "needs the pid of an unpinned server connection: that of another client, which notifies"
EXCLUDED = {
    "test_async::AsyncTests::test_notify": NOTIFIER,
    "test_connection::ConnectionTests::test_pgconn_ptr":
        "fails directly too: calls the system's libpq with a connection of the one that the package brings",
    "test_connection::TestConnectionInfo::test_backend_pid":
        "needs the pid of an unpinned server connection: compares pg_backend_pid() with what the login told",
    "test_cursor::CursorTests::test_external_close_async":
        "kills the server it talks to, by the pg_backend_pid() of an earlier transaction",
    "test_notify::NotifiesTests::test_many_notifies": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_commit": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_execute": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_poll": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_reset": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_rollback": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_set_client_encoding": NOTIFIER,
    "test_notify::NotifiesTests::test_notifies_received_on_set_session": NOTIFIER,
    "test_notify::NotifiesTests::test_notify_attributes": NOTIFIER,
    "test_notify::NotifiesTests::test_notify_payload": NOTIFIER,
}
# Protocol and session state; the rest is about the driver itself.
QUICK = ["test_copy", "test_cursor", "test_lobject", "test_replication", "test_transaction", "test_with"]


def fresh_database():
    for text in (f"DROP DATABASE IF EXISTS {DATABASE} (FORCE)", f"CREATE DATABASE {DATABASE}"):
        done = psql(None, "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text)
        if done["code"] != 0:
            raise RuntimeError(f"{text}: {done['err']}")
    done = psql(None, "-q", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-c", "CREATE EXTENSION hstore")
    if done["code"] != 0:
        raise RuntimeError(f"hstore: {done['err']}")


def prepare():
    return foreign.source("psycopg2-binary")


def main(root):
    fresh_database()
    # Empty: the same address as the others.
    os.environ |= {"PSYCOPG2_TESTDB": DATABASE, "PSYCOPG2_TEST_REPL_DSN": ""}
    files = [f"tests/{name}.py" for name in QUICK] if "QUICK" in os.environ else ["tests"]
    # Its functions named test_suite are no tests: they collect the classes for unittest.
    foreign.run(root, ["-o", "python_functions=", *files], "", EXCLUDED)


if __name__ == "__main__":
    enter(prepare, main)
