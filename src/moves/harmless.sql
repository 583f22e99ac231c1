-- $1: relations, by quoted and qualified names. One row per thing that cannot be proven harmless:
-- whether a step of the move itself evaluates it, or only copied and followed rows do, and words.
-- Numbers below 16384 belong to what initdb made; nobody but a superuser makes or changes those.
-- Where row security holds for the owner too, rows can only be applied by the service role.
WITH RECURSIVE rel AS (
    SELECT c.oid, c.relkind, c.relforcerowsecurity AS forced, format('%I.%I', n.nspname, c.relname) AS name
    FROM unnest($1::text[]) AS wanted (name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_namespace n ON n.oid = c.relnamespace
), type (rel, forced, oid) AS (
    SELECT rel.name, forced, a.atttypid FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT type.rel, type.forced, part.oid FROM type JOIN pg_type t ON t.oid = type.oid, LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT a.atttypid FROM pg_attribute a
                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT unnest(ARRAY[g.rngsubtype, g.rngtypid]) FROM pg_range g
                  WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
    ) AS part (oid)
    WHERE t.oid >= 16384
), tree (rel, what, by_move, is_policy, node) AS (
    SELECT rel.name, format('constraint %I', conname), true, false, conbin::text
    FROM rel JOIN pg_constraint ON conrelid = rel.oid AND contype = 'c'
    UNION ALL
    SELECT rel.name, format('index %I', i.relname), true, false, concat(indexprs::text, indpred::text)
    FROM rel JOIN pg_index ON indrelid = rel.oid JOIN pg_class i ON i.oid = indexrelid
    UNION ALL
    SELECT rel.name, format('statistics %I', stxname), true, false, stxexprs::text
    FROM rel JOIN pg_statistic_ext ON stxrelid = rel.oid
    UNION ALL
    SELECT rel.name, format('policy %I', polname), true, true, concat(polqual::text, polwithcheck::text)
    FROM rel JOIN pg_policy ON polrelid = rel.oid
    UNION ALL
    SELECT rel.name, format('generated column %I', attname), forced, false, adbin::text
    FROM rel JOIN pg_attribute ON attrelid = rel.oid AND attgenerated <> ''
    JOIN pg_attrdef ON adrelid = rel.oid AND adnum = attnum
    UNION ALL
    SELECT type.rel, format('domain %s', type.oid::regtype), forced, false, conbin::text
    FROM type JOIN pg_constraint ON contypid = type.oid AND contype = 'c'
), called (rel, what, by_move, oid) AS (
    SELECT rel, what, by_move, found[1]::oid
    FROM tree, regexp_matches(node, ':(?:funcid|opfuncid) (\d+)', 'g') AS found WHERE NOT is_policy
    UNION
    SELECT type.rel, format('type %s', type.oid::regtype), forced, f.oid
    FROM type JOIN pg_range ON rngtypid = type.oid,
         unnest(ARRAY[rngsubdiff::oid, rngcanonical::oid]) AS f (oid) WHERE f.oid <> 0
)
SELECT by_move, format('%s of %s calls %s', what, rel, coalesce(p.oid::regprocedure::text, 'function ' || called.oid))
FROM called LEFT JOIN pg_proc p ON p.oid = called.oid
WHERE (
    -- In C: whoever made it was a superuser. Volatile ones may run SQL and touch files, also
    -- PostgreSQL's own, and stable ones may read what the service role alone may read.
    p.provolatile = 'i' AND (p.prolang = 13 OR p.oid < 16384 AND p.prolang = 12
                             OR p.oid < 16384 AND p.prolang = 14 AND p.prosqlbody IS NOT NULL)
    OR p.provolatile = 's' AND p.oid < 16384 AND p.prolang = 12
       AND p.proname ~ '^(now|to_char|(date|time|timetz|timestamp|timestamptz|interval)(_\w+)?)$'
) IS NOT TRUE
UNION
SELECT by_move, format('%s of %s uses an operator of %s', what, rel, pg_get_userbyid(o.oprowner))
FROM tree, regexp_matches(node, ':opno (\d+)', 'g') AS found
JOIN pg_operator o ON o.oid = found[1]::oid JOIN pg_authid r ON r.oid = o.oprowner
WHERE NOT is_policy AND NOT r.rolsuper
UNION
-- What makes a value of such a type runs the checks of the domains within. A column of it does not.
SELECT by_move, format('%s of %s makes a value of type %s', what, rel, t.oid::regtype)
FROM tree, regexp_matches(node, ':(\w*(?:type|typeid|typid)) (\d+)', 'g') AS found
JOIN pg_type t ON t.oid = found[2]::oid LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE found[1] NOT IN ('vartype', 'typeId') AND t.oid >= 16384
  AND NOT (t.typtype IN ('b', 'e') AND coalesce(e.typtype, 'b') IN ('b', 'e'))
  AND t.typnamespace IS DISTINCT FROM to_regnamespace('pgshunt')
UNION
SELECT by_move, format('%s of %s holds an expression of kind %s', what, rel, found[1])
FROM tree, regexp_matches(node, '\{([A-Z0-9_]+)', 'g') AS found
WHERE NOT is_policy AND found[1] NOT IN (
    'VAR', 'CONST', 'OPEXPR', 'FUNCEXPR', 'BOOLEXPR', 'NULLTEST', 'BOOLEANTEST', 'SCALARARRAYOPEXPR',
    'DISTINCTEXPR', 'NULLIFEXPR', 'ROWCOMPAREEXPR', 'CASE', 'WHEN', 'CASEEXPR', 'CASEWHEN', 'CASETESTEXPR',
    'COALESCE', 'COALESCEEXPR', 'MINMAX', 'MINMAXEXPR', 'ARRAY', 'ARRAYEXPR', 'ROW', 'ROWEXPR',
    'RELABELTYPE', 'COLLATE', 'COLLATEEXPR', 'COERCEVIAIO', 'ARRAYCOERCEEXPR', 'SUBSCRIPTINGREF',
    'FIELDSELECT', 'COERCETODOMAIN', 'COERCETODOMAINVALUE', 'SQLVALUEFUNCTION')
UNION
SELECT forced, format('type %s in %s belongs to %s, who can change it meanwhile', t.oid::regtype, type.rel, r.rolname)
FROM type JOIN pg_type t ON t.oid = type.oid JOIN pg_authid r ON r.oid = t.typowner
WHERE t.oid >= 16384 AND t.typtype IN ('d', 'c') AND NOT r.rolsuper
UNION
-- VALIDATE compares with the service role's rights, by casts where the two sides differ.
SELECT true, format('foreign key %I of %s compares %s with %s', conname, rel.name, a.atttypid::regtype, b.atttypid::regtype)
FROM rel JOIN pg_constraint ON conrelid = rel.oid AND contype = 'f', unnest(conkey, confkey) AS k (here, there)
JOIN pg_attribute a ON a.attnum = k.here JOIN pg_attribute b ON b.attnum = k.there
WHERE a.attrelid = conrelid AND b.attrelid = confrelid
  AND a.atttypid <> b.atttypid AND greatest(a.atttypid, b.atttypid) >= 16384
UNION
SELECT true, format('foreign key %I of %s refers to %s, which does not move along,', conname, rel.name, confrelid::regclass)
FROM rel JOIN pg_constraint ON conrelid = rel.oid AND contype = 'f'
JOIN pg_class here ON here.oid = conrelid JOIN pg_class there ON there.oid = confrelid
WHERE rel.relkind = 'r' AND here.relnamespace <> there.relnamespace
  -- A reference table is on the other node too; it is proven where it takes part.
  AND NOT EXISTS (SELECT FROM pg_constraint mark
    WHERE mark.conrelid = there.oid AND mark.contype = 'c' AND mark.conname = 'pgshunt_reference')
UNION
SELECT true, format('trigger %I stands on %s alone', tgname, rel.name)
FROM rel JOIN pg_trigger ON tgrelid = rel.oid
WHERE relkind = 'r' AND NOT tgisinternal AND tgparentid = 0
  AND tgfoid IS DISTINCT FROM to_regprocedure('pgshunt.fence()')
UNION
SELECT true, format('rule %I stands on %s alone', rulename, rel.name)
FROM rel JOIN pg_rewrite ON ev_class = rel.oid WHERE relkind = 'r'
ORDER BY 1 DESC, 2
