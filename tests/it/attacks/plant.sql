-- Run by a plain role that owns the database. In a schema called as the service role is, first in its
-- search_path: everything PostgreSQL has under a name of its own, and what fits an argument better.
CREATE SCHEMA keeper;
CREATE FUNCTION keeper.caught(what text) RETURNS bool LANGUAGE plpgsql AS $f$
BEGIN
  IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' THEN
    RAISE LOG 'planted % was evaluated as %', what, current_user;
    RAISE EXCEPTION 'planted % was evaluated as %', what, current_user;
  END IF;
  RETURN true;
END $f$;

DO $do$
DECLARE
  few text[] := ARRAY['oid', 'regclass', 'text', 'name', 'int4', 'int8', 'bool', 'int2', '"char"'];
  more text[] := few || ARRAY['xid', 'pg_lsn', 'regnamespace', 'regproc', 'name[]', 'oid[]', 'text[]', 'int2vector'];
  body text := ' LANGUAGE plpgsql AS $b$ BEGIN PERFORM keeper.caught(%L); RETURN NULL; END $b$';
  nothing text := replace(body, 'RETURN NULL', 'RETURN');
  o record;
  a text;
  b text;
  c text;
BEGIN
  SET LOCAL check_function_bodies = off;
  -- The same again.
  FOR o IN SELECT p.proname AS name, p.proretset, p.prorettype, p.prorettype::regtype AS gives, (
        SELECT string_agg(t::regtype::text, ', ' ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY x (t, i)
      ) AS takes FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION keeper.%I(%s) RETURNS %s %s' ||
          CASE WHEN o.proretset OR o.prorettype = 'void'::regtype THEN nothing ELSE body END,
        o.name, o.takes, CASE WHEN o.proretset THEN 'SETOF' END, o.gives, o.name);
    EXCEPTION WHEN OTHERS THEN NULL;  -- internal, cstring, "any"
    END;
  END LOOP;
  FOR o IN SELECT oprname AS name, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS gives
      FROM pg_operator WHERE oprkind = 'b' LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION keeper.%I(%s, %s) RETURNS %s' || body,
        'o' || md5(o.name), o.l, o.r, o.gives, o.name);
      EXECUTE format('CREATE OPERATOR keeper.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = keeper.%I)',
        o.name, o.l, o.r, 'o' || md5(o.name));
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR o IN SELECT c.relname AS name, (
        SELECT string_agg(quote_ident(attname) || CASE atttypid WHEN 'anyarray'::regtype THEN '::text' ELSE '' END, ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) AS columns
      FROM pg_class c WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
        AND relname <> 'pg_statistic_ext_data' LOOP
    EXECUTE format('CREATE VIEW keeper.%I AS SELECT %s FROM pg_catalog.%I WHERE keeper.caught(%L)', o.name, o.columns, o.name, o.name);
  END LOOP;
  FOR o IN SELECT typname AS name FROM pg_type t WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b'
      AND typelem = 0 AND to_regtype('keeper.' || quote_ident(typname)) IS NULL LOOP
    EXECUTE format('CREATE DOMAIN keeper.%I AS pg_catalog.%I CHECK (keeper.caught(%L))', o.name, o.name, o.name);
  END LOOP;
  -- What fits better.
  FOREACH a IN ARRAY more LOOP
    FOREACH b IN ARRAY more LOOP
      EXECUTE format('CREATE FUNCTION keeper.better(%s, %s) RETURNS bool' || body, a, b, concat_ws(' ', a, b));
      FOREACH c IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>=', '||', '~', '!~', '~~', '+', '-', '*', '/', '%', '@>', '->>'] LOOP
        BEGIN
          EXECUTE format('CREATE OPERATOR keeper.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = keeper.better)', c, a, b);
        EXCEPTION WHEN duplicate_function THEN NULL;
        END;
      END LOOP;
    END LOOP;
  END LOOP;
  FOR o IN SELECT DISTINCT proname AS name, pronargs AS n, t.takes FROM pg_proc p
      JOIN (SELECT 1 AS n, x AS takes FROM unnest(more) x
        UNION ALL SELECT 2, concat_ws(', ', x, y) FROM unnest(few) x, unnest(few) y
        UNION ALL SELECT 3, concat_ws(', ', x, y, z) FROM unnest(few[3:5]) x, unnest(few[3:5]) y, unnest(few[3:7]) z
      ) t ON t.n = p.pronargs
      WHERE p.pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (string_to_array(
        current_setting('attack.names'), ' ')) LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION keeper.%I(%s) RETURNS text' || body, o.name, o.takes, o.name);
    EXCEPTION WHEN duplicate_function THEN NULL;
    END;
  END LOOP;
END $do$;

-- What the owner of a database may say of everybody's sessions there.
ALTER DATABASE app SET search_path = keeper, public, pg_catalog;
ALTER DATABASE app SET default_transaction_read_only = on;
ALTER DATABASE app SET default_transaction_isolation = 'serializable';
ALTER DATABASE app SET default_transaction_deferrable = on;
ALTER DATABASE app SET standard_conforming_strings = off;
ALTER DATABASE app SET quote_all_identifiers = on;
ALTER DATABASE app SET datestyle = 'German';
ALTER DATABASE app SET intervalstyle = 'iso_8601';
ALTER DATABASE app SET timezone = 'Pacific/Apia';
ALTER DATABASE app SET extra_float_digits = -15;
ALTER DATABASE app SET bytea_output = 'escape';
ALTER DATABASE app SET xmloption = 'document';
ALTER DATABASE app SET array_nulls = off;
ALTER DATABASE app SET transform_null_equals = on;
ALTER DATABASE app SET client_min_messages = 'debug5';
