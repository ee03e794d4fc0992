"""The findings as one web page that needs nothing but itself: no scripts, no other files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import PrivateAttr

from hyperrule.audit.check.findings import Findings
from hyperrule.audit.check.verdicts import Verdict, facts, mode_in_words, verdicts
from hyperrule.data.selection import write_exclusions
from hyperrule.data.source import Source
from hyperrule.pages.rendering import render
from hyperrule.pages.thumbnails import pictures
from hyperrule.support.files import atomic_write

T = TypeVar("T")

GROUPS, WIDE = 12, 6  # groups shown of a verdict, images shown of a group
SINGLES = 24  # images shown of a verdict without groups
CLASSES, SAMPLES = 24, 6  # classes shown with images, images of each


@dataclass(frozen=True)
class ShownVerdict:
    """A verdict and those of its groups of ids that there is room for; `more` groups have none."""

    verdict: Verdict
    groups: list[tuple[str, ...]]
    more: int


class CheckReport(Findings):
    """The findings with the images that they are about, which do not outlive the process."""

    _source: Source | None = PrivateAttr(None)

    def write_exclusions(self, file: Path) -> None:
        """CSV for `finetune --exclude`. Raises RunError if it cannot be written."""
        write_exclusions(file, self.exclusions.items())

    def write_page(self, file: Path) -> None:
        """One HTML page that needs nothing else, with images. Raises RunError if it cannot be written; ValueError for
        findings that were read back from JSON, which have no images."""
        if self._source is None:
            raise ValueError("these findings came without their images: call hyperrule.check")
        page = render_page(self, self._source)
        with atomic_write(file) as partial:
            partial.write_text(page, encoding="utf-8")


def render_page(found: Findings, source: Source) -> str:
    """HTML. Every name in it is text, whatever it holds."""
    judged = [_shown(verdict) for verdict in verdicts(found)]
    samples = _samples(source)
    ids = {identity for one in judged for group in one.groups for identity in group}
    return render(
        "audit/check/page.html",
        found=found,
        judged=judged,
        levels=Counter(one.verdict.level for one in judged),
        facts=[(heading, line) for heading, line in facts(found) if heading != "formats"],
        formats=[
            (name, mode_in_words(mode), images)
            for name, modes in found.formats.items()
            for mode, images in modes.items()
        ],
        samples=samples,
        pictures=pictures(source, ids.union(*samples.values())),
    )


def _shown(verdict: Verdict) -> ShownVerdict:
    most = GROUPS if any(len(group) > 1 for group in verdict.groups) else SINGLES
    groups = [group[:WIDE] for group in _spread(verdict.groups, most)]
    return ShownVerdict(verdict, groups, len(verdict.groups) - len(groups))


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many items from the first to the last, evenly."""
    if not len(items):
        return []
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, most).round().astype(np.int64))]


def _samples(source: Source) -> dict[str, list[str]]:
    """Ids of some images of each of the first classes, evenly spread over those that can be read."""
    listing = source.listing
    readable = np.flatnonzero(source.facts["height"] > 0)
    samples = {}
    for label, name in enumerate(listing.class_names[:CLASSES]):
        members = readable[listing.labels[readable] == label]
        samples[name] = [listing.ids[number] for number in _spread(members, SAMPLES)]
    return samples
