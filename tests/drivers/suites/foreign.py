"""Test suites that others wrote, run by pytest: each test's outcome is a check.

The files come from the package's source distribution, in the version that requirements.txt names, and
stay below target/drivers: none of them is ours. What counts is that a test does through pgshunt
what it does directly.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from prepare import TARGET, output_of, tell

DRIVERS = Path(__file__).resolve().parents[1]


def source(package):
    """The unpacked source distribution of a package in requirements.txt."""
    lines = (DRIVERS / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = next(line for line in lines if line.lower().startswith(f"{package}=="))
    into = TARGET / "sources" / wanted.lower().replace("==", "-")
    if not into.exists():
        print(f"fetching the source of {wanted} ...", file=sys.stderr)
        into.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into.parent) as place:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            # Of this package alone: pip asks the source for its metadata, with tools that need no compiling.
            output_of([*pip, "--no-binary", package, "--no-deps", "--dest", place, wanted])
            fresh = Path(place) / "source"
            fresh.mkdir()
            archive = next(Path(place).glob("*.tar.gz"))
            output_of(["tar", "-xzf", str(archive), "--no-same-owner", "-C", str(fresh)])
            fresh.rename(into)
    return next(d for d in into.iterdir() if d.is_dir())


class Outcomes:
    """Tells each test's outcome, under a name that is the same on either side."""

    def __init__(self, label, excluded, patience):
        self.label = label
        self.patience = patience
        self.excluded = excluded
        self.unused = set(excluded)
        self.told = set()

    def name(self, nodeid):
        # SQLAlchemy puts driver and server version into the class's name.
        nodeid = re.sub(r"_postgresql\+\w+?_\d+(_\d+)*(?=::)", "", nodeid)
        file, _, test = nodeid.partition("::")
        return f"{self.label}{Path(file).stem}::{test}"

    def why(self, nodeid):
        """Why a test is not run; an exclusion names a test, a class or a file."""
        name = self.name(nodeid).removeprefix(self.label)
        for excluded, why in self.excluded.items():
            if name == excluded or name.startswith((f"{excluded}::", f"{excluded}[")):
                self.unused.discard(excluded)
                return why
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        left_out = [(item, self.why(item.nodeid)) for item in items]
        for item, why in left_out:
            if why:
                tell(self.name(item.nodeid), "skipped", why=why)
        items[:] = [item for item, why in left_out if not why]
        for item in items:
            for name, seconds in self.patience.items():
                if hasattr(item.module, name):
                    setattr(item.module, name, seconds)
        config.hook.pytest_deselected(items=[item for item, why in left_out if why])

    def pytest_collectreport(self, report):
        if report.failed:
            tell(f"{self.label}{report.nodeid}", "failed", why=last_line(report))

    def pytest_runtest_logreport(self, report):
        name = self.name(report.nodeid)
        if report.when == "teardown" and report.passed or name in self.told:
            return
        if report.when == "setup" and report.passed:
            return
        self.told.add(name)
        if report.failed and not hasattr(report, "wasxfail"):
            tell(name, "failed", why=f"{report.when}: {last_line(report)}")
        elif report.skipped and not hasattr(report, "wasxfail"):
            tell(name, "skipped", why=last_line(report), itself=True)
        else:
            tell(name, "ok", saw="passed" if report.passed else "failed as expected")


def last_line(report):
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[-1])
    lines = str(report.longrepr).splitlines()
    errors = [line for line in lines if re.match(r"(E +)?[\w.]+(Error|Exception|Warning)?: ", line)]
    return (errors or lines or ["no reason given"])[-1][:500]


def run(root, arguments, label, excluded, patience=None):
    """Runs pytest in this process, which it may be done in once only.

    `patience` names the time limits of the tests' modules that are too tight for a busy machine.
    """
    os.dup2(2, 1)
    os.chdir(root)
    # Assertions are not rewritten for the sake of a second run.
    sys.dont_write_bytecode = True
    outcomes = Outcomes(label, excluded, patience or {})
    pytest.main(["-p", "no:cacheprovider", "-q", "--no-header", *arguments], plugins=[outcomes])
    if outcomes.unused and "QUICK" not in os.environ:
        names = ", ".join(sorted(outcomes.unused))
        tell(f"{label}exclusions", "failed", why=f"there is no test {names}")
