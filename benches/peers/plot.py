"""Draws docs/benchmarks/compare.svg from compare.json. Runs in the virtual environment that has matplotlib."""

import json
import sys

import matplotlib

matplotlib.use("svg")
# Text stays text, and the file is the same for the same figures.
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "backroom", "font.size": 9}
from matplotlib import pyplot, ticker  # noqa: E402

PANELS = [
    ("drain", "Drain of no-op jobs, jobs/s", False),
    ("drain_1ms", "1 ms of work at concurrency 64, jobs/s", False),
    ("enqueue_bulk", "Enqueue in bulk, jobs/s", False),
    ("waiting_drain", "Drain with a long queue, jobs/s", False),
    ("pickup_idle_p99", "Pick-up on an idle queue, p99, ms", True),
    ("pickup_500_p99", "Pick-up at 500 jobs/s, p99, ms", True),
    ("held_p99", "Pick-up under a held transaction, p99, ms", True),
    ("held_dead", "Dead tuples under a held transaction", False),
]

document = json.load(open(sys.argv[1]))
figure, axes = pyplot.subplots(4, 2, figsize=(11, 13), layout="constrained")
for axis, (name, title, logarithmic) in zip(axes.flat, PANELS):
    systems = [system for system in document["systems"] if name in system["medians"]][::-1]
    values = [system["medians"][name] for system in systems]
    colors = ["#0b6e4f" if system["key"] == "backroom" else "#9aa5b1" for system in systems]
    bars = axis.barh([system["name"] for system in systems], values, color=colors)
    axis.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:,.3g}" for value in values], padding=3)
    axis.set_title(title, loc="left")
    if logarithmic and values:
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.2)
    axis.spines[["top", "right"]].set_visible(False)
figure.suptitle(document["title"])
figure.savefig(sys.argv[2], metadata={"Date": None})
