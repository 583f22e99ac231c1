
-- What a node is told of a table before a client's transaction has made it there: which shards of it the node
-- serves, and its slot in the table's sequences.
CREATE TABLE IF NOT EXISTS pgshunt.announced (
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    owner       text NOT NULL,
    shards      int[] NOT NULL,
    modulus     int NOT NULL,
    remainders  int[] NOT NULL,
    slot        int NOT NULL,
    stride      bigint NOT NULL,
    PRIMARY KEY (schema_name, table_name)
);

-- Makes the leaves of the shards that this node serves, as announced, and nothing else, whoever calls it.
CREATE OR REPLACE FUNCTION pgshunt.make_shards(parent regclass) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET default_tablespace = '' SET default_table_access_method = heap
SET client_min_messages = warning
AS $shards$
DECLARE
    told record;
    part record;
    shard text;
BEGIN
    SELECT a.*, c.relname, c.relowner INTO told FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pgshunt.announced a ON a.schema_name = n.nspname AND a.table_name = c.relname
    WHERE c.oid = parent AND c.relkind = 'p' AND a.owner = pg_get_userbyid(c.relowner);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not announced', parent USING ERRCODE = '55000';
    END IF;
    -- Making a leaf computes parts of its definition, as the service role: nothing of another's may stand in it,
    -- and nobody changes it from here on.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', parent);
    PERFORM FROM pgshunt.settle(parent);
    FOR part IN SELECT * FROM unnest(told.shards, told.remainders) s (id, remainder) LOOP
        shard := format('shard_%s', part.id);
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I; GRANT USAGE ON SCHEMA %I TO PUBLIC', shard, shard);
        IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
            WHERE n.nspname = shard AND (NOT o.rolsuper OR EXISTS (
                SELECT FROM aclexplode(n.nspacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee
                WHERE g.privilege_type = 'CREATE' AND r.rolsuper IS NOT TRUE))) THEN
            RAISE EXCEPTION 'schema "%" is reserved for pgshunt', shard USING ERRCODE = '42939';
        END IF;
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES WITH (MODULUS %s, REMAINDER %s)',
            shard, told.relname, parent, told.modulus, part.remainder);
        EXECUTE format('ALTER TABLE %I.%I OWNER TO %I', shard, told.relname, told.owner);
    END LOOP;
    FOR part IN
        SELECT n.nspname, ci.relname, pi.relname AS wanted
        FROM pg_index p JOIN pg_class pi ON pi.oid = p.indexrelid JOIN pg_inherits h ON h.inhparent = p.indexrelid
            JOIN pg_class ci ON ci.oid = h.inhrelid JOIN pg_namespace n ON n.oid = ci.relnamespace
        WHERE p.indrelid = parent AND ci.relname <> pi.relname
            AND NOT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = pi.relname)
    LOOP
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', part.nspname, part.relname, part.wanted);
    END LOOP;
    -- Each node gives out values of its own.
    FOR part IN
        SELECT s.oid::regclass AS name, q.* FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            JOIN pg_sequence q ON q.seqrelid = s.oid
        WHERE d.refclassid = 'pg_class'::regclass AND d.classid = d.refclassid AND d.refobjid = parent
            AND d.deptype IN ('a', 'i')
    LOOP
        IF part.seqcycle THEN
            RAISE EXCEPTION 'sequence % of a distributed table cannot CYCLE', part.name USING ERRCODE = '0A000',
                HINT = 'Nodes take turns in giving out its values; after a cycle they would collide.';
        ELSIF told.slot > told.stride THEN
            RAISE EXCEPTION 'node % has no slot in sequences', told.slot USING ERRCODE = '54000';
        END IF;
        EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s START WITH %s RESTART', part.name,
            part.seqincrement * told.stride, part.seqstart + part.seqincrement * (told.slot - 1));
    END LOOP;
    DELETE FROM pgshunt.announced a USING pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = parent AND a.schema_name = n.nspname AND a.table_name = c.relname;
END $shards$
