-- The catalog: schema pgshunt in the cluster's database on the home node.
CREATE SCHEMA IF NOT EXISTS pgshunt;

CREATE TABLE pgshunt.meta (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version     int    NOT NULL,          -- of this schema
    epoch       bigint NOT NULL           -- raised by every change of the tables below
);

CREATE TABLE pgshunt.nodes (
    node_id     serial PRIMARY KEY,
    name        text   NOT NULL UNIQUE,
    host        text   NOT NULL,
    port        int    NOT NULL,
    is_home     boolean NOT NULL DEFAULT false,
    UNIQUE (host, port)
);
CREATE UNIQUE INDEX one_home ON pgshunt.nodes (is_home) WHERE is_home;

CREATE TABLE pgshunt.colocation_groups (
    group_id    serial PRIMARY KEY,
    key_types   text[] NOT NULL,          -- as format_type() prints them
    shard_count int    NOT NULL,          -- 0: its tables are reference tables
    CONSTRAINT shards_or_none CHECK (shard_count >= 0)
);

CREATE TABLE pgshunt.tables (
    table_id    serial PRIMARY KEY,
    group_id    int    NOT NULL REFERENCES pgshunt.colocation_groups,
    schema_name text   NOT NULL,
    table_name  text   NOT NULL,
    key_columns text[] NOT NULL,         -- these as the table was made; what they are now PostgreSQL tells
    column_names text[] NOT NULL,         -- in attribute order, without dropped ones
    column_types oid[]  NOT NULL,
    UNIQUE (schema_name, table_name)
);

-- Names of partitions that were declared of distributed tables, whose rows are in the tables' shards.
CREATE TABLE pgshunt.partitions (
    table_id    int    NOT NULL REFERENCES pgshunt.tables ON DELETE CASCADE,
    schema_name text   NOT NULL,
    partition_name text NOT NULL,
    remainder   int    NOT NULL,          -- the modulus is the table's number of shards
    PRIMARY KEY (schema_name, partition_name),
    UNIQUE (table_id, remainder)
);

CREATE TABLE pgshunt.shards (
    shard_id    serial PRIMARY KEY,
    group_id    int    NOT NULL REFERENCES pgshunt.colocation_groups ON DELETE CASCADE,
    modulus     int    NOT NULL,
    remainder   int    NOT NULL,
    UNIQUE (group_id, modulus, remainder)
);

CREATE TABLE pgshunt.placements (
    shard_id    int    NOT NULL REFERENCES pgshunt.shards ON DELETE CASCADE,
    node_id     int    NOT NULL REFERENCES pgshunt.nodes,
    role        text   NOT NULL DEFAULT 'primary' CHECK (role IN ('primary', 'replica')),
    state       text   NOT NULL CHECK (state IN ('active', 'copying', 'inactive', 'retired')),
    since       bigint NOT NULL,          -- epoch at which it began to serve
    PRIMARY KEY (shard_id, node_id)
);

CREATE TABLE pgshunt.settings (
    name        text PRIMARY KEY,
    value       text NOT NULL
);

-- Whose clients ask for the values that they have drawn from sequences.
CREATE TABLE pgshunt.asking (
    database_name text NOT NULL,
    role_name   text NOT NULL,
    PRIMARY KEY (database_name, role_name)
);

-- Decisions of two-phase transactions: present means commit.
CREATE TABLE pgshunt.decisions (
    gid         text PRIMARY KEY,
    decided_at  timestamptz NOT NULL DEFAULT now()
);

-- A move's row is written before each step acts; only moves/ writes it.
CREATE TABLE pgshunt.moves (
    move_id     bigserial PRIMARY KEY,
    shard_id    int    NOT NULL,
    group_id    int    NOT NULL,
    source_id   int    NOT NULL,
    target_id   int    NOT NULL,
    table_ids   int[]  NOT NULL,          -- what moves: the group's tables when it was planned
    state       text   NOT NULL,
    step        text,                     -- the step being carried out
    attempts    int    NOT NULL DEFAULT 0,   -- cutovers that were begun
    held_us     bigint,                   -- all holds of the shard's traffic together
    longest_us  bigint,                   -- the longest of them
    bytes_total bigint NOT NULL DEFAULT 0,
    rows_total  bigint NOT NULL DEFAULT 0,
    error       text,
    blocker     text,
    rollback_of bigint REFERENCES pgshunt.moves,
    cancel_requested boolean NOT NULL DEFAULT false,
    started_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_move_per_group ON pgshunt.moves (group_id)
    WHERE state NOT IN ('soaking', 'done', 'failed');
CREATE UNIQUE INDEX one_soaking_per_shard ON pgshunt.moves (shard_id) WHERE state = 'soaking';

-- Promised before the object exists, deleted after it is gone.
CREATE TABLE pgshunt.cleanup_records (
    record_id   bigserial PRIMARY KEY,
    move_id     bigint NOT NULL REFERENCES pgshunt.moves,
    node_id     int    NOT NULL,
    kind        text   NOT NULL,
    name        text   NOT NULL,
    UNIQUE (node_id, kind, name)
);

INSERT INTO pgshunt.meta (version, epoch) VALUES (1, 1);
INSERT INTO pgshunt.settings VALUES ('shard_count', '16');
