"""The admin console, as the tools see it that people have for PgBouncer.

Directly they look at PgBouncer itself, which this suite starts in front of the plain PostgreSQL;
through pgshunt at its console. Debian's prometheus-pgbouncer-exporter asks by itself; Datadog's
agent, psql and a pool of Go's are spoken for, with the queries that they send.
"""

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

import psycopg2
from harness import STEP_SECONDS, THROUGH, Skip, check, psql, run


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, look):
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        try:
            return look()
        except (OSError, psycopg2.OperationalError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {STEP_SECONDS} s in vain for {what}: {error}") from error
            time.sleep(0.05)


class PgBouncer:
    """A PgBouncer of its own, which trusts who connects."""

    def __enter__(self):
        self.port = free_port()
        self.home = tempfile.mkdtemp(prefix="pgshunt-console-")
        os.chmod(self.home, 0o755)
        ini = os.path.join(self.home, "pgbouncer.ini")
        users = os.path.join(self.home, "users.txt")
        with open(users, "w", encoding="utf-8") as f:
            f.write(f'"{os.environ["PGUSER"]}" "{os.environ["PGPASSWORD"]}"\n')
        with open(ini, "w", encoding="utf-8") as f:
            f.write(
                f"""[databases]
{os.environ["PGDATABASE"]} = host={os.environ["PGHOST"]} port={os.environ["PGPORT"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = {os.environ["PGUSER"]}
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
"""
            )
        command = ["pgbouncer", "-q", ini]
        if os.getuid() == 0:
            # It refuses to run as root.
            names = [n for n in ("postgres", "nobody") if has_user(n)]
            command[1:1] = ["-u", names[0]]
        self.log = open(os.path.join(self.home, "log"), "w", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        wait_for("PgBouncer", lambda: socket.create_connection(("127.0.0.1", self.port), 1).close())
        return self.port

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=STEP_SECONDS)
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)


def has_user(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


class Pgshunt:
    def __enter__(self):
        return int(os.environ["PGPORT"])

    def __exit__(self, *_):
        pass


CONSOLE = Pgshunt if THROUGH else PgBouncer


def connect(port, database="pgbouncer", **more):
    return psycopg2.connect(
        host=os.environ["PGHOST"], port=port, dbname=database, user=os.environ["PGUSER"],
        password=os.environ["PGPASSWORD"], **more,
    )


def work(port):
    """So that there is a pool to tell of, for as long as this is open."""
    connection = connect(port, os.environ["PGDATABASE"])
    connection.cursor().execute("SELECT 1")
    return contextlib.closing(connection)


# Asks with the exporter's own classes, and writes what they give: a line per metric.
COLLECT = """
import sys
from prometheus_pgbouncer_exporter import collectors, utils
connection = utils.get_connection(sys.argv[1], sys.argv[2], sys.argv[3])
for name in sys.argv[4:]:
    more = {} if name == "ListsCollector" else {"databases": None}
    for metric in getattr(collectors, name)(connection=connection, **more).collect():
        for sample in metric.samples:
            float(sample.value)
            print(metric.type, sample.name, *sorted(sample.labels))
"""


def collect(port, *collectors):
    host = os.environ["PGHOST"]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", COLLECT, os.environ["PGUSER"], str(port), host, *collectors],
        capture_output=True, text=True, timeout=STEP_SECONDS, check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return sorted(set(done.stdout.splitlines()))


@check("the exporter's pools, databases and lists")
def collected():
    with CONSOLE() as port:
        with work(port):
            return collect(port, "PoolsCollector", "DatabasesCollector", "ListsCollector")


@check("the exporter's metrics over HTTP")
def scraped():
    if not THROUGH:
        raise Skip("it asks for total_requests, which PgBouncer has not told since 1.8 and pgshunt does")
    with CONSOLE() as port:
        with work(port):
            page = scrape(port)
    wanted = "requests_total received_bytes_total sent_bytes_total query_microseconds_total"
    for name in wanted.split() + ["active_clients", "pool_size", "databases", "dns_pending"]:
        if not re.search(rf"(?m)^pgbouncer_{name}(\{{.*\}})? [0-9.e+]+$", page):
            raise AssertionError(f"no {name} in {page[-3000:]}")
    counted = re.search(r'pgbouncer_requests_total\{database="app"\} ([0-9.e+]+)', page)
    if float(counted[1]) < 1:
        raise AssertionError(page[-3000:])


def scrape(port):
    listen = free_port()
    command = [
        "prometheus-pgbouncer-exporter", "--host", "127.0.0.1", "--port", str(listen),
        "--pgbouncer-host", os.environ["PGHOST"], "--pgbouncer-port", str(port),
        "--pgbouncer-user", os.environ["PGUSER"],
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{listen}/metrics"
            page = wait_for("the exporter", lambda: urllib.request.urlopen(url, timeout=20).read())
            return page.decode()
        except Exception as error:
            log.seek(0)
            raise RuntimeError(f"{error}: {log.read()[-1500:]}") from error
        finally:
            process.terminate()
            process.wait(timeout=STEP_SECONDS)


# What Datadog's agent reads, by column; the names of 1.18, which the later ones have too.
DATADOG = {
    "STATS": "database total_xact_count total_query_count total_received total_sent total_xact_time "
    "total_query_time total_wait_time avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time "
    "avg_query_time avg_wait_time",
    "POOLS": "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait "
    "maxwait_us pool_mode",
    "DATABASES": "name host port database force_user pool_size reserve_pool pool_mode max_connections "
    "current_connections",
    "CLIENTS": "type user database state addr port local_addr local_port connect_time request_time "
    "wait wait_us close_needed ptr link remote_pid tls application_name",
    "SERVERS": "type user database state addr port local_addr local_port connect_time request_time "
    "wait wait_us close_needed ptr link remote_pid tls application_name",
}


@check("an agent by psycopg2")
def agent():
    saw = {}
    with CONSOLE() as port:
        with work(port):
            connection = connect(port)
            connection.set_session(autocommit=True)
            cursor = connection.cursor()
            for table, columns in DATADOG.items():
                cursor.execute(f"SHOW {table}")
                names = [c.name for c in cursor.description]
                rows = cursor.fetchall()
                types = {c.name: c.type_code for c in cursor.description}
                saw[table] = {c: types[c] for c in columns.split()}
                for row in rows:
                    row = dict(zip(names, row))
                    for column in ("connect_time", "request_time"):
                        if column in row:
                            time.strptime(row[column], "%Y-%m-%d %H:%M:%S UTC")
            cursor.execute("SHOW CONFIG")
            settings = {row[0]: row[1] for row in cursor.fetchall()}
            for key in ("max_client_conn", "default_pool_size", "max_user_connections"):
                int(settings[key])
            cursor.execute("SHOW VERSION;")
            told = cursor.fetchall() or connection.notices
            saw["version"] = bool(re.search(r"\d+\.\d+\.\d+", str(told[0])))
            saw["server_version"] = connection.get_parameter_status("server_version").split("/")[1]
            connection.close()
    return saw


@check("psql: \\d, what is no command, and on it goes")
def by_psql():
    if not THROUGH:
        raise Skip("PgBouncer ends the session at \\d")
    with CONSOLE() as port:
        place = ["-p", str(port), "-d", "pgbouncer"]
        done = psql("\\d\n\\l\nshow nonsense;\nSHOW VERSION;\n", "-At", *place)
        refused = re.findall(r"ERROR:  (.*)", done["err"])
        wanted = ["this is pgshunt's console, which does not run SQL"] * 2
        wanted.append("invalid command 'SHOW NONSENSE', use SHOW HELP;")
        if refused != wanted or not done["out"].startswith("PgBouncer "):
            raise AssertionError(done)


@check("parameters in the startup packet, as Go's lib/pq sends them")
def startup():
    with CONSOLE() as port:
        connection = connect(port, options="", application_name="exporter")
        connection.close()
        extra = connect(port, connect_timeout=STEP_SECONDS, client_encoding="UTF8")
        extra.set_session(autocommit=True)
        cursor = extra.cursor()
        cursor.execute("SHOW STATS")
        return [c.name for c in cursor.description][:1]


run()
