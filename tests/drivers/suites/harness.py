"""What the Python suites share: checks, and tables that are distributed on one side only.

A check is a function that returns what it saw, as JSON can hold it, or raises. The runner compares
what it saw directly with what it saw through pgshunt.
"""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback

THROUGH = os.environ["SIDE"] == "through"
QUICK = "QUICK" in os.environ
# A check that takes longer hangs, and so does one step of it.
CHECK_SECONDS = 160
STEP_SECONDS = 120
CHECKS = []


class Skip(Exception):
    """Why a check makes no sense here."""


def check(name, refused=None):
    """Registers a check. With `refused`, pgshunt must answer with that SQLSTATE and a hint."""

    def register(function):
        CHECKS.append((name, function, refused))
        return function

    return register


def sqlstate(error):
    for attribute in ("sqlstate", "pgcode"):
        if getattr(error, attribute, None):
            return getattr(error, attribute)
    if getattr(error, "orig", None) is not None:
        return sqlstate(error.orig)
    return None


def hint(error):
    """The hint of an error of psycopg, psycopg2 or asyncpg."""
    if getattr(error, "orig", None) is not None:
        return hint(error.orig)
    diagnostics = getattr(error, "diag", error)
    return getattr(diagnostics, "message_hint", None) or getattr(diagnostics, "hint", None)


def plain(value):
    """A value as JSON holds it, without losing what type it had."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"bytes {bytes(value).hex()}"
    return f"{type(value).__name__} {value}"


def perform(function):
    if not inspect.iscoroutinefunction(function):
        return function()
    return asyncio.run(function())


def too_long(*_):
    raise TimeoutError(f"did not end within {CHECK_SECONDS} s")


def run():
    """Runs the registered checks and writes one JSON line for each."""
    signal.signal(signal.SIGALRM, too_long)
    for name, function, refused in CHECKS:
        line = {"name": name, "status": "ok"}
        begun = time.monotonic()
        signal.alarm(CHECK_SECONDS)
        try:
            line["saw"] = plain(perform(function))
            if refused and THROUGH:
                line |= {"status": "failed", "why": f"not refused, saw {line['saw']}"}
        except Skip as reason:
            line |= {"status": "skipped", "why": str(reason)}
        except Exception as error:  # pylint: disable=broad-except
            if refused and THROUGH and sqlstate(error) == refused and hint(error):
                line["refused"] = f"{error} HINT {hint(error)}"
            else:
                where = traceback.extract_tb(error.__traceback__)
                at = next((f for f in reversed(where) if "/suites/" in f.filename), where[-1])
                why = f"{type(error).__name__}: {error} [{sqlstate(error)}] (line {at.lineno})"
                line |= {"status": "failed", "why": why}
        finally:
            signal.alarm(0)
        line["ms"] = round(1000 * (time.monotonic() - begun))
        print(json.dumps(line), flush=True)
    sys.exit(0)


def psql(script, *options, stdin=None):
    """Exit code, output and errors of psql on a script, as one value."""
    command = ["psql", "-X", *options]
    if script is not None:
        command += ["-f", "-"]
        stdin = script
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
    )
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def sql(text):
    """Runs statements, and fails when one of them does."""
    done = psql(text, "-q", "-At", "-v", "ON_ERROR_STOP=1")
    if done["code"] != 0:
        raise RuntimeError(f"{text[:200]}: {done['err']}")
    return done["out"]


def distributed(name, columns, key, shards=4):
    """A distributed table; directly, the same with partitions beside it, as a shard is a schema."""
    create = f"CREATE TABLE {name} ({columns}) PARTITION BY HASH ({key});"
    if THROUGH:
        sql(f"SET pgshunt.shard_count = {shards}; {create}")
        return
    for r in range(shards):
        create += f"""CREATE SCHEMA IF NOT EXISTS shard_{r};
            CREATE TABLE shard_{r}.{name} PARTITION OF public.{name}
            FOR VALUES WITH (MODULUS {shards}, REMAINDER {r});"""
    sql(f"SET client_min_messages = warning; {create}")


def without_partitions(text):
    """`\\d` of a distributed table: its partitions are shards, which pgshunt does not show."""
    text = re.sub(r"(?m)^Number of partitions: .*\n", "", text)
    return re.sub(r"(?m)^(Partitions:| {12})[ ]?shard_.*\n", "", text)
