;
-- Keeps others from changing a reference table until the caller's transaction ends, for who may change it. The
-- home node knows whether the caller's statement goes to all nodes that there are now.
CREATE OR REPLACE FUNCTION pgshunt.hold(reference regclass, nodes int) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $hold$
DECLARE
    caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    there bigint;
BEGIN
    IF EXISTS (SELECT FROM pg_class c JOIN pg_constraint m ON m.conrelid = c.oid AND m.contype = 'c'
                AND m.conname = 'pgshunt_reference' WHERE c.oid = reference AND c.relkind = 'r')
            AND (has_table_privilege(caller, reference, 'INSERT, UPDATE, DELETE, TRUNCATE')
                OR has_any_column_privilege(caller, reference, 'INSERT, UPDATE')) THEN
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', reference);
    END IF;
    IF to_regclass('pgshunt.nodes') IS NOT NULL THEN
        EXECUTE 'SELECT count(*) FROM pgshunt.nodes' INTO there;
        IF there <> nodes THEN
            RAISE EXCEPTION 'could not serialize access: a node has been added' USING ERRCODE = '40001',
                HINT = 'The transaction might succeed if retried.';
        END IF;
    END IF;
END $hold$
