// Postgres.js: it asks for a statement's types with Flush before it binds, pipelines on its own, and
// keeps statements by name.

'use strict';

const postgres = require('postgres');
const { check, distributed, run } = require('./harness.js');

const options = { max: 4, onnotice: () => {}, connection: { application_name: 'pjs' } };
const sql = postgres(options);
const keys = Array.from({ length: 30 }, (_, n) => n);

async function codeOf(promise) {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return [error.code, error.message, error.detail ?? null, error.position ?? null];
  }
}

check('insert and read by key', async () => {
  for (const id of keys) await sql`INSERT INTO pj_items ${sql({ id, name: `item ${id}`, n: id })}`;
  const seen = [];
  for (const id of keys) seen.push(await sql`SELECT name, n FROM pj_items WHERE id = ${id}`);
  return [seen, await sql`SELECT count(*), min(id), max(id) FROM pj_items`];
});

check('errors', async () => [
  await codeOf(sql`SELECT nope FROM pj_items WHERE id = ${1}`),
  await codeOf(sql`INSERT INTO pj_items VALUES (${1}, 'x', 1)`),
  await codeOf(sql`SELECT * FROM pj_missing`),
  [...(await sql`SELECT 1 AS after`)],
]);

// With connections of its own.
async function apart(run, more) {
  const own = postgres({ ...options, ...more });
  try {
    return await run(own);
  } finally {
    own.end({ timeout: 1 });
  }
}

check('queries at once on one connection', () =>
  apart((one) => Promise.all(keys.map((id) => one`SELECT name FROM pj_items WHERE id = ${id}`)), { max: 1 }));

check('queries at once on several connections', () =>
  Promise.all([...keys, ...keys].map((id) => sql`SELECT id, name FROM pj_items WHERE id = ${id}`)));

check('without prepared statements', () =>
  apart((other) => Promise.all(keys.map((id) => other`SELECT name FROM pj_items WHERE id = ${id}`)), { prepare: false }));

check('values there and back', async () => {
  const values = [1, 1.5, 'text ü', true, null, new Date(0), Buffer.from([0, 255])];
  const casts = ['int4', 'float8', 'text', 'bool', 'text', 'timestamptz', 'bytea'];
  const seen = [];
  for (const [i, value] of values.entries()) seen.push((await sql`SELECT ${value}::${sql.unsafe(casts[i])} AS v`)[0].v);
  seen.push((await sql`SELECT ${sql.json({ a: [1] })}::jsonb AS v`)[0].v);
  seen.push((await sql`SELECT ${sql.array([1, 2, 3])}::int[] AS v`)[0].v);
  return seen;
});

check('transactions: begin, savepoint, rollback', async () => {
  const seen = [];
  await sql.begin(async (t) => {
    await t`UPDATE pj_items SET n = 100 WHERE id = ${5}`;
    await t.savepoint(async (s) => {
      await s`UPDATE pj_items SET n = 200 WHERE id = ${5}`;
      throw new Error('back');
    }).catch((error) => seen.push(error.message));
    seen.push((await t`SELECT n FROM pj_items WHERE id = ${5}`)[0].n);
  });
  seen.push(await codeOf(sql.begin(async (t) => {
    await t`UPDATE pj_items SET n = 300 WHERE id = ${5}`;
    await t`SELECT 1 / ${0}::int`;
  })));
  seen.push((await sql`SELECT n FROM pj_items WHERE id = ${5}`)[0].n);
  return seen;
});

check('transactions on all shards, one after the other and at once', async () => {
  const work = (id) => sql.begin(async (t) => {
    await t`UPDATE pj_items SET n = n + 1000 WHERE id = ${id}`;
    return (await t`SELECT n FROM pj_items WHERE id = ${id}`)[0].n;
  });
  return Promise.all(keys.filter((id) => id !== 5).map(work));
});

check('pipelined statements of a transaction', () =>
  sql.begin((t) => [
    t`UPDATE pj_items SET name = 'piped' WHERE id = ${7}`,
    t`SELECT name FROM pj_items WHERE id = ${7}`,
    t`SELECT count(*)::int FROM pj_items WHERE id = ${7}`,
  ]).then((all) => all.map((r) => [...r])));

check('cursors', () => apart(async (own) => {
  const seen = [];
  for await (const rows of own`SELECT id FROM pj_local ORDER BY id`.cursor(60)) seen.push(rows.at(-1).id);
  return seen;
}));

check('simple queries of several statements', async () => {
  const all = await sql`SELECT 1 AS a; SELECT 'x' AS b`.simple();
  return all.map((r) => [...r]);
});

check('LISTEN and NOTIFY', async () => {
  let heard;
  const payload = new Promise((resolve) => { heard = resolve; });
  const { unlisten } = await sql.listen('pj_news', heard);
  await sql.notify('pj_news', 'payload');
  const seen = await payload;
  await unlisten();
  return seen;
});

check('a reserved connection keeps its session', async () => {
  const one = await sql.reserve();
  await one`SET work_mem = '8MB'`;
  await one`CREATE TEMP TABLE pj_temp AS SELECT 5 AS a`;
  const seen = [[...(await one`SHOW work_mem`)], [...(await one`SELECT a FROM pj_temp`)]];
  await one`DROP TABLE pj_temp`;
  await one`RESET work_mem`;
  one.release();
  return seen;
});

check('describe without executing', async () => {
  const local = await sql`SELECT id, name FROM pj_items WHERE id = ${1}`.describe();
  return [local.types, local.columns.map((c) => [c.name, c.type])];
});

async function before() {
  await sql`CREATE TABLE pj_local (id int PRIMARY KEY)`;
  await sql`INSERT INTO pj_local SELECT generate_series(1, 200)`;
  await sql`CREATE TABLE pj_copy (a int, b text)`;
  const one = await sql.reserve();
  for (const statement of distributed('pj_items', 'id int PRIMARY KEY, name text, n int', 'id')) await one.unsafe(statement);
  one.release();
}

run(before, () => sql.end({ timeout: 5 }));
