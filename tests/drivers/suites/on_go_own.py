"""The own tests of Go's drivers, pgx (with pgconn and its pool) and lib/pq, as Debian packages them.

In databases that are not the cluster's, so nothing is sharded.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from prepare import TARGET, Unavailable, enter, output_of, tell

SOURCES = Path("/usr/share/gocode")
BUILT = TARGET / "go"
PACKAGES = {
    "pgconn": "github.com/jackc/pgconn",
    "pgx": "github.com/jackc/pgx/v4",
    "pgxpool": "github.com/jackc/pgx/v4/pgxpool",
    "pq": "github.com/lib/pq",
    "pq/hstore": "github.com/lib/pq/hstore",
}
DEBIAN = "golang-go, golang-github-jackc-pgx-v4-dev, golang-github-jackc-pgmock-dev and golang-github-lib-pq-dev"

# What cannot say the same, or says nothing about a proxy, and why.
EXCLUDED = {
    "pgx: TestFatalRxError": "kills the server it talks to, by its pid of an earlier transaction",
    "pgx: TestFatalTxError": "kills the server it talks to, by its pid of an earlier transaction",
    "pq: TestPing": "kills the server it talks to, by its pid of an earlier transaction",
    "pq: TestHasCorrectRootGroupPermissions": "fails directly too: about key files, run by root",
    "pq: TestContextCancelExec": "fails directly too, on a busy machine: a query must be under way 10 ms after it was sent",
    "pq: TestContextCancelQuery": "fails directly too, on a busy machine: a query must be under way 10 ms after it was sent",
    "pq: TestContextCancelBegin": "fails directly too, on a busy machine: a query must be under way 10 ms after it was sent",
}
DATABASES = {
    "pgx_test": "CREATE EXTENSION hstore; CREATE DOMAIN uint64 AS numeric(20, 0)",
    "pqgotest": "CREATE EXTENSION hstore",
}


def build(label, package):
    """The package's tests, compiled; the compiler keeps what has not changed."""
    BUILT.mkdir(parents=True, exist_ok=True)
    binary = BUILT / label.replace("/", "_")
    go = {"GO111MODULE": "off", "GOPATH": str(SOURCES), "GOCACHE": str(BUILT / "cache"), "GOFLAGS": ""}
    output_of(["go", "test", "-c", "-o", str(binary), package], env=os.environ | go)
    return binary


def why(said):
    """The last that was said, without what merely tells which test is run."""
    lines = [line for line in said if not re.match(r"=== (RUN|PAUSE|CONT|NAME)", line)]
    return "\n".join(lines[-12:])[-1500:]


def make_databases():
    for name, schema in DATABASES.items():
        for database, sql in (
            ("postgres", f"DROP DATABASE IF EXISTS {name}"),
            ("postgres", f"CREATE DATABASE {name}"),
            (name, schema),
        ):
            command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]
            subprocess.run(command, check=True)


def run(label, package, binary):
    at = "host={PGHOST} port={PGPORT} user={PGUSER} password={PGPASSWORD}".format(**os.environ)
    at += " dbname=pgx_test"
    if label.startswith("pq"):
        mine, where = os.environ, {"PGDATABASE": "pqgotest", "PGSSLMODE": "disable"}
    else:
        # They test too that they take such variables.
        mine = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        variables = ("DATABASE", "CONN_STRING", "TCP_CONN_STRING", "PGBOUNCER_CONN_STRING")
        where = {f"PGX_TEST_{name}": at for name in variables}
    names = [test for test in EXCLUDED if test.startswith(f"{label}: ")]
    for test in names:
        tell(test, "skipped", why=EXCLUDED[test])
    cwd = SOURCES / "src" / package
    # Its go has no way to leave tests out: those that are wanted are named.
    listed = subprocess.run(
        [binary, "-test.list", "."], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = [test for test in listed if f"{label}: {test}" not in EXCLUDED]
    for test in set(names) - {f"{label}: {test}" for test in listed}:
        tell(f"{test}, which is excluded", "failed", why="there is no such test")
    done = subprocess.run(
        [binary, "-test.v", "-test.run", f"^({'|'.join(wanted)})$"], cwd=cwd,
        env=mine | where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )
    said = []
    for line in done.stdout.splitlines():
        outcome = re.match(r" *--- (PASS|FAIL|SKIP): (\S+)", line)
        if not outcome:
            said.append(line)
            continue
        name = f"{label}: {outcome[2]}"
        if outcome[1] == "PASS":
            tell(name, "ok", saw="passed")
        elif outcome[1] == "SKIP":
            tell(name, "skipped", why="skips itself", itself=True)
        else:
            tell(name, "failed", why=why(said))
    if said[-1:] not in (["PASS"], ["FAIL"]):
        tell(f"{label}: the end", "failed", why=why(said))


def prepare():
    missing = [p for p in PACKAGES.values() if not (SOURCES / "src" / p).is_dir()]
    if missing or shutil.which("go") is None or shutil.which("psql") is None:
        raise Unavailable(f"needs Debian's {DEBIAN}")
    return {label: build(label, package) for label, package in PACKAGES.items()}


def main(binaries):
    make_databases()
    for label, package in PACKAGES.items():
        run(label, package, binaries[label])


if __name__ == "__main__":
    enter(prepare, main)
