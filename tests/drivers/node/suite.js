// node-postgres with pg-cursor, pg-query-stream and pg-copy-streams. The data of the plain cases is
// in cases.js; what needs a program is here. Writes one JSON line per check, as ../run wants it.

'use strict';

const { once } = require('node:events');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const pg = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');
const { cases, setup, tables } = require('./cases.js');
const { check, distributed, plain, run } = require('./harness.js');

// 64-bit integers and times as text: JSON would lose what they were.
for (const oid of [20, 1082, 1114, 1184]) pg.types.setTypeParser(oid, (v) => v);

async function connect(options) {
  const client = new pg.Client(options);
  await client.connect();
  return client;
}

async function connected(run, options) {
  const client = await connect(options);
  try {
    return await run(client);
  } finally {
    await client.end();
  }
}

const ERROR_FIELDS = ['severity', 'code', 'message', 'detail', 'hint', 'position', 'internalPosition',
  'internalQuery', 'where', 'schema', 'table', 'column', 'dataType', 'constraint', 'routine'];

function errorFields(error) {
  if (!error.code) throw error;
  const seen = Object.fromEntries(ERROR_FIELDS.map((f) => [f, error[f] ?? null]));
  // The statement's name on the node is made from its content, not the client's.
  seen.message = seen.message.replace(/prepared statement "(case_|pgs_)\w+"/, 'prepared statement "its name"');
  if (/^shard_\d+$/.test(seen.schema ?? '')) seen.schema = 'a shard';
  return seen;
}

function answer(result) {
  if (Array.isArray(result)) return result.map(answer);
  return {
    command: result.command,
    rowCount: result.rowCount,
    rows: plain(result.rows),
    fields: result.fields.map((f) => [f.name, f.columnID, f.dataTypeID > 16000 ? 'own type' : f.dataTypeID,
      f.dataTypeSize, f.dataTypeModifier, f.format]),
  };
}

async function outcome(client, query) {
  try {
    return answer(await client.query(query));
  } catch (error) {
    return { error: errorFields(error) };
  }
}

// Answers of statements that write differ between the first time and the next ones, so the named
// statement is run on reads only.
const reads = (text) => /^\s*(SELECT|VALUES|WITH|TABLE|SHOW)/i.test(text) && !/FOR UPDATE/.test(text);

let shared;
cases.forEach(([name, text, values], number) => {
  check(`case: ${name}`, async () => {
    const seen = [await outcome(shared, values ? { text, values } : { text, rowMode: 'array' })];
    if (values && reads(text)) {
      for (let i = 0; i < 2; i++) seen.push(await outcome(shared, { name: `case_${number}`, text, values }));
      // The driver's own reading of binary arrays takes half a minute for a NULL in one.
      if (!text.includes('[]')) seen.push(await outcome(shared, { text, values, binary: true }));
    }
    return seen;
  });
});

check('login: application name, options, timeouts', () =>
  connected(async (c) => [
    answer(await c.query('SHOW application_name')),
    answer(await c.query('SHOW statement_timeout')),
    answer(await c.query('SHOW work_mem')),
  ], { application_name: 'nd', statement_timeout: 30_000, options: '-c work_mem=6MB' }));

check('login: a wrong password, an unknown database', async () => {
  const seen = [];
  for (const options of [{ password: 'wrong' }, { database: 'nowhere' }, { user: 'nobody_here' }]) {
    try {
      await connected(async () => 'let in', options);
      seen.push('let in');
    } catch (error) {
      seen.push([error.code, error.severity, error.message]);
    }
  }
  return seen;
});

check('queries queued without waiting', () =>
  connected(async (c) => {
    const all = [];
    for (let n = 1; n <= 60; n++) {
      all.push(c.query('SELECT name FROM nd_local WHERE id = $1', [n]));
      all.push(c.query('SELECT name FROM nd_items WHERE id = $1', [n % 4]));
      all.push(c.query(`SELECT ${n} AS n`));
    }
    return (await Promise.all(all)).map((r) => r.rows);
  }));

check('queued queries, some fail', () =>
  connected(async (c) => {
    const all = [];
    for (let n = 0; n < 30; n++) all.push(c.query('SELECT 10 / $1::int AS v FROM nd_local WHERE id = 1', [n % 3]));
    return (await Promise.allSettled(all)).map((r) => (r.status === 'fulfilled' ? r.value.rows : r.reason.code));
  }));

check('transactions: commit, rollback, what an error leaves', () =>
  connected(async (c) => {
    const seen = [];
    await c.query('BEGIN');
    await c.query('UPDATE nd_items SET n = 1000 WHERE id = $1', ['2']);
    seen.push((await c.query('SELECT n FROM nd_items WHERE id = $1', ['2'])).rows);
    await c.query('ROLLBACK');
    seen.push((await c.query('SELECT n FROM nd_items WHERE id = $1', ['2'])).rows);
    await c.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    seen.push(await outcome(c, { text: 'SELECT 1 / $1::int FROM nd_items WHERE id = $2', values: [0, '2'] }));
    seen.push(await outcome(c, 'SELECT 1'));
    seen.push((await c.query('COMMIT')).command);
    await c.query('BEGIN');
    await c.query('UPDATE nd_items SET n = 11 WHERE id = $1', ['2']);
    seen.push((await c.query('COMMIT')).command);
    seen.push((await c.query('SELECT n FROM nd_items WHERE id = $1', ['2'])).rows);
    return seen;
  }));

check('transactions: savepoints', () =>
  connected(async (c) => {
    await c.query('BEGIN');
    await c.query('UPDATE nd_items SET n = 21 WHERE id = 3');
    await c.query('SAVEPOINT a');
    const failed = await outcome(c, 'UPDATE nd_items SET n = n / 0 WHERE id = 3');
    await c.query('ROLLBACK TO a');
    await c.query('UPDATE nd_items SET n = n + 1 WHERE id = 3');
    await c.query('RELEASE a');
    await c.query('COMMIT');
    return [failed, (await c.query('SELECT n FROM nd_items WHERE id = 3')).rows];
  }));

check('transactions: a statement on another node', async () =>
  connected(async (c) => {
    await c.query('BEGIN');
    try {
      for (let n = 0; n < 40; n++) await c.query('UPDATE nd_items SET n = n WHERE id = $1', [String(n)]);
      return 'done';
    } finally {
      await c.query('ROLLBACK');
    }
  }));

check('pg-cursor: in portions, on a local table', () =>
  connected(async (c) => {
    const cursor = c.query(new Cursor('SELECT id FROM nd_local WHERE id > $1 ORDER BY id', [100]));
    const seen = [];
    for (;;) {
      const rows = await cursor.read(30);
      if (rows.length === 0) break;
      seen.push(rows.map((r) => r.id));
    }
    await cursor.close();
    return [seen, (await c.query('SELECT 1 AS after')).rows];
  }));

check('pg-cursor: closed early, then another query', () =>
  connected(async (c) => {
    const cursor = c.query(new Cursor('SELECT g FROM generate_series(1, 100000) g'));
    const rows = await cursor.read(5);
    await cursor.close();
    return [rows, (await c.query('SELECT name FROM nd_items WHERE id = 1')).rows];
  }));

check('pg-cursor: on one shard, in a transaction', () =>
  connected(async (c) => {
    await c.query('BEGIN');
    const cursor = c.query(new Cursor('SELECT id, line FROM nd_items WHERE id = $1', ['1']));
    const seen = [await cursor.read(1), await cursor.read(10)];
    await cursor.close();
    await c.query('COMMIT');
    return seen;
  }));

check('pg-cursor: an error', () =>
  connected(async (c) => {
    const cursor = c.query(new Cursor('SELECT 10 / (3 - g) FROM generate_series(1, 10) g'));
    const seen = [];
    try {
      seen.push(await cursor.read(2));
      seen.push(await cursor.read(5));
    } catch (error) {
      seen.push(errorFields(error));
    }
    return [seen, (await c.query('SELECT 2 AS after')).rows];
  }));

check('pg-query-stream: many rows', () =>
  connected(async (c) => {
    let count = 0;
    let sum = 0;
    const stream = c.query(new QueryStream('SELECT g FROM generate_series(1, $1::int) g', [20000], { batchSize: 500 }));
    for await (const row of stream) {
      count += 1;
      sum += row.g;
    }
    return [count, sum, (await c.query('SELECT 3 AS after')).rows];
  }));

check('pg-query-stream: left in the middle', () =>
  connected(async (c) => {
    const stream = c.query(new QueryStream('SELECT g FROM generate_series(1, 100000) g', [], { batchSize: 10 }));
    const seen = [];
    for await (const row of stream) {
      seen.push(row.g);
      if (seen.length === 25) break;
    }
    return [seen, (await c.query('SELECT name FROM nd_items WHERE id = 2')).rows];
  }));

check('pg-copy-streams: in and out', () =>
  connected(async (c) => {
    const lines = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`);
    const into = c.query(copy.from('COPY nd_copy FROM STDIN'));
    await pipeline(Readable.from(lines), into);
    const seen = [into.rowCount];
    const chunks = [];
    const out = c.query(copy.to('COPY (SELECT * FROM nd_copy ORDER BY a) TO STDOUT'));
    for await (const chunk of out) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    if (text !== lines.join('')) throw new Error(`copied out ${text.length} bytes that were not copied in`);
    await c.query('TRUNCATE nd_copy');
    return [...seen, (await c.query('SELECT count(*) FROM nd_copy')).rows];
  }));

check('pg-copy-streams: data that the server refuses', () =>
  connected(async (c) => {
    const seen = [];
    try {
      await pipeline(Readable.from(Array.from({ length: 5000 }, () => 'x\ty\n')), c.query(copy.from('COPY nd_copy FROM STDIN')));
      seen.push('taken');
    } catch (error) {
      seen.push(errorFields(error));
    }
    return [seen, (await c.query('SELECT count(*) FROM nd_copy')).rows];
  }));

check('pg-copy-streams: given up by the client', () =>
  connected(async (c) => {
    const into = c.query(copy.from('COPY nd_copy FROM STDIN'));
    const told = once(into, 'error');
    c.on('error', () => {});
    into.write('1\tone\n');
    into.destroy(new Error('enough'));
    await told;
    return (await c.query('SELECT count(*) FROM nd_copy')).rows;
  }));

check('a pool: more queries than connections', async () => {
  const pool = new pg.Pool({ max: 4 });
  try {
    const all = Array.from({ length: 80 }, (_, n) => pool.query('SELECT name FROM nd_items WHERE id = $1', [String(n % 4)]));
    return (await Promise.all(all)).map((r) => r.rows);
  } finally {
    await pool.end();
  }
});

check('a pool: transactions at once, and a sum that must come out', async () => {
  const pool = new pg.Pool({ max: 6 });
  try {
    const before = (await pool.query("SELECT n FROM nd_items WHERE id = '1' AND line = 1")).rows[0].n;
    const work = async () => {
      const c = await pool.connect();
      try {
        await c.query('BEGIN');
        await c.query('UPDATE nd_items SET n = n + $1 WHERE id = $2 AND line = 1', [1, '1']);
        await c.query('COMMIT');
      } finally {
        c.release();
      }
    };
    await Promise.all(Array.from({ length: 50 }, work));
    const after = (await pool.query("SELECT n FROM nd_items WHERE id = '1' AND line = 1")).rows[0].n;
    return after - before;
  } finally {
    await pool.end();
  }
});

check('cancel by a second connection', () =>
  connected(async (c) => {
    const mark = 'nd_cancel';
    const running = outcome(c, `SELECT pg_sleep(500) /* ${mark} */`);
    await connected(async (other) => {
      const deadline = Date.now() + 120_000;
      const look = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep%' || $1 || '%' AND pid <> pg_backend_pid()";
      while ((await other.query(look, [mark])).rowCount === 0) {
        if (Date.now() > deadline) throw new Error('the query did not start within 120 s');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    });
    // pg has no call of its own for it: a connection that says no more than the key.
    const canceller = new pg.Client();
    canceller.connection.on('connect', () => canceller.connection.cancel(c.processID, c.secretKey));
    canceller.connection.connect(c.port, c.host);
    await once(canceller.connection, 'end');
    return [await running, (await c.query('SELECT 4 AS after')).rows];
  }));

check('statement_timeout and what follows', () =>
  connected(async (c) => {
    await c.query("SET statement_timeout = '60ms'");
    const seen = await outcome(c, 'SELECT pg_sleep(500)');
    await c.query('RESET statement_timeout');
    return [seen, (await c.query('SELECT 5 AS after')).rows];
  }));

check('notices', () =>
  connected(async (c) => {
    const told = [];
    c.on('notice', (n) => told.push([n.severity, n.code, n.message]));
    await c.query("SELECT nd_notice('one'); SELECT nd_notice('two')");
    await c.query('SELECT nd_notice($1)', ['three']);
    return told;
  }));

check('LISTEN and NOTIFY', () =>
  connected(async (c) => {
    await c.query('LISTEN nd_news');
    const heard = once(c, 'notification');
    await connected((other) => other.query("SELECT pg_notify('nd_news', 'payload')"));
    const [n] = await heard;
    return [n.channel, n.payload];
  }));

check('named statements: two clients, one name, two texts', () =>
  connected((a) => connected(async (b) => {
    const seen = [];
    for (let i = 0; i < 3; i++) {
      seen.push((await a.query({ name: 'same', text: 'SELECT name FROM nd_items WHERE id = $1', values: ['1'] })).rows);
      seen.push((await b.query({ name: 'same', text: 'SELECT n + $1::int AS v FROM nd_local WHERE id = 4', values: [1] })).rows);
    }
    return seen;
  })));

check('session parameters stay with their client', () =>
  connected((a) => connected(async (b) => {
    const seen = [];
    await a.query("SET datestyle = 'German'");
    for (let i = 0; i < 5; i++) {
      for (const c of [a, b]) seen.push((await c.query("SELECT date '2026-11-21'::text AS d")).rows[0].d);
    }
    return seen;
  })));

check('a temporary table stays with its client', () =>
  connected((a) => connected(async (b) => {
    await a.query('CREATE TEMP TABLE nd_temp AS SELECT 1 AS a');
    const seen = [];
    for (let i = 0; i < 3; i++) {
      seen.push((await a.query('SELECT count(*) FROM nd_temp')).rows);
      seen.push((await outcome(b, 'SELECT count(*) FROM nd_temp')).error.code);
    }
    return seen;
  })));

check('a large parameter and a large result', () =>
  connected(async (c) => {
    const text = 'abcdefgh'.repeat(1_000_000);
    const back = (await c.query('SELECT $1::text AS v', [text])).rows[0].v;
    if (back !== text) throw new Error('not what was sent');
    await c.query("INSERT INTO nd_items VALUES ('88', 1, $1, 1)", [text]);
    const found = (await c.query("SELECT name FROM nd_items WHERE id = '88'")).rows[0].name;
    await c.query("DELETE FROM nd_items WHERE id = '88'");
    return [back.length, found === text];
  }));

check('a client that leaves without goodbye in a transaction', async () => {
  const c = await connect();
  c.on('error', () => {});
  await c.query('BEGIN');
  await c.query("UPDATE nd_items SET n = 4711 WHERE id = '2'");
  c.connection.stream.destroy();
  return connected(async (other) => {
    // Waits for the row's lock, so for the end of what was left open.
    await other.query("UPDATE nd_items SET at = at WHERE id = '2'");
    return (await other.query("SELECT n FROM nd_items WHERE id = '2'")).rows;
  });
});

async function before() {
  await connected(async (c) => {
    await c.query(setup);
    for (const table of tables) for (const statement of distributed(...table)) await c.query(statement);
  });
  shared = await connect();
}

run(before, () => shared.end());
