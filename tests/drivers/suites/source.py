"""PostgreSQL's own tests: Debian's source package of the version that runs, and how to build from it.

Fetched into target/drivers/postgresql-<major>; what is compiled lies beside its source.
"""

import os
import re
import shutil
from pathlib import Path

from prepare import TARGET, Unavailable, output_of

# What is unpacked of it.
PARTS = ["src/test/regress", "src/test/isolation", "src/test/modules/libpq_pipeline"]


class Source:
    """The unpacked source, and the installed files of the same major version."""

    def __init__(self):
        version = output_of(["psql", "-XAtc", "SHOW server_version_num", "postgres"]).strip()
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
            output_of([*command, *sources, "-o", program, *options], cwd=directory)
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
        unpack(archives[-1], into)
    return found()


def unpack(archive, into):
    """Whole or not at all; an archive that cannot be unpacked is fetched again the next time."""
    fresh = into / "unpacking"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    wanted = [f"*/{part}/*" for part in PARTS]
    try:
        output_of(["tar", "xf", str(archive), "-C", str(fresh), "--wildcards", *wanted])
    except Unavailable:
        archive.unlink()
        raise
    for root in fresh.iterdir():
        root.rename(into / root.name)


def fetch(package, into):
    """The package's original source: the newest version that its site still has."""
    if shutil.which("apt-get") is None:
        raise Unavailable("no apt-get: the files come from Debian's source package")
    options = source_sites(into / "apt")
    output_of(["apt-get", *options, "update", "-qq"])
    shown = output_of(["apt-cache", *options, "showsrc", package])
    versions = sorted(set(re.findall(r"(?m)^Version: (.*)$", shown)), reverse=True)
    reason = Unavailable(f"no source package {package}")
    for version in versions:
        try:
            command = ["apt-get", *options, "source", "-qq", "--download-only", f"{package}={version}"]
            output_of(command, cwd=into)
        except Unavailable as error:
            reason = error
            continue
        return next(into.glob("*.orig.tar.*"))
    raise reason


def source_sites(apt):
    """The sites of this machine's distribution, asked for sources instead of packages."""
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    told = output_of(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    lines = set()
    for site, release, component, origin in (line.split(maxsplit=3) for line in told.splitlines()):
        keys = Path(f"/usr/share/keyrings/{origin.lower()}-archive-keyring.gpg")
        if keys.exists():
            lines.add(f"deb-src [signed-by={keys}] {site} {release} {component}\n")
    if not lines:
        raise Unavailable("apt knows no site of this distribution: has apt-get update been run?")
    (apt / "parts").mkdir(parents=True, exist_ok=True)
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "parts" / "distribution.list").write_text("".join(sorted(lines)), encoding="utf-8")
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
