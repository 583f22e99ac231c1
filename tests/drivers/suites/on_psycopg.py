"""psycopg 3: parameters, prepared statements, cursors, pipeline, COPY, async, pool."""

import asyncio
import contextlib
import datetime as dt
import decimal
import enum
import ipaddress
import re
import threading
import time
import uuid

import psycopg
from psycopg import pq, sql as q
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from psycopg.types.range import Range
from psycopg_pool import ConnectionPool

from harness import STEP_SECONDS, check, distributed, run, sql

sql("""
CREATE TABLE p3_local (id int PRIMARY KEY, name text, n int);
INSERT INTO p3_local SELECT g, 'name ' || g, g % 7 FROM generate_series(1, 500) g;
CREATE TYPE p3_mood AS ENUM ('good', 'bad');
CREATE TYPE p3_pair AS (a int, b text);
CREATE TABLE p3_copy (a int, b text, c date);
""")
distributed("p3_items", "id int, line int, name text, at timestamptz, PRIMARY KEY (id, line)", "id")
KEYS = {
    "smallint": [-32768, -1, 0, 1, 32767],
    "integer": [-(2**31), -5, 0, 77, 2**31 - 1],
    "bigint": [-(2**63), -5, 0, 77, 2**40, 2**63 - 1],
    "text": ["", "a", "Grüße", "x" * 3000, "a b'c\\"],
    "varchar(50)": ["", "b", "déjà vu", "z" * 50],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID(int=12345678901234567890)],
}
for number, kind in enumerate(KEYS):
    distributed(f"p3_key{number}", f"k {kind} PRIMARY KEY, v text", "k")


def connect(**options):
    return psycopg.connect(autocommit=options.pop("autocommit", True), **options)


def rows(connection, query, parameters=None, **options):
    return connection.execute(query, parameters, **options).fetchall()


def fields(error):
    d = error.diag
    return {
        name: getattr(d, name)
        for name in (
            "severity", "sqlstate", "message_primary", "message_detail", "message_hint",
            "statement_position", "context", "schema_name", "table_name", "column_name",
            "constraint_name", "datatype_name", "severity_nonlocalized",
        )
    } | {"schema_name": re.sub(r"^shard_\d+$", "a shard", d.schema_name or "")}


def error_of(connection, query, parameters=None):
    try:
        connection.execute(query, parameters)
    except psycopg.Error as error:
        return fields(error)
    raise AssertionError(f"{query} did not fail")


VALUES = {
    "int2": 7, "int4": -70000, "int8": 2**45, "numeric": decimal.Decimal("123.4500"),
    "numeric nan": decimal.Decimal("NaN"), "float8": 1.5e-300, "float inf": float("inf"),
    "bool": True, "text": "héllo ' \\ \n 🚂", "empty": "", "null": None, "bytes": b"\x00\xff\\x",
    "date": dt.date(2026, 11, 21), "time": dt.time(1, 2, 3, 4),
    "timestamp": dt.datetime(2026, 11, 21, 12, 0, 1, 5),
    "timestamptz": dt.datetime(2026, 11, 21, 12, tzinfo=dt.timezone.utc),
    "interval": dt.timedelta(days=3, seconds=5), "uuid": uuid.UUID(int=99),
    "json": Jsonb({"a": [1, None, "x"]}), "int array": [1, 2, 3], "text array": ["a", None, 'q"'],
    "nested array": [[1, 2], [3, 4]], "inet": ipaddress.ip_interface("10.0.0.1/8"),
    "int range": Range(1, 10), "empty list": [],
}


def register(title, binary):
    @check(f"parameters and results in {title} format")
    def _():
        seen = {}
        with connect() as c:
            for name, value in VALUES.items():
                cursor = c.cursor(binary=binary)
                mark = "%b" if binary else "%t"
                cast = "" if name != "empty list" else "::int[]"
                try:
                    cursor.execute(f"SELECT {mark}{cast} AS v", [value])
                    row = cursor.fetchone()
                    seen[name] = [row, cursor.description[0].type_code]
                except psycopg.Error as error:
                    seen[name] = [str(error), error.sqlstate]
        return seen


register("text", False)
register("binary", True)


@check("what the connection tells of itself")
def _():
    with connect(application_name="p3") as c:
        i = c.info
        assert i.backend_pid > 0
        return [
            i.server_version, i.encoding, str(i.timezone), i.parameter_status("DateStyle"),
            i.parameter_status("standard_conforming_strings"), i.parameter_status("is_superuser"),
            i.parameter_status("session_authorization"), i.parameter_status("application_name"),
            i.parameter_status("integer_datetimes"), i.parameter_status("IntervalStyle"),
            i.status.name, i.transaction_status.name, i.pipeline_status.name,
            rows(c, "SHOW application_name"),
        ]


@check("ParameterStatus follows a SET")
def _():
    with connect() as c:
        seen = []
        for value in ("Europe/Madrid", "UTC"):
            c.execute(f"SET TimeZone = '{value}'")
            seen.append([c.info.parameter_status("TimeZone"), rows(c, "SHOW timezone")])
        seen.append(rows(c, "SELECT timestamptz '2026-11-21 12:00Z'"))
        return seen


@check("options in the connection string")
def _():
    with connect(options="-c work_mem=9MB -c search_path=pg_catalog,public") as c:
        return [rows(c, "SHOW work_mem"), rows(c, "SHOW search_path")]


def register_key(number, kind, keys):
    @check(f"a key of type {kind}")
    def _():
        table, seen = f"p3_key{number}", []
        with connect() as c:
            for binary in (False, True):
                mark = "%b" if binary else "%t"
                for i, key in enumerate(keys):
                    if binary:
                        done = c.execute(f"UPDATE {table} SET v = v || '!' WHERE k = {mark}", [key])
                    else:
                        done = c.execute(f"INSERT INTO {table} VALUES ({mark}, %s)", [key, f"v{i}"])
                    seen.append([done.rowcount, done.statusmessage])
                    got = c.cursor(binary=binary)
                    got.execute(f"SELECT k, v FROM {table} WHERE k = {mark}", [key])
                    seen.append(got.fetchall())
                    assert len(seen[-1]) == 1, (key, seen[-1])
            seen.append(rows(c, f"SELECT count(*) FROM {table}"))
            for key in keys[1:]:
                gone = rows(c, f"DELETE FROM {table} WHERE k = %s RETURNING v", [key], prepare=True)
                seen.append(gone)
        return seen


for number, (kind, keys) in enumerate(KEYS.items()):
    register_key(number, kind, keys)


@check("prepared statements, again and again, on all shards")
def _():
    with connect() as c:
        c.prepare_threshold = 0
        for i in range(1, 41):
            c.execute("INSERT INTO p3_items VALUES (%s, 1, %s)", [i, f"item {i}"])
        seen = [
            rows(c, "SELECT id, name FROM p3_items WHERE id = %s", [i % 40 + 1]) for i in range(80)
        ]
        return seen


@check("more statements than a driver or a server connection keeps")
def _():
    with connect() as c:
        c.prepare_threshold = 0
        c.prepared_max = 20
        return [rows(c, f"SELECT name, {n} FROM p3_items WHERE id = %s", [n % 40 + 1]) for n in range(700)]


@check("DEALLOCATE ALL and DISCARD ALL")
def _():
    query = "SELECT name FROM p3_local WHERE id = %s"
    with connect() as c:
        first = rows(c, query, [3], prepare=True)
        seen = [first]
        for command in ("DEALLOCATE ALL", "SET work_mem = '3MB'; DISCARD ALL"):
            for statement in command.split("; "):
                c.execute(statement)
            try:
                rows(c, query, [3], prepare=True)
                seen.append("the statement is still there")
            except psycopg.errors.InvalidSqlStatementName as error:
                seen.append(str(error))
            c._prepared._names.clear()
            seen.append(rows(c, query, [3], prepare=True))
        return seen + [rows(c, "SHOW work_mem")]


@check("a prepared statement whose table changes")
def _():
    with connect() as c, connect() as other:
        c.execute("CREATE TABLE p3_alter (a int)")
        c.execute("INSERT INTO p3_alter VALUES (1)")
        seen = [rows(c, "SELECT * FROM p3_alter", prepare=True)]
        other.execute("ALTER TABLE p3_alter ADD b int DEFAULT 5")
        try:
            seen.append(rows(c, "SELECT * FROM p3_alter", prepare=True))
        except psycopg.errors.FeatureNotSupported as error:
            # PostgreSQL has the client prepare anew; pgshunt does so itself where it can.
            assert "cached plan must not change result type" in str(error), error
            seen.append(rows(other, "SELECT * FROM p3_alter", prepare=True))
        other.execute("DROP TABLE p3_alter")
        return seen


@check("executemany, with and without results")
def _():
    with connect() as c, c.cursor() as cursor:
        cursor.executemany("INSERT INTO p3_local VALUES (%s, %s, 0)", [(1000 + i, f"m{i}") for i in range(50)])
        inserted = cursor.rowcount
        cursor.executemany("SELECT name FROM p3_local WHERE id = %s", [(1001,), (1002,)], returning=True)
        seen = [inserted, cursor.fetchall()]
        while cursor.nextset():
            seen.append(cursor.fetchall())
        c.execute("DELETE FROM p3_local WHERE id >= 1000")
        return seen


@check("several statements in one text")
def _():
    with connect() as c, c.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 'two', 2; UPDATE p3_local SET n = n WHERE id < 3; SELECT 4")
        seen = []
        while True:
            seen.append([cursor.statusmessage, cursor.fetchall() if cursor.description else None])
            if not cursor.nextset():
                return seen


@check("a server-side cursor on a local table")
def _():
    with connect(autocommit=False) as c, c.cursor(name="cur") as cursor:
        cursor.execute("SELECT id FROM p3_local ORDER BY id")
        seen = [cursor.fetchone(), cursor.fetchmany(3)]
        cursor.scroll(10)
        seen.append(cursor.fetchmany(2))
        cursor.itersize = 50
        seen.append(sum(row[0] for row in cursor))
        return seen


@check("a scrollable server-side cursor")
def _():
    with connect(autocommit=False) as c, c.cursor(name="cur", scrollable=True) as cursor:
        cursor.execute("SELECT id FROM p3_local WHERE n = %s ORDER BY id", [3])
        seen = [cursor.fetchmany(5)]
        cursor.scroll(-3)
        seen.append(cursor.fetchmany(2))
        cursor.scroll(0, mode="absolute")
        seen.append(cursor.fetchone())
        return seen


@check("a server-side cursor on one shard")
def _():
    with connect(autocommit=False) as c, c.cursor(name="cur") as cursor:
        cursor.execute("SELECT id, line, name FROM p3_items WHERE id = %s", [7])
        return [cursor.fetchall(), [d.name for d in cursor.description]]


@check("a cursor WITH HOLD")
def _():
    with connect(autocommit=True) as c, c.cursor(name="held", withhold=True) as cursor:
        cursor.execute("SELECT id FROM p3_local ORDER BY id")
        first = cursor.fetchmany(3)
        other = rows(c, "SELECT name FROM p3_local WHERE id = 9")
        return [first, other, cursor.fetchmany(2)]


@check("streaming, row by row")
def _():
    with connect() as c, c.cursor() as cursor:
        query = "SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g"
        return sum(row[0] + len(row[1]) for row in cursor.stream(query))


@check("pipeline on one shard and on local tables")
def _():
    with connect() as c:
        with c.pipeline() as p:
            a = c.execute("SELECT name FROM p3_items WHERE id = %s", [11])
            b = c.execute("UPDATE p3_items SET name = 'piped' WHERE id = %s", [11])
            d = c.execute("SELECT name FROM p3_items WHERE id = %s", [11])
            p.sync()
            e = c.execute("SELECT name FROM p3_local WHERE id = %s", [12])
            f = c.execute("SELECT count(*) FROM p3_local")
            return [a.fetchall(), b.statusmessage, d.fetchall(), e.fetchall(), f.fetchall()]


@check("pipeline over shards of several nodes, a Sync after each")
def _():
    with connect() as c:
        cursors = []
        with c.pipeline() as p:
            for i in range(1, 31):
                cursors.append(c.execute("SELECT id, name FROM p3_items WHERE id = %s", [i]))
                p.sync()
            return [cursor.fetchall() for cursor in cursors]


@check("pipeline over shards of several nodes within one Sync")
def _():
    with connect() as c, c.pipeline():
        cursors = [c.execute("SELECT name FROM p3_items WHERE id = %s", [i]) for i in range(1, 31)]
        return [cursor.fetchall() for cursor in cursors]


@check("after a refused pipeline the session goes on")
def _():
    with connect() as c:
        try:
            with c.pipeline():
                for i in range(1, 31):
                    c.execute("UPDATE p3_items SET line = line WHERE id = %s", [i])
        except psycopg.errors.FeatureNotSupported:
            pass
        return [c.info.transaction_status.name, rows(c, "SELECT name FROM p3_items WHERE id = 3")]


@check("pipeline with an error in the middle")
def _():
    with connect() as c:
        seen = []
        try:
            with c.pipeline():
                c.execute("UPDATE p3_local SET n = -1 WHERE id = %s", [20])
                c.execute("SELECT 1 / %s", [0])
                c.execute("UPDATE p3_local SET n = -1 WHERE id = %s", [21])
        except psycopg.Error as error:
            seen.append([error.sqlstate, str(error)])
        return seen + rows(c, "SELECT id, n FROM p3_local WHERE id IN (20, 21) ORDER BY id")


@check("pipeline in a transaction")
def _():
    with connect(autocommit=False) as c:
        with c.pipeline():
            c.execute("INSERT INTO p3_items VALUES (%s, 2, 'second')", [15])
            a = c.execute("SELECT line, name FROM p3_items WHERE id = %s ORDER BY line", [15])
        seen = a.fetchall()
        c.rollback()
        return [seen, rows(c, "SELECT line, name FROM p3_items WHERE id = 15")]


@check("transactions, savepoints and what they leave")
def _():
    with connect() as c:
        seen = []
        with c.transaction():
            c.execute("UPDATE p3_items SET name = 'outer' WHERE id = 16")
            try:
                with c.transaction():
                    c.execute("UPDATE p3_items SET name = 'inner' WHERE id = 16")
                    raise ValueError
            except ValueError:
                pass
            seen.append(c.info.transaction_status.name)
            with c.transaction(force_rollback=True):
                c.execute("UPDATE p3_items SET name = 'gone' WHERE id = 16")
        seen.append(c.info.transaction_status.name)
        return seen + rows(c, "SELECT name FROM p3_items WHERE id = 16")


@check("an error inside a transaction block")
def _():
    with connect(autocommit=False) as c:
        c.execute("UPDATE p3_items SET name = 'x' WHERE id = 17")
        seen = [error_of(c, "SELECT 1 / 0"), c.info.transaction_status.name]
        seen.append(error_of(c, "SELECT 1"))
        c.rollback()
        return seen + rows(c, "SELECT name FROM p3_items WHERE id = 17")


@check("isolation level, read only, deferrable")
def _():
    with connect(autocommit=False) as c:
        seen = []
        for level in (psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.REPEATABLE_READ):
            c.isolation_level = level
            c.read_only = True
            c.deferrable = True
            seen.append(rows(c, "SELECT name FROM p3_items WHERE id = 18"))
            seen.append(rows(c, "SHOW transaction_isolation"))
            seen.append(rows(c, "SHOW transaction_read_only"))
            seen.append(error_of(c, "UPDATE p3_items SET name = 'no' WHERE id = 18"))
            c.rollback()
        return seen


@check("a transaction over several nodes")
def _():
    with connect(autocommit=False) as c:
        for i in range(1, 31):
            c.execute("UPDATE p3_items SET line = line WHERE id = %s", [i])
        c.rollback()
        return "done"


@check("COPY in, by rows, in text and binary")
def _():
    with connect() as c:
        data = [(i, f"row\t{i}\\" if i % 5 else None, dt.date(2026, 1, 1)) for i in range(3000)]
        seen = []
        for form in ("", " WITH (FORMAT binary)"):
            with c.cursor() as cursor:
                with cursor.copy(f"COPY p3_copy FROM STDIN{form}") as copy:
                    if form:
                        copy.set_types(["int4", "text", "date"])
                    for row in data:
                        copy.write_row(row)
                seen.append([cursor.rowcount, cursor.statusmessage])
        seen.append(rows(c, "SELECT count(*), sum(a), count(b), min(b), max(c) FROM p3_copy"))
        return seen


@check("COPY out, by rows and in blocks")
def _():
    with connect() as c, c.cursor() as cursor:
        with cursor.copy("COPY (SELECT * FROM p3_local WHERE id < 20 ORDER BY id) TO STDOUT") as copy:
            text = [row for row in copy.rows()]
        with cursor.copy("COPY (SELECT id, n FROM p3_local ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "int4"])
            total = sum(a + b for a, b in copy.rows())
        with cursor.copy("COPY (SELECT * FROM p3_items WHERE id = 19) TO STDOUT") as copy:
            shard = b"".join(bytes(block) for block in copy)
        return [text, total, shard]


@check("COPY into a distributed table and from it, in text and binary")
def _():
    seen = []
    with connect() as c, c.cursor() as cursor:
        for form in ["", " (FORMAT binary)"]:
            with cursor.copy(f"COPY p3_items (id, line, name) FROM STDIN{form}") as copy:
                if form:
                    copy.set_types(["int4", "int4", "text"])
                for id in range(900, 950):
                    copy.write_row((id, 99, f"it's\tcopied \\ {id}"))
            seen.append(cursor.rowcount)
            with cursor.copy("COPY (SELECT id, name FROM p3_items WHERE id >= 900) TO STDOUT") as copy:
                seen.append(sorted(copy.rows()))
            for id in range(900, 950):
                c.execute("DELETE FROM p3_items WHERE id = %s", (id,))
        try:
            with cursor.copy("COPY p3_items (id, line, name) FROM STDIN") as copy:
                copy.write("900\t1\ta\n901\t1\tb\nx\t1\tc\n")
        except psycopg.Error as e:
            seen.append([e.sqlstate, e.diag.context])
            c.rollback()
        return seen + rows(c, "SELECT count(*) FROM p3_items WHERE id >= 900")


def leaf_of(connection, key):
    """The shard's own table that holds a key, found by looking into all of them."""
    for shard in range(100):
        try:
            if rows(connection, f"SELECT 1 FROM shard_{shard}.p3_items WHERE id = {key}"):
                return f"shard_{shard}.p3_items"
        except psycopg.errors.UndefinedTable:
            pass
    raise AssertionError(f"no shard has {key}")


@check("COPY into a shard by its own table")
def _():
    with connect() as c, c.cursor() as cursor:
        leaf = leaf_of(c, 8)
        with cursor.copy(f"COPY {leaf} (id, line, name) FROM STDIN") as copy:
            for line in range(100, 200):
                copy.write_row((8, line, f"line {line}"))
        seen = [cursor.rowcount, rows(c, "SELECT count(*), max(name) FROM p3_items WHERE id = 8")]
        c.execute("DELETE FROM p3_items WHERE id = 8 AND line >= 100")
        return seen


@check("a COPY that the client gives up, and one that the server refuses")
def _():
    with connect() as c, c.cursor() as cursor:
        seen = []
        try:
            with cursor.copy("COPY p3_copy FROM STDIN") as copy:
                copy.write_row((1, "a", None))
                raise ValueError("enough")
        except ValueError as error:
            seen.append(str(error))
        try:
            with cursor.copy("COPY p3_copy FROM STDIN") as copy:
                copy.write(b"x\ty\tz\n" * 20000)
        except psycopg.Error as error:
            seen.append(fields(error))
        return seen + [c.info.transaction_status.name, rows(c, "SELECT 1")]


@check("notices")
def _():
    with connect() as c:
        seen = []
        c.add_notice_handler(lambda d: seen.append([d.severity, d.message_primary, d.message_detail, d.sqlstate]))
        c.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING DETAIL = 'more', ERRCODE = '01234'; END $$")
        c.execute("DROP TABLE IF EXISTS p3_never_was")
        return seen


ERRORS = {
    "syntax": "SELEC 1", "table": "SELECT * FROM p3_missing", "column": "SELECT p3_missing FROM p3_local",
    "division": "SELECT 1/0", "cast": "SELECT 'x'::int", "unique": "INSERT INTO p3_local VALUES (1, 'x', 1)",
    "unique, distributed": "INSERT INTO p3_items VALUES (3, 1, 'x')",
    "not null": "INSERT INTO p3_items VALUES (3, NULL, 'x')", "function": "SELECT p3_missing(1)",
    "raise": "DO $$ BEGIN RAISE EXCEPTION 'boo' USING ERRCODE = 'ZZ123', HINT = 'h', DETAIL = 'd', TABLE = 't', COLUMN = 'c'; END $$",
    "range": "SELECT 300000::smallint", "privilege": "SET ROLE p3_missing",
    "column, distributed": "SELECT p3_missing FROM p3_items WHERE id = 1",
    "type, distributed": "SELECT * FROM p3_items WHERE id = 1 AND name = 1",
    "multibyte position": "SELECT 'größe' AS ä, wrong FROM p3_items WHERE id = 1",
}


def register_error(name, query):
    @check(f"the fields of an error: {name}")
    def _():
        with connect() as c:
            plain_error = error_of(c, query)
            extended = error_of(c, query.replace("%", "%%"), []) if "DO" not in query else None
            return [plain_error, extended, rows(c, "SELECT 1")]


for name, query in ERRORS.items():
    register_error(name, query)


@check("LISTEN and NOTIFY")
def _():
    with connect() as c, connect() as other:
        c.execute("LISTEN p3_news")
        other.execute("NOTIFY p3_news, 'hello'")
        other.execute("SELECT pg_notify('p3_news', 'again')")
        seen = [[n.channel, n.payload] for n in c.notifies(timeout=STEP_SECONDS, stop_after=2)]
        c.execute("UNLISTEN p3_news")
        return seen


@check("cancel from another thread")
def _():
    with connect() as c:
        gate = threading.Event()

        def stop():
            gate.wait()
            with connect() as other:
                deadline = time.monotonic() + 20
                while time.monotonic() < deadline:
                    found = rows(other, "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(500), 3'")
                    if found:
                        break
                    time.sleep(0.02)
            c.cancel_safe()

        thread = threading.Thread(target=stop)
        thread.start()
        gate.set()
        seen = error_of(c, "SELECT pg_sleep(500), 3")
        thread.join()
        return [seen, rows(c, "SELECT 'goes on'")]


@check("statement_timeout")
def _():
    with connect() as c:
        c.execute("SET statement_timeout = '50ms'")
        seen = error_of(c, "SELECT pg_sleep(500)")
        c.execute("RESET statement_timeout")
        return [seen, rows(c, "SHOW statement_timeout")]


@check("async: many tasks on many connections")
async def _():
    async def work(number):
        async with await psycopg.AsyncConnection.connect(autocommit=True) as c:
            seen = []
            for i in range(number, 41, 8):
                cursor = await c.execute("SELECT id, name FROM p3_items WHERE id = %s AND line = 1", [i + 1])
                seen.append(await cursor.fetchall())
            async with c.transaction():
                await c.execute("UPDATE p3_items SET at = now() WHERE id = %s", [number + 1])
            return seen

    return await asyncio.gather(*(work(n) for n in range(8)))


@check("async: COPY, notices and a server-side cursor")
async def _():
    async with await psycopg.AsyncConnection.connect() as c:
        seen = []
        c.add_notice_handler(lambda d: seen.append(d.message_primary))
        await c.execute("DO $$ BEGIN RAISE NOTICE 'async'; END $$")
        async with c.cursor(name="cur") as cursor:
            await cursor.execute("SELECT id FROM p3_local ORDER BY id LIMIT 10")
            seen.append([row async for row in cursor])
        async with c.cursor() as cursor:
            async with cursor.copy("COPY (SELECT 1, 'x') TO STDOUT") as copy:
                seen.append([bytes(b) async for b in copy])
        await c.rollback()
        return seen


@check("psycopg_pool: more work than connections")
def _():
    seen, lock = [], threading.Lock()
    with ConnectionPool(min_size=2, max_size=5, kwargs={"autocommit": True}) as pool:

        def work(number):
            with pool.connection() as c:
                found = rows(c, "SELECT id, name FROM p3_items WHERE id = %s AND line = 1", [number])
            with lock:
                seen.append(found)

        threads = [threading.Thread(target=work, args=[n]) for n in range(1, 41)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.check()
    return sorted(seen)


@check("enumerations, composites and their introspection")
def _():
    class Mood(enum.Enum):
        good = 1
        bad = 2

    with connect() as c:
        info = EnumInfo.fetch(c, "p3_mood")
        register_enum(info, c, Mood)
        pair = CompositeInfo.fetch(c, "p3_pair")
        register_composite(pair, c)
        seen = [info.labels, pair.field_names]
        for binary in (False, True):
            cursor = c.cursor(binary=binary)
            cursor.execute("SELECT %s, 'bad'::p3_mood, array['good']::p3_mood[], row(1, 'x')::p3_pair", [Mood.good])
            seen.append([str(v) for v in cursor.fetchone()])
        return seen


@check("rows as dictionaries and named tuples, and columns' descriptions")
def _():
    with connect() as c:
        d = c.cursor(row_factory=dict_row).execute("SELECT id, name, at FROM p3_items WHERE id = 21").fetchone()
        n = c.cursor(row_factory=namedtuple_row).execute("SELECT id, n FROM p3_local WHERE id = 1").fetchone()
        cursor = c.execute("SELECT id, name::varchar(9), 1.5::numeric(7,3) AS m, now()::timestamp(3) AS t FROM p3_local WHERE id = 1")
        described = [[x.name, x.type_code, x.display_size, x.internal_size, x.precision, x.scale] for x in cursor.description]
        return [d["name"], list(n._fields), described]


@check("COUNT, SUM, MIN, MAX over all nodes, with parameters")
def _():
    with connect() as c:
        seen = [rows(c, "SELECT count(*), min(id), max(id), sum(id) FROM p3_items WHERE line = 1")]
        seen.append(rows(c, "SELECT count(*) FROM p3_items WHERE id > %s", [20]))
        seen.append(rows(c, "SELECT max(id) FROM p3_items WHERE id > %s", [2000], prepare=True))
        seen.append(sorted(rows(c, "SELECT id, name FROM p3_items WHERE line = %s", [1], binary=True)))
        return seen


@check("large values there and back")
def _():
    with connect() as c:
        text = "0123456789abcdef" * 500_000
        back = rows(c, "SELECT %s::text, %b::bytea, length(%s)", [text, b"\x00\x01" * 3_000_000, text], binary=True)
        assert back[0][0] == text and back[0][1] == b"\x00\x01" * 3_000_000
        c.execute("INSERT INTO p3_items VALUES (22, 5, %s)", [text])
        found = rows(c, "SELECT name FROM p3_items WHERE id = 22 AND line = 5")[0][0]
        c.execute("DELETE FROM p3_items WHERE id = 22 AND line = 5")
        return [back[0][2], found == text]


@check("client_encoding with what is not ASCII", refused="0A000")
def _():
    with connect(client_encoding="latin1") as c:
        seen = [c.info.encoding, rows(c, "SELECT 'größe', length(%s)", ["größe"])]
        return seen + [error_of(c, "SELECT chr(8364)")]


@check("currval in the transaction that draws")
def _():
    def same():
        with connect() as c, c.transaction():
            c.execute("CREATE SEQUENCE IF NOT EXISTS p3_seq")
            return rows(c, "SELECT nextval('p3_seq')") == rows(c, "SELECT currval('p3_seq')")

    # The first question may be refused: nobody has followed until then who has drawn what.
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):
        same()
    return same()


@check("two-phase commit")
def _():
    with connect(autocommit=False) as c:
        xid = c.xid(1, "p3-global", "branch")
        c.tpc_begin(xid)
        c.execute("UPDATE p3_local SET n = 99 WHERE id = 30")
        c.tpc_prepare()
        with connect() as other:
            found = [[x.gtrid, x.bqual] for x in other.tpc_recover() if x.gtrid == "p3-global"]
        c.tpc_commit()
        return [found, rows(c, "SELECT n FROM p3_local WHERE id = 30")]


@check("a temporary table and an advisory lock stay with the session")
def _():
    with connect() as c, connect() as other:
        c.execute("CREATE TEMP TABLE p3_temp (a int)")
        c.execute("INSERT INTO p3_temp VALUES (1), (2)")
        c.execute("SELECT pg_advisory_lock(1234567)")
        seen = [rows(c, "SELECT count(*) FROM p3_temp"), rows(other, "SELECT pg_try_advisory_lock(1234567)")]
        seen.append(rows(other, "SELECT to_regclass('p3_temp')"))
        c.execute("SELECT pg_advisory_unlock(1234567)")
        seen.append(rows(other, "SELECT pg_try_advisory_lock(1234567), pg_advisory_unlock(1234567)"))
        return seen


@check("identifiers composed, and a client-side cursor")
def _():
    with connect() as c:
        query = q.SQL("SELECT {} FROM {} WHERE {} = {}").format(
            q.Identifier("name"), q.Identifier("p3_items"), q.Identifier("id"), q.Literal(23)
        )
        with psycopg.ClientCursor(c) as cursor:
            client = cursor.execute("SELECT name FROM p3_items WHERE id = %s", [24]).fetchall()
        with psycopg.RawCursor(c) as cursor:
            raw = cursor.execute("SELECT name FROM p3_items WHERE id = $1", [25]).fetchall()
        return [rows(c, query), client, raw]


@check("libpq's own pipeline: Flush, an aborted part, what comes after")
def _():
    with connect() as c:
        g = c.pgconn
        g.enter_pipeline_mode()
        g.send_query_params(b"SELECT 1 / $1::int", [b"0"])
        g.send_query_params(b"SELECT 'skipped'", None)
        g.pipeline_sync()
        g.send_query_params(b"SELECT name FROM p3_items WHERE id = $1", [b"26"])
        g.pipeline_sync()
        g.flush()
        seen, nothing = [], 0
        while nothing < 2:
            result = g.get_result()
            if result is None:
                nothing += 1
                continue
            nothing = 0
            status = pq.ExecStatus(result.status).name
            seen.append([status, result.get_value(0, 0) if result.ntuples else None])
            if [s for s, _ in seen].count("PIPELINE_SYNC") == 2:
                break
        g.exit_pipeline_mode()
        return seen


def pipelined(connection, segments):
    """Sends all segments in one go, reads afterwards; what each statement and Sync answered."""
    g = connection.pgconn
    g.enter_pipeline_mode()
    for segment in segments:
        for query, parameters in segment:
            g.send_query_params(query, parameters)
        g.pipeline_sync()
    while g.flush():
        time.sleep(0.001)
    seen, syncs = [], 0
    while syncs < len(segments):
        result = g.get_result()
        if result is None:
            continue
        status = pq.ExecStatus(result.status).name
        syncs += status == "PIPELINE_SYNC"
        values = [result.get_value(r, 0) for r in range(result.ntuples)]
        seen.append([status, values, result.error_field(pq.DiagnosticField.SQLSTATE)])
    g.exit_pipeline_mode()
    return seen + [connection.info.transaction_status.name]


@check("many segments in one go, over shards of all nodes")
def _():
    read = b"SELECT name FROM p3_items WHERE id = $1 AND line = 1"
    with connect() as c:
        return pipelined(c, [[(read, [b"%d" % n])] for n in range(1, 41)])


@check("transactions in one go, each on another shard")
def _():
    begin, commit = [(b"BEGIN", None)], [(b"COMMIT", None)]
    segments = []
    for n in range(1, 21):
        write = (b"UPDATE p3_items SET at = '2026-11-21 12:00Z' WHERE id = $1", [b"%d" % n])
        read = (b"SELECT count(*) FROM p3_items WHERE id = $1 AND at IS NOT NULL", [b"%d" % n])
        segments += [begin, [write], [read], commit] if n % 2 else [begin + [write, read] + commit]
    with connect() as c:
        return pipelined(c, segments)


@check("local and distributed tables, errors and counts in one go")
def _():
    segments = []
    for n in range(1, 13):
        segments.append([(b"SELECT name FROM p3_local WHERE id = $1", [b"%d" % n])])
        segments.append([(b"SELECT id / $2::int FROM p3_items WHERE id = $1", [b"%d" % n, b"%d" % (n % 3)])])
        segments.append([(b"SELECT count(*) FROM p3_items WHERE line = 1", None)])
    with connect() as c:
        return pipelined(c, segments)


run()
