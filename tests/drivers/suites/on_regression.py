"""PostgreSQL's own regression files, in a database that is not the cluster's, so nothing is sharded.

The files and the expected schedule come from Debian's source package of the installed version, the
runner (pg_regress) from postgresql-server-dev. What counts is not PostgreSQL's expected output, which
depends on psql's and the server's minor version, but that a file's output through pgshunt is what it
is directly. All clients of a group run at once and share pgshunt's server connections.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from prepare import Unavailable, enter, output_of, tell
from source import Source

SECONDS = 900

# Files that cannot say the same, and why.
EXCLUDED = {
    "guc": "sets a placeholder that no server process takes once it has loaded plpgsql",
    "stats": "waits for the counters of the one server process that it believes to have",
    "triggers": "switches a variable of a C function in the one server process it believes to have",
}
# Not even run: in a server process that has had a temporary schema before, its last statement does not
# fail, and leaves a prepared transaction that others see and wait for.
LEFT_OUT = "temp"


# With --quick: what takes a second each at the most, in groups that run at once.
QUICK = """
test: test_setup
test: boolean char name varchar text int2 int4 int8 oid float4 bit numeric txid uuid enum money
test: strings date time timestamp timestamptz interval numerology
test: create_misc create_table
test: copy copyselect copydml insert
test: transactions portals portals_p2 select_into plancache temp advisory_lock dbsize
test: prepared_xacts combocid returning with xml conversion truncate namespace copy2 rowtypes
"""


def readable_by_servers(regress):
    """The servers read data files and the library as a user of their own."""
    output_of(["chmod", "-R", "a+rX", str(regress)])
    for parent in [regress, *regress.parents]:
        if not os.access(parent, os.X_OK) or not parent.stat().st_mode & 0o001:
            raise Unavailable(f"{parent} is closed to the user that the local nodes run as")


def prepare():
    source = Source()
    regress = source.part("regress")
    library = source.compile(regress, ["regress.c"], "regress.so", "-fPIC", "-shared")
    readable_by_servers(regress)
    return source, regress, library


def main(ready):
    source, regress, library = ready
    out = Path("/tmp") / f"pgshunt-regression-{os.getpid()}"
    for part in ("results", "testtablespace"):
        (out / part).mkdir(parents=True)
    output_of(["chmod", "-R", "a+rwX", str(out)])
    try:
        whole = (regress / "parallel_schedule").read_text(encoding="utf-8")
        chosen = QUICK if "QUICK" in os.environ else whole
        schedule = out / "schedule"
        schedule.write_text(re.sub(rf"\b{LEFT_OUT}\b", "", chosen), encoding="utf-8")
        command = [
            str(source.regress), "--inputdir=.", f"--outputdir={out}", f"--bindir={source.bindir}",
            f"--dlpath={library.parent}", f"--host={os.environ['PGHOST']}",
            f"--port={os.environ['PGPORT']}", f"--user={os.environ['PGUSER']}", "--dbname=postgres",
            "--use-existing", f"--schedule={schedule}",
        ]
        # Some files ask for what they have drawn from sequences. pgshunt follows that from the first
        # question in the database on; this one fails, as nothing is drawn.
        subprocess.run(
            [f"{source.bindir}/psql", "-d", "postgres", "-c", "SELECT lastval()"],
            capture_output=True, timeout=SECONDS, check=False,
        )
        # It fails where the expected output is another version's; the outputs are compared instead.
        try:
            done = subprocess.run(
                command, cwd=regress, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            said = done.stderr or done.stdout
        except subprocess.TimeoutExpired as late:
            said = f"did not end within {SECONDS} s: {late.stdout}"
            tell("pg_regress", "failed", why=said[-1000:])
        outputs = sorted((out / "results").glob("*.out"))
        if not outputs:
            tell("pg_regress", "failed", why=said[-1000:])
        tell(LEFT_OUT, "skipped", why="counts on a server process that has not had a temporary schema")
        for output in outputs:
            name = output.stem
            if name in EXCLUDED:
                tell(name, "skipped", why=EXCLUDED[name])
            else:
                text = output.read_text(encoding="utf-8", errors="replace")
                tell(name, "ok", saw=text.replace(str(out), "OUT"))
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    enter(prepare, main)
