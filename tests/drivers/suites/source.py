"""PostgreSQL's own tests: Debian's source package of the version that runs, and how to build from it.

Fetched into target/drivers/postgresql-<major>; what is compiled lies beside its source.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

TARGET = Path(__file__).resolve().parents[3] / "target" / "drivers"
# What is unpacked of it.
PARTS = ["src/test/regress", "src/test/isolation", "src/test/modules/libpq_pipeline"]


class Unavailable(Exception):
    """Why the tests cannot be had or run here."""


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        error = next((line for line in lines if "error:" in line), lines[-1])
        raise Unavailable(f"{command[0]}: {error}")
    return done.stdout


def tell(name, status, **more):
    print(json.dumps({"name": name, "status": status} | more), flush=True)


class Source:
    """The unpacked source, and the installed files of the same major version."""

    def __init__(self):
        version = run(["psql", "-XAtc", "SHOW server_version_num", "postgres"]).strip()
        major = str(int(version) // 10000)
        installed = Path(f"/usr/lib/postgresql/{major}")
        # Debian's psql in the path is a wrapper that is slow to start.
        self.bindir = installed / "bin"
        self.libdir = installed / "lib"
        self.regress = self.libdir / "pgxs" / "src" / "test" / "regress" / "pg_regress"
        self.headers = Path(f"/usr/include/postgresql/{major}/server")
        if not (self.regress.exists() and self.headers.exists()):
            raise Unavailable(f"postgresql-server-dev-{major} is not installed")
        self.root = unpacked(f"postgresql-{major}", TARGET / f"postgresql-{major}")

    def part(self, name):
        return self.root / "src" / "test" / name

    def compile(self, directory, sources, program, *options):
        """Compiles when a source is newer than the program."""
        built = directory / program
        newest = max((directory / s).stat().st_mtime for s in sources)
        if not built.exists() or built.stat().st_mtime < newest:
            includes = [self.headers, "/usr/include/postgresql", "/usr/include/postgresql/internal"]
            command = ["cc", "-O1", *(f"-I{i}" for i in includes)]
            run([*command, *sources, "-o", program, *options], cwd=directory)
        return built

    def compile_client(self, directory, sources, program, *options):
        """A program of libpq, and of the frontend's libraries."""
        libraries = [f"-L{self.libdir}", "-lpgcommon", "-lpgport", "-lpq", "-lm"]
        return self.compile(directory, sources, program, *options, *libraries)


def unpacked(package, into):
    """Where the newest source of the package lies that has been fetched, or is fetched now."""

    def found():
        whole = (r for r in into.glob("*/") if all((r / part).exists() for part in PARTS))
        return max(whole, default=None, key=lambda r: [int(n) for n in re.findall(r"\d+", r.name)])

    if found() is None:
        into.mkdir(parents=True, exist_ok=True)
        archives = list(into.glob("*.orig.tar.*")) or [fetch(package, into)]
        wanted = [f"*/{part}/*" for part in PARTS]
        run(["tar", "xf", archives[-1].name, "--wildcards", *wanted], cwd=into)
    return found()


def fetch(package, into):
    """The package's original source: the newest version that its site still has."""
    if shutil.which("apt-get") is None:
        raise Unavailable("no apt-get: the files come from Debian's source package")
    options = source_sites(into / "apt")
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
        return next(into.glob("*.orig.tar.*"))
    raise reason


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


def environment():
    """What pg_regress sets for the tests."""
    return os.environ | {
        "PGTZ": "PST8PDT",
        "PGDATESTYLE": "Postgres, MDY",
        "PGOPTIONS": "-c intervalstyle=postgres_verbose",
        "LC_MESSAGES": "C",
    }
