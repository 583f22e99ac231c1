"""asyncpg: binary protocol, statement cache, introspection, pool, COPY, cursors."""

import asyncio
import datetime as dt
import decimal
import ipaddress
import uuid

import asyncpg

from harness import STEP_SECONDS, check, distributed, run, sql

sql("""
CREATE TABLE ap_local (id int PRIMARY KEY, name text, n int);
INSERT INTO ap_local SELECT g, 'name ' || g, g % 7 FROM generate_series(1, 500) g;
CREATE TYPE ap_mood AS ENUM ('good', 'bad');
CREATE TYPE ap_pair AS (a int, b text, c ap_mood[]);
CREATE DOMAIN ap_small AS int CHECK (VALUE < 100);
CREATE TABLE ap_types (a ap_mood, b ap_pair, c ap_small, d int4range, e ap_pair[]);
CREATE TABLE ap_copy (a int, b text, c timestamptz);
""")
distributed("ap_items", "tenant text, id bigint, name text, PRIMARY KEY (tenant, id)", "tenant")
TENANTS = [f"tenant {n} ü" for n in range(25)]


def connected(function):
    """A check that is given a connection."""

    async def with_connection():
        connection = await asyncpg.connect()
        try:
            return await function(connection)
        finally:
            await connection.close()

    return with_connection


def records(found):
    return [tuple(r) for r in found]


async def error_of(awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as e:
        return [e.sqlstate, str(e), e.detail, e.hint, e.position, e.table_name, e.constraint_name]
    raise AssertionError("it did not fail")


@check("insert and read by key")
@connected
async def _(c):
    for n, tenant in enumerate(TENANTS):
        await c.execute("INSERT INTO ap_items VALUES ($1, $2, $3)", tenant, n, f"item {n}")
    seen = [records(await c.fetch("SELECT id, name FROM ap_items WHERE tenant = $1", t)) for t in TENANTS]
    return seen + [await c.fetchrow("SELECT count(*), min(id), max(id) FROM ap_items")]


@check("values there and back")
@connected
async def _(c):
    cases = [
        ("int2", 5), ("int4", -7), ("int8", 2**60), ("float4", 0.5), ("float8", 1e300), ("bool", True),
        ("numeric", decimal.Decimal("-12.3400")), ("text", "ü\n"), ("bytea", b"\x00\x01"),
        ("date", dt.date(2026, 11, 21)), ("time", dt.time(1, 2, 3)), ("interval", dt.timedelta(days=2, hours=1)),
        ("timestamp", dt.datetime(2026, 11, 21, 1, 2, 3, 4)),
        ("timestamptz", dt.datetime(2026, 11, 21, tzinfo=dt.timezone.utc)),
        ("uuid", uuid.UUID(int=5)), ("json", '{"a": 1}'), ("jsonb", '{"a": 1}'), ("inet", ipaddress.ip_address("::1")),
        ("int4[]", [1, None, 3]), ("text[]", [["a"], ["b"]]), ("int4range", asyncpg.Range(1, 5)),
        ("point", asyncpg.Point(1, 2)), ("bit(3)", asyncpg.BitString("101")), ("ap_mood", "bad"),
        ("ap_pair", (1, "x", ["good"])), ("ap_small", 9), ("xml", "<a/>"), ("oid", 4000000000), ("name", "n"),
    ]
    seen = {}
    for kind, value in cases:
        got = await c.fetchval(f"SELECT $1::{kind}", value)
        seen[kind] = [str(got), await c.fetchval(f"SELECT ($1::{kind})::text", value)]
    return seen


@check("introspection of types of our own")
@connected
async def _(c):
    await c.execute("DELETE FROM ap_types")
    await c.execute(
        "INSERT INTO ap_types VALUES ($1, $2, $3, $4, $5)",
        "good", (1, "x", ["good", "bad"]), 7, asyncpg.Range(2, 9), [(2, "y", []), None],
    )
    row = await c.fetchrow("SELECT * FROM ap_types")
    statement = await c.prepare("SELECT a, b, c, d, e FROM ap_types WHERE a = $1")
    names = [[a.name, a.type.name, a.type.kind] for a in statement.get_attributes()]
    return [str(row), names, [p.name for p in statement.get_parameters()]]


@check("prepared statements, kept and used on all shards")
@connected
async def _(c):
    statement = await c.prepare("SELECT id, name FROM ap_items WHERE tenant = $1")
    seen = [records(await statement.fetch(t)) for t in TENANTS * 3]
    return seen + [statement.get_query(), statement.get_statusmsg()]


@check("the statement cache: more statements than it holds")
async def _():
    c = await asyncpg.connect(statement_cache_size=10)
    seen = [await c.fetchval(f"SELECT {n} + id FROM ap_items WHERE tenant = $1", TENANTS[n % 25]) for n in range(150)]
    await c.close()
    return seen


@check("without a statement cache")
async def _():
    c = await asyncpg.connect(statement_cache_size=0)
    seen = [await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", t) for t in TENANTS]
    await c.close()
    return seen


@check("EXPLAIN of a prepared statement on a local table")
@connected
async def _(c):
    statement = await c.prepare("SELECT name FROM ap_local WHERE id = $1")
    plan = await statement.explain(3)
    return plan[0]["Plan"]["Node Type"]


@check("a table that changes under a prepared statement")
@connected
async def _(c):
    other = await asyncpg.connect()
    await c.execute("CREATE TABLE ap_alter (a int)")
    await c.execute("INSERT INTO ap_alter VALUES (1)")
    seen = [records(await c.fetch("SELECT * FROM ap_alter"))]
    await other.execute("ALTER TABLE ap_alter ADD b text DEFAULT 'new'")
    seen.append(records(await c.fetch("SELECT * FROM ap_alter")))
    await c.execute("DROP TABLE ap_alter")
    await other.close()
    return seen


@check("transactions, savepoints, isolation")
@connected
async def _(c):
    seen = []
    async with c.transaction():
        await c.execute("UPDATE ap_items SET name = 'outer' WHERE tenant = $1", TENANTS[3])
        try:
            async with c.transaction():
                await c.execute("UPDATE ap_items SET name = 'inner' WHERE tenant = $1", TENANTS[3])
                raise ValueError
        except ValueError:
            pass
        seen.append(await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[3]))
    for level in ("serializable", "repeatable_read"):
        async with c.transaction(isolation=level, readonly=True):
            seen.append(await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[3]))
            seen.append(await c.fetchval("SHOW transaction_isolation"))
    async with c.transaction(isolation="serializable", readonly=True, deferrable=True):
        seen.append(await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[4]))
    return seen


@check("an error in a transaction")
@connected
async def _(c):
    seen = []
    transaction = c.transaction()
    await transaction.start()
    await c.execute("UPDATE ap_items SET name = 'lost' WHERE tenant = $1", TENANTS[5])
    seen.append(await error_of(c.fetch("SELECT 1/0")))
    seen.append(await error_of(c.fetch("SELECT 1")))
    await transaction.rollback()
    return seen + [await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[5])]


@check("a transaction whose first statement fails to prepare")
@connected
async def _(c):
    transaction = c.transaction()
    await transaction.start()
    seen = [await error_of(c.fetch("SELECT wrong FROM ap_items WHERE tenant = $1", TENANTS[5]))]
    seen.append(await error_of(c.fetch("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[5])))
    await transaction.rollback()
    return seen + [await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[6])]


@check("cursors in a transaction, with prefetch")
@connected
async def _(c):
    seen = []
    async with c.transaction():
        async for row in c.cursor("SELECT id FROM ap_local ORDER BY id LIMIT 120", prefetch=50):
            seen.append(row[0])
        cursor = await c.cursor("SELECT id FROM ap_local WHERE n = $1 ORDER BY id", 3)
        seen.append(records(await cursor.fetch(5)))
        seen.append(await cursor.forward(10))
        seen.append(tuple(await cursor.fetchrow()))
        shard = await c.cursor("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[7])
        return seen + [records(await shard.fetch(10))] if shard else seen


@check("a cursor on one shard")
@connected
async def _(c):
    async with c.transaction():
        cursor = await c.cursor("SELECT id, name FROM ap_items WHERE tenant = $1", TENANTS[8])
        return [records(await cursor.fetch(1)), records(await cursor.fetch(1))]


@check("executemany")
@connected
async def _(c):
    await c.executemany("INSERT INTO ap_local VALUES ($1, $2, 0)", [(2000 + i, f"m{i}") for i in range(300)])
    seen = [await c.fetchval("SELECT count(*) FROM ap_local WHERE id >= 2000")]
    seen.append(await error_of(c.executemany("INSERT INTO ap_local VALUES ($1, 'x', 0)", [(3000,), (1,), (3001,)])))
    seen.append(await c.fetchval("SELECT count(*) FROM ap_local WHERE id >= 3000"))
    await c.executemany("UPDATE ap_items SET name = $2 WHERE tenant = $1", [(TENANTS[9], f"n{i}") for i in range(5)])
    await c.execute("DELETE FROM ap_local WHERE id >= 2000")
    return seen + [await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[9])]


@check("executemany over several nodes")
@connected
async def _(c):
    await c.executemany("UPDATE ap_items SET id = id WHERE tenant = $1", [(t,) for t in TENANTS])
    return "done"


@check("COPY: records in, query and table out")
@connected
async def _(c):
    import io

    at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    data = [(n, f"row {n}", at) for n in range(4000)]
    seen = [await c.copy_records_to_table("ap_copy", records=data)]
    out = io.BytesIO()
    seen.append(await c.copy_from_query("SELECT a, b FROM ap_copy WHERE a < $1 ORDER BY a", 50, output=out, format="csv"))
    seen.append(out.getvalue().decode())
    out = io.BytesIO()
    seen.append(await c.copy_from_table("ap_copy", columns=["a"], output=out))
    assert len(out.getvalue().split()) == 4000
    seen.append(await c.copy_to_table("ap_copy", source=io.BytesIO(b"1\tx\t\\N\n"), columns=["a", "b", "c"]))
    seen.append(await error_of(c.copy_to_table("ap_copy", source=io.BytesIO(b"x\ty\n"), columns=["a", "b"])))
    return seen + [await c.fetchval("SELECT count(*) FROM ap_copy")]


@check("COPY: into a distributed table and from a query on it")
@connected
async def _(c):
    import io

    source = "".join(f"{t}\t{n}\tcopied\n" for t in TENANTS for n in range(5000, 5040)).encode()
    columns = ["tenant", "id", "name"]
    seen = [await c.copy_to_table("ap_items", source=io.BytesIO(source), columns=columns)]
    again = await error_of(c.copy_to_table("ap_items", source=io.BytesIO(source), columns=columns))
    seen.append(again[0])
    out = io.BytesIO()
    query = "SELECT tenant, id, name FROM ap_items WHERE name = 'copied'"
    seen.append(await c.copy_from_query(query, output=out))
    assert sorted(out.getvalue().splitlines()) == sorted(source.splitlines())
    out = io.BytesIO()
    await c.copy_from_query(query, output=out, format="binary")
    seen.append(len(out.getvalue()))
    for t in TENANTS:
        await c.execute("DELETE FROM ap_items WHERE tenant = $1 AND name = 'copied'", t)
    return seen


@check("the pool: more tasks than connections, sessions reset in between")
async def _():
    async with asyncpg.create_pool(min_size=2, max_size=6) as pool:

        async def work(n):
            async with pool.acquire() as c:
                await c.execute(f"SET work_mem = '{n + 1}MB'")
                async with c.transaction():
                    return await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[n % 25])

        seen = await asyncio.gather(*(work(n) for n in range(60)))
        return [seen, await pool.fetchval("SHOW work_mem")]


@check("LISTEN and NOTIFY")
@connected
async def _(c):
    other = await asyncpg.connect()
    heard = asyncio.Queue()
    await c.add_listener("ap_news", lambda _c, _pid, channel, payload: heard.put_nowait([channel, payload]))
    await other.execute("NOTIFY ap_news, 'hello'")
    seen = [await asyncio.wait_for(heard.get(), STEP_SECONDS)]
    await other.close()
    return seen


@check("a statement that takes too long is cancelled, and the connection goes on")
@connected
async def _(c):
    try:
        await c.execute("SELECT pg_sleep(500)", timeout=0.2)
        raise AssertionError("it ended")
    except asyncio.TimeoutError:
        pass
    return [await c.fetchval("SELECT 'goes on'"), await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[11])]


@check("notices, server version, settings")
async def _():
    told = []
    c = await asyncpg.connect(server_settings={"application_name": "ap", "search_path": "public, pg_catalog"})
    c.add_log_listener(lambda _c, message: told.append([message.severity, message.message]))
    await c.execute("DO $$ BEGIN RAISE WARNING 'told'; END $$")
    v, s = c.get_server_version(), c.get_settings()
    seen = [v.major, v.minor, s.application_name, s.client_encoding, await c.fetchval("SHOW search_path")]
    assert c.get_server_pid() > 0
    await c.reset()
    await c.reload_schema_state()
    seen.append(await c.fetchval("SHOW application_name"))
    # The listeners are called soon, not at once.
    await asyncio.sleep(0)
    await c.close()
    return [seen, told]


@check("errors with all their fields")
@connected
async def _(c):
    return [
        await error_of(c.execute("INSERT INTO ap_local VALUES (1, 'x', 1)")),
        await error_of(c.execute("INSERT INTO ap_items VALUES ($1, 0, 'x')", TENANTS[0])),
        await error_of(c.fetch("SELECT * FROM ap_missing")),
        await error_of(c.fetch("SELECT wrong FROM ap_items WHERE tenant = $1", "x")),
        await error_of(c.execute("INSERT INTO ap_types (c) VALUES (1000)")),
        await error_of(c.execute("SELECT 1; SELECT 1/0; SELECT 2")),
    ]


@check("many connections at once")
async def _():
    async def work(n):
        c = await asyncpg.connect()
        try:
            return await c.fetchval("SELECT name FROM ap_items WHERE tenant = $1", TENANTS[n % 25])
        finally:
            await c.close()

    return await asyncio.gather(*(work(n) for n in range(40)))


run()
