"""Alembic's migrations, each run in one transaction: a distributed table is made, filled, changed and dropped."""

import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from harness import THROUGH, check, run

HEAD = """
from alembic import op
import sqlalchemy as sa
"""
FIRST = HEAD + f"""
revision, down_revision = "a1", None

def upgrade():
    op.create_table("al_kinds", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(50)))
    op.create_table(
        "al_orders",
        sa.Column("tenant", sa.Integer, nullable=False), sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text), sa.Column("made", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("tenant", "id"), postgresql_partition_by={"HASH (tenant)" if THROUGH else None!r})
    op.create_index("ix_al_note", "al_orders", ["note"])

def downgrade():
    op.drop_index("ix_al_note", table_name="al_orders")
    op.drop_table("al_orders")
    op.drop_table("al_kinds")
"""
SECOND = HEAD + """
revision, down_revision = "a2", "a1"

def upgrade():
    for n in range(6):
        op.execute(f"INSERT INTO al_orders (tenant, id, note) VALUES ({n}, {n}, 'n{n}')")
    op.add_column("al_orders", sa.Column("price", sa.Numeric(10, 2), nullable=False, server_default="0"))
    op.alter_column("al_orders", "price", server_default=None)
    op.alter_column("al_orders", "note", type_=sa.String(200), existing_type=sa.Text, nullable=False)
    op.create_check_constraint("ck_al_price", "al_orders", "price >= 0")
    op.create_unique_constraint("uq_al_note", "al_orders", ["tenant", "note"])
    op.execute("UPDATE al_orders SET price = tenant")
    op.alter_column("al_orders", "note", new_column_name="remark")

def downgrade():
    op.alter_column("al_orders", "remark", new_column_name="note")
    op.drop_constraint("uq_al_note", "al_orders", type_="unique")
    op.drop_constraint("ck_al_price", "al_orders", type_="check")
    op.drop_column("al_orders", "price")
    op.execute("DELETE FROM al_orders")
"""
THIRD = HEAD + """
revision, down_revision = "a3", "a2"

def upgrade():
    op.add_column("al_orders", sa.Column("left", sa.Integer))
    op.execute("UPDATE al_orders SET left = 1")

def downgrade():
    pass
"""
ENV = """
from alembic import context
from sqlalchemy import create_engine

with create_engine("postgresql+psycopg://").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def config():
    root = Path(tempfile.mkdtemp())
    (root / "versions").mkdir()
    (root / "env.py").write_text(ENV)
    for name, script in [("a1", FIRST), ("a2", SECOND), ("a3", THIRD)]:
        (root / "versions" / f"{name}.py").write_text(script)
    made = Config()
    made.set_main_option("script_location", str(root))
    return made


CONFIG = config()
engine = create_engine("postgresql+psycopg://")


def rows(sql):
    with engine.connect() as connection:
        return [list(r) for r in connection.execute(text(sql))]


def shape():
    return [
        rows("""SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
            WHERE attrelid = 'al_orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""),
        rows("""SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = 'al_orders'::regclass AND contype <> 'n' ORDER BY conname"""),
        rows("""SELECT indexrelid::regclass::text, indisvalid FROM pg_index
            WHERE indrelid = 'al_orders'::regclass ORDER BY 1"""),
        rows("SELECT version_num FROM alembic_version"),
    ]


@check("upgrade by two revisions in one transaction")
def _():
    command.upgrade(CONFIG, "a2")
    return [shape(), rows("SELECT tenant, id, remark, price FROM al_orders ORDER BY tenant")]


@check("a revision that fails leaves nothing")
def _():
    try:
        command.upgrade(CONFIG, "a3")
    except Exception as e:
        return [type(e).__name__, shape()]
    return "done"


@check("downgrade and upgrade again")
def _():
    command.downgrade(CONFIG, "a1")
    seen = [shape(), rows("SELECT count(*) FROM al_orders")]
    command.upgrade(CONFIG, "a2")
    seen.append(rows("SELECT count(*) FROM al_orders WHERE price > 2"))
    command.downgrade(CONFIG, "base")
    seen.append(rows("SELECT relname::text FROM pg_class WHERE relname LIKE 'al\\_%' ORDER BY 1"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    return seen


run()
