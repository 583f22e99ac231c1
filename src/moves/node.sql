-- What a node keeps for moves, besides the shards themselves. Created by ensure_node_schema().
CREATE SCHEMA IF NOT EXISTS pgshunt;

-- A row here, committed together with the ATTACH of the leaves, is the move: it serves here.
CREATE TABLE IF NOT EXISTS pgshunt.move_journal (
    move_id      bigint PRIMARY KEY,
    shard_id     int NOT NULL,
    lsn          pg_lsn NOT NULL,      -- every change up to here came from the source
    committed_at timestamptz NOT NULL DEFAULT now()
);

-- A row here, committed together with the triggers, says that the shard takes no writes here.
CREATE TABLE IF NOT EXISTS pgshunt.fences (
    shard_id     int PRIMARY KEY,
    move_id      bigint NOT NULL,
    grants       text[] NOT NULL,      -- what lifting the fence gives back
    fenced_at    timestamptz NOT NULL DEFAULT now()
);

-- Two columns whose collations contradict each other: see key_word() in leaves.rs.
DO $$ BEGIN
    IF to_regtype('pgshunt.contradiction') IS NULL THEN
        CREATE TYPE pgshunt.contradiction AS (c text COLLATE "C", p text COLLATE "POSIX");
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgshunt.fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'shard % does not take writes on this node: it is moving or has moved', TG_ARGV[0]
        USING ERRCODE = 'PS001', HINT = 'Connect through pgshunt, or retry on the node that serves the shard.';
END $$;
