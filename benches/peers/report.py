"""What a comparison found: JSON lines on standard output, and compare.{json,md,svg} in docs/benchmarks."""

import datetime
import json
import os
import statistics
import subprocess

import peers

# Name in the output, name of the samples, unit, whether more is better, what it is. Only full runs have all.
MEASUREMENTS = [
    ("compare.drain", "drain", "jobs/s", True, "drain of no-op jobs, every outcome durable"),
    ("compare.drain_1ms", "drain_1ms", "jobs/s", True, "1 ms of work at concurrency 64"),
    ("compare.enqueue_one", "enqueue_one", "jobs/s", True, "enqueue one by one, one connection"),
    ("compare.enqueue_bulk", "enqueue_bulk", "jobs/s", True, "enqueue in bulk, 1,000 per call, one connection"),
    ("compare.pickup_idle_p50", "pickup_idle_p50", "ms", False, "pick-up on an idle queue, p50"),
    ("compare.pickup_idle_p99", "pickup_idle_p99", "ms", False, "pick-up on an idle queue, p99"),
    ("compare.pickup_500_p50", "pickup_500_p50", "ms", False, "pick-up at 500 jobs/s, p50"),
    ("compare.pickup_500_p99", "pickup_500_p99", "ms", False, "pick-up at 500 jobs/s, p99"),
    ("compare.pickup_half_p50", "pickup_half_p50", "ms", False, "pick-up at half of its own drain, p50"),
    ("compare.pickup_half_p99", "pickup_half_p99", "ms", False, "pick-up at half of its own drain, p99"),
    ("compare.drain_1m_waiting", "waiting_drain", "jobs/s", True, "drain with {waiting:,} waiting in the queue"),
    ("compare.urgent_1m_waiting_p50", "waiting_urgent_p50", "ms", False, "an urgent job past those, p50"),
    ("compare.urgent_1m_waiting_p99", "waiting_urgent_p99", "ms", False, "an urgent job past those, p99"),
    ("compare.held_completed", "held_completed", "share", True, "transaction held {hold_s} s: completed of 500 jobs/s"),
    ("compare.held_dead_tuples_half", "held_dead_half", "tuples", False, "held transaction: dead tuples at half time"),
    ("compare.held_dead_tuples", "held_dead", "tuples", False, "held transaction: dead tuples at the end"),
    ("compare.held_pickup_p99", "held_p99", "ms", False, "held transaction: pick-up in the last 10 s, p99"),
    ("compare.statements_per_job", "statements_per_job", "statements", False, "database statements per job drained"),
    ("compare.transactions_per_job", "transactions_per_job", "transactions", False, "transactions per job drained"),
    ("compare.wal_per_job", "wal_per_job", "bytes", False, "WAL per job drained"),
]
OWN = [
    ("compare.claim_10k_waiting", "claim_10k_mean", "ms", "one claim with ten thousand waiting, mean"),
    ("compare.claim_10m_waiting", "claim_10m_mean", "ms", "one claim with {claim_jobs:,} waiting, mean"),
    ("compare.claim_10m_waiting_max", "claim_10m_max", "ms", "one claim with {claim_jobs:,} waiting, slowest"),
    ("compare.memory_idle", "memory_idle", "MB", "memory of a worker process, idle"),
    ("compare.memory_per_1000", "memory_per_1000", "MB", "memory per thousand jobs in flight"),
    ("compare.workers_1", "workers_1", "jobs/s", "one worker process"),
    ("compare.workers_2", "workers_2", "jobs/s", "two worker processes"),
    ("compare.workers_3", "workers_3", "jobs/s", "three worker processes"),
    ("compare.workers_4", "workers_4", "jobs/s", "four worker processes"),
]


def document(comparison, skipped, server, took):
    """Everything that was found, in one JSON document."""
    systems = []
    for system in comparison.systems:
        samples = comparison.samples[system.key]
        medians = {name: statistics.median(values) for name, values in samples.items()} | comparison.pooled[system.key]
        settings = system.peer.best if system.best else system.peer.defaults
        systems.append({
            "key": system.key, "name": system.name, "peer": system.peer.name, "version": system.peer.version,
            "best": system.best, "settings": settings, "medians": medians, "samples": samples,
        })  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=peers.ROOT, capture_output=True, text=True, check=False)
    plan = comparison.plan
    found = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds") if hasattr(datetime, "UTC")
        else datetime.datetime.utcnow().isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "took_s": round(took),
        "quick": plan.quick,
        "rounds": plan.rounds,
        "hold_s": plan.hold_s,
        "waiting": plan.waiting,
        "claim_jobs": plan.claim_jobs,
        "server": server.settings,
        "systems": systems,
        "skipped": skipped,
        "failures": comparison.failures,
    }  # fmt: skip
    settings = ", ".join(f"{name} {value}" for name, value in list(server.settings.items())[1:])
    found["title"] = (
        f"Backroom and its peers: {found['cores']} cores, PostgreSQL {server.settings['server_version'].split()[0]}, {settings}"
    )
    return found


def best_peer(systems, name, more_is_better):
    """The peer that did best at this, with whichever of its settings."""
    others = [system for system in systems if system["key"] != "backroom" and name in system["medians"]]
    if not others:
        return None
    return (max if more_is_better else min)(others, key=lambda system: system["medians"][name])


def lines(found):
    """One JSON document per measurement: Backroom's figure and that of the best peer."""
    ours = next(system for system in found["systems"] if system["key"] == "backroom")["medians"]
    for output, name, unit, more_is_better, _ in MEASUREMENTS:
        if name not in ours:
            continue
        line = {"name": output, "value": rounded(ours[name]), "unit": unit}
        if best := best_peer(found["systems"], name, more_is_better):
            theirs = best["medians"][name]
            line |= {"peer": best["name"], "peer_value": rounded(theirs)}
            if theirs:
                line["ratio"] = rounded(ours[name] / theirs)
        yield line
    for output, name, unit, _ in OWN:
        if name in ours:
            yield {"name": output, "value": rounded(ours[name]), "unit": unit}


def rounded(value):
    return float(f"{value:.4g}")


def targets(found):
    """Each target of the issue: what is asked, what was reached, whether it is met (None: not measured)."""
    systems = found["systems"]
    ours = next(system for system in systems if system["key"] == "backroom")["medians"]

    def against(name, more_is_better):
        best = best_peer(systems, name, more_is_better)
        return (ours[name], best["medians"][name], best["name"]) if best and name in ours else None

    rows = []

    def row(target, reached, met):
        rows.append((target, reached, met))

    if found_drain := against("drain", True):
        own, theirs, who = found_drain
        row("drain at least twice the best peer's", f"{own / theirs:.2f} × {who}", own >= 2 * theirs)
    else:
        row("drain at least twice the best peer's", "not measured", None)
    for name, what in (("pickup_idle_p99", "on an idle queue"), ("pickup_500_p99", "at 500 jobs/s")):
        if pair := against(name, False):
            own, theirs, who = pair
            row(f"pick-up p99 {what} at or below the best peer's", f"{own:.1f} ms; {who}: {theirs:.1f} ms", own <= theirs)
        else:
            row(f"pick-up p99 {what} at or below the best peer's", "not measured", None)
    waiting = f"{found['claim_jobs']:,}"
    if "claim_10m_mean" in ours:
        own = ours["claim_10m_mean"]
        reached = f"{own:.2f} ms on average for {ours['claim_10m_jobs']:.0f} jobs (slowest {ours['claim_10m_max']:.1f} ms; "
        reached += f"{ours['claim_10k_mean']:.2f} ms with 10,000 waiting)"
        row(f"one claim with {waiting} waiting at most 3 ms", reached, own <= 3)
    else:
        row(f"one claim with {waiting} waiting at most 3 ms", "not measured", None)
    if "held_completed" in ours:
        own = ours["held_completed"]
        row("held transaction: at least 95 % of 500 jobs/s completed", f"{100 * own:.1f} %", own >= 0.95)
        half, end = ours["held_dead_half"], ours["held_dead"]
        # Bounded: the second half adds little. What grows with every job has twice as many at the end as at half time.
        bounded = end <= 1.25 * half or end < 5_000
        jobs = 500 * found["hold_s"] * own
        reached = f"{half:,.0f} at half time, {end:,.0f} at the end, {end / jobs:.2f} per job"
        row("held transaction: dead tuples bounded", reached, bounded)
    else:
        row("held transaction: at least 95 % of 500 jobs/s completed", "not measured", None)
        row("held transaction: dead tuples bounded", "not measured", None)
    return rows


def figure(name, value):
    if name == "held_completed":
        return f"{100 * value:.1f} %"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(found, plot):
    systems = found["systems"]
    by_peer = {}
    for system in systems:
        by_peer.setdefault(system["peer"], []).append(system)
    server = found["server"]
    kind = "a quick look (`--quick`): best settings only, smaller queues" if found["quick"] else "the full run"
    text = [
        "# Backroom and its peers, measured side by side",
        "",
        f"Written by `bin/bench compare` on {found['at'][:10]} at commit {found['commit']}: {kind}, {found['took_s'] / 60:.0f}"
        f" minutes of measuring on {found['cores']} cores. Everything ran on one PostgreSQL {server['server_version']}"
        f" (`fsync {server['fsync']}`, `synchronous_commit {server['synchronous_commit']}`,"
        f" `shared_buffers {server['shared_buffers']}`) on the same machine, one worker process each, at most 64 handlers at"
        f" once, every system in a database of its own. Interleaved rounds: {found['rounds']}; rates are their medians,"
        " percentiles are taken over all of them. What the rows mean is in [benchmarks.md](../benchmarks.md).",
        "",
        "## Targets",
        "",
        "| target | reached | |",
        "| --- | --- | --- |",
    ]
    for target, reached, met in targets(found):
        text.append(f"| {target} | {reached} | {'not measured' if met is None else 'met' if met else '**missed**'} |")
    text += [
        "",
        "## Figures",
        "",
        "A peer's cell is its figure with the best documented settings, in brackets that with its defaults.",
        "",
        "| | unit | " + " | ".join(by_peer) + " |",
        "| --- | --- |" + " ---: |" * len(by_peer),
    ]
    for _, name, unit, _, what in MEASUREMENTS:
        cells = []
        for members in by_peer.values():
            best = next((figure(name, m["medians"][name]) for m in members if m["best"] and name in m["medians"]), "")
            plain = next((figure(name, m["medians"][name]) for m in members if not m["best"] and name in m["medians"]), "")
            cells.append(f"{best} ({plain})" if best and plain else best or (f"({plain})" if plain else "–"))
        if any(cell != "–" for cell in cells):
            text.append(f"| {what.format(**found)} | {unit if unit != 'share' else ''} | " + " | ".join(cells) + " |")
    ours = next(system for system in systems if system["key"] == "backroom")["medians"]
    if own := [(name, unit, what) for _, name, unit, what in OWN if name in ours]:
        text += ["", "Backroom alone:", "", "| | unit | |", "| --- | --- | ---: |"]
        for name, unit, what in own:
            text.append(f"| {what.format(**found)} | {unit} | {figure(name, ours[name])} |")
    if plot:
        text += ["", "![The figures as bars](compare.svg)"]
    text += ["", "## Settings", "", "| | version | defaults | best |", "| --- | --- | --- | --- |"]
    for peer, members in by_peer.items():
        defaults = next((member["settings"] for member in members if not member["best"]), "")
        best = next((member["settings"] for member in members if member["best"]), "")
        text.append(f"| {peer} | {members[0]['version']} | {defaults} | {best} |")
    missing = [f"{name} was skipped: {why}" for name, why in found["skipped"].items()]
    missing += [f"{name}: {'; '.join(what)}" for name, what in found["failures"].items()]
    if not plot:
        missing.append("the plot was not drawn: matplotlib could not be installed")
    if missing:
        text += ["", "## Skipped and failed", ""] + [f"- {line}" for line in missing]
    return "\n".join(text) + "\n"


def write(found, directory, say):
    for line in lines(found):
        print(json.dumps(line), flush=True)
    for name, why in found["skipped"].items():
        print(json.dumps({"name": "compare.skipped", "peer": name, "note": why}), flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    source, plot = directory / "compare.json", directory / "compare.svg"
    source.write_text(json.dumps(found, indent=1) + "\n")
    try:
        python = peers.virtual_environment()
        peers.run([str(python), str(peers.SOURCES / "plot.py"), str(source), str(plot)], "plot.log")
    except RuntimeError as error:
        say(f"No plot: {error}")
        plot.unlink(missing_ok=True)
    (directory / "compare.md").write_text(markdown(found, plot.exists()))
    say(f"Wrote compare.md, compare.json{' and compare.svg' if plot.exists() else ''} in {directory}.")
