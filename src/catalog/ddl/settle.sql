-- What pgshunt does itself on a node for DDL within a client's transaction. Whoever calls it, it only completes
-- what the owner of a distributed table has begun: indexes of the parent alone, of which the shards have none
-- yet. It refuses a table that needs what a user has written: that would be evaluated with this function's
-- rights here, and later wherever pgshunt makes the table.
CREATE OR REPLACE FUNCTION pgshunt.settle(parent regclass)
RETURNS TABLE (settled_kind text, settled_name text, settled_type oid) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET default_tablespace = '' SET quote_all_identifiers = off
SET DateStyle = 'ISO, YMD' SET IntervalStyle = postgres SET TimeZone = 'UTC' SET extra_float_digits = 3
SET bytea_output = hex SET standard_conforming_strings = on
AS $settle$
DECLARE
    foreign_to_us text;
    made record;
    leaf record;
    head text;
BEGIN
    -- A reference table has no shards, and bears its mark.
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = parent AND (relkind = 'p' OR relkind = 'r' AND EXISTS (
            SELECT FROM pg_constraint WHERE conrelid = parent AND contype = 'c' AND conname = 'pgshunt_reference'))) THEN
        RETURN;
    END IF;
    IF NOT (SELECT r.rolsuper FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = parent) THEN
        WITH {parts}
        SELECT concat(a.type, ' ', a.identity) INTO foreign_to_us
        FROM needed d, pg_identify_object(d.refclassid, d.refobjid, 0) a WHERE NOT {trusted} LIMIT 1;
        IF foreign_to_us IS NOT NULL THEN
            RAISE EXCEPTION 'a distributed table cannot use %', foreign_to_us USING ERRCODE = '0A000',
                DETAIL = 'It is a user''s own, and would be evaluated with pgshunt''s rights.',
                HINT = 'Use what PostgreSQL comes with, or what belongs to a superuser on all nodes.';
        END IF;
    END IF;
    IF EXISTS (SELECT FROM pg_partitioned_table p CROSS JOIN LATERAL
            unnest(p.partattrs::int2[], p.partclass::oid[], p.partcollation::oid[]) k (attnum, opclass, collation_oid)
            LEFT JOIN pg_opclass o ON o.oid = k.opclass LEFT JOIN pg_collation l ON l.oid = k.collation_oid
            LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
        WHERE p.partrelid = parent AND (k.attnum = 0 OR NOT o.opcdefault
            OR o.opcnamespace <> 'pg_catalog'::regnamespace OR NOT coalesce(l.collisdeterministic, true)
            OR a.atttypid IN ('numeric'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                AND a.atttypmod <> -1)) THEN
        RAISE EXCEPTION 'this cannot be a distribution key' USING ERRCODE = '0A000',
            DETAIL = 'It has an expression, an operator class of its own, a non-deterministic collation, or a '
                'numeric or timestamp that is rounded where it is stored.',
            HINT = 'Distribute by columns: PARTITION BY HASH (column, ...).';
    END IF;
    FOR made IN
        SELECT x.indexrelid AS index, x.indexrelid::regclass AS name, ic.relname,
            pg_get_indexdef(x.indexrelid) AS definition, con.conname, pg_get_constraintdef(con.oid) AS key,
            format('CREATE %sINDEX %I ON ONLY %I.%I ', CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END,
                ic.relname, n.nspname, c.relname) AS head
        FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid
            JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_constraint con ON con.conindid = x.indexrelid AND con.contype IN ('p', 'u')
        WHERE x.indrelid = parent AND NOT x.indisvalid
    LOOP
        FOR leaf IN
            SELECT n.nspname, c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
                JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE h.inhparent = parent AND n.nspname ~ '^shard_[0-9]+$' AND NOT EXISTS (
                SELECT FROM pg_index lx JOIN pg_inherits lh ON lh.inhrelid = lx.indexrelid
                WHERE lx.indrelid = c.oid AND lh.inhparent = made.index)
        LOOP
            IF made.conname IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', leaf.nspname, leaf.relname, made.conname,
                    made.key);
            ELSIF starts_with(made.definition, made.head) THEN
                EXECUTE format('CREATE %sINDEX %I ON %I.%I %s',
                    CASE WHEN starts_with(made.head, 'CREATE UNIQUE') THEN 'UNIQUE ' ELSE '' END, made.relname,
                    leaf.nspname, leaf.relname, substr(made.definition, length(made.head) + 1));
            ELSE
                RAISE EXCEPTION 'index not understood: %', made.definition;
            END IF;
            EXECUTE format('ALTER INDEX %s ATTACH PARTITION %I.%I', made.name, leaf.nspname, made.relname);
        END LOOP;
    END LOOP;
    -- Errors name the index that the application knows. A name that is taken is left as PostgreSQL chose it.
    FOR leaf IN
        SELECT n.nspname, ci.relname, pi.relname AS wanted
        FROM pg_index p JOIN pg_class pi ON pi.oid = p.indexrelid JOIN pg_inherits h ON h.inhparent = p.indexrelid
            JOIN pg_class ci ON ci.oid = h.inhrelid JOIN pg_namespace n ON n.oid = ci.relnamespace
        WHERE p.indrelid = parent AND n.nspname ~ '^shard_[0-9]+$' AND ci.relname <> pi.relname
            AND NOT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = pi.relname)
    LOOP
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', leaf.nspname, leaf.relname, leaf.wanted);
    END LOOP;
    RETURN QUERY
    SELECT 'n', n.nspname::text, 0::oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = parent
    UNION ALL SELECT 't', relname::text, 0::oid FROM pg_class WHERE oid = parent
    UNION ALL SELECT 'o', pg_get_userbyid(relowner)::text, 0::oid FROM pg_class WHERE oid = parent
    UNION ALL SELECT 'g', '', 0::oid FROM pg_class WHERE oid = parent AND relacl IS NOT NULL
    UNION ALL SELECT 'h', s.said, 0::oid FROM current_setting('pgshunt.shard_count', true) s (said) WHERE s.said <> ''
    UNION ALL (SELECT 'c', attname::text, atttypid FROM pg_attribute
        WHERE attrelid = parent AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
    UNION ALL (SELECT 'k', a.attname::text, 0::oid
        FROM pg_partitioned_table pt, unnest(pt.partattrs::int2[]) WITH ORDINALITY p (attnum, nth), pg_attribute a
        WHERE pt.partrelid = parent AND a.attrelid = parent AND a.attnum = p.attnum ORDER BY p.nth)
    UNION ALL SELECT 'i', ic.relname::text, 0::oid FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid
        WHERE x.indrelid = parent
    UNION ALL SELECT 's', s.relname::text, 0::oid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.refclassid = 'pg_class'::regclass AND d.classid = d.refclassid AND d.refobjid = parent
            AND d.deptype IN ('a', 'i');
END $settle$;
