"""psql: its backslash commands, scripts, COPY, Ctrl-C and a terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import STEP_SECONDS, check, distributed, psql, run, sql, without_partitions

LOCAL = "psql_local"
DIST = "psql_dist"

sql(f"""
CREATE TABLE {LOCAL} (id int PRIMARY KEY, name text NOT NULL DEFAULT 'x', at date, total numeric(9,2));
CREATE INDEX {LOCAL}_name ON {LOCAL} (name);
COMMENT ON TABLE {LOCAL} IS 'a local table';
INSERT INTO {LOCAL} SELECT g, 'name ' || g, date '2026-01-01' + g, g * 1.5 FROM generate_series(1, 40) g;
CREATE VIEW psql_view AS SELECT id, name FROM {LOCAL} WHERE id < 10;
CREATE SEQUENCE psql_seq;
CREATE FUNCTION psql_add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE TYPE psql_mood AS ENUM ('good', 'bad');
""")
distributed(DIST, "id bigint PRIMARY KEY, name text, n int", "id")
distributed("psql_empty", "a int PRIMARY KEY", "a")
for n in range(1, 31):
    sql(f"INSERT INTO {DIST} VALUES ({n}, 'row {n}', {n % 3})")

# Name and script: whatever psql prints must be the same on both sides.
SCRIPTS = {
    r"\dt": r"\dt psql_*",
    r"\d with a pattern": r"\d psql_local*",
    r"\d of a local table": rf"\d {LOCAL}",
    r"\d+ of a local table": rf"\d+ {LOCAL}",
    r"\d+ of a view": r"\d+ psql_view",
    r"\l": r"\l",
    r"\du": r"\du",
    r"\dn of public": r"\dn public",
    r"\di": r"\di psql_*",
    r"\dv": r"\dv psql_*",
    r"\ds": r"\ds psql_*",
    r"\df": r"\df psql_*",
    r"\sf": r"\sf psql_add",
    r"\sv": r"\sv psql_view",
    r"\dT": r"\dT psql_*",
    r"\dx": r"\dx",
    r"\dp": r"\dp psql_local",
    r"\db": r"\db",
    r"\dd": r"\dd psql_*",
    r"\z": r"\z psql_view",
    r"\dconfig": r"\dconfig work_mem",
    r"\encoding": "\\encoding\nSHOW client_encoding;",
    r"\conninfo's user and database": "\\echo :USER :DBNAME :ENCODING :SERVER_VERSION_NUM",
    r"\gdesc": f"SELECT id, name, at, total, now() FROM {LOCAL} \\gdesc",
    r"\gdesc of a distributed table": f"SELECT id, name, n FROM {DIST} WHERE id = 3 \\gdesc",
    r"\gdesc of nothing": r"SELECT \gdesc",
    r"\gx": f"SELECT * FROM {LOCAL} WHERE id = 3 \\gx",
    r"\gset": f"SELECT id AS i, name AS n FROM {LOCAL} WHERE id = 4 \\gset\n\\echo :i :n",
    r"\gset of a distributed table": f"SELECT name AS n FROM {DIST} WHERE id = 4 \\gset\n\\echo :n",
    r"\gexec": f"SELECT format('SELECT %s + 1', id) FROM {LOCAL} WHERE id < 4 ORDER BY id \\gexec",
    r"\crosstabview": f"SELECT id % 3 AS r, id % 2 AS c, count(*) FROM {LOCAL} GROUP BY 1, 2 ORDER BY 1, 2 \\crosstabview",
    r"\errverbose": "SELECT 1/0;\n\\errverbose",
    r"\timing off, \pset": "\\pset format csv\nSELECT 1 AS a, 'b,c' AS b;",
    r"\if": "SELECT true AS yes \\gset\n\\if :yes\n\\echo taken\n\\else\n\\echo not\n\\endif",
    "variables": f"\\set id 7\nSELECT name FROM {DIST} WHERE id = :id;\n\\set n 'row 9'\nSELECT :'n';",
    "several statements in one line": f"SELECT 1; SELECT 2\\; SELECT 3;",
    "FETCH_COUNT": f"\\set FETCH_COUNT 7\nSELECT id FROM {LOCAL} ORDER BY id;",
    "FETCH_COUNT of one shard": f"\\set FETCH_COUNT 7\nSELECT name FROM {DIST} WHERE id = 5;",
    "an error's line and position": "SELECT 1,\n  wrong\nFROM nowhere;",
    "an error's detail and hint": f"INSERT INTO {LOCAL} VALUES (1);\nSELECT psql_add('a'::text, 1);",
    "an error in a distributed table": f"INSERT INTO {DIST} (id, n) VALUES (3, 1);\nSELECT nothing FROM {DIST} WHERE id = 1;\nUPDATE {DIST} SET n = n / 0 WHERE id = 2;",
    "a transaction that failed": f"BEGIN;\nSELECT 1/0;\nSELECT 2;\nROLLBACK;\nSELECT 3;",
    "a transaction on one shard": f"BEGIN;\nUPDATE {DIST} SET n = 100 WHERE id = 12;\nSELECT n FROM {DIST} WHERE id = 12;\nROLLBACK;\nSELECT n FROM {DIST} WHERE id = 12;",
    "savepoints": f"BEGIN;\nUPDATE {DIST} SET n = 100 WHERE id = 12;\nSAVEPOINT a;\nSELECT 1/0;\nROLLBACK TO a;\nSELECT n FROM {DIST} WHERE id = 12;\nROLLBACK;",
    "ON_ERROR_ROLLBACK": f"\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT n FROM {DIST} WHERE id = 12;\nSELECT 1/0;\nSELECT n FROM {DIST} WHERE id = 12;\nCOMMIT;",
    "AUTOCOMMIT off": f"\\set AUTOCOMMIT off\nUPDATE {DIST} SET n = 50 WHERE id = 13;\nROLLBACK;\nSELECT n FROM {DIST} WHERE id = 13;\nCOMMIT;",
    "ON_ERROR_STOP": "\\set ON_ERROR_STOP 1\nSELECT 1;\nSELECT 1/0;\nSELECT 'never';",
    "notices": "DO $$ BEGIN RAISE NOTICE 'hello % %', 1, 'x'; RAISE WARNING 'careful' USING HINT = 'look', DETAIL = 'there'; END $$;",
    "count over all nodes": f"SELECT count(*), sum(n), min(id), max(id) FROM {DIST};",
    "no rows over all nodes": "SELECT a FROM psql_empty;\nSELECT count(*), max(a) FROM psql_empty;",
    "rows over all nodes": f"\\pset format unaligned\nSELECT count(*) FROM {DIST} WHERE n = 1;",
    "PREPARE and EXECUTE": f"PREPARE p (int) AS SELECT name FROM {LOCAL} WHERE id = $1;\nEXECUTE p(5);\nEXECUTE p(6);\nDEALLOCATE p;\nEXECUTE p(5);",
    "SET and SHOW": "SET work_mem = '7MB';\nSHOW work_mem;\nRESET work_mem;\nSHOW work_mem;",
    "SET LOCAL": "BEGIN;\nSELECT 1;\nSET LOCAL work_mem = '9MB';\nSHOW work_mem;\nCOMMIT;\nSHOW work_mem;",
    "SET search_path": f"SET search_path = pg_catalog;\nSELECT count(*) FROM {LOCAL};\nSET search_path = public;\nSELECT count(*) FROM {LOCAL};",
    "SET of what is not there": "SET nothing_like_it = 1;\nSHOW nothing_like_it;",
    "SET of a wrong value": "SET work_mem = 'much';\nSELECT 1;",
    "datestyle and time zone": "SET datestyle = 'German';\nSELECT date '2026-11-21';\nSET timezone = 'UTC';\nSELECT timestamptz '2026-11-21 12:00+02';",
    "COPY from a script": f"CREATE TABLE psql_copied (a int, b text);\nCOPY psql_copied FROM STDIN;\n1\tone\n2\t\\N\n3\tthree\\nlines\n\\.\nSELECT * FROM psql_copied ORDER BY a;",
    "COPY with an error": f"CREATE TABLE psql_bad (a int);\nCOPY psql_bad FROM STDIN;\n1\nx\n3\n\\.\nSELECT count(*) FROM psql_bad;",
    "COPY into a distributed table": f"BEGIN;\nCOPY {DIST} (id, n) FROM STDIN;\n901\t1\n902\t2\n903\t\\N\n\\.\nSELECT count(*), sum(n) FROM {DIST} WHERE id > 900;\nROLLBACK;\nSELECT count(*) FROM {DIST} WHERE id > 900;",
    "an error in COPY into a distributed table": f"COPY {DIST} (id, n) FROM STDIN CSV HEADER;\na,b\n901,1\n902,2\nx,3\n904,4\n\\.\nSELECT count(*) FROM {DIST} WHERE id > 900;",
    "COPY with too few columns": f"COPY {DIST} (id, name, n) FROM STDIN;\n901\ta\t1\n902\tb\n\\.\nSELECT count(*) FROM {DIST} WHERE id > 900;",
    "COPY to the script's output": f"COPY (SELECT id, name FROM {LOCAL} WHERE id < 6 ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER);",
    "COPY of a local table": f"COPY {LOCAL} TO STDOUT;",
    "an empty query": ";\n\nSELECT 1;",
    "a long text": "SELECT length(repeat('x', 3000000));",
    "a wide result": "SELECT md5(string_agg(repeat('ab', 500), '')) FROM generate_series(1, 2000);",
    "many rows": "\\pset format unaligned\n\\pset tuples_only\nSELECT g, md5(g::text) FROM generate_series(1, 20000) g;",
    "null, unicode and bytes": "\\pset null ∅\nSELECT NULL, 'Grüße 🚂', E'\\\\x00ff'::bytea;",
    "a temporary table": "CREATE TEMP TABLE t AS SELECT 1 AS a;\nSELECT * FROM t;\nINSERT INTO t VALUES (2);\nSELECT count(*) FROM t;",
    "cursors": f"BEGIN;\nDECLARE c CURSOR FOR SELECT id FROM {LOCAL} ORDER BY id;\nFETCH 3 FROM c;\nMOVE 2 IN c;\nFETCH c;\nCLOSE c;\nCOMMIT;",
    "EXPLAIN of a local table": f"EXPLAIN (COSTS OFF) SELECT * FROM {LOCAL} WHERE id = 3;",
    "an advisory lock": "SELECT pg_advisory_lock(4711);\nSELECT pg_advisory_unlock(4711);\nSELECT pg_advisory_unlock(4711);",
    "sequences": "SELECT nextval('psql_seq');\nSELECT setval('psql_seq', 50);\nSELECT nextval('psql_seq');",
    "INSERT RETURNING": f"INSERT INTO {DIST} VALUES (1001, 'new', 1) RETURNING *;\nDELETE FROM {DIST} WHERE id = 1001 RETURNING id, name;",
    "INSERT ON CONFLICT": f"INSERT INTO {DIST} VALUES (1, 'again', 9) ON CONFLICT (id) DO UPDATE SET n = 77 RETURNING id, n;\nUPDATE {DIST} SET n = 1 WHERE id = 1;",
    "GRANT and a role": f"CREATE ROLE psql_reader;\nGRANT SELECT ON {LOCAL} TO psql_reader;\nSET ROLE psql_reader;\nSELECT count(*) FROM {LOCAL};\nDELETE FROM {LOCAL};\nRESET ROLE;\nREVOKE ALL ON {LOCAL} FROM psql_reader;\nDROP ROLE psql_reader;",
    "ALTER TABLE of a local table": f"CREATE TABLE psql_alter (a int);\nALTER TABLE psql_alter ADD b text DEFAULT 'q';\nINSERT INTO psql_alter VALUES (1);\nTABLE psql_alter;\nDROP TABLE psql_alter;",
    "TRUNCATE and VACUUM": "CREATE TABLE psql_vacuum (a int);\nINSERT INTO psql_vacuum VALUES (1);\nTRUNCATE psql_vacuum;\nVACUUM psql_vacuum;\nANALYZE psql_vacuum;\nDROP TABLE psql_vacuum;",
}


def register(name, script):
    @check(name)
    def _():
        return psql(script)


for title, text in SCRIPTS.items():
    register(title, text)


@check(r"\d of a distributed table")
def _():
    seen = psql(rf"\d {DIST}")
    return seen | {"out": without_partitions(seen["out"])}


@check(r"\d+ of a distributed table")
def _():
    seen = psql(rf"\d+ {DIST}")
    assert "Partition key: HASH (id)" in seen["out"], seen
    return seen | {"out": without_partitions(seen["out"])}


@check("-c, several of them, and their exit code")
def _():
    good = psql(None, "-c", "SELECT 1; SELECT 2", "-c", r"\echo three", "-c", "SELECT 4")
    bad = psql(None, "-c", "SELECT 1; SELECT 1/0; SELECT 2")
    return [good, bad]


@check("-c is one transaction")
def _():
    psql(None, "-c", f"CREATE TABLE psql_once (a int); SELECT 1/0")
    return psql("SELECT to_regclass('psql_once') IS NULL")


@check("-1 is one transaction")
def _():
    sql("CREATE TABLE psql_single (a int)")
    bad = psql("INSERT INTO psql_single VALUES (1);\nSELECT 1/0;", "-1", "-v", "ON_ERROR_STOP=1")
    return [bad, psql("SELECT count(*) FROM psql_single")]


@check("-l")
def _():
    return psql(None, "-l")


@check("an unknown database, and a wrong password")
def _():
    unknown = psql("SELECT 1", "-d", "nowhere")
    environment = os.environ | {"PGPASSWORD": "wrong"}
    wrong = subprocess.run(
        ["psql", "-X", "-c", "SELECT 1"], env=environment, capture_output=True, text=True,
        timeout=STEP_SECONDS, check=False,
    )
    # The address is the side's own; what the server says is not.
    said = [re.sub(r"port \d+", "port n", text) for text in (unknown["err"], wrong.stderr)]
    return [unknown["code"], wrong.returncode, *said]


@check(r"\copy in and out, local and distributed")
def _():
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows.csv"
        rows.write_text("".join(f"{n},copied {n}\n" for n in range(1, 2001)), encoding="utf-8")
        out = Path(place) / "out.csv"
        sql("CREATE TABLE psql_copy (a int, b text)")
        seen = psql(
            f"\\copy psql_copy FROM '{rows}' WITH (FORMAT csv)\n"
            f"\\copy (SELECT * FROM psql_copy ORDER BY a) TO '{out}' WITH (FORMAT csv)\n"
        )
        assert out.read_bytes() == rows.read_bytes()
        one = Path(place) / "one.tsv"
        seen_one = psql(f"\\copy (SELECT * FROM {DIST} WHERE id = 8) TO '{one}'")
        return [seen, seen_one, one.read_text(encoding="utf-8")]


@check(r"\i, \ir and \o")
def _():
    with tempfile.TemporaryDirectory() as place:
        inner = Path(place) / "inner.sql"
        inner.write_text(f"SELECT name FROM {DIST} WHERE id = 2;\n", encoding="utf-8")
        outer = Path(place) / "outer.sql"
        outer.write_text("\\ir inner.sql\n", encoding="utf-8")
        out = Path(place) / "out"
        seen = psql(f"\\o {out}\n\\i {inner}\n\\i {outer}\n\\o\nSELECT 'end';")
        return [seen, out.read_text(encoding="utf-8")]


def until(what, look, seconds=STEP_SECONDS):
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


def sleeping(mark):
    query = f"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{mark}' AND state = 'active'"
    return lambda: sql(query + " AND pid <> pg_backend_pid()").strip() == "1"


@check("Ctrl-C ends a running statement, and it does end on the server")
def _():
    mark = "-- mark one"
    process = subprocess.Popen(
        ["psql", "-X", "-c", f"SELECT pg_sleep(500) {mark}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    until("the statement to run", sleeping(mark))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=STEP_SECONDS)
    until("the statement to end", lambda: not sleeping(mark)())
    return [process.returncode, out, err]


@check(r"\watch until Ctrl-C")
def _():
    process = subprocess.Popen(
        ["psql", "-X", "-At", "-f", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    process.stdin.write(f"SELECT 'n is ' || n FROM {DIST} WHERE id = 6 \\watch 0.05\nSELECT 'on';\n")
    process.stdin.close()
    seen = []
    while sum(line.startswith("n is") for line in seen) < 3:
        line = process.stdout.readline()
        assert line, f"ended early: {seen} {process.stderr.read()}"
        seen.append(line)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=STEP_SECONDS)
    # It ends with 0 in the pause and with 3 in the statement.
    assert process.returncode in (0, 3), process.stderr.read()
    return [sorted({line for line in seen if line.startswith("n is")})]


class Terminal:
    """psql as a person has it, on a pseudo terminal."""

    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", PAGER="cat", PSQL_PAGER="cat")
            os.execvp("psql", ["psql", "-X", "-n", "-P", "pager=off"])
        self.text = ""

    def expect(self, what, seconds=STEP_SECONDS):
        """Reads until `what` appears, and returns what came before it."""
        deadline = time.monotonic() + seconds
        while what not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{what!r} did not appear within {seconds} s: {self.text[-500:]!r}")
            try:
                self.text += os.read(self.fd, 65536).decode()
            except OSError as closed:
                raise EOFError(f"psql ended: {self.text[-500:]!r}") from closed
        before, _, self.text = self.text.partition(what)
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def close(self):
        self.type("\\q\n")
        deadline = time.monotonic() + STEP_SECONDS
        while time.monotonic() < deadline:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@check("a terminal: prompts, Ctrl-C, and the session goes on")
def _():
    mark = "-- mark two"
    terminal = Terminal()
    terminal.expect("app=# ")
    terminal.type("BEGIN;\n")
    terminal.expect("app=*# ")
    terminal.type(f"SELECT pg_sleep(500) {mark}\n;\n")
    until("the statement to run", lambda: sleeping("%" + mark + "%")())
    terminal.type("\x03")
    cancelled = terminal.expect("app=!# ")
    terminal.type("ROLLBACK;\n")
    terminal.expect("app=# ")
    terminal.type(f"SELECT 'n', n FROM {DIST} WHERE id = 6;\n")
    rows = terminal.expect("app=# ")
    code = terminal.close()
    assert "canceling statement due to user request" in cancelled, cancelled
    return [code, "(1 row)" in rows]


@check("Ctrl-C between statements does nothing")
def _():
    terminal = Terminal()
    terminal.expect("app=# ")
    # psql misses one that comes before it has begun to read the line.
    for _ in range(50):
        terminal.type("\x03")
        try:
            terminal.expect("app=# ", seconds=0.5)
            break
        except TimeoutError:
            pass
    terminal.type("SELECT 40 + 2;\n")
    rows = terminal.expect("app=# ")
    return [terminal.close(), "42" in rows]


run()
