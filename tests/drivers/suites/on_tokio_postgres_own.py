"""tokio-postgres's own tests, in the database `postgres`: it is not the cluster's, so nothing is sharded.

They come with the crate, from crates.io, and are compiled in a package of ours
(tests/drivers/tokio-postgres) in target/drivers. They look for a server on port 5433 that trusts its
superuser; that is the one thing changed in them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness import psql
from prepare import TARGET, Unavailable, enter, output_of, tell

PACKAGE = Path(__file__).resolve().parents[1] / "tokio-postgres"
SECONDS = 800

# What cannot say the same, and why.
EXCLUDED = {
    "md5_password_ok": "fails directly too: the local nodes ask for SCRAM, as they do by default",
}

# Text of the tests, and what stands there instead, where it must be found.
CHANGES = {
    "main.rs": [
        ('TcpStream::connect("127.0.0.1:5433")', "TcpStream::connect(here::address())"),
        ("s.parse::<Config>().unwrap()", "here::config(s).unwrap()"),
        ("mod parse;", "mod here;\nmod parse;"),
    ],
    "runtime.rs": [("tokio_postgres::connect(", "crate::here::connect(")],
}

# As the crate's repository sets its server up.
ROLES = """
    DROP ROLE IF EXISTS pass_user, md5_user, scram_user;
    CREATE ROLE pass_user LOGIN PASSWORD 'password';
    CREATE ROLE md5_user LOGIN PASSWORD 'password';
    CREATE ROLE scram_user LOGIN PASSWORD 'password';
    CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE EXTENSION IF NOT EXISTS citext;
    CREATE EXTENSION IF NOT EXISTS ltree;
"""


def compiled():
    """The tests as a program; compiled anew where something has changed."""
    if shutil.which("cargo") is None:
        raise Unavailable("cargo is not installed")
    into = TARGET / "tokio-postgres"
    into.mkdir(parents=True, exist_ok=True)
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(PACKAGE / name, into)
    (into / "empty.rs").touch()
    cargo = {k: v for k, v in os.environ.items() if not k.startswith("CARGO_")}
    told = json.loads(output_of(["cargo", "metadata", "--locked", "--format-version=1"], cwd=into, env=cargo))
    package = next(p for p in told["packages"] if p["name"] == "tokio-postgres")
    write_tests(Path(package["manifest_path"]).parent / "tests" / "test", into / "tests" / "test")
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json", "--target-dir=target"]
    lines = output_of(command, cwd=into, env=cargo).splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    programs = (m for m in messages if m.get("executable"))
    return next(m["executable"] for m in programs if m["target"]["name"] == "own")


def write_tests(source, into):
    """What is written again is compiled again."""
    for file in [*source.rglob("*.rs"), PACKAGE / "here.rs"]:
        text = file.read_text(encoding="utf-8")
        for old, new in CHANGES.get(file.name, []) if file.parent == source else []:
            if old not in text:
                raise Unavailable(f"{file.name} is not the one known here: {old}")
            text = text.replace(old, new)
        inside = file.relative_to(source) if file.is_relative_to(source) else Path(file.name)
        target = into / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def main(program):
    done = psql(ROLES, "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres")
    if done["code"] != 0:
        sys.exit(done["err"])
    names = [option for name in EXCLUDED for option in ("--skip", name)]
    done = subprocess.run(
        [program, "--test-threads=4", "--exact", *names], capture_output=True, text=True,
        timeout=SECONDS, check=False, env=os.environ | {"RUST_BACKTRACE": "0"},
    )
    for name, why in EXCLUDED.items():
        tell(name, "skipped", why=why)
    reasons = dict(re.findall(r"(?ms)^---- (\S+) stdout ----\n(.*?)(?=^----|^failures:|\Z)", done.stdout))
    for name, outcome in re.findall(r"(?m)^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", done.stdout):
        if outcome == "ok":
            tell(name, "ok", saw="passed")
        elif outcome == "ignored":
            tell(name, "skipped", why="the crate ignores it", itself=True)
        else:
            tell(name, "failed", why=" ".join(reasons.get(name, "").split())[:500])
    if "test result:" not in done.stdout:
        sys.exit(done.stderr[-1000:] or f"the tests ended with {done.returncode}")


if __name__ == "__main__":
    enter(compiled, main)
