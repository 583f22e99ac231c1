"""PostgreSQL's own test of libpq's pipeline mode (src/test/modules/libpq_pipeline), with its traces.

As its 001_libpq_pipeline.pl does it: every test must end well, and what libpq has seen on the wire
in those that are traced must be what the source package says.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from prepare import enter, output_of, tell
from source import Source

SECONDS = 240
# As in the Perl script.
ROWS = 700


def prepare():
    source = Source()
    directory = source.part("modules/libpq_pipeline")
    program = source.compile_client(directory, ["libpq_pipeline.c"], "libpq_pipeline")
    return directory, program, output_of([str(program), "tests"]).split()


def main(ready):
    directory, program, tests = ready
    with tempfile.TemporaryDirectory() as traces:
        for test in tests:
            expected = directory / "traces" / f"{test}.trace"
            pipeline(program, test, expected, Path(traces) / test)


def pipeline(program, test, expected, trace):
    traced = expected.exists()
    options = ["-r", str(ROWS)] + (["-t", str(trace)] if traced else [])
    try:
        done = subprocess.run(
            [str(program), *options, test, "dbname=postgres"], capture_output=True, text=True,
            timeout=SECONDS, check=False, env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        tell(test, "failed", why=f"did not end within {SECONDS} s")
        return
    if done.returncode != 0:
        tell(test, "failed", why=f"ended with {done.returncode}: {done.stderr[-1000:]}")
    elif not traced:
        tell(test, "ok")
    elif trace.read_text() != expected.read_text():
        tell(test, "failed", why=difference(expected.read_text(), trace.read_text()))
    else:
        tell(test, "ok", saw=trace.read_text())


def difference(expected, trace):
    a, b = expected.splitlines(), trace.splitlines()
    for i, (left, right) in enumerate(zip(a, b)):
        if left != right:
            return f"line {i + 1} of the trace: expected {left!r}, not {right!r}"
    return f"the trace has {len(b)} lines and not {len(a)}"


if __name__ == "__main__":
    enter(prepare, main)
