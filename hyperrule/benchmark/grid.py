"""The grid of a benchmark: a YAML file with data sets, backbones, shots, seeds and methods."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hyperrule.benchmark.ledger import Method, Shots
from hyperrule.data.sources.kinds import located
from hyperrule.errors import RecipeError
from hyperrule.evaluation.probe import L2
from hyperrule.recipe import Recipe, load_recipe, make_recipe
from hyperrule.support.wording import did_you_mean

HELD_OUT = "held-out"
Seeds = Annotated[int, Field(ge=1, le=1000)]
PositiveShots = Annotated[int, Field(ge=1)] | Literal["full"]
# Options that a method must not set: the cell sets them, or they belong to the data set or the backbone.
OF_THE_GRID = (
    *("dataset", "backbone", "seed", "examples_per_class", "train", "head_init", "crop", "tensorboard"),
    *("strict_data", "input_range", "devices"),
)


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _some(value: Any) -> Any:
    return None if value is None else _several(value)


def _defaults(value: Any) -> Any:
    """Return {} for a key without a value, such as `probe:`, which means the defaults."""
    return {} if value is None else value


class DataSet(BaseModel):
    """The options of a recipe that select images.

    A data set without a test split needs `test: held-out`: a fifth of each class is held out, sampled by `split_seed`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    test: Literal["held-out"] | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    data_dir: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    split_seed: int = 0
    exclude: str | None = None
    skip_corrupt: bool = False
    random_flip: bool | None = None
    random_crop: bool | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        return self.model_dump(exclude={"test"}, exclude_none=True)

    @property
    def located(self) -> "DataSet":
        """The same with absolute paths, which hold from any working directory."""
        paths = {
            name: os.path.abspath(os.path.expanduser(path))
            for name in ("data_dir", "exclude")
            if (path := getattr(self, name)) is not None
        }
        return self.model_copy(update={"dataset": located(self.dataset), **paths})


class ProbeMethod(BaseModel):
    """The closed-form probe. `shots` and `seeds` default to the grid's.

    Of several `l2`, the probe uses the one with the least squared error on left-out images; with `choose: each`, every
    value is its own cell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    l2: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1), BeforeValidator(_several)
    ] = (L2,)
    choose: Literal["left-out", "each"] = "left-out"
    shots: Annotated[tuple[PositiveShots, ...] | None, BeforeValidator(_some)] = None
    seeds: Seeds | None = None


class TrainedMethod(BaseModel):
    """A fine-tuning; its other options are those of a recipe. `shots` and `seeds` default to the grid's."""

    model_config = ConfigDict(frozen=True, extra="allow")

    shots: Annotated[tuple[PositiveShots, ...] | None, BeforeValidator(_some)] = None
    seeds: Seeds | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _options_of_a_recipe(self) -> Self:
        if taken := [name for name in self.options if name in OF_THE_GRID or name in DataSet.model_fields]:
            raise ValueError(f"{taken[0]} is set by the grid or by the method: leave it out")
        try:
            make_recipe({"dataset": "-", **self.options}, Recipe)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return self


class Methods(BaseModel):
    """The methods of a grid. `head` trains a head alone, `finetune-probe` all weights, from a probe's head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: Annotated[ProbeMethod | None, BeforeValidator(_defaults)] = None
    head: Annotated[TrainedMethod | None, BeforeValidator(_defaults)] = None
    finetune: Annotated[TrainedMethod | None, BeforeValidator(_defaults)] = None
    finetune_probe: Annotated[TrainedMethod | None, BeforeValidator(_defaults)] = Field(None, alias="finetune-probe")

    @property
    def asked(self) -> dict[Method, ProbeMethod | TrainedMethod]:
        """The methods that the grid names, in the order of execution: quick ones first."""
        every: dict[Method, ProbeMethod | TrainedMethod | None] = {
            "probe": self.probe,
            "head": self.head,
            "finetune-probe": self.finetune_probe,
            "finetune": self.finetune,
        }
        return {method: options for method, options in every.items() if options is not None}


class Cell(BaseModel):
    """One measurement. `dataset` is its name in the grid; `l2` is set for a probe with `choose: each`, else None."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    backbone: str
    method: Method
    shots: Shots
    seed: int
    l2: float | None = None

    def __str__(self) -> str:
        l2 = "" if self.l2 is None else f", l2 {self.l2:g}"
        shots = "all images" if self.shots == "full" else f"{self.shots}-shot"
        return f"{self.dataset}, {self.backbone}, {self.method}, {shots}, seed {self.seed}{l2}"


class Grid(BaseModel):
    """A grid. `shots` are training images per class, or "full"; `seeds` is the number of subsets for each.

    `crop` is the side in pixels of the images that networks see; by default the rule decides it for each data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: dict[str, DataSet] = Field(min_length=1)
    backbones: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1)
    shots: Annotated[tuple[PositiveShots, ...], BeforeValidator(_several)] = Field(min_length=1)
    seeds: Seeds = 5
    crop: int | None = Field(None, ge=32, le=4096)
    methods: Methods

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.methods.asked:
            raise ValueError("methods must name at least one of probe, head, finetune and finetune-probe")
        return self

    def shots_and_seeds(self, method: ProbeMethod | TrainedMethod) -> Iterator[tuple[Shots, int]]:
        """Yield the shots and seeds of a method, smallest first. "full" is one subset, so it gives one probe."""
        numbers = sorted({*(method.shots or self.shots)}, key=lambda shots: (shots == "full", str(shots).zfill(9)))
        for shots in numbers:
            alone = shots == "full" and isinstance(method, ProbeMethod)
            for seed in range(1 if alone else method.seeds or self.seeds):
                yield shots, seed

    def cells(self) -> list[Cell]:
        """Return all cells in the order of execution."""
        return [
            Cell(dataset=dataset, backbone=backbone, method=method, shots=shots, seed=seed, l2=l2)
            for dataset in self.datasets
            for backbone in dict.fromkeys(self.backbones)
            for method, options in self.methods.asked.items()
            for shots, seed in self.shots_and_seeds(options)
            for l2 in _separate(options)
        ]

    def recipe(self, cell: Cell) -> Recipe:
        """Return the recipe that `hyperrule finetune` would get; of a probe's, only images and resolution count."""
        method = self.methods.asked[cell.method]
        return make_recipe(
            {
                **self.datasets[cell.dataset].recipe,
                **(method.options if isinstance(method, TrainedMethod) else {}),
                "backbone": cell.backbone,
                "seed": cell.seed,
                "crop": self.crop,
                "examples_per_class": None if cell.shots == "full" else cell.shots,
                "train": "full" if cell.method.startswith("finetune") else "head",
                "head_init": "probe" if cell.method == "finetune-probe" else "zeros",
            },
            Recipe,
        )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)


def read_grid(name: str, places: Mapping[str, str] | None = None) -> Grid:
    """Read the grid from a YAML file, or a shipped one ("bench/digits"); `places` overrides locations of data sets.

    Raises RecipeError, in one line, with all mistakes of the grid.
    """
    try:
        grid = Grid.model_validate(load_recipe(name))
    except ValidationError as error:
        raise RecipeError(f"{name}: {'; '.join(map(_explained, error.errors()))}") from None
    datasets = dict(grid.datasets)
    for dataset, place in (places or {}).items():
        if dataset not in datasets:
            raise RecipeError(
                f"--dataset: {name} has no data set {dataset!r}. It has: {', '.join(datasets)}."
                f"{did_you_mean(dataset, datasets)}"
            )
        datasets[dataset] = datasets[dataset].model_copy(update={"dataset": place})
    return grid.model_copy(update={"datasets": {key: dataset.located for key, dataset in datasets.items()}})


def grid_name(name: str) -> str:
    """Return the short name of a grid.

    >>> grid_name("bench/digits"), grid_name("my grids/pets.yaml")
    ('digits', 'pets')
    """
    return Path(name).stem


def _separate(method: ProbeMethod | TrainedMethod) -> tuple[float | None, ...]:
    return tuple(dict.fromkeys(method.l2)) if isinstance(method, ProbeMethod) and method.choose == "each" else (None,)


def _explained(mistake: Any) -> str:
    where = [str(part) for part in mistake["loc"]]
    place, key = ".".join(where), where[-1] if where else ""
    match mistake["type"]:
        case "extra_forbidden" if where[:-1] == ["methods"]:
            known = [field.alias or name for name, field in Methods.model_fields.items()]
            return f"unknown method {key!r}. Allowed: {', '.join(known)}.{did_you_mean(key, known)}"
        case "extra_forbidden":
            inner: dict[str, type[BaseModel]] = {"datasets": DataSet, "methods": ProbeMethod}
            known = list((inner[where[0]] if len(where) > 1 else Grid).model_fields)
            return f"unknown key {place!r}. Allowed: {', '.join(known)}.{did_you_mean(key, known)}"
        case "missing":
            return f"{place} is missing"
        case _:
            message = mistake["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            received = "" if isinstance(mistake["input"], dict | BaseModel) else f". Received: {mistake['input']!r}"
            return f"{place}: {message}{received}" if place else message
