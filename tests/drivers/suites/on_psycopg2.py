"""psycopg2: what most Python code still uses; libpq's simple protocol, large objects, polling."""

import datetime as dt
import decimal
import select
import threading
import time
import uuid

import psycopg2
import psycopg2.extensions as ext
from psycopg2 import errors, sql as q
from psycopg2.extras import (
    DateRange, Json, NamedTupleCursor, RealDictCursor, execute_batch, execute_values, register_uuid,
)
from psycopg2.pool import ThreadedConnectionPool

from harness import STEP_SECONDS, check, distributed, run, sql

register_uuid()
sql("""
CREATE TABLE p2_local (id int PRIMARY KEY, name text, n int);
INSERT INTO p2_local SELECT g, 'name ' || g, g % 7 FROM generate_series(1, 300) g;
CREATE TABLE p2_copy (a int, b text);
CREATE FUNCTION p2_add(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a + b';
""")
distributed("p2_items", "id uuid PRIMARY KEY, name text, n int", "id")
IDS = [uuid.uuid5(uuid.NAMESPACE_URL, str(n)) for n in range(30)]


def connect(autocommit=True, **options):
    connection = psycopg2.connect("", **options)
    connection.autocommit = autocommit
    return connection


def rows(connection, query, parameters=None, **options):
    with connection.cursor(**options) as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall() if cursor.description else cursor.statusmessage


@check("insert and read by key")
def _():
    c = connect()
    for n, key in enumerate(IDS):
        rows(c, "INSERT INTO p2_items VALUES (%s, %s, %s)", (key, f"name {n}", n))
    seen = [rows(c, "SELECT name, n FROM p2_items WHERE id = %s", (key,)) for key in IDS]
    return [seen, rows(c, "SELECT count(*), sum(n) FROM p2_items")]


@check("values there and back")
def _():
    c = connect()
    values = [
        7, 2**50, 1.25, decimal.Decimal("1.500"), True, None, "q'\\ü", b"\x00\xff", dt.date(2026, 1, 2),
        dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.timedelta(hours=5), [1, 2], ["a", None], (1, 2),
        Json({"a": 1}), DateRange(dt.date(2026, 1, 1), dt.date(2026, 2, 1)), IDS[0],
    ]
    seen = []
    for value in values:
        with c.cursor() as cursor:
            cursor.execute("SELECT %s", (value,))
            seen.append([cursor.fetchone(), cursor.description[0].type_code, cursor.mogrify("%s", (value,))])
    return seen


@check("transactions as context, rollback on error")
def _():
    c = connect(autocommit=False)
    with c, c.cursor() as cursor:
        cursor.execute("UPDATE p2_items SET n = 100 WHERE id = %s", (IDS[3],))
    seen = [c.status]
    try:
        with c, c.cursor() as cursor:
            cursor.execute("UPDATE p2_items SET n = 200 WHERE id = %s", (IDS[3],))
            cursor.execute("SELECT 1/0")
    except errors.DivisionByZero as error:
        seen += [error.pgcode, error.pgerror, error.diag.message_primary]
    seen.append(rows(c, "SELECT n FROM p2_items WHERE id = %s", (IDS[3],)))
    c.rollback()
    return seen


@check("isolation levels and set_session")
def _():
    c = connect(autocommit=False)
    seen = []
    for level in (ext.ISOLATION_LEVEL_SERIALIZABLE, ext.ISOLATION_LEVEL_REPEATABLE_READ):
        c.set_session(isolation_level=level, readonly=True)
        seen.append(rows(c, "SHOW transaction_isolation"))
        try:
            rows(c, "UPDATE p2_items SET n = 0 WHERE id = %s", (IDS[0],))
        except errors.ReadOnlySqlTransaction as error:
            seen.append(str(error))
        c.rollback()
    c.set_session(autocommit=True, readonly=False)
    return seen + [rows(c, "SHOW default_transaction_read_only")]


@check("a named cursor, scrolled")
def _():
    c = connect(autocommit=False)
    with c.cursor("named", scrollable=True) as cursor:
        cursor.execute("SELECT id FROM p2_local ORDER BY id")
        seen = [cursor.fetchmany(3)]
        cursor.scroll(20)
        seen.append(cursor.fetchone())
        cursor.scroll(-5)
        seen.append(cursor.fetchone())
        cursor.itersize = 10
        seen.append(len(list(cursor)))
    c.rollback()
    return seen


@check("execute_values and execute_batch")
def _():
    c = connect()
    with c.cursor() as cursor:
        execute_values(cursor, "INSERT INTO p2_local VALUES %s", [(1000 + i, "v", i) for i in range(250)])
        execute_batch(cursor, "UPDATE p2_items SET n = n + 1 WHERE id = %s", [(IDS[5],)] * 5)
        cursor.execute("SELECT count(*), sum(n) FROM p2_local WHERE id >= 1000")
        seen = [cursor.fetchall()]
        cursor.execute("DELETE FROM p2_local WHERE id >= 1000")
    return seen + [cursor.rowcount, rows(c, "SELECT n FROM p2_items WHERE id = %s", (IDS[5],))]


@check("execute_batch over several nodes in one text")
def _():
    c = connect()
    with c.cursor() as cursor:
        execute_batch(cursor, "UPDATE p2_items SET name = name WHERE id = %s", [(key,) for key in IDS])
    return "done"


@check("copy_expert, copy_from, copy_to")
def _():
    import io

    c = connect()
    with c.cursor() as cursor:
        text = "".join(f"{n}\tcopied {n}\n" for n in range(5000))
        cursor.copy_from(io.StringIO(text), "p2_copy", columns=("a", "b"))
        seen = [cursor.rowcount]
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM p2_copy ORDER BY a) TO STDOUT", out)
        assert out.getvalue() == text
        out = io.StringIO()
        cursor.copy_to(out, "p2_local")
        seen.append(sorted(out.getvalue().splitlines())[:5])
    return seen


@check("notices, notifications and polling")
def _():
    c, other = connect(), connect()
    rows(c, "DO $$ BEGIN RAISE NOTICE 'told'; END $$")
    seen = [c.notices]
    rows(c, "LISTEN p2_news")
    rows(other, "NOTIFY p2_news, 'payload'")
    deadline = time.monotonic() + 20
    while not c.notifies and time.monotonic() < deadline:
        if select.select([c], [], [], 1)[0]:
            c.poll()
    return seen + [[n.channel, n.payload] for n in c.notifies]


def wait(connection):
    while True:
        state = connection.poll()
        if state == ext.POLL_OK:
            return
        read = [connection] if state == ext.POLL_READ else []
        write = [connection] if state == ext.POLL_WRITE else []
        if not any(select.select(read, write, [], STEP_SECONDS)):
            raise TimeoutError(f"nothing to poll within {STEP_SECONDS} s")


@check("an asynchronous connection")
def _():
    c = psycopg2.connect("", async_=1)
    wait(c)
    seen = []
    with c.cursor() as cursor:
        for key in IDS[:5]:
            cursor.execute("SELECT name FROM p2_items WHERE id = %s", (key,))
            wait(c)
            seen.append(cursor.fetchall())
        cursor.execute("SELECT pg_sleep(0.1), 'slept'")
        wait(c)
        seen.append(cursor.fetchone()[1])
    c.close()
    return seen


@check("cancel")
def _():
    c, other = connect(), connect()
    query = "SELECT pg_sleep(500), 'p2'"

    def stop():
        deadline = time.monotonic() + 20
        look = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = %s"
        while time.monotonic() < deadline and not rows(other, look, (query,)):
            time.sleep(0.02)
        c.cancel()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        rows(c, query)
        raise AssertionError("it was not cancelled")
    except errors.QueryCanceled as error:
        seen = [error.pgcode, str(error)]
    thread.join()
    return seen + rows(c, "SELECT 'goes on'")


@check("large objects, by libpq's function calls")
def _():
    c = connect(autocommit=False)
    lob = c.lobject(0, "wb")
    oid = lob.oid
    lob.write(b"0123456789" * 5000)
    lob.close()
    c.commit()
    lob = c.lobject(oid, "rb")
    seen = [lob.seek(10), len(lob.read(500)), lob.tell(), len(lob.read())]
    lob.close()
    c.commit()
    gone = c.lobject(oid, "n")
    gone.unlink()
    c.commit()
    return seen + rows(c, "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = %s", (oid,))


@check("callproc, cursor factories, composed SQL")
def _():
    c = connect()
    with c.cursor() as cursor:
        cursor.callproc("p2_add", (2, 3))
        seen = [cursor.fetchall()]
    seen.append([dict(r) for r in rows(c, "SELECT n, name FROM p2_items WHERE id = %s", (IDS[7],), cursor_factory=RealDictCursor)])
    seen.append(rows(c, "SELECT id FROM p2_local WHERE id = 1", cursor_factory=NamedTupleCursor)[0].id)
    query = q.SQL("SELECT {} FROM {} WHERE id = %s").format(q.Identifier("name"), q.Identifier("p2_items"))
    return seen + [rows(c, query, (IDS[8],))]


@check("a pool and threads")
def _():
    pool = ThreadedConnectionPool(1, 6, "")
    seen, limit = {}, threading.Semaphore(6)

    def work(n):
        with limit:
            c = pool.getconn()
            try:
                with c, c.cursor() as cursor:
                    cursor.execute("SELECT name FROM p2_items WHERE id = %s FOR UPDATE", (IDS[n],))
                    seen[n] = cursor.fetchone()
            finally:
                pool.putconn(c)

    threads = [threading.Thread(target=work, args=[n]) for n in range(len(IDS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.closeall()
    assert len(seen) == len(IDS)
    return [seen[n] for n in sorted(seen)]


@check("reset, server version, encoding, parameters")
def _():
    c = connect()
    rows(c, "SET work_mem = '11MB'")
    c.reset()
    c.autocommit = True
    seen = [rows(c, "SHOW work_mem"), c.server_version, c.encoding, c.get_parameter_status("TimeZone")]
    return seen + [c.get_transaction_status(), c.protocol_version, c.info.used_password]


@check("several statements in one text")
def _():
    c = connect()
    return rows(c, "UPDATE p2_local SET n = n WHERE id = 1; SELECT 2; SELECT name FROM p2_local WHERE id = 3")


@check("two-phase commit")
def _():
    c = connect(autocommit=False)
    c.tpc_begin(c.xid(7, "p2-global", "b"))
    with c.cursor() as cursor:
        cursor.execute("UPDATE p2_local SET n = 77 WHERE id = 2")
    c.tpc_prepare()
    c.tpc_rollback()
    return rows(c, "SELECT n FROM p2_local WHERE id = 2")


run()
