// What the Node suites share: checks, and tables that are distributed on one side only. A check
// returns what it saw; the runner compares what it saw directly with what it saw through pgshunt.

'use strict';

const THROUGH = process.env.SIDE === 'through';
const CHECK_MS = 160_000;
const checks = [];

// With `refused`, pgshunt must answer with that SQLSTATE and a hint.
exports.check = (name, run, refused) => checks.push({ name, run, refused });

// A value as JSON holds it, without losing what type it had.
function plain(value) {
  if (Buffer.isBuffer(value)) return `bytes ${value.toString('hex')}`;
  if (value instanceof Date) return `date ${value.toISOString()}`;
  if (typeof value === 'bigint') return `bigint ${value}`;
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  }
  return value === undefined ? null : value;
}
exports.plain = plain;

// The statements that make a distributed table; directly, the same with partitions beside it.
exports.distributed = (table, columns, key) => {
  const create = `CREATE TABLE ${table} (${columns}) PARTITION BY HASH (${key})`;
  if (THROUGH) return ['SET pgshunt.shard_count = 4', create];
  const all = ['SET client_min_messages = warning', create];
  for (let r = 0; r < 4; r++) {
    all.push(`CREATE SCHEMA IF NOT EXISTS shard_${r}`);
    all.push(`CREATE TABLE shard_${r}.${table} PARTITION OF public.${table} FOR VALUES WITH (MODULUS 4, REMAINDER ${r})`);
  }
  return all;
};

async function perform({ name, run, refused }) {
  const line = { name, status: 'ok' };
  const begun = Date.now();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`did not end within ${CHECK_MS / 1000} s`)), CHECK_MS);
  });
  try {
    line.saw = plain(await Promise.race([run(), late]));
    if (refused && THROUGH) {
      Object.assign(line, { status: 'failed', why: `not refused, saw ${JSON.stringify(line.saw)}` });
    }
  } catch (error) {
    if (refused && THROUGH && error.code === refused && error.hint) line.refused = error.message;
    else Object.assign(line, { status: 'failed', why: `${error.stack} [${error.code}]` });
  }
  clearTimeout(timer);
  line.ms = Date.now() - begun;
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

exports.run = async (before, after) => {
  try {
    await before();
    for (const check of checks) await perform(check);
    // A driver that hangs at its end has nothing to add.
    await Promise.race([after(), new Promise((resolve) => setTimeout(resolve, 5000))]);
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
  process.exit(0);
};
