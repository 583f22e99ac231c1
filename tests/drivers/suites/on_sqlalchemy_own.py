"""SQLAlchemy's own tests of its PostgreSQL dialect, with psycopg and with asyncpg.

They want a database of their own, empty but for two schemas; what a run leaves behind makes the next
one fail, so each begins with a new database. It is not the cluster's, so nothing is sharded.
"""

import os
import subprocess
import sys

import foreign
from harness import psql
from prepare import enter

DRIVERS = ["psycopg", "asyncpg"]

# What cannot say the same, or fails directly too, and why.
EXCLUDED = {
    "test_types::CoreArrayRoundTripTest::test_array_str_collation": "wants the collation en_US, which few servers have",
    "test_types::PGArrayRoundTripTest::test_array_str_collation": "wants the collation en_US, which few servers have",
}
EXCLUDED_OF = {
    "asyncpg": {
        "test_async_pg::AsyncPgTest::test_detect_stale_type_cache_raise_recover":
            "wants an error of the server process that has cached a type which is gone; the one lent in turn has not",
    },
}
# The whole takes minutes.
QUICK = ["test_async_pg", "test_dialect", "test_on_conflict", "test_query"]


def fresh_database(name):
    for text in (f'DROP DATABASE IF EXISTS "{name}" (FORCE)', f'CREATE DATABASE "{name}"'):
        done = psql(None, "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text)
        if done["code"] != 0:
            raise RuntimeError(f"{text}: {done['err']}")
    # The drivers look for the extensions' types when they connect.
    contents = """CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2;
        CREATE EXTENSION hstore; CREATE EXTENSION citext;"""
    done = psql(contents, "-q", "-v", "ON_ERROR_STOP=1", "-d", name)
    if done["code"] != 0:
        raise RuntimeError(f"{name}: {done['err']}")


def prepare():
    return foreign.source("sqlalchemy")


def one_driver(root, driver):
    """Runs the tests with one driver; pytest can be run once in a process."""
    name = f"sqlalchemy_{driver}"
    fresh_database(name)
    address = "{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}".format(**os.environ)
    where = "test/dialect/postgresql"
    files = [where, "test/dialect/test_suite.py"]
    if "QUICK" in os.environ:
        files = [f"{where}/{name}.py" for name in QUICK]
    arguments = [
        "-o", "addopts=", "-p", "no:logging", "-p", "no:warnings", "--maxfail=1000000",
        "--dburi", f"postgresql+{driver}://{address}/{name}", *files,
    ]
    foreign.run(root, arguments, f"{driver} ", EXCLUDED | EXCLUDED_OF.get(driver, {}))


def main(root):
    if sys.argv[1:]:
        one_driver(root, sys.argv[1])
        return
    # -s: the SQLAlchemy that is installed, not the one beside the tests.
    runs = [
        subprocess.run([sys.executable, "-s", __file__, driver], check=False).returncode
        for driver in DRIVERS
    ]
    sys.exit(max(runs))


if __name__ == "__main__":
    enter(prepare, main)
