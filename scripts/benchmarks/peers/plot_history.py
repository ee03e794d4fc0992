"""Plot the history that `scripts/bench training --json` wrote: plot_history.py HISTORY.jsonl PICTURE.png."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot


def plot(history: Path, picture: Path) -> None:
    """Draw a panel for each measured quantity, with a line for every case and peer over the runs in the history."""
    runs = [json.loads(line) for line in history.read_text().splitlines()]
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for number, run in enumerate(runs):
        for line in run["figures"]:
            lines = panels.setdefault(line["what"], {})
            lines.setdefault(f"{line['case']}, against {line['peer']}", []).append((number, line["ratio"]))
    figure, grid = pyplot.subplots(len(panels), figsize=(11, 2.8 * len(panels)), sharex=True, layout="constrained")
    for axes, (what, lines) in zip(grid, panels.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.set_title(what, loc="left")
        axes.set_ylabel("times as fast")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    grid[-1].set_xticks(range(len(runs)), [f"{run['date'][:10]}\n{run['commit']}" for run in runs])
    figure.savefig(picture)


plot(Path(sys.argv[1]), Path(sys.argv[2]))
