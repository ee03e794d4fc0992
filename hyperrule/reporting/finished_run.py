"""A finished run, read from its folder alone; subclasses provide the texts and figures of their kind of training."""

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
    """The label of a test image, the most probable class and its probability."""

    id: str
    label: str
    predicted: str
    score: float

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class FinishedRun(ABC):
    """A finished run. `log` has the lines of metrics.jsonl, `exports` the content of parity.json."""

    folder: RunFolder
    plan: TrainingPlan
    log: list[dict[str, Any]]
    exports: tuple[Parity, ...]

    TEMPLATE: ClassVar[str]  # for the page of one run

    @classmethod
    @abstractmethod
    def read(cls, folder: RunFolder) -> Self:
        """Read a run. Raises RunFolderError if it is of another kind, or if a file of it is missing or damaged."""

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
        """Return the template's values that only this kind of run has."""

    @abstractmethod
    def card_sections(self, trained: str) -> Iterator[str]:
        """Yield the card's first Markdown sections; `trained` is a sentence that describes the training."""

    def card_ending(self) -> Iterator[str]:
        """Yield the card's last Markdown sections."""
        yield from ()

    def front_matter(self) -> dict[str, Any]:
        """Return the entries of the card's front matter that only this kind of run has."""
        return {}

    @abstractmethod
    def measured_on_the_same(self, other: Self) -> bool:
        """Whether both runs were evaluated on the same images."""

    @classmethod
    @abstractmethod
    def side_by_side(cls, names: Sequence[str], runs: Sequence[Self]) -> dict[str, Any]:
        """Return the values of the page that compares several runs of this kind, without plans and curves."""


def read_log(folder: RunFolder) -> list[dict[str, Any]]:
    with damage(folder.metrics_file):
        log = folder.read_metrics()
        if not all(isinstance(line, dict) and {"kind", "step"} <= line.keys() for line in log):
            raise ValueError("one of its lines was not written by hyperrule")
    return log


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Within the block, turn every error in reading `file` into a RunFolderError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise RunFolderError(
            f"{file} is missing: the run is not complete. Restore it, or train again with --out."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's and pydantic's among them
        raise RunFolderError(f"{file} is damaged: {one_line(error)}") from None
