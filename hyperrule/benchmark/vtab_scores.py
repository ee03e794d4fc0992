"""VTAB-1k's score as one more data set of a benchmark: of each seed the mean over tasks, where all have a result."""

from collections.abc import Iterator, Sequence

from hyperrule.benchmark.summary import Group, Summary
from hyperrule.data.sources.vtab import TASKS, TRAIN800, VAL200, Score, score

NAMES = Score("vtab-1k", "vtab-1k, natural", "vtab-1k, specialized", "vtab-1k, structured")
Way = tuple[str, str, float | None]  # backbone, method, l2


def vtab_scores(summaries: Sequence[Summary]) -> Iterator[Summary]:
    """A summary of the score, and of that of each group of tasks, for every backbone and method. Data sets are tasks if
    the grid calls them as VTAB does, and trains on 1,000 images; a size in pixels is given if it is that of all."""
    ways: dict[Way, dict[str, Summary]] = {}
    for summary in summaries:
        group, newest = summary.group, summary.newest
        if group.dataset in TASKS and newest is not None and newest.trained_on == TRAIN800 + VAL200:
            ways.setdefault((group.backbone, group.method, group.l2), {})[group.dataset] = summary
    for way, tasks in ways.items():
        yield from _of_way(way, tasks)


def _of_way(way: Way, tasks: dict[str, Summary]) -> Iterator[Summary]:
    backbone, method, l2 = way
    sizes = {task.newest.size for task in tasks.values() if task.newest is not None}
    line = next(iter(tasks.values())).newest
    assert line is not None
    line = line.model_copy(update={"size": sizes.pop() if len(sizes) == 1 else 0})
    seeds = sorted({seed for task in tasks.values() for seed in task.top1})
    scores = {seed: _of_seed(seed, tasks) for seed in seeds}
    for place, name in enumerate(NAMES):
        if top1 := {seed: mean for seed, means in scores.items() if (mean := means[place]) is not None}:
            yield Summary(Group(name, backbone, method, "full", l2), top1, {}, (), line)


def _of_seed(seed: int, tasks: dict[str, Summary]) -> Score[float | None]:
    return score({name: task.top1[seed] for name, task in tasks.items() if seed in task.top1})
