"""A finished run, read from its folder and nothing else, and what its kind has to say on pages and cards."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from hyperrule.errors import RunFolderError
from hyperrule.exporting.parity import Parity
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import one_line


@dataclass(frozen=True)
class Prediction:
    """Of a test image: the label, the likeliest class and its probability."""

    id: str
    label: str
    predicted: str
    score: float

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class FinishedRun(ABC):
    """`log` are the lines of metrics.jsonl, `exports` what parity.json tells."""

    folder: RunFolder
    plan: TrainingPlan
    log: list[dict[str, Any]]
    exports: tuple[Parity, ...]

    TEMPLATE: ClassVar[str]  # of the page of one run

    @classmethod
    @abstractmethod
    def read(cls, folder: RunFolder) -> Self:
        """Raises RunFolderError if it is another kind of run, or if a file of it is missing or damaged."""

    @property
    def is_classifier(self) -> bool:
        return bool(self.exports)

    @property
    @abstractmethod
    def title(self) -> str: ...

    @property
    @abstractmethod
    def headline(self) -> str:
        """The figures in one line."""

    @abstractmethod
    def page_values(self) -> dict[str, Any]:
        """What the template shows besides that which all templates show."""

    @abstractmethod
    def card_sections(self, trained: str) -> Iterator[str]:
        """Markdown of the model card up to how to use and repeat the run; `trained` says for how long and how."""

    def card_ending(self) -> Iterator[str]:
        """Markdown after that."""
        yield from ()

    def front_matter(self) -> dict[str, Any]:
        """What the model card's front matter has besides that which all cards have."""
        return {}

    @abstractmethod
    def measured_on_the_same(self, other: Self) -> bool:
        """Whether figures of both are of the same images."""

    @classmethod
    @abstractmethod
    def side_by_side(cls, names: Sequence[str], runs: Sequence[Self]) -> dict[str, Any]:
        """What the page of several runs of this kind shows besides plans and curves."""


def read_log(folder: RunFolder) -> list[dict[str, Any]]:
    with damage(folder.metrics_file):
        log = folder.read_metrics()
        if not all(isinstance(line, dict) and {"kind", "step"} <= line.keys() for line in log):
            raise ValueError("a line of it is none of hyperrule's")
    return log


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Whatever is wrong with the file within the block becomes a RunFolderError, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise RunFolderError(
            f"{file} is missing: the run is not complete. Restore it, or train again with --out."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's and pydantic's among them
        raise RunFolderError(f"{file} is damaged: {one_line(error)}") from None
