"""What the suites that others wrote share: they are fetched and compiled before they are run.

The runner calls a suite's file with --prepare first, with a time limit of its own, and skips the suite
when that fails, for the reason that is written last. What it has fetched stays in target/drivers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[3] / "target" / "drivers"
# What a suite may write goes to where errors are read: only checks go where checks are read.
CHECKS = os.fdopen(os.dup(1), "w", encoding="utf-8")


class Unavailable(Exception):
    """Why the tests cannot be had or run here."""


def output_of(command, **options):
    """What a program writes that fetches or compiles."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        error = next((line for line in lines if "error:" in line), lines[-1])
        raise Unavailable(f"{Path(command[0]).name}: {error}")
    return done.stdout


def tell(name, status, **more):
    print(json.dumps({"name": name, "status": status} | more), file=CHECKS, flush=True)


def enter(prepare, main):
    """Fetches and compiles, and unless called for that alone runs the suite with what `prepare` gives."""
    try:
        ready = prepare()
    except (Unavailable, OSError) as reason:
        sys.exit(str(reason))
    if sys.argv[1:] != ["--prepare"]:
        main(ready)
