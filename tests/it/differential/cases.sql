-- Plain routing.
= SELECT * FROM i4 WHERE k = 5
= SELECT * FROM public.i4 WHERE k = 5 AND v > 0
= SELECT * FROM i8 WHERE k = 7
= SELECT * FROM i2 WHERE k = 7
= SELECT * FROM tx WHERE k = 'key3'
= SELECT * FROM tx WHERE k = ''
= SELECT * FROM tx WHERE k = 'Ünïcode'
= SELECT * FROM tx WHERE k = 'it''s'
= SELECT * FROM vc WHERE k = 'key3'
= SELECT * FROM uu WHERE k = '00000000-0000-4000-8000-000000000011'
= SELECT * FROM mk WHERE a = 1 AND b = 'b1'
= SELECT * FROM mk WHERE a = 1
= SELECT * FROM "Odd Name" WHERE "Key" = 3
= SELECT "select" FROM "Odd Name" AS "N" WHERE "N"."Key" = 3
= SELECT * FROM app.items WHERE k = 3
= SELECT x.* FROM i4 x WHERE 5 = x.k
= TABLE i4
= SELECT FROM i4
= SELECT FROM i4 WHERE k = 1
! SELECT i4 FROM i4 WHERE k = 5
= SELECT i4.k, public.i4.v FROM public.i4 WHERE public.i4.k = 5

-- Literals in odd spellings.
= SELECT * FROM i4 WHERE k = 007
= SELECT * FROM i4 WHERE k = '7'
= SELECT * FROM i4 WHERE k = ' 7 '
= SELECT * FROM i4 WHERE k = '7'::int
= SELECT * FROM i4 WHERE k = 7::bigint
= SELECT * FROM i4 WHERE k = int2 '7'
= SELECT * FROM i4 WHERE k = CAST('7' AS int4)
= SELECT * FROM i4 WHERE k = -1
= SELECT * FROM i4 WHERE k = - 1
= SELECT * FROM i4 WHERE k = -(1)
= SELECT * FROM i4 WHERE k = -(-7)
= SELECT * FROM i4 WHERE k = - /* one */ 1
= SELECT * FROM i4 WHERE k = +7
= SELECT * FROM i4 WHERE k = '-1'
? SELECT * FROM i4 WHERE k = '+7'
= SELECT * FROM i4 WHERE k = 7.0
= SELECT * FROM i4 WHERE k = 7e0
= SELECT * FROM i4 WHERE k = 7.5
= SELECT * FROM i4 WHERE k = 7::numeric
= SELECT * FROM i4 WHERE k = 7::float8
= SELECT * FROM i4 WHERE k = 99999999999
= SELECT * FROM i4 WHERE k = 99999999999999999999999
= SELECT * FROM i2 WHERE k = 70000
= SELECT * FROM i8 WHERE k = -9223372036854775808
E SELECT * FROM i4 WHERE k = '99999999999'
E SELECT * FROM i2 WHERE k = '70000'
? SELECT * FROM i4 WHERE k = 'x'
? SELECT * FROM i4 WHERE k = '7.0'
? SELECT * FROM i4 WHERE k = ''
E SELECT * FROM i4 WHERE k = '7'::text
E SELECT * FROM i4 WHERE k = true
= SELECT * FROM i4 WHERE k = NULL
= SELECT * FROM i4 WHERE k IS NULL
= SELECT * FROM i4 WHERE k = (7)
= SELECT * FROM i4 WHERE (k) = 7
= SELECT * FROM i4 WHERE ((k = 7))
= SELECT * FROM i4 WHERE k OPERATOR(pg_catalog.=) 7
= SELECT * FROM i4 WHERE k = 3 + 4
= SELECT * FROM i4 WHERE k = length('sevenxx')
= SELECT * FROM tx WHERE k = E'key3'
= SELECT * FROM tx WHERE k = E'k\x65y3'
= SELECT * FROM tx WHERE k = E'key3\\'
= SELECT * FROM tx WHERE k = U&'k\0065y3'
= SELECT * FROM tx WHERE k = U&'k!0065y3' UESCAPE '!'
= SELECT * FROM tx WHERE k = $$key3$$
= SELECT * FROM tx WHERE k = $q$key3$q$
= SELECT * FROM tx WHERE k = N'key3'
= SELECT * FROM tx WHERE k = 'ke'\n'y3'
= SELECT * FROM tx WHERE k = 'key3' -- comment
= SELECT * FROM tx WHERE k = 'key3'::text
= SELECT * FROM tx WHERE k = 'key3'::varchar
= SELECT * FROM tx WHERE k = 'key3 '::char(5)
= SELECT * FROM tx WHERE k = 'key3'::char(8)
= SELECT * FROM tx WHERE k = 'key3xx'::varchar(4)
= SELECT * FROM tx WHERE k = 'key3'::name
= SELECT * FROM tx WHERE k = 'key3' COLLATE "C"
= SELECT * FROM tx WHERE k COLLATE "C" = 'key3'
= SELECT * FROM tx WHERE k = 'KEY3'
= SELECT * FROM tx WHERE lower(k) = 'key3'
= SELECT * FROM tx WHERE k = 'key' || '3'
? SELECT * FROM vc WHERE k = 'key3 '
= SELECT * FROM vc WHERE k = 'key3'::text
= SELECT * FROM vc WHERE k = 'key3'::char(9)
E SELECT * FROM tx WHERE k = 7
= SELECT * FROM tx WHERE k = '7'
E SELECT * FROM tx WHERE k = 7::int
= SELECT * FROM uu WHERE k = '{00000000-0000-4000-8000-000000000011}'
= SELECT * FROM uu WHERE k = '00000000000040008000000000000011'
= SELECT * FROM uu WHERE k = uuid '00000000-0000-4000-8000-000000000011'
? SELECT * FROM uu WHERE k = 'nonsense'
? SELECT * FROM i4 WHERE k = '7'::posint
? SELECT * FROM i4 WHERE k = 7::posint

-- Conditions that do and do not prove.
= SELECT * FROM i4 WHERE k IN (1, 2, 3)
= SELECT * FROM i4 WHERE k IN (5)
= SELECT * FROM i4 WHERE k = ANY ('{1,2,3}')
= SELECT * FROM i4 WHERE k = ANY (ARRAY[1, 2])
= SELECT * FROM i4 WHERE k = ALL ('{5}')
= SELECT * FROM i4 WHERE k BETWEEN 5 AND 5
= SELECT * FROM i4 WHERE k IS NOT DISTINCT FROM 5
= SELECT * FROM i4 WHERE k IS NOT DISTINCT FROM NULL
= SELECT * FROM i4 WHERE k = 5 OR v = 1
= SELECT * FROM i4 WHERE k = 5 OR k = 6
= SELECT * FROM i4 WHERE NOT (k = 5)
= SELECT * FROM i4 WHERE NOT (k <> 5)
= SELECT * FROM i4 WHERE (k = 5) IS TRUE
= SELECT * FROM i4 WHERE (k = 5) = true
= SELECT * FROM i4 WHERE (k = 5) IS NOT TRUE
= SELECT * FROM i4 WHERE (k = 5) IS NULL
= SELECT * FROM i4 WHERE CASE WHEN k = 5 THEN true ELSE v = 1 END
= SELECT * FROM i4 WHERE coalesce(k = 5, true)
= SELECT * FROM i4 WHERE (k, v) = (5, 0)
= SELECT * FROM i4 WHERE k = 5 AND k = 6
= SELECT * FROM i4 WHERE k = 5 AND (v = 0 OR v = 1)
= SELECT * FROM i4 WHERE k = 5 AND true
= SELECT * FROM i4 WHERE false
= SELECT * FROM i4 WHERE k >= 5 AND k <= 5
= SELECT * FROM i4 WHERE k + 0 = 5
= SELECT * FROM i4 WHERE k = v
= SELECT * FROM i4 WHERE k = k
= SELECT * FROM i4 WHERE exists (SELECT 1) AND k = 5
= SELECT * FROM i4 WHERE k = 5 AND v = (SELECT 0)
? SELECT * FROM i4 WHERE k = (SELECT 5)
= SELECT * FROM mk WHERE b = 'b1' AND a = 1 AND v = v
= SELECT * FROM mk WHERE (a, b) = (1, 'b1')
= SELECT * FROM mk WHERE a = 1 OR b = 'b1'

-- Names that hide or look alike.
? WITH i4 AS (SELECT 1 AS k) SELECT * FROM i4
? WITH i4 AS (SELECT 1 AS k) SELECT count(*) FROM i4
? SELECT * FROM i4 WHERE k = 5 AND v IN (WITH i4 AS (SELECT 0 AS v) SELECT v FROM i4)
? SELECT count(*) FROM i4 WHERE v IN (WITH i4 AS (SELECT 0 AS v) SELECT v FROM i4)
? WITH i4 AS (SELECT * FROM i4) SELECT count(*) FROM i4
? WITH i4 AS (SELECT * FROM i4 WHERE k = 5) SELECT count(*) FROM i4
? WITH a AS (SELECT * FROM i4), i4 AS (SELECT 1 AS k) SELECT count(*) FROM a
? WITH a AS (SELECT * FROM loc), loc AS (SELECT 1 AS k) SELECT count(*) FROM a
? SELECT (SELECT count(*) FROM loc) FROM (WITH loc AS (SELECT 1) SELECT * FROM loc) x
? WITH x AS (WITH i4 AS (SELECT 1 AS k) SELECT * FROM i4) SELECT count(*) FROM i4, x
? WITH RECURSIVE i4 AS (SELECT 1 AS k UNION ALL SELECT k + 1 FROM i4 WHERE k < 5) SELECT * FROM i4
? WITH i4 AS (SELECT 1 AS k) SELECT * FROM public.i4 WHERE k = 5
? WITH i4 AS (SELECT 9 AS k) DELETE FROM i4 USING i4 AS o WHERE o.k = 5 AND i4.k = 5
? WITH loc AS (SELECT 1 AS a) SELECT count(*) FROM public.loc
= SELECT * FROM i4 AS tx WHERE tx.k = 5
= SELECT * FROM i4 AS x (a, b) WHERE a = 5
= SELECT * FROM i4 AS x (v, k) WHERE k = 1
= SELECT * FROM i4 AS x (v, k) WHERE x.k = 1
? SELECT * FROM (i4 JOIN i4b USING (k)) AS j WHERE j.k = 5
? SELECT * FROM (SELECT k AS v, v AS k FROM i4) i4 WHERE i4.k = 1
? SELECT * FROM (SELECT v AS k FROM i4) i4 WHERE k = 1
? SELECT * FROM (SELECT * FROM i4) i4 WHERE k = 1
? SELECT * FROM (SELECT * FROM i4 WHERE k = 1) s
E SELECT * FROM i4 WHERE I4."K" = 5
= SELECT * FROM I4 WHERE K = 5
E SELECT * FROM "I4" WHERE k = 5
E SELECT * FROM nosuch WHERE k = 5
E SELECT nosuch FROM i4 WHERE k = 5
E SELECT * FROM nosuch.i4 WHERE k = 5
? SELECT * FROM items
E SELECT * FROM missing_schema.x UNION SELECT 1 WHERE false

-- A sub-query sees what is around it, by PostgreSQL's rules of visibility.
? SELECT * FROM i4 o WHERE o.k = 1 AND EXISTS (SELECT 1 FROM i4 a, i4b b JOIN pk c ON a.k = 5 WHERE b.k = 1 AND c.k = 1)
? SELECT o.k, (SELECT count(*) FROM i4 i, (i4b b JOIN pk c ON i.k = 7)) FROM i4 i WHERE i.k = 7
? SELECT * FROM i4 a WHERE a.k = 1 AND EXISTS (SELECT 1 FROM (i4 a JOIN i4b b ON a.k = b.k) AS j WHERE a.k = 2)
? SELECT * FROM i4 a WHERE a.k = 1 AND EXISTS (SELECT 1 FROM i4 a, (SELECT * FROM i4b b WHERE b.k = a.k) s WHERE a.k = 7)
? SELECT * FROM i4 a WHERE a.k = 1 AND EXISTS (SELECT 1 FROM i4 a, LATERAL (SELECT * FROM i4b b WHERE b.k = a.k) s WHERE a.k = 7)

-- Joins.
= SELECT * FROM i4 a JOIN i4b b ON a.k = b.k WHERE a.k = 5
= SELECT * FROM i4 a JOIN i4b b USING (k) WHERE k = 5
= SELECT * FROM i4 a, i4b b WHERE a.k = b.k AND b.k = 5
= SELECT * FROM i4 a, i4b b WHERE a.k = 5 AND b.k = 5
? SELECT * FROM i4 a, i4b b WHERE a.k = 5 AND b.k = 6
? SELECT * FROM i4 a, i4b b WHERE a.k = 5
? SELECT * FROM i4 a JOIN i4b b ON a.k = b.k
? SELECT * FROM i4 a JOIN i4b b ON a.v = b.w WHERE a.k = 5
? SELECT * FROM i4 NATURAL JOIN i4b WHERE k = 5
= SELECT * FROM i4 a LEFT JOIN i4b b ON a.k = b.k WHERE a.k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b ON a.k = b.k AND a.k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b ON a.k = 5 AND b.k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b ON b.k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b ON true WHERE a.k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b ON true WHERE b.k = 5
? SELECT * FROM i4 a RIGHT JOIN i4b b ON a.k = b.k WHERE a.k = 5
? SELECT * FROM i4 a RIGHT JOIN i4b b ON a.k = b.k WHERE b.k = 5
? SELECT * FROM i4 a RIGHT JOIN i4b b USING (k) WHERE k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b USING (k) WHERE k = 5
? SELECT * FROM i4 a LEFT JOIN i4b b USING (k) WHERE b.k = 5
? SELECT * FROM i4 a FULL JOIN i4b b ON a.k = b.k WHERE a.k = 5
? SELECT * FROM i4 a FULL JOIN i4b b ON a.k = b.k WHERE b.k = 5
? SELECT * FROM i4 a FULL JOIN i4b b USING (k) WHERE k = 5
? SELECT * FROM i4 a CROSS JOIN i4b b WHERE a.k = 5 AND b.k = 5
? SELECT * FROM i4 a JOIN (i4b b LEFT JOIN pk c ON b.k = c.k) ON a.k = b.k WHERE a.k = 5
? SELECT * FROM i4 a JOIN (i4b b LEFT JOIN pk c ON b.k = c.k) ON a.k = c.k WHERE a.k = 5
? SELECT * FROM i4 a JOIN i8 b ON a.k = b.k WHERE a.k = 5
? SELECT * FROM i4 a JOIN tx b ON a.s = b.k WHERE a.k = 5
? SELECT * FROM i4 a JOIN loc l ON a.k = l.k WHERE a.k = 5
? SELECT * FROM i4 a JOIN locview l ON a.k = l.k WHERE a.k = 5
? SELECT * FROM i4, generate_series(1, 2) g
? SELECT * FROM i4, generate_series(1, 2) g WHERE k = 5
? SELECT * FROM generate_series(1, 3) g LEFT JOIN i4 ON i4.v = g
? SELECT * FROM lower('A') g LEFT JOIN i4 ON i4.s = g
? SELECT * FROM i4 RIGHT JOIN lower('A') g ON i4.s = g
? SELECT * FROM i4 FULL JOIN lower('A') g ON i4.s = g
? SELECT count(*) FROM lower('A') g LEFT JOIN i4 ON i4.s = g
? SELECT * FROM i4 CROSS JOIN lower('A') g
? SELECT * FROM i4 RIGHT JOIN (VALUES (1), (99)) x (y) ON i4.v = y
? SELECT * FROM i4 WHERE k = 5 AND v IN (VALUES (0), (1))
? SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS b text) x LEFT JOIN i4 ON i4.s = x.b
? SELECT * FROM i4 TABLESAMPLE BERNOULLI (100)
? SELECT * FROM i4 TABLESAMPLE BERNOULLI (100) WHERE k = 5
! SELECT * FROM ONLY i4
! SELECT * FROM ONLY i4 WHERE k = 5
= SELECT * FROM i4 * WHERE k = 5
? SELECT * FROM mk x JOIN mk y ON x.a = y.a AND x.b = y.b WHERE x.a = 1 AND y.b = 'b1'
? SELECT * FROM mk x JOIN mk y USING (a, b) WHERE x.a = 1 AND x.b = 'b1'

-- Sub-queries.
? SELECT *, (SELECT max(w) FROM i4b WHERE i4b.k = i4.k) FROM i4 WHERE k = 5
? SELECT * FROM i4 WHERE k = 5 AND EXISTS (SELECT 1 FROM i4b WHERE i4b.k = i4.k)
? SELECT * FROM i4 WHERE EXISTS (SELECT 1 FROM i4b WHERE i4b.k = i4.k)
? SELECT * FROM i4 WHERE k = 5 AND EXISTS (SELECT 1 FROM i4b WHERE k = i4.k)
? SELECT * FROM i4 WHERE k = 5 AND EXISTS (SELECT 1 FROM i4b WHERE k = k)
? SELECT * FROM i4 WHERE k = 5 AND v = (SELECT count(*) FROM i4b)
? SELECT * FROM i4 WHERE k = 5 AND v NOT IN (SELECT w FROM i4b WHERE k = 5)
? SELECT * FROM i4 WHERE k IN (SELECT k FROM i4b WHERE k = 5)
? SELECT * FROM (SELECT * FROM i4 WHERE k = 5) a JOIN (SELECT * FROM i4b WHERE k = 5) b USING (k)
? SELECT (SELECT count(*) FROM i4) AS n
? SELECT (SELECT count(*) FROM i4 WHERE k = 5) AS n
? SELECT * FROM loc WHERE k IN (SELECT k FROM i4 WHERE k = 5)
? WITH a AS (SELECT * FROM i4 WHERE k = 5) SELECT * FROM a
? WITH a AS (SELECT * FROM i4 WHERE k = 5) SELECT * FROM a JOIN i4b ON a.k = i4b.k
? WITH a AS (SELECT * FROM i4) SELECT * FROM a WHERE k = 5
? WITH RECURSIVE a AS (SELECT k, v FROM i4 WHERE k = 5 UNION SELECT i4.k, i4.v FROM i4 JOIN a ON i4.k = a.v) SELECT * FROM a
? WITH w AS (INSERT INTO i4 (k, v) VALUES (99, 1) RETURNING *) SELECT * FROM w
? WITH w AS (DELETE FROM i4 WHERE k = 5 RETURNING *) SELECT count(*) FROM w
? WITH w AS (INSERT INTO loc VALUES (99, 1, 1, 'x') RETURNING *) SELECT * FROM w
? WITH w AS (INSERT INTO loc VALUES (98, 1, 1, 'x') RETURNING *) SELECT * FROM i4, w WHERE i4.k = 5
? SELECT * FROM i4 x, LATERAL (SELECT * FROM i4b y WHERE y.k = x.k) z WHERE x.k = 5
? SELECT ARRAY(SELECT w FROM i4b WHERE k = 5) FROM i4 WHERE k = 5
? SELECT * FROM i4 WHERE k = 5 ORDER BY (SELECT max(w) FROM i4b)
? SELECT * FROM i4 WHERE k = 5 LIMIT (SELECT count(*) FROM i4b)

-- Set operations.
? SELECT k FROM i4 WHERE k = 5 UNION SELECT k FROM i4b WHERE k = 5
? SELECT k FROM i4 WHERE k = 5 UNION ALL SELECT k FROM i4 WHERE k = 6
? SELECT k FROM i4 UNION SELECT k FROM i4b
? SELECT k FROM i4 WHERE k = 5 EXCEPT SELECT k FROM loc
? SELECT 1 UNION SELECT k FROM i4 WHERE k = 5
? (SELECT k FROM i4 WHERE k = 5 ORDER BY v LIMIT 1) UNION ALL (SELECT 3)

-- Aggregates over all nodes.
= SELECT count(*) FROM i4
= SELECT count(*), count(v), sum(v), min(v), max(v) FROM i4
= SELECT count(*) AS "N", sum(n), min(n), max(k) FROM i4
= SELECT count(*) FROM i4 WHERE false
= SELECT sum(v), min(v) FROM i4 WHERE false
= SELECT count(*) FILTER (WHERE v > 1) FROM i4
= SELECT sum(k) FROM i8
= SELECT sum(k), min(k), max(k) FROM i2
= SELECT sum(v::bigint) FROM i4
= SELECT sum(9223372036854775807::bigint) FROM i4
= SELECT min(r), max(r) FROM i4b
= SELECT min(f), max(f) FROM i4
= SELECT sum(n::numeric(20,5)) FROM i4
= SELECT sum(CASE WHEN v = 1 THEN 'NaN'::numeric ELSE n END) FROM i4
~ SELECT sum(CASE WHEN k = 1 THEN 1e300::float8 WHEN k = 2 THEN -1e300::float8 ELSE 0.1 END) FROM i4
? SELECT sum(f) FROM i4
~ SELECT sum(0.1::float8) FROM i4
~ SELECT sum(0.1::float4) FROM i4
? SELECT sum(1e308::float8) FROM i4
? SELECT min(CASE WHEN k % 2 = 0 THEN 1.0 ELSE 1.00 END) FROM i4
? SELECT max(CASE WHEN k % 2 = 0 THEN 0::float8 ELSE '-0'::float8 END) FROM i4
? SELECT min(s), max(s) FROM i4
? SELECT min(d), max(d) FROM i4
? SELECT sum(v * interval '1 hour') FROM i4
? SELECT sum(v::money) FROM i4
? SELECT max(ARRAY[v]) FROM i4
? SELECT avg(v) FROM i4
? SELECT count(DISTINCT v) FROM i4
? SELECT sum(DISTINCT v) FROM i4
? SELECT count(*) + 1 FROM i4
? SELECT count(*), 1 FROM i4
= SELECT count(*), now() = transaction_timestamp() FROM i4
= SELECT now() > '2020-01-01', current_date > '2020-01-01', k FROM i4
~ SELECT string_agg(s, ',') FROM i4
? SELECT count(*) OVER () FROM i4
? SELECT sum(v) OVER (PARTITION BY k) FROM i4
? SELECT v, count(*) FROM i4 GROUP BY v
? SELECT count(*) FROM i4 GROUP BY ()
? SELECT count(*) FROM i4 HAVING count(*) > 100
? SELECT DISTINCT v FROM i4
? SELECT * FROM i4 ORDER BY k, v, n
? SELECT count(*) FROM i4 ORDER BY 1
? SELECT * FROM i4 LIMIT 0
? SELECT * FROM i4 LIMIT 3
? SELECT count(*) FROM i4 LIMIT 0
? SELECT count(*) FROM i4 OFFSET 1
? SELECT * FROM i4 FETCH FIRST 1 ROW ONLY
? SELECT * FROM i4 FOR UPDATE
? SELECT count(*) INTO made FROM i4
? SELECT json_arrayagg(k) FROM i4
~ SELECT xmlagg(xmlelement(name a, k)) FROM i4
? SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM i4
? SELECT k, generate_series(1, 2) FROM i4
? SELECT unnest(ARRAY[1, 2]), k FROM i4
? SELECT grouping(v) FROM i4 GROUP BY v
= SELECT max(k) FROM i4 WHERE k = 5
< SELECT v, count(*), sum(n) FROM i4 WHERE k = 5 GROUP BY v HAVING count(*) > 0 ORDER BY v
= SELECT DISTINCT v FROM i4 WHERE k = 5
= SELECT avg(f), string_agg(s, ',' ORDER BY s) FROM i4 WHERE k = 5
< SELECT v, row_number() OVER (ORDER BY v) FROM i4 WHERE k = 5 ORDER BY v LIMIT 1 OFFSET 1
= SELECT v / 0 FROM i4 WHERE false
E SELECT v / (k - k) FROM i4 WHERE v = 1
E SELECT sum(v / (k - k)) FROM i4 WHERE v = 1
= SELECT * FROM i4 WHERE k = 5 FOR UPDATE
= SELECT * FROM i4 WHERE k = 5 FOR SHARE OF i4 SKIP LOCKED

-- Functions.
~ SELECT now()
~ SELECT random(), clock_timestamp()
~ SELECT k, random(), now() FROM i4 WHERE k = 5
~ SELECT k, random() FROM i4
? SELECT k FROM i4 WHERE random() >= 0
= SELECT current_date, k FROM i4
= SELECT current_user, k FROM i4 WHERE k = 5
= SELECT plus_one(1)
? SELECT plus_one(v) FROM i4 WHERE k = 5
? SELECT plus_one(v) FROM i4
= SELECT loc_count()
? SELECT loc_count(), k FROM i4 WHERE k = 5
= SELECT upper(s), coalesce(v, -1), greatest(v, 2), nullif(v, 1) FROM i4
? SELECT 'i4'::regclass, k FROM i4 WHERE k = 5
? SELECT 'loc'::regclass, k FROM i4
? SELECT 'loc'::regclass::text, k FROM i4 WHERE k = 5
? SELECT to_regclass('loc')::text, k FROM i4 WHERE k = 6
? SELECT k::posint FROM i4 WHERE k = 5
? SELECT k::posint FROM i4 WHERE k = 6
? SELECT nextval('lseq'), k FROM i4 WHERE k = 5
? SELECT nextval('lseq'), k FROM i4 WHERE k = 6
? SELECT nextval('lseq'), k FROM i4 WHERE k = 7
? SELECT pg_try_advisory_xact_lock(1), k FROM i4 WHERE k = 5
? SELECT pg_try_advisory_xact_lock(1), k FROM i4 WHERE k = 6
= SELECT 'loc'::regclass::text
= SELECT 'i4'::regclass::text
? SELECT pg_relation_size('i4')
? SELECT query_to_xml('select count(*) from i4', false, false, '')
? SELECT table_to_xml('i4', false, false, '')
? SELECT * FROM ts_stat('select to_tsvector(k) from tx')
? SELECT query_to_xml('select count(*) from loc', false, false, '')
? SELECT tableoid::regclass, k FROM i4
~ SELECT ctid, xmin FROM i4 WHERE k = 5
= SELECT length(k) FROM tx
? SELECT k < 'keyz' FROM tx

-- Writes.
= INSERT INTO i4 (k, v) VALUES (100, 1)
= INSERT INTO i4 VALUES (101, 1, 2.50, 1.5, 'x', '2024-02-29') RETURNING *
= INSERT INTO i4 (v, k) VALUES (1, 102) RETURNING k, v + 1 AS w
= INSERT INTO i4 (k) VALUES (NULL)
= INSERT INTO i4 AS a (k, v) VALUES (103, DEFAULT)
? INSERT INTO i4 (k, v) VALUES (104, 1), (104, 2)
? INSERT INTO i4 (k, v) VALUES (105, 1), (106, 2), (107, 3), (108, 4)
? INSERT INTO i4 (v) VALUES (1)
? INSERT INTO i4 DEFAULT VALUES
? INSERT INTO i4 (k, v) VALUES (DEFAULT, 1)
? INSERT INTO i4 (k, v) SELECT 110, 1
? INSERT INTO i4 (k, v) SELECT k, v FROM i4 WHERE k = 5
? INSERT INTO i4 (k, v) SELECT k, v FROM loc
? INSERT INTO loc SELECT k + 1000, v, v, s FROM i4 WHERE k = 5
? INSERT INTO i4 (k, v) VALUES (111, (SELECT max(v) FROM loc))
? INSERT INTO i4 (k, v) VALUES (112, (SELECT max(v) FROM loc))
? INSERT INTO i4 (k, v) VALUES (113, (SELECT max(v) FROM loc))
? INSERT INTO i4 (k, v) VALUES (114, (SELECT count(*) FROM pg_class WHERE false))
? INSERT INTO i4 (k, v) VALUES (111, (SELECT max(v) FROM i4 WHERE k = 111))
? INSERT INTO i4 (k, v) VALUES (1 + 111, 1)
? INSERT INTO i4 (k, v) VALUES (1.0, 1)
? INSERT INTO i4 (k, v) VALUES (1.4, 1)
? INSERT INTO i4 (k, v) VALUES ('7', 1)
? INSERT INTO i4 (k, v) VALUES ('0x10', 1)
? INSERT INTO i4 (k, v) VALUES ((SELECT 5), 1)
? INSERT INTO i4 (k, v) VALUES (plus_one(5), 1)
? INSERT INTO i4 (k, v) VALUES (115, plus_one(5))
? INSERT INTO i4 (k, v) VALUES (116, nextval('lseq'))
? INSERT INTO i4 (k, v) VALUES (117, nextval('lseq'))
E INSERT INTO i4 (k, v) VALUES (99999999999, 1)
E INSERT INTO i4 (k, v) VALUES ('99999999999', 1)
? INSERT INTO i4 (k, v) VALUES ('abc', 1)
E INSERT INTO i4 (k, nosuch) VALUES (1, 1)
E INSERT INTO i4 (k, v) VALUES (1, 1, 1)
E INSERT INTO i4 (k, v, k) VALUES (1, 1, 2)
? INSERT INTO i4 VALUES (1), (2, 3)
= INSERT INTO tx (k, v) VALUES ('new', 1)
= INSERT INTO tx (k, v) VALUES ('new  ', 1)
= INSERT INTO tx (k, v) VALUES ($$doll'ar$$, 1)
= INSERT INTO tx (k, v) VALUES (E'es\'c\u00e9', 1)
? INSERT INTO tx (k, v) VALUES (77, 1)
? INSERT INTO tx (k, v) VALUES ('x'::char(4), 1)
? INSERT INTO tx (k, v) VALUES ('x'::varchar, 1)
= INSERT INTO vc (k, v) VALUES ('new', 1)
? INSERT INTO vc (k, v) VALUES ('new   ', 1)
? INSERT INTO vc (k, v) VALUES ('0123456789ab      ', 1)
E INSERT INTO vc (k, v) VALUES ('0123456789abc', 1)
? INSERT INTO vc (k, v) VALUES ('0123456789abc'::varchar, 1)
? INSERT INTO vc (k, v) VALUES ('0123456789abc'::varchar(20), 1)
? INSERT INTO vc (k, v) VALUES ('0123456789abc'::varchar(12), 1)
= INSERT INTO uu (k, v) VALUES ('11111111-2222-3333-4444-555555555555', 1)
= INSERT INTO mk VALUES (9, 'z', 1, 'x')
= INSERT INTO mk VALUES (NULL, 'z', 1, 'x')
= INSERT INTO mk VALUES (9, NULL, 1, 'x')
= INSERT INTO mk VALUES (NULL, NULL, 1, 'x')
= INSERT INTO "Odd Name" VALUES (77, 1, 1) RETURNING "Key" AS "Key!"
= INSERT INTO app.items VALUES (77, 1)
= INSERT INTO pk (k, s) VALUES (50, 'new')
E INSERT INTO pk (k, s) VALUES (50, 'again')
E INSERT INTO pk (k, s) VALUES (NULL, 'again')
= INSERT INTO pk (k, s) VALUES (50, 'again') ON CONFLICT DO NOTHING
= INSERT INTO pk (k, s) VALUES (50, 'again') ON CONFLICT (k) DO UPDATE SET s = excluded.s, v = pk.v + 1 RETURNING *
? INSERT INTO pk (k, s) VALUES (50, 'again') ON CONFLICT (k) DO UPDATE SET k = 51
? INSERT INTO pk (k, s) VALUES (50, 'again') ON CONFLICT (k) DO UPDATE SET (k, s) = (51, 'x')
? INSERT INTO pk (k, s) VALUES (50, 'x') ON CONFLICT (k) DO UPDATE SET s = (SELECT max(s) FROM loc)
? INSERT INTO pk (k, s) VALUES (50, 'x') ON CONFLICT (k) DO UPDATE SET s = (SELECT max(s) FROM i4)
E INSERT INTO pk (k, s) VALUES (50, 'x') ON CONFLICT (s) DO NOTHING
~ INSERT INTO ser (k, v) VALUES (1, 1) RETURNING id, k
= INSERT INTO ser (k, v, id) VALUES (1, 1, 1000) RETURNING *
= UPDATE i4 SET v = 9 WHERE k = 5
= UPDATE i4 SET v = 9 WHERE k = 5 RETURNING *
= UPDATE i4 AS x SET v = x.v + 1, s = 'u' WHERE x.k = 5 AND v > 0 RETURNING x.k, x.v
= UPDATE i4 SET (v, s) = (1, 'z') WHERE k = 6
= UPDATE i4 SET (v, s) = (SELECT 3, 'y') WHERE k = 6
= UPDATE i4 SET v = DEFAULT WHERE k = 6
= UPDATE i4 SET v = 1 WHERE k = NULL
= UPDATE i4 SET v = 1 WHERE k = 99999999999
! UPDATE ONLY i4 SET v = 1 WHERE k = 5
? UPDATE i4 SET v = 1
? UPDATE i4 SET v = 1 WHERE k IN (1, 2)
? UPDATE i4 SET v = 1 WHERE k IS NULL
? UPDATE i4 SET v = 1 WHERE k = 5 OR k = 6
? UPDATE i4 SET k = 6 WHERE k = 5
? UPDATE i4 SET k = k WHERE k = 5
? UPDATE i4 SET v = 1 FROM i4b WHERE i4.k = i4b.k AND i4b.k = 5
? UPDATE i4 SET v = 1 FROM i4b WHERE i4.k = 5
? UPDATE i4 SET v = 1 FROM loc WHERE i4.k = 5 AND loc.k = i4.v
? UPDATE loc SET v = 1 FROM i4 WHERE i4.k = 5
? UPDATE i4 SET v = (SELECT max(w) FROM i4b WHERE i4b.k = i4.k) WHERE k = 5
? UPDATE i4 SET v = (SELECT max(w) FROM i4b) WHERE k = 5
? UPDATE i4 SET v = (SELECT max(v) FROM loc) WHERE k = 5
? UPDATE i4 SET v = plus_one(v) WHERE k = 5
? WITH a AS (SELECT 1 AS x) UPDATE i4 SET v = x FROM a WHERE k = 5
? WITH a AS (SELECT max(v) AS x FROM loc) UPDATE i4 SET v = x FROM a WHERE k = 5
= UPDATE loc SET v = 3 WHERE id = 5
= UPDATE "Odd Name" SET "select" = 5 WHERE "Key" = 3
? UPDATE "Odd Name" SET "Key" = 5 WHERE "Key" = 3
= DELETE FROM i4 WHERE k = 100
= DELETE FROM i4 WHERE k = 101 RETURNING *
? DELETE FROM i4
? DELETE FROM i4 WHERE v = 2
? DELETE FROM i4 USING i4b WHERE i4.k = i4b.k AND i4.k = 7
? DELETE FROM i4 USING loc WHERE i4.k = loc.k AND i4.k = 7
? DELETE FROM loc USING i4 WHERE i4.k = 7
? DELETE FROM i4 WHERE k = 8 AND EXISTS (SELECT 1 FROM loc)
? MERGE INTO i4 USING (VALUES (5)) s (x) ON i4.k = s.x WHEN MATCHED THEN UPDATE SET v = 1
? MERGE INTO loc USING (VALUES (5)) s (x) ON loc.id = s.x WHEN MATCHED THEN UPDATE SET v = 1
? MERGE INTO loc USING i4 ON loc.id = i4.k WHEN MATCHED THEN UPDATE SET v = 1
? SELECT * INTO copied FROM i4 WHERE k = 5
? CREATE TABLE copied AS SELECT * FROM i4 WHERE k = 5
? CREATE TABLE copied AS TABLE i4
? CREATE TABLE copied (LIKE i4)

-- Parameters: their type decides how they compare.
= {=5} SELECT * FROM i4 WHERE k = $1
= {int4=5} SELECT * FROM i4 WHERE k = $1
= {int4/b=5} SELECT * FROM i4 WHERE k = $1
= {?int4/b=5} SELECT * FROM i4 WHERE k = $1
= {int8/b=5} SELECT * FROM i4 WHERE k = $1
= {int2/b=5} SELECT * FROM i8 WHERE k = $1
= {int8=99999999999} SELECT * FROM i4 WHERE k = $1
? {numeric=5} SELECT * FROM i4 WHERE k = $1
? {numeric=5.0} SELECT * FROM i4 WHERE k = $1
? {float8=5} SELECT * FROM i4 WHERE k = $1
? {float8/b=5} SELECT * FROM i4 WHERE k = $1
? {text=5} SELECT * FROM i4 WHERE k = $1
? {unknown=5} SELECT * FROM i4 WHERE k = $1
= {=NULL} SELECT * FROM i4 WHERE k = $1
= {=-1} SELECT * FROM i4 WHERE k = $1
= {= 5 } SELECT * FROM i4 WHERE k = $1
? {=5.0} SELECT * FROM i4 WHERE k = $1
? {=+5} SELECT * FROM i4 WHERE k = $1
? {=x} SELECT * FROM i4 WHERE k = $1
? {?int8/b=5} SELECT * FROM i4 WHERE k = $1
= {=5} SELECT * FROM i4 WHERE k = $1::int
= {=5} SELECT * FROM i4 WHERE k = $1::bigint
? {?int8/b=5} SELECT * FROM i4 WHERE k = $1::bigint
? {=5.4} SELECT * FROM i4 WHERE k = $1::numeric::int
? {=5} SELECT * FROM i4 WHERE k = ($1::text)::int
? {text=5} SELECT * FROM i4 WHERE k = $1::int
? {float8=5.4} SELECT * FROM i4 WHERE k = $1::int
? {float8/b=5.4} SELECT * FROM i4 WHERE k = $1::int
? {=5, =5} SELECT * FROM i4 WHERE k = $1 AND v = $2
? {=5} SELECT * FROM i4 WHERE k = $1 AND v <> $1
? {=9007199254740993} SELECT * FROM i8 WHERE f > $1::float8 AND k = $1
? {=key3} SELECT * FROM tx WHERE k = $1
? {text=key3} SELECT * FROM tx WHERE k = $1
? {varchar/b=key3} SELECT * FROM tx WHERE k = $1
? {bpchar=key3  } SELECT * FROM tx WHERE k = $1
? {=key3  } SELECT * FROM tx WHERE k = $1
? {=key3  } SELECT $1::bpchar FROM tx WHERE k = $1
? {=key3  } SELECT 1 FROM (SELECT $1::bpchar) x, tx WHERE k = $1
? {name=key3} SELECT * FROM tx WHERE k = $1
? {=key3} SELECT * FROM vc WHERE k = $1
? {=key3  } SELECT * FROM vc WHERE k = $1
? {=00000000-0000-4000-8000-000000000011} SELECT * FROM uu WHERE k = $1
? {uuid/b=00000000-0000-4000-8000-000000000011} SELECT * FROM uu WHERE k = $1
? {?uuid/b=00000000-0000-4000-8000-000000000011} SELECT * FROM uu WHERE k = $1
? {text=00000000-0000-4000-8000-000000000011} SELECT * FROM uu WHERE k = $1
? {=1, =b1} SELECT * FROM mk WHERE a = $1 AND b = $2
= {=200, =1} INSERT INTO i4 (k, v) VALUES ($1, $2)
? {int8/b=201, =1} INSERT INTO i4 (k, v) VALUES ($1, $2)
? {numeric=201.4, =1} INSERT INTO i4 (k, v) VALUES ($1, $2)
? {float8/b=201.6, =1} INSERT INTO i4 (k, v) VALUES ($1, $2)
? {text=202, =1} INSERT INTO i4 (k, v) VALUES ($1, $2)
? {=203} INSERT INTO i4 (k, v) VALUES ($1, $1)
? {=203.6} INSERT INTO i4 (k, n) VALUES ($1, $1)
? {=204} INSERT INTO i4 (n, k) VALUES ($1, $1)
? {=204} INSERT INTO i4 (s, k) VALUES ($1, $1)
? {=new2  , =1} INSERT INTO vc (k, v) VALUES ($1, $2)
? {bpchar=pad   , =1} INSERT INTO tx (k, v) VALUES ($1, $2)
? {=pad2   , =1} INSERT INTO tx (k, v) VALUES ($1::bpchar, $2)
? {=abcdef, =1} INSERT INTO vc (k, v) VALUES ($1::varchar(3), $2)
= {=5} UPDATE i4 SET v = 4 WHERE k = $1
= {=5} SELECT count(*) FROM i4 WHERE v < $1
= {int4/b=5} SELECT count(*), sum(v) FROM i4 WHERE v < $1
= {} SELECT * FROM i4
= {} SELECT * FROM i4 WHERE k = 5
? {=1} SELECT * FROM i4 LIMIT $1
? {=5} SELECT k FROM i4 WHERE k = $1 UNION SELECT $1
= {=5} SELECT * FROM loc WHERE k = $1
= {} SELECT 1
E {=5} SELECT * FROM i4 WHERE k = $1 AND nosuch = 1
E {=5} SELECT * FROM i4 WHERE k = $2

-- Transactions, savepoints, cursors.
= BEGIN
= INSERT INTO i4 (k, v) VALUES (300, 1)
= SAVEPOINT a
= UPDATE i4 SET v = 2 WHERE k = 300
= ROLLBACK TO a
= SELECT * FROM i4 WHERE k = 300
= COMMIT
= BEGIN
= INSERT INTO i4 (k, v) VALUES (301, 1)
E SELECT 1 / 0 FROM i4 WHERE k = 301
E SELECT 1
= ROLLBACK
= BEGIN
= DECLARE c CURSOR FOR SELECT k, v FROM i4 WHERE k = 5 ORDER BY v
< FETCH 1 FROM c
< FETCH ALL FROM c
= CLOSE c
= COMMIT
= BEGIN
= SELECT * FROM i4 WHERE k = 5 FOR UPDATE
? SELECT nextval('lseq')
? ROLLBACK
= BEGIN
= SELECT * FROM i4 WHERE k = 6 FOR UPDATE
? SELECT nextval('lseq')
? ROLLBACK
= BEGIN
= SELECT * FROM i4 WHERE k = 7 FOR UPDATE
? SELECT pg_try_advisory_xact_lock(5)
? ROLLBACK
= BEGIN
= SELECT * FROM i4 WHERE k = 7
? SELECT loc_count()
? ROLLBACK
= BEGIN
= SELECT * FROM i4 WHERE k = 3
? SELECT count(*) FROM loc
? ROLLBACK
? BEGIN; INSERT INTO i4 (k, v) VALUES (302, 1); COMMIT
? INSERT INTO i4 (k, v) VALUES (303, 1); SELECT * FROM i4 WHERE k = 303
? INSERT INTO i4 (k, v) VALUES (304, 1); INSERT INTO i4 (k, v) VALUES (305, 1); SELECT 1/0
? SELECT 1; SELECT 2

-- The session's path, and what it changes about names.
= CREATE SCHEMA other
= CREATE TABLE other.notes (k int, v int)
! SELECT 1 AS k INTO other.i4
= SET search_path = other
E SELECT * FROM i4 WHERE k = 5
= SELECT * FROM public.i4 WHERE k = 5
= SELECT * FROM notes
= SET search_path = public, other
= SELECT * FROM i4 WHERE k = 5
= SELECT count(*) FROM i4
= SELECT * FROM notes
= SET search_path TO "$user", other, 'public'
= SELECT * FROM i4 WHERE k = 5
= SET search_path = 'public, other'
E SELECT * FROM i4 WHERE k = 5
= SET search_path = ''
E SELECT * FROM i4 WHERE k = 5
= RESET search_path
= SELECT * FROM i4 WHERE k = 5
= BEGIN
? SET LOCAL search_path = other
? SELECT * FROM i4 WHERE k = 5
? ROLLBACK
= BEGIN
? SELECT set_config('search_path', 'other', true)
? SELECT * FROM i4 WHERE k = 5
? ROLLBACK
? SET search_path = other; SELECT * FROM i4 WHERE k = 5
= SET search_path = app
= SELECT * FROM items WHERE k = 3
= INSERT INTO items VALUES (500, 1)
= SELECT count(*) FROM items
E SELECT count(*) FROM i4
= SET search_path = "$user", app
? SELECT * FROM items WHERE k = 3
= RESET search_path
? SELECT * FROM items WHERE k = 3
= DROP SCHEMA other CASCADE

-- A path set by a function.
? SELECT set_config('search_path', 'app', false)
? SELECT * FROM i4 WHERE k = 5
? SELECT * FROM items WHERE k = 5
? SELECT set_config('search_path', 'app', false); SELECT * FROM i4 WHERE k = 5

-- Temporary tables hide others.
= CREATE TEMP TABLE i4 (k int, v int)
? INSERT INTO i4 VALUES (5, 5)
? SELECT * FROM i4 WHERE k = 5
? SELECT count(*) FROM i4
? SELECT * FROM public.i4 WHERE k = 5
? DROP TABLE pg_temp.i4

-- A schema named like the role holds a table named like a distributed one.
= CREATE SCHEMA postgres
? CREATE TABLE postgres.i4 (k int, v int)
? CREATE VIEW postgres.i8 AS SELECT 1 AS k
? CREATE TABLE mine (k int, v int)
? SELECT * FROM i4 WHERE k = 5
? SELECT * FROM mine
? DROP SCHEMA postgres CASCADE

-- Parameters of the session.
? SET standard_conforming_strings = off
? SELECT * FROM tx WHERE k = 'key3'
? SELECT * FROM tx WHERE k = 'ke\x793'
? INSERT INTO tx (k, v) VALUES ('a\\b', 1)
? RESET standard_conforming_strings
? SET client_encoding = 'LATIN1'
? SELECT * FROM i4 WHERE k = 5
? SELECT * FROM tx WHERE k = 'Ünïcode'
? INSERT INTO tx (k, v) VALUES ('Ünïcode2', 1)
? {=Ünïcode} SELECT * FROM tx WHERE k = $1
? RESET client_encoding
= SET transform_null_equals = on
? SELECT * FROM i4 WHERE k = NULL
? DELETE FROM i4 WHERE k = NULL
? RESET transform_null_equals

-- Rights.
= GRANT SELECT ON i4 TO pg_monitor
= GRANT SELECT, UPDATE (v) ON TABLE public.i4, loc TO pg_monitor WITH GRANT OPTION
= GRANT ALL ON i4, loc TO PUBLIC
= SELECT relacl::text FROM pg_class WHERE oid = 'public.i4'::regclass
= SELECT attname, attacl::text FROM pg_attribute WHERE attrelid = 'public.i4'::regclass AND attacl IS NOT NULL
= SELECT grantee, privilege_type, is_grantable FROM information_schema.role_table_grants WHERE table_schema = 'public' AND table_name IN ('i4', 'loc')
= REVOKE GRANT OPTION FOR SELECT ON i4 FROM pg_monitor CASCADE
= REVOKE ALL ON i4, loc FROM PUBLIC
= GRANT SELECT ON ALL TABLES IN SCHEMA public TO pg_monitor
= REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pg_monitor
= SELECT relacl::text FROM pg_class WHERE oid = 'public.i4'::regclass
= GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO pg_monitor
= REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM pg_monitor
= GRANT CREATE ON SCHEMA app, public TO pg_monitor
= SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname IN ('app', 'public')
= REVOKE CREATE ON SCHEMA app, public FROM pg_monitor
= GRANT EXECUTE ON FUNCTION pg_sleep(float8), length(text) TO pg_monitor
= GRANT USAGE ON TYPE posint TO pg_monitor
= ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO pg_monitor
= ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE SELECT ON TABLES FROM pg_monitor
= BEGIN
= GRANT SELECT ON loc TO pg_monitor
= ROLLBACK
E GRANT SELECT ON i4 TO nobody
E GRANT SELECT (nope) ON i4 TO pg_monitor
E GRANT SELECT ON i4, missing TO pg_monitor
E GRANT EXECUTE ON i4 TO pg_monitor
= CREATE POLICY p ON i4 USING (k > 5)
= CREATE POLICY q ON public.i4 AS RESTRICTIVE FOR UPDATE TO pg_monitor USING (v > 0) WITH CHECK (v < 100)
E CREATE POLICY p ON i4 USING (true)
= ALTER POLICY p ON i4 USING (k > 6)
= ALTER POLICY p ON i4 RENAME TO r
= ALTER TABLE i4 ENABLE ROW LEVEL SECURITY
= ALTER TABLE i4 FORCE ROW LEVEL SECURITY
= SELECT * FROM pg_policies WHERE schemaname = 'public'
= SELECT count(*) FROM i4
= SELECT * FROM i4 WHERE k = 5
= SET row_security = off
= SELECT count(*) FROM i4
= RESET row_security
= ALTER TABLE i4 NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY
= DROP POLICY r ON i4
= DROP POLICY IF EXISTS r ON i4
= DROP POLICY q ON i4
E DROP POLICY q ON i4
? CREATE POLICY p ON i4 USING (k IN (SELECT k FROM loc))
? CREATE POLICY p ON loc USING (k IN (SELECT k FROM i4))
= CREATE POLICY p ON loc USING (true)
= DROP POLICY p ON loc
= CREATE ROLE diff_owner
= ALTER TABLE i4 OWNER TO diff_owner
= SELECT pg_get_userbyid(relowner), relacl::text FROM pg_class WHERE oid = 'public.i4'::regclass
= REASSIGN OWNED BY diff_owner TO postgres
= GRANT SELECT ON i4, i8, loc TO diff_owner
= DROP OWNED BY diff_owner
= SELECT relname, relacl::text FROM pg_class WHERE oid IN ('public.i4'::regclass, 'public.i8'::regclass, 'loc'::regclass)
= DROP ROLE diff_owner
= ALTER DATABASE app SET work_mem = '6MB'
= SELECT setconfig FROM pg_db_role_setting
= ALTER DATABASE app RESET work_mem
E ALTER DATABASE nowhere SET work_mem = '6MB'

-- Utility statements.
= SHOW server_encoding
? EXPLAIN SELECT * FROM loc
? LOCK TABLE i4
= COPY (SELECT * FROM i4) TO STDOUT
= COPY (SELECT count(*) FROM i4) TO STDOUT
! COPY i4 TO '/tmp/never'
= COPY (SELECT * FROM i4 WHERE k = 5) TO STDOUT
= COPY loc TO STDOUT
= COPY loc (id, k) TO STDOUT WITH (FORMAT csv)
? VACUUM i4
? ANALYZE i4
? DO $$ BEGIN PERFORM count(*) FROM i4; END $$
= DO $$ BEGIN PERFORM count(*) FROM loc; END $$
? CREATE VIEW i4view AS SELECT * FROM i4
? CREATE VIEW i4view AS SELECT * FROM U&"\0069\0034"
? CREATE MATERIALIZED VIEW i4mat AS SELECT * FROM i4
? CREATE FUNCTION count_i4() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM i4'
? CREATE FUNCTION count_i4() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM i4; END
? SELECT count_i4()
? CREATE RULE r AS ON INSERT TO loc DO ALSO INSERT INTO i4 (k) VALUES (1)
? CREATE TRIGGER t BEFORE INSERT ON i4 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
? ALTER TABLE loc ADD FOREIGN KEY (k) REFERENCES pk (k)
? ALTER TABLE i4 ADD FOREIGN KEY (k) REFERENCES loc (id)
? CREATE TABLE fk (id int REFERENCES pk (k))
? COMMENT ON TABLE i4 IS 'x'
? CREATE STATISTICS st ON k, v FROM i4
? CREATE TABLE child () INHERITS (i4)
? ALTER TABLE loc RENAME TO i4
? ALTER TABLE i4 RENAME TO i5
? ALTER SEQUENCE ser_id_seq RESTART WITH 1
? SELECT setval('ser_id_seq', 1)
? SELECT setval('public.ser_id_seq'::regclass, 1, false)
? DROP SEQUENCE ser_id_seq CASCADE
? ALTER SEQUENCE ser_id_seq INCREMENT BY 1
? SELECT lastval()
? SELECT currval('ser_id_seq')
? CREATE FUNCTION lower(int) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'
? ALTER ROLE postgres SET search_path = app
? ALTER DATABASE app SET search_path = app
? ALTER DATABASE app SET timezone = 'Asia/Tokyo'
? ALTER SCHEMA app RENAME TO app2
? DROP SCHEMA app CASCADE
? DROP OWNED BY postgres
? SET session_replication_role = replica

-- SQL's own PREPARE.
? PREPARE p AS SELECT * FROM i4 WHERE k = $1
= PREPARE q AS SELECT * FROM loc WHERE id = $1
= EXECUTE q (5)
= DEALLOCATE q

-- DDL on the tables themselves.
= CREATE TABLE made (k int, v int NOT NULL DEFAULT 3, c int CHECK (c > 0)) PARTITION BY HASH (k)
? ALTER TABLE made ADD COLUMN w int DEFAULT 5
? DROP TABLE made
= TRUNCATE app.items
= SELECT count(*) FROM app.items
E CREATE TABLE i4 (k int) PARTITION BY HASH (k)
E DROP TABLE nosuch
E TRUNCATE nosuch
= DROP TABLE IF EXISTS nosuch

-- What is there before a table of its name is distributed.
= CREATE FUNCTION later_count() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM later); END'
! CREATE TABLE later (k int) PARTITION BY HASH (k)
= DROP FUNCTION later_count()
= CREATE TABLE app.later (k int)
= CREATE TABLE public.later (k int) PARTITION BY HASH (k)
= DROP TABLE public.later
= DROP TABLE app.later
! CREATE FUNCTION round(text) RETURNS int LANGUAGE sql AS 'SELECT 1'

-- Tables that would not be the same on every node.
= CREATE TYPE mood AS ENUM ('happy', 'sad')
? CREATE TABLE ck (k int, v int CHECK (plus_one(v) > 0)) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, m mood) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, m posint) PARTITION BY HASH (k)
? CREATE TABLE ck (k posint) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, v bigint DEFAULT nextval('lseq')) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, v bigint DEFAULT loc_count()) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, v int GENERATED ALWAYS AS (plus_one(k)) STORED) PARTITION BY HASH (k)
E CREATE TABLE ck (k int, v int, UNIQUE (v)) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, v int REFERENCES loc (id)) PARTITION BY HASH (k)
? CREATE TABLE ck (k int, EXCLUDE (k WITH =)) PARTITION BY HASH (k)
? CREATE TABLE ck (k numeric) PARTITION BY HASH (k)
? CREATE TABLE ck (k int) PARTITION BY HASH ((k + 1))
? CREATE TABLE ck (k text COLLATE "C") PARTITION BY HASH (k)
? DROP TABLE ck
= DROP TYPE mood CASCADE

-- More places where a table may be read, and names it may be read by.
? INSERT INTO i4 (k, v) VALUES (800, 1) RETURNING (SELECT count(*) FROM i4)
? INSERT INTO i4 (k, v) VALUES (800, 1) RETURNING (SELECT count(*) FROM loc)
? UPDATE i4 SET v = 1 WHERE k = 5 RETURNING (SELECT count(*) FROM i4b)
? UPDATE i4 SET v = 1 WHERE k = 5 RETURNING (SELECT count(*) FROM i4b WHERE i4b.k = i4.k)
? DELETE FROM i4 WHERE k = 800 RETURNING (SELECT count(*) FROM loc)
? INSERT INTO pk (k) VALUES (800) ON CONFLICT (k) DO UPDATE SET v = (SELECT count(*) FROM i4b WHERE k = 800)
= SELECT * FROM U&"\0069\0034" WHERE k = 5
= SELECT * FROM i4 "I4" WHERE "I4".k = 5
E SELECT * FROM i4 "I4" WHERE I4.k = 5
E SELECT * FROM i4 x WHERE i4.k = 5
? SELECT * FROM app.i4 WHERE k = 5
? SELECT (i4).k FROM i4 WHERE (i4).k = 5
? SELECT k(i4) FROM i4 WHERE i4.k = 5
= SELECT * FROM i4 WHERE ROW (k) = ROW (5)
= SELECT * FROM i4 WHERE k = 5 AND d > date '2020-01-01' - interval '3 days'
? SELECT * FROM (VALUES (5), (6)) x (k) JOIN i4 USING (k)
? SELECT * FROM (VALUES (5)) x (k) JOIN i4 USING (k) WHERE i4.k = 5
? SELECT * FROM i4 WHERE k = 5 AND EXISTS (SELECT FROM i4b i4 WHERE i4.k = 6)
? SELECT * FROM i4 WHERE k = 5 AND EXISTS (SELECT FROM i4b x WHERE x.k = i4.v)
? SELECT * FROM i4 a, i4 b WHERE a.k = 5 AND b.k = a.v
? SELECT * FROM i4 a, i4 b WHERE a.k = 5 AND b.v = a.k
? SELECT * FROM i4 a, i4 b WHERE a.k = 5 AND (b.k = a.k OR b.v = 1)
? SELECT * FROM i4 a, i4 b WHERE a.k = 5 AND b.k = a.k + 0
? SELECT * FROM i4 a, i4 b WHERE a.k = 5 AND NOT b.k <> a.k
= COPY loc FROM STDIN
= COPY loc (id, k, v, s) TO STDOUT
E COPY loc FROM STDIN
E COPY i4 FROM STDIN
= COPY i4 (k, v, n, s) FROM STDIN
! COPY i4 (v, n, d, s) FROM STDIN
! COPY i4 (k, v, n, s) FROM STDIN WITH (ENCODING 'LATIN1')
= SELECT k, v, n, s FROM i4 WHERE k = 7001
? COPY nosuch FROM STDIN
= TRUNCATE loc, app.items
= TRUNCATE loc2 RESTART IDENTITY
? BEGIN
? DISCARD ALL
? ROLLBACK
? BEGIN
? PREPARE TRANSACTION 'x'
? ROLLBACK
E ROLLBACK PREPARED 'nosuch'
E RELEASE nosuch
E FETCH nosuch
E CLOSE nosuch
E EXECUTE nosuch
E DEALLOCATE nosuch
E SELEC 1
E SELECT * FROM i4 WHERE
? SELECT * FROM i4; SELEC 1
? SELECT 'unended

-- Indexes and columns.
= CREATE INDEX i4_v ON i4 (v)
E CREATE INDEX i4_v ON i4 (v)
= CREATE INDEX IF NOT EXISTS i4_v ON i4 (v)
= DROP INDEX i4_v
E DROP INDEX i4_v
E CREATE UNIQUE INDEX ON i4 (v)
? CREATE INDEX ON i4 (plus_one(v))
? CREATE INDEX CONCURRENTLY ON i4 (v)
= CREATE INDEX loc_v ON loc (v)
= DROP INDEX loc_v
= CREATE TYPE mood AS ENUM ('happy')
? ALTER TABLE i4 ADD COLUMN m mood
? ALTER TABLE i4 ADD COLUMN m posint
? ALTER TABLE i4 ADD COLUMN m int DEFAULT plus_one(1)
? ALTER TABLE i4 ADD COLUMN m int REFERENCES loc (id)
? ALTER TABLE i4 ADD CHECK (v > plus_one(-10))
? ALTER TABLE i4 ALTER COLUMN v TYPE bigint
? ALTER TABLE i4 ALTER COLUMN v SET DEFAULT plus_one(1)
? ALTER TABLE i4 ALTER COLUMN v SET DEFAULT nextval('lseq')
? ALTER TABLE i4 DROP COLUMN k
? DROP TYPE mood
= ALTER TABLE i2 DROP COLUMN v
= INSERT INTO i2 VALUES (5, 1.5)
= ALTER TABLE i2 ADD COLUMN z int DEFAULT 4
= INSERT INTO i2 VALUES (6, 1.5, 2, 'x', NULL, 9) RETURNING *
= SELECT * FROM i2 WHERE k = 6
= ALTER TABLE i2 RENAME COLUMN k TO kk
= SELECT * FROM i2 WHERE kk = 5
E SELECT * FROM i2 WHERE k = 5
= INSERT INTO i2 (z, kk) VALUES (1, 7)
= ALTER TABLE i2 ADD COLUMN k int DEFAULT 1
= SELECT * FROM i2 WHERE k = 5
= SELECT * FROM i2 WHERE kk = 5

-- Over rows that are collected on one node.
= SELECT a.k, b.v FROM i4 a JOIN i8 b ON a.v = b.v
= SELECT a.k, l.s FROM i4 a JOIN loc l ON l.k = a.v WHERE l.v > 0
= SELECT l.id FROM loc l WHERE l.k NOT IN (SELECT k FROM i4 WHERE k IS NOT NULL)
= SELECT a.k, a.s, b.* FROM i4 a FULL JOIN i4b b ON a.v = b.w
= SELECT * FROM i8 NATURAL FULL JOIN i4b
= {int4=2} SELECT a.k FROM i4 a JOIN tx t ON t.v = a.v WHERE a.v > $1
= {?int4=2, text=s1} SELECT a.k FROM i4 a JOIN tx t ON t.v = a.v WHERE a.v > $1 AND t.s = $2
= {int4/b=2} SELECT a.k FROM i4 a JOIN loc l ON l.k = a.v WHERE a.v > $1
= {int4=2, int4=3} SELECT a.k FROM i4 a JOIN tx t ON t.v = a.v WHERE a.v > 1
= SELECT EXISTS (SELECT 1 FROM i4 WHERE v = 3), (SELECT count(*) FROM i8)
? WITH RECURSIVE r (n) AS (SELECT 1 UNION SELECT a.v FROM r JOIN i4 a ON a.k = r.n) SELECT n FROM r
= SELECT a.k, x.w FROM i4 a, LATERAL (SELECT b.w FROM i4b b WHERE b.w > a.v ORDER BY 1 LIMIT 1) x
= SELECT k FROM i4 INTERSECT SELECT v FROM i8 EXCEPT SELECT w FROM i4b
= SELECT app.items.k FROM app.items WHERE k = 1
! SELECT app.items.k FROM app.items JOIN i4 ON app.items.v = i4.v
! SELECT k FROM i4 WHERE EXISTS (TABLE i8)
! SELECT a.k FROM i4 a JOIN i8 b ON a.v = b.v FOR UPDATE OF a
! SELECT a.k, a.xmin FROM i4 a JOIN i8 b ON a.v = b.v
! SELECT b.k, count(*) FROM pk b JOIN i8 c ON b.v = c.v GROUP BY b.k, b.s HAVING b.v > 1
! SELECT b.v, count(*) FROM pk b JOIN i8 c ON b.v = c.v GROUP BY b.k
! SELECT plus_one(a.k) FROM i4 a JOIN i8 b ON a.v = b.v
E SELECT a.none FROM i4 a JOIN i8 b ON a.v = b.v
E SELECT 1 / (a.v - a.v) FROM i4 a JOIN i8 b ON a.v = b.v
E SELECT k FROM i4 a JOIN i8 b ON a.v = b.v
= BEGIN
= INSERT INTO i4 (k, v) VALUES (77, 77), (78, 77)
= INSERT INTO loc (id, k) VALUES (7000, 77)
= SELECT a.k FROM i4 a JOIN loc l ON l.k = a.v WHERE l.id = 7000
= ROLLBACK
