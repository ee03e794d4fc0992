"""A data set that was opened: its listing, inspected and split; its facts, and its examples by split.

Images that are equal byte for byte: within a class, in two classes, in training and test.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Examples, Indices
from hyperrule.data.inspection import Facts, Problems, inspect
from hyperrule.data.label_safety import hints
from hyperrule.data.listing import DatasetInfo, Listing, Split, SplitInfo
from hyperrule.data.selection import Exclusions, hold_out
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter
from hyperrule.support.wording import listed, number


@dataclass(frozen=True)
class Duplicates:
    """Numbers of images, ascending.

    `repeated`: those that came before in the same class and split. `conflicting`: those that some other class has
    too. `leaked`: those for validation or test that are also trained on.
    """

    repeated: Indices
    conflicting: Indices
    leaked: Indices


def equal_groups(sha256: npt.NDArray[np.uint8]) -> Indices:
    """int64 [n]: the same number for the same hash, of hashes [n, 32]."""
    rows = np.ascontiguousarray(sha256).view(np.dtype((np.void, sha256.shape[1])))[:, 0]
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


def find_duplicates(groups: Indices, labels: npt.NDArray[np.int32], splits: dict[Split, Indices]) -> Duplicates:
    """Of images in groups (int64 [n]) that are alike; those in no split do not count."""
    split_of = np.full(len(groups), -1)
    for index, members in enumerate(splits.values()):
        split_of[members] = index
    used = np.flatnonzero(split_of >= 0)
    _, first = np.unique(np.stack([groups[used], labels[used], split_of[used]]), axis=1, return_index=True)
    pairs = np.unique(np.stack([groups[used], labels[used]]), axis=1)
    of_two_classes = np.flatnonzero(np.bincount(pairs[0], minlength=1) > 1)
    held_out = np.concatenate([np.zeros(0, np.int64), *(m for split, m in splits.items() if split != "train")])
    return Duplicates(
        repeated=np.sort(np.delete(used, first)),
        conflicting=used[np.isin(groups[used], of_two_classes)],
        leaked=np.sort(held_out[np.isin(groups[held_out], groups[splits["train"]])]) if "train" in splits else held_out,
    )


IMBALANCED = 10  # times as many images in the largest class as in the smallest are worth a warning


@dataclass(frozen=True)
class Source:
    """Every image that counts is read once (bytes hashed, header parsed; decoded with `skip_corrupt`), and none where
    `known` are the facts and problems that were found of this listing before.

    What is computed raises DataError for fewer than two classes, a class without enough images unless the splits are
    prescribed, images that cannot be read unless `skip_corrupt`, which leaves them out, and with `strict` for images
    that are in two classes or both in training and test.
    """

    name: str
    listing: Listing
    split_seed: int = 0
    skip_corrupt: bool = False
    strict: bool = False
    exclusions: Exclusions = field(default_factory=Exclusions)
    reporter: Reporter = field(default_factory=Reporter)
    known: tuple[Facts, Problems] | None = None

    @cached_property
    def info(self) -> DatasetInfo:
        by_area = np.lexsort((self.facts["height"], self.facts["height"].astype(np.int64) * self.facts["width"]))
        median = self.facts[by_area[np.isin(by_area, self._used, assume_unique=True)][len(self._used) // 2]]
        warnings = tuple(self._warnings())
        return DatasetInfo(
            name=self.name,
            kind=self.listing.kind,
            location=None if self.listing.location is None else str(self.listing.location),
            class_names=self.listing.class_names,
            class_order=self.listing.class_order,
            splits={
                split: SplitInfo(
                    examples=len(members), per_class=tuple(self._counts(members).tolist()), origin=self._origin(split)
                )
                for split, members in self.splits.items()
            },
            height=int(median["height"]),
            width=int(median["width"]),
            sha256=self._fingerprint(),
            skipped={self.listing.ids[index]: problem for index, problem in self.problems.items()},
            destroys_label=self.listing.destroys_label,
            notes=tuple(self._notes()),
            warnings=warnings,
        )

    def examples(self, split: Split) -> Examples:
        """The images of a split: those for training by class and hash, so that equal images give equal runs however
        they are stored; all others in the order of the listing."""
        members = self.splits[split]
        if split == "train":
            members = self._by_content(members)
        listing = self.listing
        return Examples(
            [listing.ids[i] for i in members],
            listing.labels[members],
            listing.contents.take(members),
            self.facts["sha256"][members],
        )

    @cached_property
    def splits(self) -> dict[Split, Indices]:
        """Numbers of the images that are used, ascending, by split; a fifth of each class is held out for testing
        where the data set has nothing but training images."""
        self._check_classes()
        self._check_problems()
        everything = self.listing.splits or {"train": np.arange(len(self.listing.labels))}
        good = np.setdiff1d(self._kept, list(self.problems), assume_unique=True)
        splits: dict[Split, Indices] = {
            split: np.intersect1d(members, good, assume_unique=True) for split, members in everything.items()
        }
        only = len(splits) == 1
        for split, members in splits.items():
            if not self.listing.prescribed:
                self._check_sizes(split, members, least=2 if only else 1)
        if only:
            members = self._by_content(splits["train"])
            train, test = hold_out(self.listing.labels[members], self._groups[members], self.split_seed)
            splits = {"train": np.sort(members[train]), "test": np.sort(members[test])}
        return splits

    @cached_property
    def duplicates(self) -> Duplicates:
        return find_duplicates(self._groups, self.listing.labels, self.splits)

    @property
    def facts(self) -> Facts:
        """Of all images of the listing; zeros for those that were excluded."""
        return self._inspected[0]

    @property
    def problems(self) -> Problems:
        """What is wrong with images that cannot be used, by number."""
        return self._inspected[1]

    @cached_property
    def _kept(self) -> Indices:
        """Numbers of the images that are in a split and not excluded."""
        splits = self.listing.splits.values()
        in_splits = np.sort(np.concatenate(list(splits))) if splits else np.arange(len(self.listing.labels))
        return self.exclusions.remaining(in_splits, self.listing.ids)

    @cached_property
    def _inspected(self) -> tuple[Facts, Problems]:
        if self.known is not None:
            return self.known
        if len(self._kept) == len(self.listing.labels):
            return inspect(self.listing.contents, self.skip_corrupt, self.reporter)
        facts, problems = inspect(self.listing.contents.take(self._kept), self.skip_corrupt, self.reporter)
        of_all = np.zeros(len(self.listing.labels), facts.dtype)
        of_all[self._kept] = facts
        return of_all, {int(self._kept[index]): problem for index, problem in problems.items()}

    @cached_property
    def _groups(self) -> Indices:
        return equal_groups(self.facts["sha256"])

    @cached_property
    def _used(self) -> Indices:
        return np.concatenate(list(self.splits.values()))

    def _by_content(self, members: Indices) -> Indices:
        """By class, then by the number that the first 8 bytes of the hash are."""
        hashes = np.ascontiguousarray(self.facts["sha256"][members, :8]).view(">u8")[:, 0]
        ordered: Indices = members[np.lexsort((hashes, self.listing.labels[members]))]
        return ordered

    def listing_sha256(self) -> str:
        """Of which images there are, in which order, class and split, and which of them count; not of what is in
        them."""
        listing = self.listing
        digest = hashlib.sha256()
        for names in (listing.class_names, listing.ids, tuple(listing.splits)):
            digest.update(json.dumps(list(names)).encode())
        for numbers in (listing.labels, self._kept, *listing.splits.values()):
            digest.update(np.ascontiguousarray(numbers, np.int64).data)
        return digest.hexdigest()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        names = self.listing.class_names
        for split, members in self.splits.items():
            for index in self._by_content(members):
                row = self.facts["sha256"][index].tobytes().hex()
                digest.update(f"{split}\t{names[self.listing.labels[index]]}\t{row}\n".encode())
        return digest.hexdigest()

    def _counts(self, members: Indices) -> npt.NDArray[np.int64]:
        return np.bincount(self.listing.labels[members], minlength=len(self.listing.class_names))

    def _check_classes(self) -> None:
        names = self.listing.class_names
        if self.listing.splits and "train" not in self.listing.splits:
            has = listed(self.listing.origins.values())
            raise DataError(f"{self.name} has nothing to train on, only {has}. Say what is, with --train-split.")
        if broken := [ascii(name) for name in names if not _is_line(name)]:
            raise DataError(
                "class names must be one line of UTF-8 text without blanks around it, for labels.txt. Received: "
                f"{listed(broken)}."
            )
        if len(names) < 2:
            raise DataError(f"{self.name} has one class only, {names[0]!r}; at least 2 are needed.{self._deeper()}")

    def _deeper(self) -> str:
        """A hint where the only class is a folder of what may be class folders."""
        inner = {identity.split("/")[1] for identity in self.listing.ids if identity.count("/") >= 2}
        if self.listing.kind != "image folder" or len(inner) < 2:
            return ""
        return f" Did you mean {Path(self.name, self.listing.class_names[0])}?"

    def _check_problems(self) -> None:
        if self.problems and not self.skip_corrupt:
            said = (f"{self.listing.ids[index]} ({problem})" for index, problem in self.problems.items())
            raise DataError(
                f"{len(self.problems)} of {len(self._kept)} files cannot be read as images: {listed(said)}. "
                "Repair or remove them, or leave them out with --skip-corrupt."
            )

    def _check_sizes(self, split: Split, members: Indices, least: int) -> None:
        counts = self._counts(members)
        small = [f"{self.listing.class_names[label]!r} ({counts[label]})" for label in np.flatnonzero(counts < least)]
        if small and (split == "train" or not len(members)):
            raise DataError(
                f"too few images in {split} for {listed(small)}; each class needs at least {least}"
                f"{' (one is held out for testing)' if least == 2 else ''}."
            )

    def _origin(self, split: Split) -> str:
        if split in self.listing.splits and len(self.listing.splits) > 1:
            return self.listing.origins[split]
        share = "20 %" if split == "test" else "80 %"
        return f"{share} of each class, stratified, split seed {self.split_seed}"

    def _notes(self) -> Iterable[str]:
        yield from self.listing.notes
        if self.listing.cost:
            yield self.listing.cost
        if self.exclusions.ids:
            yield f"{number(len(self.exclusions.ids), 'image')} left out by {self.exclusions.origin}"
        if not self.listing.destroys_label:
            yield from hints(self.listing.class_names)

    def _warnings(self) -> Iterable[str]:
        """What is wrong with the data beyond single files. Raises DataError where it must not be."""
        names, found = self.listing.class_names, self.duplicates
        for what, members, forbidden in (
            ("leakage, images for validation or test that are also trained on", found.leaked, self.strict),
            ("label conflicts, images that are in two classes or more", found.conflicting, self.strict),
            ("images that are repeated in their class", found.repeated, False),
        ):
            if not len(members):
                continue
            line = f"{what}: {len(members)} ({listed(self.listing.ids[i] for i in members)})"
            if forbidden:
                raise DataError(
                    f"{line}. --strict-data allows none: remove them, or leave them out with --exclude and the file "
                    "that 'hyperrule check --write-exclusions FILE' makes."
                )
            yield line
        for split, members in self.splits.items():
            counts = self._counts(members)
            if missing := [repr(names[label]) for label in np.flatnonzero(counts == 0)]:
                yield f"{split} has no images of {number(len(missing), 'class')}: {listed(missing)}"
        counts = self._counts(self.splits["train"])
        present = np.flatnonzero(counts)
        most, least = present[counts[present].argmax()], present[counts[present].argmin()]
        if counts[most] >= IMBALANCED * counts[least]:
            yield (
                f"class {names[most]!r} has {counts[most]} images, {names[least]!r} has {counts[least]}: "
                "--balance sampler or loss gives the rare ones weight"
            )


def _is_line(text: str) -> bool:
    """Whether it is one line that UTF-8 can write, without blanks around it."""
    has_halves = any("\ud800" <= character <= "\udfff" for character in text)
    return len(text.splitlines()) == 1 and text == text.strip() and not has_halves
