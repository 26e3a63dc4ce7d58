"""Who is compared: what each is, how it is installed, and the SQL that tells what is left to do."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

SOURCES = pathlib.Path(__file__).resolve().parent
ROOT = SOURCES.parent.parent
HOME = ROOT / ".backroom/peers"
BACKROOM = os.environ.get("BACKROOM_BINARY", str(ROOT / "target/release/backroom"))


@dataclasses.dataclass
class Peer:
    name: str
    version: str
    #: Installs it and answers the driver's command; raises RuntimeError.
    install: object
    #: How many jobs are unfinished.
    left: str
    #: Schemas whose tables count as the peer's.
    schemas: list
    #: Jobs in a round, by settings: so many that it lasts some seconds.
    jobs: dict
    #: What the two sets of settings are.
    defaults: str
    best: str
    #: Handlers at once with the best settings, where the work does not prescribe 64.
    best_concurrency: int = 64
    #: Where a waiting job is one row, in which one job becomes a million by SQL. None: by its bulk call.
    table: str = None
    #: Makes the schema in the database with this URL; None: the driver does.
    migrate: object = None
    command: list = None

    def systems(self):
        if self.name == "Backroom":
            return [System(self, True, "backroom", self.name, self.jobs["best"])]
        key = self.name.replace("-", "_")
        return [
            System(self, False, f"{key}_defaults", f"{self.name} (defaults)", self.jobs["defaults"]),
            System(self, True, f"{key}_best", f"{self.name} (best)", self.jobs["best"]),
        ]


@dataclasses.dataclass
class System:
    """A peer with one set of settings."""

    peer: Peer
    best: bool
    key: str
    name: str
    jobs: int

    @property
    def concurrency(self):
        return self.peer.best_concurrency if self.best else 64


def run(command, log, **options):
    """Runs it with its output in a log below .backroom/peers."""
    log = HOME / log
    with open(log, "w") as output:
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=1800,
                                  check=False, **options)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(str(error)) from None
    if done.returncode != 0:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        wrong = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise RuntimeError(f"{wrong.strip()[:200]} (the whole output is in {log.relative_to(ROOT)})")


def rust(package):
    def install():
        target = HOME / "target"
        run(
            ["cargo", "build", "--release", "--manifest-path", str(SOURCES / "rust/Cargo.toml"), "--package", package],
            f"{package}.log",
            env=os.environ | {"CARGO_TARGET_DIR": str(target), "SQLX_OFFLINE": "true"},
        )
        return [str(target / "release" / package)]

    return install


def node(script):
    def install():
        home = HOME / "node"
        home.mkdir(parents=True, exist_ok=True)
        wanted = (SOURCES / "node/package.json").read_text()
        # Modules are looked for beside the script that imports them.
        for source in (SOURCES / "node").iterdir():
            if source.is_file():
                shutil.copy(source, home)
        stamp = home / "installed.json"
        if not stamp.exists() or stamp.read_text() != wanted:
            if shutil.which("npm") is None:
                raise RuntimeError("there is no npm")
            run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], "npm.log", cwd=home)
            stamp.write_text(wanted)
        for command in (home / "node_modules/.bin/node", shutil.which("node")):
            try:
                subprocess.run([str(command), "--version"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                return [str(command), str(home / script)]
            except (OSError, subprocess.CalledProcessError):
                continue
        raise RuntimeError("there is no node that runs")

    return install


def virtual_environment():
    """Makes the one of procrastinate and the plot; answers its Python."""
    home = HOME / "python"
    python = home / "bin/python"
    wanted = (SOURCES / "python/requirements.txt").read_text()
    stamp = home / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        run([sys.executable, "-m", "venv", "--clear", str(home)], "venv.log")
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(SOURCES / "python/requirements.txt")], "pip.log")
        stamp.write_text(wanted)
    return python


def procrastinate():
    return [str(virtual_environment()), str(SOURCES / "python/procrastinate_driver.py")]


def backroom():
    if not os.access(BACKROOM, os.X_OK):
        raise RuntimeError(f"there is no release build at {BACKROOM}")
    return rust("peer-backroom")()


def backroom_environment(url):
    """What the program needs to know to work on that database."""
    keys = json.loads(subprocess.check_output([BACKROOM, "key", "generate", "--json"]))
    return os.environ | {
        "DATABASE_URL": url,
        "BACKROOM__VAULT__KEYS": keys["keys"][0],
        "BACKROOM__VAULT__INDEX_KEY": keys["index_key"],
        "BACKROOM__JOBS__DEBUG_KINDS": "true",
        "BACKROOM__LOG__FILTER": "error",
    }


def migrate_backroom(url):
    run([BACKROOM, "migrate"], "backroom-migrate.log", env=backroom_environment(url))


# awa has no row to count: what was enqueued by its sequences, less what ended by its counters.
AWA_LEFT = """
    select coalesce((select sum(awa.sequence_next_value(seq_name) - 1) from awa.queue_enqueue_heads), 0)
    - coalesce((select sum(live_terminal_count) from awa.queue_terminal_live_counts), 0)
    - coalesce((select sum(terminal_delta) from awa.queue_terminal_count_deltas), 0)
    - coalesce((select sum(completed_count) from awa.receipt_completion_batches), 0)
    - coalesce((select sum(pruned_completed_count) from awa.queue_terminal_rollups), 0)"""

PEERS = [
    Peer(
        name="Backroom",
        version="this checkout",
        install=backroom,
        left="select count(*) from queue.jobs",
        schemas=["queue"],
        jobs={"best": 150_000},
        defaults="",
        migrate=migrate_backroom,
        best="its own: `WorkerConfig::default()`, pool of 16; it has no other settings for speed",
    ),
    Peer(
        name="graphile-worker",
        version="0.18.0",
        install=node("graphile-worker.mjs"),
        left="select count(*) from graphile_worker._private_jobs",
        schemas=["graphile_worker"],
        table="graphile_worker._private_jobs",
        jobs={"defaults": 20_000, "best": 80_000},
        defaults="no local queue; pool of 10",
        best="`localQueue: {size: 500}`, `completeJobBatchDelay: 0`, `failJobBatchDelay: 0`, a connection per job "
        "(its performance page)",
    ),
    Peer(
        name="pg-boss",
        version="12.35.0",
        install=node("pg-boss.mjs"),
        left="select count(*) from pgboss.job where name = 'default' and state < 'completed'",
        schemas=["pgboss"],
        table="pgboss.job",
        jobs={"defaults": 5_000, "best": 40_000},
        defaults="one job per fetch and two seconds of rest, `localConcurrency: 64`",
        best="`batchSize: 500`, `localConcurrency: 2` (64 handlers at once), `burstWhenBatchFull`, "
        "`pollingIntervalSeconds: 0.5`, LISTEN/NOTIFY (`useListenNotify`, `notify`)",
    ),
    Peer(
        name="awa",
        version="0.6.9",
        install=rust("peer-awa"),
        left=AWA_LEFT,
        schemas=["awa"],
        jobs={"defaults": 40_000, "best": 80_000},
        defaults="`max_workers: 64`, five minutes' deadline, pool of 20",
        best_concurrency=256,
        best="as its own benchmark runs it: `max_workers: 256` (64 for the 1 ms of work), `deadline_duration: 0` (its short path), `poll_interval: 50ms`, statistics every "
        "five minutes, COPY in bulk, pool of 48",
    ),
    Peer(
        name="apalis-postgres",
        version="1.0.0",
        install=rust("peer-apalis-postgres"),
        left="select count(*) from apalis.jobs where status not in ('Done', 'Failed', 'Killed')",
        schemas=["apalis"],
        jobs={"defaults": 10_000, "best": 40_000},
        defaults="batches of 10, tasks locked, no poll strategy: an idle worker looks again with its heartbeat, every 30 s",
        best="`batch_size: 500`, `lock_tasks: false`, `with_pubsub()`, `parallelize(tokio::spawn)` (its basic example), "
        "`poll_with_interval(100ms)`",
    ),
    Peer(
        name="procrastinate",
        version="3.10.0",
        install=procrastinate,
        left="select count(*) from procrastinate_jobs where status in ('todo', 'doing')",
        schemas=["public"],
        table="public.procrastinate_jobs",
        jobs={"defaults": 5_000, "best": 5_000},
        defaults="`concurrency: 64`, finished jobs kept",
        best="`delete_jobs: successful`, `fetch_job_polling_interval: 0.5`, a connection per job",
    ),
]


def install(only, say):
    """Installs them; answers those that work, and why the others do not."""
    installed, skipped = [], {}
    for peer in PEERS:
        if only and peer.name not in only and peer.name != "Backroom":
            continue
        say(f"Installing {peer.name} …")
        try:
            peer.command = peer.install()
            installed.append(peer)
        except RuntimeError as error:
            skipped[peer.name] = str(error)
    if not any(peer.name == "Backroom" for peer in installed):
        sys.exit(f"Backroom itself cannot be measured: {skipped['Backroom']}")
    return installed, skipped
