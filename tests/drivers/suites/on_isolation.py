"""PostgreSQL's own isolation specs: several sessions whose steps are run in a given order.

The tester is isolationtester, compiled from the source with the changes of `TESTER`: between
transactions a session has no server process of its own, so that the one it waits in is looked for
by application_name, which follows the session, and not by the pid it was told when it connected.
Directly the same tester is used, and gives what PostgreSQL expects.
"""

import os
import subprocess
import time

from prepare import Unavailable, enter, tell
from source import Source, environment

DATABASE = "isolation_regression"
SECONDS = 400
# Gives up on a step.
STEP_SECONDS = 120

# Specs that cannot say the same, and why.
EXCLUDED = {
    "read-only-anomaly-3": "PostgreSQL does not tell that a process waits for a safe snapshot when the "
    "process has carried out another session's serializable transaction just before",
    "async-notify": "names who has notified by the pg_backend_pid() of an earlier transaction",
    "detach-partition-concurrently-3": "cancels by the pg_backend_pid() of an earlier transaction",
    "detach-partition-concurrently-4": "cancels by the pg_backend_pid() of an earlier transaction",
    "stats": "flushes the counters of the one server process that it believes to have",
}

# With --quick: some of each kind, which take a second together.
QUICK = """
    read-only-anomaly-2 simple-write-skew project-manager fk-deadlock fk-contention
    insert-conflict-do-nothing-2 deadlock-simple lock-nowait skip-locked nowait-4 nowait-5
    partition-key-update-2 timeouts temp-schema-cleanup
    truncate-conflict sequence-ddl vacuum-conflict drop-index-concurrently-1
""".split()

# Whether the step of session $1 waits for another session of the same test, or for a safe snapshot.
WAITS = """
    WITH me AS (SELECT regexp_replace(current_setting('application_name'), '[^/]*$', '') AS test),
        its AS (SELECT a.* FROM pg_stat_get_activity(NULL) a, me
            WHERE starts_with(a.application_name, me.test))
    SELECT coalesce(bool_or(pg_catalog.pg_isolation_test_session_is_blocked(
            its.pid, ARRAY(SELECT pid FROM its))), false)
        FROM its, me
        WHERE its.application_name = me.test || $1 AND its.state = 'active'
            AND its.backend_type = 'client backend'
"""

# What is written otherwise in isolationtester.c, each found there once.
TESTER = [
    # set_config() of what is not a constant pins a session to its server connection.
    (
        """PQexecParams(conns[i].conn,
						   "SELECT set_config('application_name',\\n"
						   "  current_setting('application_name') || '/' || $1,\\n"
						   "  false)",
						   1, NULL,
						   &sessionname,
						   NULL, NULL, 0);
		if (PQresultStatus(res) != PGRES_TUPLES_OK)""",
        """PQexec(conns[i].conn,
					 psprintf("SET application_name = '%s/%s'", getenv("PGAPPNAME"), sessionname));
		if (PQresultStatus(res) != PGRES_COMMAND_OK)""",
    ),
    ("PREP_WAITING, wait_query.data, 0, NULL)", "PREP_WAITING, WAITS, 0, NULL)"),
    ("&conns[step->session + 1].backend_pid_str,", "&conns[step->session + 1].sessionname,"),
]


def tester(source, directory):
    """The changed isolationtester, compiled."""
    text = (directory / "isolationtester.c").read_text(encoding="utf-8")
    for old, new in TESTER:
        if text.count(old) != 1:
            raise Unavailable(f"isolationtester.c is not the one known here: {old.split()[0]}")
        text = text.replace(old, new)
    query = " ".join(WAITS.split()).replace('"', '\\"')
    text = f'#define WAITS "{query}"\n{text}'
    changed = directory / "pgshunt_tester.c"
    if not changed.exists() or changed.read_text(encoding="utf-8") != text:
        changed.write_text(text, encoding="utf-8")
    sources = [changed.name, "specparse.c"]
    return source.compile_client(directory, sources, "pgshunt_tester", "-I.")


def prepare():
    source = Source()
    directory = source.part("isolation")
    return source, directory, tester(source, directory)


def main(ready):
    source, directory, program = ready
    psql = [str(source.bindir / "psql"), "-Xqc"]
    for statement in ("DROP DATABASE IF EXISTS", "CREATE DATABASE"):
        of = " TEMPLATE template0" if statement.startswith("CREATE") else ""
        subprocess.run([*psql, f"{statement} {DATABASE}{of}", "postgres"], check=True)
    schedule = (directory / "isolation_schedule").read_text(encoding="utf-8").splitlines()
    specs = [s for line in schedule if line.startswith("test:") for s in line.split()[1:]]
    for spec in specs:
        if "QUICK" in os.environ and spec not in QUICK:
            continue
        if spec in EXCLUDED:
            tell(spec, "skipped", why=EXCLUDED[spec])
        else:
            isolation(program, directory, spec)


def isolation(program, directory, spec):
    begun = time.monotonic()
    more = {"PGAPPNAME": f"isolation/{spec}", "PGISOLATIONTIMEOUT": str(STEP_SECONDS)}
    with open(directory / "specs" / f"{spec}.spec", encoding="utf-8") as steps:
        try:
            done = subprocess.run(
                [str(program), f"dbname={DATABASE}"], stdin=steps, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
                env=environment() | more,
            )
        except subprocess.TimeoutExpired:
            tell(spec, "failed", why=f"did not end within {SECONDS} s")
            return
    ms = round((time.monotonic() - begun) * 1000)
    # Some have several right outputs, by who is faster: those are one.
    alike = [e.read_text(encoding="utf-8") for e in sorted(directory.glob(f"expected/{spec}*.out"))]
    saw = alike[0] if done.stdout in alike else done.stdout
    tell(spec, "ok", saw=saw, ms=ms)


if __name__ == "__main__":
    enter(prepare, main)
