"""asyncpg's own tests, in the database `postgres`: it is not the cluster's, so nothing is sharded."""

import os

import foreign
from prepare import enter

# What cannot say the same, or says nothing about a proxy, and why.
EXCLUDED = {
    "test_connect::TestConnectionAttributes": "starts servers of its own and talks to them alone",
    "test_execute::TestExecuteMany::test_executemany_server_failure_during_writes":
        "counts on 4 MB not fitting into the sockets between client and server, of which there are four",
    "test_listeners::TestListeners::test_listen_02":
        "needs the pid of an unpinned server connection: that of another client, which notifies",
    "test_listeners::TestListeners::test_listen_notletters":
        "needs the pid of an unpinned server connection: that of another client, which notifies",
    "test_pool::TestPool::test_pool_remote_close":
        "kills the server it talks to: the killing client may be on the connection that it has killed",
}
# In 0.1 s a login must be done.
PATIENCE = {"POOL_NOMINAL_TIMEOUT": 3}
# Protocol state: prepared statements, their types and cursors; the rest takes most of a minute.
QUICK = [
    "test_cache_invalidation", "test_cursor", "test_exceptions", "test_execute", "test_listeners",
    "test_prepare", "test_transaction",
]


def prepare():
    return foreign.source("asyncpg")


def main(root):
    os.environ["PGDATABASE"] = "postgres"
    files = [f"tests/{name}.py" for name in QUICK] if "QUICK" in os.environ else ["tests"]
    # The driver is the one that is installed; the source beside the tests is not compiled.
    arguments = ["--import-mode=importlib", *files]
    foreign.run(root, arguments, "", EXCLUDED, PATIENCE)


if __name__ == "__main__":
    enter(prepare, main)
