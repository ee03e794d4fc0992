"""Matches names of image folders to the classes of a head."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hyperrule.backbones.class_names import ClassName
from hyperrule.errors import DataError
from hyperrule.support.wording import did_you_mean, listed

WNID = re.compile(r"n\d{8}(?!\d)")


class ClassIndex:
    """Looks up a head's classes by WordNet id, name or index.

    >>> index = ClassIndex([ClassName("n01440764", "tench"), ClassName("n02012849", "crane"), ClassName("", "crane")])
    >>> index.find("n02012849_crane"), index.find("Tench"), index.find("2"), index.find("crane"), index.find("cat")
    ([1], [0], [2], [1, 2], [])
    """

    def __init__(self, names: Sequence[ClassName]) -> None:
        self.names = names
        self._by_wnid, self._by_name, self._by_letters = (defaultdict[str, list[int]](list) for _ in range(3))
        for index, known in enumerate(names):
            self._by_wnid[known.wnid or _wnid(known.name)].append(index)
            self._by_name[known.name].append(index)
            self._by_letters[_letters(known.name)].append(index)
        self._by_wnid.pop("", None)
        # If the names of classes are numbers other than their indices, a number is a name, not an index.
        self._has_indices = all(known.name == str(index) for index, known in enumerate(names) if known.name.isdecimal())

    def find(self, folder: str) -> list[int]:
        """Return the indices of the classes that a name can mean: none if unknown, several if ambiguous.

        Tried in this order: WordNet id, exact name, name in any case and with "_" for spaces, index.
        """
        for found in (
            self._by_wnid.get(_wnid(folder)),
            exact if len(exact := self._by_name.get(folder, [])) == 1 else None,
            self._by_letters.get(_letters(folder)),
        ):
            if found:
                return found
        if self._has_indices and re.fullmatch(r"[0-9]{1,9}", folder) and int(folder) < len(self.names):
            return [int(folder)]
        return []

    @property
    def allowed(self) -> str:
        """Return the names that a folder may have, for messages."""
        wnid = next(iter(self._by_wnid), None)
        name = next((known.name for known in self.names if not known.name.isdecimal()), None)
        ways = [
            *([f"a WordNet id ({wnid} or {wnid}_ANYTHING)"] if wnid else []),
            *([f"a class name ({name!r})"] if name and name != wnid else []),
            *([f"an index from 0 to {len(self.names) - 1}"] if self._has_indices else []),
        ]
        return " or ".join(ways) or f"a class name ({self.names[0].name!r})"


def match_folders(folders: Iterable[str], names: Sequence[ClassName], classifier: str) -> dict[str, int]:
    """Return the index of the class of each folder. Raises DataError if a folder matches no class or several."""
    index = ClassIndex(names)
    found = {folder: index.find(folder) for folder in dict.fromkeys(folders)}
    unknown = [folder for folder, classes in found.items() if not classes]
    ambiguous = [
        f"{folder!r} ({' or '.join(_distinct_name(names, i) for i in classes)})"
        for folder, classes in found.items()
        if len(classes) > 1
    ]
    if unknown or ambiguous:
        problems = {"unknown": list(map(repr, unknown)), "ambiguous": ambiguous}
        said = "; ".join(f"{len(which)} {kind}: {listed(which)}" for kind, which in problems.items() if which)
        hint = did_you_mean(unknown[0], [known.name for known in names]) if len(unknown) == 1 else ""
        raise DataError(
            f"not every class folder names one class of {classifier}: {said}. Allowed: {index.allowed}.{hint}"
        )
    return {folder: classes[0] for folder, classes in found.items()}


def _distinct_name(names: Sequence[ClassName], index: int) -> str:
    return names[index].wnid or f"{names[index].name!r}, {index}"


def _wnid(text: str) -> str:
    """Return the WordNet id at the start of a text, or "".

    >>> _wnid("n01440764_tench"), _wnid("night")
    ('n01440764', '')
    """
    match = WNID.match(text)
    return match[0] if match else ""


def _letters(name: str) -> str:
    """Return a name in lower case, with single spaces for "_" and white space.

    >>> _letters(" Great_White  shark")
    'great white shark'
    """
    return " ".join(name.replace("_", " ").casefold().split())
