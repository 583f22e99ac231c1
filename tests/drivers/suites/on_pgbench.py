"""pgbench: its own tables, which are local, and scripts on a distributed table, in all protocols."""

import re
import subprocess
import tempfile
from pathlib import Path

from harness import CHECK_SECONDS, QUICK, check, distributed, run, sql

CLIENTS = 6
ROUNDS = 60 if QUICK else 600
ROWS = 300

distributed("bench_accounts", "id int PRIMARY KEY, balance bigint NOT NULL", "id")
distributed("bench_history", "id int, at bigint, delta int, PRIMARY KEY (id, at)", "id")
for first in range(1, ROWS + 1):
    sql(f"INSERT INTO bench_accounts VALUES ({first}, 0)")

READ = f"""
\\set id random(1, {ROWS})
SELECT balance FROM bench_accounts WHERE id = :id;
"""

WRITE = f"""
\\set id random(1, {ROWS})
\\set delta random(-50, 50)
UPDATE bench_accounts SET balance = balance + :delta WHERE id = :id;
"""

# Two tables of one colocation group and the same key: one shard, one transaction.
TRANSACTION = f"""
\\set id random(1, {ROWS})
\\set delta random(-50, 50)
\\set at random(1, 1000000000000000)
BEGIN;
UPDATE bench_accounts SET balance = balance + :delta WHERE id = :id;
INSERT INTO bench_history VALUES (:id, :at, :delta);
SELECT balance FROM bench_accounts WHERE id = :id;
COMMIT;
"""

ALL_NODES = "SELECT count(*), min(id), max(id) FROM bench_accounts;"

PIPELINE = f"""
\\set id random(1, {ROWS})
\\startpipeline
SELECT balance FROM bench_accounts WHERE id = :id;
UPDATE bench_accounts SET balance = balance + 1 WHERE id = :id;
SELECT balance + 1 FROM bench_accounts WHERE id = :id;
\\endpipeline
"""

MIX = [(READ, 5), (WRITE, 2), (TRANSACTION, 2), (ALL_NODES, 1)]


def pgbench(*options):
    """How many transactions ended, and how many of them failed. Any complaint is an error."""
    done = subprocess.run(
        ["pgbench", *options], capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode != 0 or "aborted" in said or "error:" in said:
        raise RuntimeError(f"pgbench {' '.join(options)}: {said[-1500:]}")
    processed = re.search(r"number of transactions actually processed: (\d+)", said)
    failed = re.search(r"number of failed transactions: (\d+)", said)
    return [int(processed[1]), int(failed[1])]


def bench(mode, scripts, *more, rounds=ROUNDS):
    with tempfile.TemporaryDirectory() as place:
        options = []
        for i, (text, weight) in enumerate(scripts):
            file = Path(place) / f"{i}.sql"
            file.write_text(text, encoding="utf-8")
            options += ["-f", f"{file}@{weight}"]
        run_options = ["-n", "-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", str(rounds)]
        seen = pgbench(*run_options, *more, *options)
    assert seen == [rounds * CLIENTS, 0], seen
    return seen


def balanced():
    """What differs between the tables that every transaction wrote both, or neither."""
    balances = int(sql("SELECT sum(balance) FROM bench_accounts").strip())
    deltas = sum(map(int, sql("SELECT delta FROM bench_history").split()))
    return balances - deltas


def books():
    """What pgbench's branches have beyond their history: nothing is lost while it stays."""
    return sql(
        "SELECT sum(bbalance) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
        " FROM pgbench_branches"
    )


@check("-i makes pgbench's own tables")
def _():
    done = subprocess.run(
        ["pgbench", "-i", "-s", "1"], capture_output=True, text=True, timeout=CHECK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return sql("SELECT count(*), sum(abalance) FROM pgbench_accounts")


def register(mode):
    @check(f"-M {mode}: pgbench's own TPC-B, and its books balance")
    def _():
        before = books()
        seen = pgbench("-n", "-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", str(ROUNDS // 3))
        assert books() == before
        return [seen, sql("SELECT count(*) FROM pgbench_history")]

    @check(f"-M {mode}: select-only and simple-update")
    def _():
        options = ["-n", "-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", str(ROUNDS)]
        return [pgbench(*options, "-S"), pgbench(*options, "-N")]

    @check(f"-M {mode}: transactions over two colocated tables, and the sums agree")
    def _():
        before = balanced()
        seen = bench(mode, [(TRANSACTION, 1)])
        assert balanced() == before
        return seen

    @check(f"-M {mode}: a new connection for each transaction")
    def _():
        return bench(mode, [(READ, 1)], "-C", rounds=max(10, ROUNDS // 20))


for protocol in ("simple", "extended", "prepared"):
    register(protocol)
for protocol in ("extended", "prepared"):

    def pipelined(mode=protocol):
        return bench(mode, [(PIPELINE, 1)])

    check(f"-M {protocol}: a pipeline on one shard")(pipelined)
for protocol in ("simple", "extended", "prepared"):

    def mixed(mode=protocol):
        return bench(mode, MIX)

    check(f"-M {protocol}: reads, writes, transactions and counts at once")(mixed)


@check("more clients than server connections")
def _():
    rounds = max(10, ROUNDS // 10)
    seen = pgbench("-n", "-M", "prepared", "-c", "60", "-j", "2", "-t", str(rounds), "-S")
    assert seen == [60 * rounds, 0], seen
    return seen


run()
