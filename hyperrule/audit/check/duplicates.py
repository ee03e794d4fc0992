"""Images that are alike, by what it means for training: within a class, across classes, across splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hyperrule.audit.check.findings import DuplicateGroups, Duplicates, Member
from hyperrule.audit.check.near_duplicates import NearPairs, near_pairs
from hyperrule.data.images import Indices
from hyperrule.data.inspection import Facts
from hyperrule.data.listing import Split
from hyperrule.data.source import equal_groups
from hyperrule.support.progress import Reporter

REASONS = (
    "equal to an image of another class",
    "equal to an image of a later split",
    "equal to an image before it",
    "nearly equal to an image of a later split",
)  # the strongest first


@dataclass(frozen=True)
class Placement:
    """n images that can be read: `numbers` int64 [n], ascending, and their `labels` and splits (`split_of` int64 [n]:
    index into `splits`, in their order of training, validation, test). No splits where hyperrule draws them."""

    numbers: Indices
    ids: Sequence[str]
    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    splits: tuple[Split, ...]
    split_of: Indices

    def member(self, place: int) -> Member:
        split = self.splits[self.split_of[place]] if self.splits else None
        number = int(self.numbers[place])
        return Member(id=self.ids[number], class_name=self.class_names[self.labels[place]], split=split)


@dataclass(frozen=True)
class DuplicateReport:
    """Duplicates, and by id why an image had better be left out."""

    exact: Duplicates
    near: Duplicates
    compared: NearPairs
    exclusions: dict[str, str]


def find_all_duplicates(facts: Facts, placed: Placement, reporter: Reporter) -> DuplicateReport:
    """Of images with FACTS [n], as placed."""
    n = len(placed.numbers)
    labels, split_of = placed.labels, placed.split_of
    groups = equal_groups(facts["sha256"])
    order = np.lexsort((np.arange(n), labels, split_of, groups))
    chain = np.stack([order[:-1], order[1:]], axis=1)
    chain = chain[groups[chain[:, 0]] == groups[chain[:, 1]]]
    of_classes, of_splits = _differing(groups, labels), _differing(groups, split_of)
    repeated = chain[_same(labels, chain) & _same(split_of, chain)]
    exact = _duplicates(placed, repeated, chain[of_classes[chain[:, 0]]], chain[of_splits[chain[:, 0]]])

    distinct = np.setdiff1d(np.arange(n), repeated[:, 1], assume_unique=True)
    compared = near_pairs(facts, distinct, reporter)
    pairs = compared.pairs[~_same(groups, compared.pairs)]
    same_class, same_split = _same(labels, pairs), _same(split_of, pairs)
    near = _duplicates(placed, pairs[same_class & same_split], pairs[~same_class], pairs[~same_split])

    latest = np.zeros(groups.max(initial=0) + 1, np.int64)
    np.maximum.at(latest, groups, split_of)
    out = [of_classes, split_of < latest[groups], np.isin(np.arange(n), repeated[:, 1])]
    stays = pairs[~same_split & ~np.logical_or.reduce(out)[pairs].any(axis=1)]
    earlier = np.where(split_of[stays[:, 0]] < split_of[stays[:, 1]], stays[:, 0], stays[:, 1])
    out.append(np.isin(np.arange(n), earlier))
    reason = np.select(out, range(len(REASONS)), -1)
    exclusions = {placed.ids[placed.numbers[place]]: REASONS[reason[place]] for place in np.flatnonzero(reason >= 0)}
    return DuplicateReport(exact, near, compared, exclusions)


def _differing(groups: Indices, values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """bool [n]: whether an image's group has several of the values (int [n])."""
    of_group = np.unique(np.stack([groups, values]), axis=1)[0]
    several: npt.NDArray[np.bool_] = np.bincount(of_group, minlength=1)[groups] > 1
    return several


def _same(values: npt.NDArray[np.integer], pairs: Indices) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = values[pairs[:, 0]] == values[pairs[:, 1]]
    return same


def _duplicates(placed: Placement, within: Indices, classes: Indices, splits: Indices) -> Duplicates:
    """From pairs [m, 2] of places."""

    def held_out(group: Indices) -> int:
        return int(np.count_nonzero(placed.split_of[group] > placed.split_of[group].min()))

    return Duplicates(
        within_class=_alike(placed, within, lambda group: len(group) - 1),
        across_classes=_alike(placed, classes, len),
        across_splits=_alike(placed, splits, held_out),
    )


def _alike(placed: Placement, pairs: Indices, count: Callable[[Indices], int]) -> DuplicateGroups:
    """Groups that the pairs connect, in the order of their first image."""
    places, ends = np.unique(pairs, return_inverse=True)
    if not len(places):
        return DuplicateGroups(images=0, groups=())
    one, other = ends.reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(len(places), len(places)))
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component, kind="stable")
    groups = np.split(places[order], np.flatnonzero(np.diff(component[order])) + 1)
    groups.sort(key=lambda group: int(group[0]))
    return DuplicateGroups(
        images=sum(map(count, groups)), groups=tuple(tuple(map(placed.member, group)) for group in groups)
    )
