"""A finished run, read from its folder and nothing else, and what its kind has to say on pages and cards."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hyperrule.exporting.parity import Parity
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.run_folder import RunFolder


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
