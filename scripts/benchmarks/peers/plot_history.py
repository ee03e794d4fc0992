"""The history that `scripts/bench training --json` wrote, as a picture: plot_history.py HISTORY.jsonl PICTURE.png."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot


def plot(history: Path, picture: Path) -> None:
    """A line for every figure over the runs in the history."""
    runs = [json.loads(line) for line in history.read_text().splitlines()]
    series: dict[str, list[tuple[int, float]]] = {}
    for number, run in enumerate(runs):
        for line in run["figures"]:
            series.setdefault(f"{line['what']}, {line['case']} / {line['peer']}", []).append((number, line["ratio"]))
    figure, axes = pyplot.subplots(figsize=(11, 7), layout="constrained")
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xticks(range(len(runs)), [f"{run['date'][:10]}\n{run['commit']}" for run in runs])
    axes.set_ylabel("times as fast as the peer")
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.legend(fontsize=7)
    figure.savefig(picture)


plot(Path(sys.argv[1]), Path(sys.argv[2]))
