#!/usr/bin/env python3
"""Runs the same work on Backroom and on its peers; `bin/bench compare` starts it.

It installs the peers below .backroom/peers, measures in interleaved rounds, prints one JSON line per measurement, and writes
docs/benchmarks/compare.{json,md,svg}. A peer that cannot be installed or does not work is skipped and named. Nothing but
Python's own library is needed: procrastinate and the plot have a virtual environment of their own, and SQL goes through psql.
README.md beside this file says how the drivers are spoken to.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import urllib.parse

import peers
import report

CONCURRENCY = 64
OFFERED = 500  # jobs per second that every full queue should carry
BULK = 1_000  # jobs per call
# Jobs below zero are not timed.
UNTIMED = -1_000_000_000


def say(text):
    print(text, file=sys.stderr, flush=True)


class Psql:
    """One session. `rows()` answers a list of lists of strings."""

    def __init__(self, url):
        command = [os.environ.get("PSQL", "psql"), "-XAtq", "-F", "\t", url]
        pipe = subprocess.PIPE
        # Notices would stand between the rows.
        quiet = os.environ | {"PGOPTIONS": "-c client_min_messages=error"}
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, bufsize=1, env=quiet
        )

    def rows(self, sql):
        try:
            self.process.stdin.write(f"{sql};\n\\echo \x01\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("psql ended: " + self.process.stdout.read()) from None
        lines = []
        for line in self.process.stdout:
            if line == "\x01\n":
                break
            lines.append(line.rstrip("\n"))
        else:
            raise RuntimeError("psql ended: " + " ".join(lines))
        for line in lines:
            if line.startswith(("ERROR:", "FATAL:")):
                raise RuntimeError(f"{line} in: {sql}")
        return [line.split("\t") for line in lines]

    def value(self, sql):
        return self.rows(sql)[-1][0]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Worker:
    """A driver that works. Its lines come in through a thread, so that waiting for one can have a limit."""

    def __init__(self, system, url, **order):
        order |= {"url": url, "do": "work", "best": system.best}
        self.process = start_driver(system, order, stdin=subprocess.PIPE)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        first = self.line(60)
        if first is None:
            self.kill()
            raise RuntimeError("the worker did not start within a minute")
        self.ready = first["ready"]

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def line(self, seconds):
        """The next line; None if there was none in time."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if line is None:
            raise RuntimeError("the worker ended by itself")
        return line

    def stop(self):
        """Ends it; answers when each job began, by number."""
        self.process.stdin.close()
        line = self.line(60)
        while line is not None and "starts" not in line:
            line = self.line(60)
        self.process.wait(timeout=30)
        return dict(line["starts"]) if line else {}

    def kill(self):
        self.process.kill()
        self.process.wait()


def start_driver(system, order, **options):
    command = [*system.peer.command, json.dumps(order)]
    with open(peers.HOME / "drivers.log", "a") as log:
        print(f"\n{system.name}: {json.dumps(order)}", file=log, flush=True)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, **options)


@contextlib.contextmanager
def working(system, url, **order):
    """A worker that does not outlive a failure."""
    worker = Worker(system, url, **{"concurrency": system.concurrency} | order)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()


def drive(system, url, limit=300, **order):
    """Runs a driver to its end; answers its last line."""
    process = start_driver(system, {"url": url, "best": system.best} | order)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"{order['do']} took more than {limit} s") from None
    if process.returncode != 0:
        raise RuntimeError(f"{order['do']} failed; see {peers.HOME / 'drivers.log'}")
    lines = output.splitlines()
    return json.loads(lines[-1]) if lines else {}


class Server:
    """The PostgreSQL server on which everything runs."""

    def __init__(self, url):
        self.url = url
        self.admin = Psql(url)
        setting = lambda name: self.admin.value(f"select current_setting('{name}', true)")
        self.settings = {name: setting(name) for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers")}
        self.statements = "pg_stat_statements" in setting("shared_preload_libraries")
        if self.statements:
            self.admin.rows("create extension if not exists pg_stat_statements")

    def database(self, name):
        return urllib.parse.urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop(self, name):
        self.admin.rows(f'drop database if exists "{name}" with (force)')

    @contextlib.contextmanager
    def fresh(self, system):
        """A database of its own for this system, with its schema; gone afterwards."""
        template, name = f"compare_template_{system.key}", f"compare_{system.key}"
        if self.admin.value(f"select count(*) from pg_database where datname = '{template}'") == "0":
            self.admin.rows(f'create database "{template}" encoding \'UTF8\' template template0')
            try:
                if system.peer.migrate:
                    system.peer.migrate(self.database(template))
                else:
                    drive(system, self.database(template), do="migrate")
            except BaseException:
                self.drop(template)
                raise
        self.drop(name)
        self.admin.rows(f'create database "{name}" template "{template}"')
        url = self.database(name)
        db = Psql(url)
        try:
            yield url, db
        finally:
            db.close()
            self.drop(name)

    def counters(self, name):
        """Statements, transactions and WAL bytes so far; statements are None if the server does not count them."""
        calls = None
        if self.statements:
            calls = int(self.admin.value(
                "select coalesce(sum(calls), 0) from pg_stat_statements s join pg_database d on d.oid = s.dbid"
                f" where d.datname = '{name}' and s.toplevel"
            ))  # fmt: skip
        transactions = int(self.admin.value(f"select xact_commit from pg_stat_database where datname = '{name}'"))
        wal = int(self.admin.value("select pg_current_wal_lsn() - '0/0'::pg_lsn"))
        return calls, transactions, wal


def left(system, db):
    return int(db.value(system.peer.left))


def settle(db):
    """The same start for everybody: statistics, visibility and no checkpoint due."""
    db.rows("vacuum analyze")
    db.rows("checkpoint")


def fill(system, url, count):
    """Enqueues, not measured, so in the fastest way there is."""
    if count > 0:
        drive(system, url, do="enqueue", best=True, count=count, batch=5000, first=UNTIMED)


def drain(system, url, db, box, **order):
    """Jobs per second, every outcome durable: until nothing is left, or for `box` seconds."""
    before = left(system, db)
    with working(system, url, count=before, **order) as worker:
        end = worker.ready + box
        while worker.line(max(0, end - time.time())) is not None:
            # All handlers have begun: now until all outcomes are recorded.
            while time.time() < end and left(system, db) > 0:
                time.sleep(0.005)
            break
        ended = time.time()
        done = before - left(system, db)
        return done / (ended - worker.ready), done


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else None


def latencies(commits, starts, now):
    """Milliseconds from the commit to the handler's first line. A job that has not begun has waited until now."""
    return [max(0.0, starts.get(number, now) - at) * 1000 for number, at in commits]


def offer(system, url, rate, seconds, first, batch=1, **order):
    count = max(1, int(rate * seconds))
    return drive(system, url, do="enqueue", count=count, batch=batch, rate=rate, first=first, limit=seconds + 90, **order)


class Comparison:
    def __init__(self, server, systems, plan):
        self.server, self.systems, self.plan = server, systems, plan
        self.samples = {system.key: {} for system in systems}
        self.waits = {system.key: {} for system in systems}
        self.pooled = {system.key: {} for system in systems}
        self.failures = {}

    def note(self, system, name, value):
        if value is not None:
            self.samples[system.key].setdefault(name, []).append(value)
            say(f"  {system.name}: {name} {value:,.4g}")

    def note_waits(self, system, name, waits):
        """Percentiles are of all rounds' waits together; a round alone has too few for its 99th."""
        pooled = self.waits[system.key].setdefault(name, [])
        pooled += waits
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            self.note(system, f"{name}_{label}", percentile(waits, share))
            self.pooled[system.key][f"{name}_{label}"] = percentile(pooled, share)

    def each(self, title, systems, measure):
        say(f"{title} …")
        for system in systems:
            try:
                measure(system)
            except (RuntimeError, OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
                say(f"  {system.name}: {title} failed: {error}")
                self.failures.setdefault(system.name, []).append(f"{title}: {error}")

    def round(self, system):
        """Enqueue, drain, 1 ms of work, pick-up: in a new database each time."""
        plan, note = self.plan, lambda name, value: self.note(system, name, value)
        with self.server.fresh(system) as (url, db):
            ones = drive(system, url, do="enqueue", count=100_000, seconds=plan.ones_s, first=UNTIMED)
            note("enqueue_one", ones["enqueued"] / ones["seconds"])
            bulk = drive(system, url, do="enqueue", count=1_000_000, batch=BULK, seconds=plan.bulk_s, first=UNTIMED)
            note("enqueue_bulk", bulk["enqueued"] / bulk["seconds"])
            fill(system, url, plan.jobs(system) - left(system, db))
            settle(db)
            name = f"compare_{system.key}"
            before = self.server.counters(name)
            rate, done = drain(system, url, db, plan.box_s)
            # Sessions hand in their counters when they end.
            time.sleep(0.3)
            used = [None if a is None else b - a for a, b in zip(before, self.server.counters(name))]
            note("drain", rate)
            if done:
                for what, amount in zip(("statements", "transactions", "wal"), used):
                    note(f"{what}_per_job", None if amount is None else amount / done)
            # The jobs that a slow system has left are enough; a fast one gets new ones.
            fill(system, url, max(1000, int(min(plan.jobs(system), rate * plan.box_s))) - left(system, db))
            settle(db)
            note("drain_1ms", drain(system, url, db, plan.box_s, concurrency=CONCURRENCY, sleep_ms=1)[0])
        with self.server.fresh(system) as (url, db):
            self.pickup(system, url, db, rate)

    def pickup(self, system, url, db, drain_rate):
        plan = self.plan
        with working(system, url) as worker:
            offer(system, url, 20, 1, UNTIMED)
            # 17 a second is in step with nobody's polling.
            phases = {"idle": offer(system, url, 17, plan.idle_s, 0)}
            if system.best:
                half = drain_rate / 2
                phases["half"] = offer(system, url, half, plan.half_s, 1_000_000, batch=max(1, round(half / 100)))
                limit = time.time() + 2
                while left(system, db) and time.time() < limit:
                    time.sleep(0.05)
            phases["500"] = offer(system, url, OFFERED, plan.load_s, 2_000_000)
            time.sleep(1)
            starts, now = worker.stop(), time.time()
        for phase, offered in phases.items():
            self.note_waits(system, f"pickup_{phase}", latencies(offered["commits"], starts, now))

    def waiting(self, system):
        """A million jobs wait in the same queue: how fast they go, and how long an urgent one waits."""
        with self.server.fresh(system) as (url, db):
            if system.peer.table:
                drive(system, url, do="enqueue", count=1, first=UNTIMED)
                multiply(db, system.peer.table, self.plan.waiting)
            else:
                fill(system, url, self.plan.waiting)
            settle(db)
            before = left(system, db)
            with working(system, url) as worker:
                time.sleep(max(0, worker.ready + self.plan.box_s - time.time()))
                ended = time.time()
                done = before - left(system, db)
                self.note(system, "waiting_drain", done / (ended - worker.ready))
                offered = offer(system, url, 50, self.plan.load_s, 0, urgent=True)
                time.sleep(1)
                starts, now = worker.stop(), time.time()
            self.note_waits(system, "waiting_urgent", latencies(offered["commits"], starts, now))

    def held(self, system):
        """500 jobs/s while another session holds a transaction with a snapshot and an id."""
        seconds = self.plan.hold_s
        with self.server.fresh(system) as (url, db):
            holder = Psql(url)
            holder.rows("begin isolation level repeatable read")
            holder.rows("select pg_current_xact_id()")
            try:
                with working(system, url) as worker:
                    offered = drive_in_background(system, url, seconds)
                    time.sleep(seconds / 2)
                    self.note(system, "held_dead_half", dead_tuples(system, db))
                    offered = offered()
                    # Two seconds of grace for what is on its way.
                    limit = time.time() + 2
                    while (unfinished := left(system, db)) and time.time() < limit:
                        time.sleep(0.05)
                    self.note(system, "held_completed", 1 - unfinished / (OFFERED * seconds))
                    time.sleep(1.5)
                    self.note(system, "held_dead", dead_tuples(system, db))
                    starts, now = worker.stop(), time.time()
            finally:
                holder.close()
            end = max(at for _, at in offered["commits"])
            last = [commit for commit in offered["commits"] if commit[1] > end - 10]
            self.note(system, "held_p99", percentile(latencies(last, starts, now), 0.99))

    # What only Backroom is asked.

    def claim(self, system):
        """What one claim costs with ten thousand and with ten million jobs waiting, by PostgreSQL's own clock."""
        if not self.server.statements:
            self.failures.setdefault(system.name, []).append("claim: the server does not preload pg_stat_statements")
            return
        with self.server.fresh(system) as (url, db):
            there = 0
            for label, count in (("10k", 10_000), ("10m", self.plan.claim_jobs)):
                began = time.time()
                # Building the indexes afterwards is quicker.
                indexes = db.rows(
                    "select format('%I.%I', schemaname, indexname), indexdef from pg_indexes where schemaname = 'queue'"
                    " and tablename = 'jobs' and indexname not in (select conname from pg_constraint)"
                )
                for name, _ in indexes:
                    db.rows(f"drop index {name}")
                db.rows(
                    "insert into queue.jobs (id, queue, kind, state, run_at, max_attempts, args)"
                    f" select ('0197{there:04x}-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'debug.noop',"
                    f" 'available', now(), 10, '{{}}' from generate_series(1, {count - there}) n"
                )
                for _, definition in indexes:
                    db.rows(definition)
                there = count
                settle(db)
                say(f"  {count:,} waiting jobs written in {time.time() - began:.0f} s")
                self.server.admin.rows("select pg_stat_statements_reset()")
                # Ten handlers of 50 ms: claims of a handful of jobs, as an ordinary queue has them.
                with working(system, url, concurrency=10, sleep_ms=50) as worker:
                    time.sleep(self.plan.load_s)
                    worker.stop()
                mean, most, rows, calls = self.server.admin.rows(
                    "select mean_exec_time, max_exec_time, rows, calls from pg_stat_statements"
                    " where query like '%queue.claim(%' and rows > 0"
                    " order by calls desc limit 1"
                )[0]
                self.note(system, f"claim_{label}_mean", float(mean))
                self.note(system, f"claim_{label}_max", float(most))
                self.note(system, f"claim_{label}_jobs", int(rows) / int(calls))

    def processes(self, system):
        """Throughput of one to four real worker processes."""
        with self.server.fresh(system) as (url, db):
            environment = peers.backroom_environment(url) | {"BACKROOM__WORKER__QUEUES__DEFAULT": str(CONCURRENCY)}
            for count in (1, 2, 3, 4):
                db.rows("truncate queue.jobs")
                fill(system, url, self.plan.jobs(system))
                settle(db)
                total = left(system, db)
                workers = [subprocess.Popen([peers.BACKROOM, "worker", "--queues", "default"], env=environment,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                           for _ in range(count)]  # fmt: skip
                try:
                    # Between a tenth and nine tenths of the work: neither the start nor the end of a process counts.
                    marks = []
                    limit = time.time() + 60
                    while time.time() < limit:
                        at, now_left = time.time(), left(system, db)
                        if now_left <= 0.9 * total:
                            marks.append((at, now_left))
                        if now_left <= 0.1 * total:
                            break
                        time.sleep(0.1)
                    if len(marks) > 1:
                        (from_at, from_left), (to_at, to_left) = marks[0], marks[-1]
                        self.note(system, f"workers_{count}", (from_left - to_left) / (to_at - from_at))
                finally:
                    for worker in workers:
                        worker.kill()
                        worker.wait()

    def memory(self, system):
        """`bin/bench worker` knows it: a worker process idle, and with a thousand jobs in flight."""
        output = subprocess.run([peers.BACKROOM, "bench", "worker"], env=os.environ | {"DATABASE_URL": self.server.url},
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120, check=False)  # fmt: skip
        values = {line["name"]: line["value"] for line in map(json.loads, output.stdout.splitlines())}
        if "worker.rss_busy" not in values:
            raise RuntimeError("backroom bench worker gave no figures")
        self.note(system, "memory_idle", values["worker.rss_idle"])
        self.note(system, "memory_per_1000", values["worker.rss_busy"] - values["worker.rss_idle"])


def multiply(db, table, count):
    """Makes `count` jobs of the one in the table: a million through a bulk call of 10,000 a second would take too long."""
    columns = ", ".join(row[0] for row in db.rows(
        f"select quote_ident(attname) from pg_attribute where attrelid = '{table}'::regclass and attnum > 0"
        " and not attisdropped and attname <> 'id' and attidentity = '' and attgenerated = '' order by attnum"
    ))  # fmt: skip
    # No triggers: they would write events and send notifications.
    db.rows("set session_replication_role = replica")
    db.rows(f"insert into {table} ({columns}) select {columns} from {table}, generate_series(2, {count})")
    db.rows("reset session_replication_role")


def drive_in_background(system, url, seconds):
    result = queue.Queue()

    def run():
        try:
            result.put(offer(system, url, OFFERED, seconds, 0))
        except RuntimeError as error:
            result.put(error)

    threading.Thread(target=run, daemon=True).start()

    def wait():
        value = result.get()
        if isinstance(value, Exception):
            raise value
        return value

    return wait


def dead_tuples(system, db):
    schemas = ", ".join(f"'{schema}'" for schema in system.peer.schemas)
    return int(db.value(f"select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables where schemaname in ({schemas})"))


class Plan:
    """How much of everything: `quick` is a look of a few minutes, the rest the full run."""

    def __init__(self, arguments):
        quick = arguments.quick
        self.quick = quick
        self.rounds = arguments.rounds or (1 if quick else 3)
        self.box_s = 3
        self.ones_s = self.bulk_s = 1
        self.idle_s = self.load_s = 3
        self.half_s = 2
        self.hold_s = arguments.hold or (12 if quick else 45)
        self.waiting = 200_000 if quick else 1_000_000
        self.claim_jobs = 1_000_000 if quick else 10_000_000

    def jobs(self, system):
        return system.jobs // 2 if self.quick else system.jobs


def main():
    parser = argparse.ArgumentParser(prog="bin/bench compare", description="Backroom and its peers, side by side.")
    parser.add_argument("--quick", action="store_true", help="a short look: one round, the best settings only, smaller queues")
    parser.add_argument("--rounds", type=int, help="rounds of the interleaved measurements (default 3, quick 1)")
    parser.add_argument("--hold", type=int, metavar="SECONDS", help="how long the transaction is held (default 45, quick 12)")
    parser.add_argument("--only", metavar="NAMES", help="only these systems, separated by commas; Backroom always takes part")
    parser.add_argument("--parts", default="rounds,waiting,held,own", help="rounds, waiting, held, own; separated by commas")
    parser.add_argument("--out", default=str(peers.ROOT / "docs/benchmarks"), help="where the table and the plot go")
    arguments = parser.parse_args()
    plan, parts = Plan(arguments), arguments.parts.split(",")

    began = time.time()
    peers.HOME.mkdir(parents=True, exist_ok=True)
    (peers.HOME / "drivers.log").unlink(missing_ok=True)
    server = Server(os.environ["DATABASE_URL"])
    installed, skipped = peers.install(arguments.only.split(",") if arguments.only else None, say)
    systems = [system for peer in installed for system in peer.systems()]
    for system in systems:
        server.drop(f"compare_template_{system.key}")
    say(f"Installed after {time.time() - began:.0f} s: " + ", ".join(system.name for system in systems))
    for name, why in skipped.items():
        say(f"Skipped: {name}: {why}")

    comparison = Comparison(server, systems, plan)
    own = [system for system in systems if system.key == "backroom"]
    best = [system for system in systems if system.best]
    measuring = time.time()
    try:
        if "rounds" in parts:
            for number in range(plan.rounds):
                comparison.each(f"round {number + 1}", best if plan.quick else systems, comparison.round)
        if "waiting" in parts:
            comparison.each(f"{plan.waiting:,} waiting", best, comparison.waiting)
        if "held" in parts:
            comparison.each("held transaction", best, comparison.held)
        if "own" in parts:
            comparison.each("worker processes", own, comparison.processes)
            comparison.each("memory", own, comparison.memory)
            comparison.each("claim", own, comparison.claim)
    finally:
        for system in systems:
            server.drop(f"compare_template_{system.key}")
    document = report.document(comparison, skipped, server, time.time() - measuring)
    report.write(document, pathlib.Path(arguments.out), say)


if __name__ == "__main__":
    main()
