// Statements whose whole answer (rows, fields, tag, or every field of the error) must be the same
// directly and through pgshunt. Each is [name, text, parameters?]: without parameters it goes by the
// simple protocol, with them by the extended one, and then once more as a named statement, twice.

'use strict';

const L = 'nd_local';
const D = 'nd_items'; // distributed by id
const T = 'nd_text'; // distributed by k text, a uuid and two int columns beside it

exports.setup = `
CREATE TABLE ${L} (id int PRIMARY KEY, name text, n int, CHECK (n >= 0));
INSERT INTO ${L} SELECT g, 'name ' || g, g % 7 FROM generate_series(1, 200) g;
CREATE TYPE nd_mood AS ENUM ('good', 'bad');
CREATE TABLE nd_copy (a int, b text);
CREATE TABLE nd_child (id int PRIMARY KEY, parent int REFERENCES ${L});
CREATE FUNCTION nd_fail(text) RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'failed: %', $1 USING ERRCODE = 'AB123', DETAIL = 'the detail', HINT = 'the hint'; END $$;
CREATE FUNCTION nd_notice(text) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE 'noticed: %', $1; RETURN $1; END $$;
`;

exports.tables = [
  [D, 'id bigint, line int, name text, n int, at timestamptz, PRIMARY KEY (id, line)', 'id'],
  [T, 'k text, u uuid, a int, b int, PRIMARY KEY (k)', 'k'],
];

const types = [
  ['bool', 't'], ['int2', '-32768'], ['int4', '2147483647'], ['int8', '-9223372036854775808'],
  ['float4', '1.5'], ['float8', '1e-300'], ['numeric', '123456789012345678901234567890.123'],
  ['text', "it's \\ \n ünï 🚂"], ['varchar(5)', 'abc'], ['char(5)', 'ab'], ['name', 'a_name'],
  ['bytea', '\\x00ff10'], ['date', '2026-11-21'], ['time', '12:34:56.789'], ['timetz', '12:34:56+02'],
  ['timestamp', '2026-11-21 12:34:56.789'], ['timestamptz', '2026-11-21 12:34:56+00'],
  ['interval', '1 year 2 mons 3 days 04:05:06'], ['uuid', '12345678-1234-5678-1234-567812345678'],
  ['json', '{"a": [1, 2]}'], ['jsonb', '{"a": [1, 2]}'], ['int4[]', '{1,NULL,3}'],
  ['text[]', '{"a b",NULL,"q\\"x"}'], ['inet', '10.0.0.1/8'], ['cidr', '10.0.0.0/8'],
  ['macaddr', '08:00:2b:01:02:03'], ['point', '(1,2)'], ['box', '(1,2),(0,0)'], ['int4range', '[1,5)'],
  ['tsvector', "'a':1 'b':2"], ['bit(4)', '1010'], ['varbit', '101'], ['money', '12.50'], ['xml', '<a/>'],
  ['nd_mood', 'bad'], ['oid', '4294967295'], ['regclass', 'pg_class'], ['pg_lsn', '1/ABC'],
];

const cases = [];
for (const [type, value] of types) {
  cases.push([`type ${type} as a parameter`, `SELECT $1::${type} AS v, ($1::${type})::text AS t`, [value]]);
  cases.push([`type ${type} as a literal`, `SELECT '${value.replaceAll("'", "''").replaceAll('\\', '\\')}'::${type} AS v`]);
  cases.push([`type ${type}, NULL`, `SELECT $1::${type} AS v`, [null]]);
}

// Parameters as JavaScript has them.
cases.push(
  ['number', 'SELECT $1::int + 1 AS v', [41]],
  ['boolean', 'SELECT NOT $1::bool AS v', [true]],
  ['date object', "SELECT $1::timestamptz AT TIME ZONE 'UTC' AS v", [new Date(0)]],
  ['buffer', 'SELECT $1::bytea AS v', [Buffer.from([0, 1, 255])]],
  ['array', 'SELECT $1::int[] AS v', [[1, 2, null]]],
  ['object as json', 'SELECT $1::jsonb AS v', [{ a: { b: 1 } }]],
  ['no cast at all', 'SELECT $1 AS v', ['text']],
  ['one parameter twice', 'SELECT $1::int AS a, $1::int * 2 AS b', [3]],
  ['many parameters', `SELECT ${Array.from({ length: 200 }, (_, i) => `$${i + 1}::int`).join(' + ')} AS v`, Array.from({ length: 200 }, (_, i) => i)],
  ['too few parameters', 'SELECT $1::int, $2::int', [1]],
  ['too many parameters', 'SELECT $1::int', [1, 2]],
  ['a parameter of the wrong type', 'SELECT $1::int', ['x']],
  ['undeterminable type', 'SELECT $1 IS NULL', [null]],
);

// Shapes of answers.
cases.push(
  ['no column', 'SELECT'],
  ['no row', `SELECT * FROM ${L} WHERE false`],
  ['empty query', ''],
  ['a comment only', '-- nothing'],
  ['a comment before', '/* a */ SELECT 1 AS one -- end'],
  ['semicolons', ';;SELECT 1 AS one;;'],
  ['several statements', `SELECT 1 AS a; SELECT 'x' AS b, 2 AS c; UPDATE ${L} SET n = n WHERE id < 3`],
  ['several statements, one fails', 'SELECT 1 AS a; SELECT 1/0 AS b; SELECT 3 AS c'],
  ['columns of one name', 'SELECT 1 AS a, 2 AS a'],
  ['300 columns', `SELECT ${Array.from({ length: 300 }, (_, i) => `${i} AS c${i}`).join(', ')}`],
  ['1000 rows', 'SELECT g, repeat(md5(g::text), 3) FROM generate_series(1, 1000) g'],
  ['a megabyte in one value', "SELECT repeat('x', 1000000) AS v"],
  ['tag of INSERT', `INSERT INTO nd_copy VALUES (1, 'a'), (2, 'b')`],
  ['tag of UPDATE', `UPDATE nd_copy SET b = b WHERE a = $1`, [1]],
  ['tag of DELETE', 'DELETE FROM nd_copy'],
  ['tag of CREATE', 'CREATE TABLE nd_tag (a int)'],
  ['tag of DROP', 'DROP TABLE nd_tag'],
  ['tag of SET', "SET work_mem = '5MB'"],
  ['SHOW', 'SHOW work_mem'],
  ['RESET', 'RESET work_mem'],
  ['VALUES', "VALUES (1, 'a'), (2, 'b')"],
  ['TABLE', 'TABLE nd_copy'],
  ['WITH', `WITH x AS (SELECT id FROM ${L} WHERE id < 4) SELECT count(*) FROM x`],
  ['RETURNING of a local table', `UPDATE ${L} SET n = n + 1 WHERE id = $1 RETURNING id, n`, [9]],
  ['a function with a notice', "SELECT nd_notice('hello') AS v"],
  ['EXPLAIN', 'EXPLAIN (COSTS OFF) SELECT 1'],
  ['current user and database', 'SELECT current_user, current_database(), session_user'],
  ['catalog', "SELECT typname FROM pg_type WHERE oid = $1", [23]],
  ['information_schema', `SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position`, [L]],
  ['version functions', "SELECT current_setting('server_version_num')::int >= 140000 AS v"],
);

// A distributed table.
for (const id of ['1', '2', '3', '77', '-5', '9223372036854775807']) {
  cases.push(
    [`insert id ${id}`, `INSERT INTO ${D} VALUES (${id}, 1, 'item ${id}', 5, '2026-11-21 12:00Z')`],
    [`read id ${id} by literal`, `SELECT * FROM ${D} WHERE id = ${id}`],
    [`read id ${id} by parameter`, `SELECT name, n FROM ${D} WHERE id = $1`, [id]],
    [`read id ${id} by a cast parameter`, `SELECT name FROM ${D} WHERE id = $1::bigint AND line = $2`, [id, 1]],
    [`update id ${id}`, `UPDATE ${D} SET n = n + $2 WHERE id = $1 RETURNING n`, [id, 3]],
    [`a joined subselect on id ${id}`, `SELECT a.name FROM ${D} a WHERE a.id = $1 AND a.line IN (1, 2)`, [id]],
  );
}
for (const k of ['', 'a', 'naïve', "it's", 'x'.repeat(2000), '🚂']) {
  const short = k.slice(0, 10);
  cases.push(
    [`insert key '${short}'`, `INSERT INTO ${T} VALUES ($1, '12345678-1234-5678-1234-567812345678', 1, 2)`, [k]],
    [`read key '${short}' by parameter`, `SELECT length(k) AS l, u, a, b FROM ${T} WHERE k = $1`, [k]],
    [`read key '${short}' by literal`, `SELECT length(k) AS l FROM ${T} WHERE k = '${k.replaceAll("'", "''")}'`],
    [`delete key '${short}'`, `DELETE FROM ${T} WHERE k = $1 RETURNING a`, [k]],
  );
}
cases.push(
  ['count over all nodes', `SELECT count(*) FROM ${D}`],
  ['aggregates over all nodes', `SELECT count(name), min(id), max(id), min(n) FROM ${D}`],
  ['aggregates over no row', `SELECT count(*), max(id) FROM ${D} WHERE n > $1`, [1000000]],
  ['aggregates with a parameter', `SELECT count(*) FROM ${D} WHERE n > $1`, [0]],
  ['a row that is not there', `SELECT * FROM ${D} WHERE id = $1`, ['424242']],
  ['a key that is NULL', `SELECT * FROM ${D} WHERE id = $1`, [null]],
  ['ON CONFLICT DO NOTHING', `INSERT INTO ${D} VALUES ($1, 1, 'again', 0) ON CONFLICT DO NOTHING`, ['77']],
  ['ON CONFLICT DO UPDATE', `INSERT INTO ${D} VALUES ($1, 1, 'again', 0) ON CONFLICT (id, line) DO UPDATE SET n = 50 RETURNING n`, ['77']],
  ['several rows of one key', `INSERT INTO ${D} VALUES ($1, 2, 'b', 1), ($1, 3, 'c', 1) RETURNING line`, ['77']],
  ['ORDER BY and LIMIT on one key', `SELECT line, name FROM ${D} WHERE id = $1 ORDER BY line DESC LIMIT 2`, ['77']],
  ['GROUP BY on one key', `SELECT n, count(*) FROM ${D} WHERE id = $1 GROUP BY n ORDER BY n`, ['77']],
  ['window function on one key', `SELECT line, row_number() OVER (ORDER BY line) FROM ${D} WHERE id = $1 ORDER BY line`, ['77']],
  ['self join on one key', `SELECT a.line, b.line AS other FROM ${D} a JOIN ${D} b ON a.id = b.id AND a.line < b.line WHERE a.id = $1 AND b.id = $1 ORDER BY 1, 2`, ['77']],
  ['FOR UPDATE on one key', `SELECT line FROM ${D} WHERE id = $1 ORDER BY line FOR UPDATE`, ['77']],
  ['DELETE of some', `DELETE FROM ${D} WHERE id = $1 AND line > 1`, ['77']],
);

// Errors, with all their fields.
cases.push(
  ['error: syntax', 'SELEC 1'],
  ['error: syntax with parameters', 'SELECT $1::int +', [1]],
  ['error: no such table', 'SELECT * FROM nd_missing'],
  ['error: no such column', `SELECT id, nope FROM ${L}`],
  ['error: no such column, distributed', `SELECT id, nope FROM ${D} WHERE id = $1`, [1]],
  ['error: no such function', 'SELECT nd_missing($1::int)', [1]],
  ['error: division', 'SELECT 1 / $1::int', [0]],
  ['error: division, distributed', `SELECT n / 0 FROM ${D} WHERE id = 1`],
  ['error: unique', `INSERT INTO ${L} VALUES (1, 'x', 1)`],
  ['error: unique, distributed', `INSERT INTO ${D} VALUES ($1, 1, 'x', 1)`, ['1']],
  ['error: not null, distributed', `INSERT INTO ${D} VALUES ($1, NULL, 'x', 1)`, ['1']],
  ['error: check', `INSERT INTO ${L} VALUES (999, 'x', -1)`],
  ['error: foreign key', 'INSERT INTO nd_child VALUES (1, 987654)'],
  ['error: cast', "SELECT 'abc'::int"],
  ['error: out of range', 'SELECT 40000::int2'],
  ['error: enum', "SELECT 'ugly'::nd_mood"],
  ['error: json', "SELECT '{'::json"],
  ['error: invalid UTF-8 escape', "SELECT E'\\xff'"],
  ['error: raised', "SELECT nd_fail('why')"],
  ['error: raised with a parameter', 'SELECT nd_fail($1)', ['why']],
  ['error: privileges', 'SET ROLE nd_nobody'],
  ['error: unknown setting', 'SET nd_nothing = 1'],
  ['error: deep in a text', `SELECT '${'é'.repeat(50)}', nope FROM ${L}`],
  ['error: two commands prepared', 'SELECT $1::int; SELECT 2', [1]],
  ['error: a statement without privileges', 'DROP TABLE pg_catalog.pg_class'],
  ['after all the errors', 'SELECT 1 AS fine'],
);

exports.cases = cases;
