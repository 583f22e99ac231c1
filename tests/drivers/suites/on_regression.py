"""PostgreSQL's own regression files, in a database that is not the cluster's, so nothing is sharded.

The files and the expected schedule come from Debian's source package of the installed version, the
runner (pg_regress) from postgresql-server-dev. What counts is not PostgreSQL's expected output, which
depends on psql's and the server's minor version, but that a file's output through pgshunt is what it
is directly. All clients of a group run at once and share pgshunt's server connections.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[3] / "target" / "drivers"
SECONDS = 220

# Files that cannot say the same, and why.
EXCLUDED = {
    "constraints": "defaults use currval(), the last value that the server connection has drawn",
    "brin": "plans depend on when autovacuum has run",
    "guc": "sets a placeholder that no server process takes once it has loaded plpgsql",
    "limit": "uses currval() outside of the transaction that drew: refused with 0A000",
    "sequence": "uses currval() and lastval() outside of the transaction that drew: refused with 0A000",
    "stats": "waits for the counters of the one server process that it believes to have",
    "triggers": "switches a variable of a C function in the one server process it believes to have",
}


class Unavailable(Exception):
    """Why the files cannot be had or run here."""


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise Unavailable(f"{command[0]}: {lines[-1]}")
    return done.stdout


def source_sites(apt):
    """Debian's package sources, asked for sources instead of packages."""
    lines = []
    for file in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        text = file.read_text(encoding="utf-8")
        if "debian-archive-keyring" in text:
            lines.append(re.sub(r"(?m)^Types:.*$", "Types: deb-src", text))
    (apt / "parts").mkdir(parents=True, exist_ok=True)
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "parts" / "debian.sources").write_text("\n\n".join(lines), encoding="utf-8")
    return [
        "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={apt}/parts",
        "-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}",
        "-o", "APT::Sandbox::User=",
    ]


def fetch(package, into):
    """Unpacks the package's original source: the newest version that its site still has."""
    if shutil.which("apt-get") is None:
        raise Unavailable("no apt-get: the files come from Debian's source package")
    apt = into / "apt"
    options = source_sites(apt)
    run(["apt-get", *options, "update", "-qq"])
    shown = run(["apt-cache", *options, "showsrc", package])
    versions = sorted(set(re.findall(r"(?m)^Version: (.*)$", shown)), reverse=True)
    reason = Unavailable(f"no source package {package}")
    for version in versions:
        try:
            command = ["apt-get", *options, "source", "-qq", "--download-only", f"{package}={version}"]
            run(command, cwd=into)
        except Unavailable as error:
            reason = error
            continue
        archive = next(into.glob("*.orig.tar.*"))
        run(["tar", "xf", archive.name, "--wildcards", "*/src/test/regress/*"], cwd=into)
        return
    raise reason


def files():
    """Where the regression files are, with the C functions they use compiled, and the runner."""
    version = run(["psql", "-XAtc", "SHOW server_version_num", "postgres"]).strip()
    major = str(int(version) // 10000)
    runner = Path(f"/usr/lib/postgresql/{major}/lib/pgxs/src/test/regress/pg_regress")
    headers = Path(f"/usr/include/postgresql/{major}/server")
    if not (runner.exists() and headers.exists()):
        raise Unavailable(f"postgresql-server-dev-{major} is not installed")
    into = TARGET / f"postgresql-{major}"
    found = list(into.glob("*/src/test/regress/parallel_schedule"))
    if not found:
        into.mkdir(parents=True, exist_ok=True)
        fetch(f"postgresql-{major}", into)
        found = list(into.glob("*/src/test/regress/parallel_schedule"))
    regress = found[0].parent
    if not (regress / "regress.so").exists():
        build = ["cc", "-O1", "-fPIC", "-shared", f"-I{headers}", "regress.c", "-o", "regress.so"]
        run(build, cwd=regress)
    # Debian's psql in the path is a wrapper that is slow to start.
    return regress, runner, f"/usr/lib/postgresql/{major}/bin"


def readable_by_servers(regress):
    """The servers read data files and the library as a user of their own."""
    run(["chmod", "-R", "a+rX", str(regress)])
    for parent in [regress, *regress.parents]:
        if not os.access(parent, os.X_OK) or not parent.stat().st_mode & 0o001:
            raise Unavailable(f"{parent} is closed to the user that the local nodes run as")


def tell(name, status, **more):
    print(json.dumps({"name": name, "status": status} | more), flush=True)


def main():
    try:
        if "QUICK" in os.environ:
            raise Unavailable("takes minutes: only without --quick")
        regress, runner, bindir = files()
        readable_by_servers(regress)
    except (Unavailable, OSError, StopIteration) as reason:
        tell("the regression files", "skipped", why=str(reason))
        return
    out = Path("/tmp") / f"pgshunt-regression-{os.getpid()}"
    for part in ("results", "testtablespace"):
        (out / part).mkdir(parents=True)
    run(["chmod", "-R", "a+rwX", str(out)])
    try:
        command = [
            str(runner), "--inputdir=.", f"--outputdir={out}", f"--bindir={bindir}",
            f"--dlpath={regress}", f"--host={os.environ['PGHOST']}", f"--port={os.environ['PGPORT']}",
            f"--user={os.environ['PGUSER']}", "--dbname=postgres", "--use-existing",
            "--schedule=parallel_schedule",
        ]
        # It fails where the expected output is another version's; the outputs are compared instead.
        done = subprocess.run(
            command, cwd=regress, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        outputs = sorted((out / "results").glob("*.out"))
        if not outputs:
            tell("pg_regress", "failed", why=(done.stderr or done.stdout)[-1000:])
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
    sys.exit(main())
