"""What was asked: one strict set of options, from a YAML file, the command line or Python.

Every option is a field of `Recipe`; the command line makes its flags from these fields, so that
a recipe key `examples_per_class` is the flag `--examples-per-class`.

What was asked of a distillation: one strict set of options, from a YAML file, the command line or Python.
"""

import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from hyperrule.backbones.info import parse_input_range
from hyperrule.errors import RecipeError
from hyperrule.rule import Rule
from hyperrule.support.wording import did_you_mean

Train = Literal["full", "last-1", "last-2", "last-3", "head"]
Balance = Literal["none", "sampler", "loss"]
LENGTHS = ("steps", "epochs", "budget")  # at most one of these may be given
SPLITS = ("train_split", "validation_split", "test_split")
LISTED = ("dataset", *SPLITS, "data_dir", "image_key", "label_key")  # they say which images, and which split is which
PROBED = ("backbone", "input_range", "split_seed", "exclude", "skip_corrupt", "strict_data")
DATA_OPTIONS = {  # what has an effect on commands that do not train
    "check": (*LISTED[1:], "split_seed", "exclude"),
    "evaluate": (*LISTED[1:], "exclude"),
    "label-errors": (*LISTED[1:], *PROBED),
    "learning-curve": (*LISTED[1:], *PROBED),
}
R = TypeVar("R", bound="TrainingRecipe")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(budget: Any) -> Any:
    """ "90s", "5m", "1.5h" -> seconds; anything else is returned as it is, for pydantic to judge.

    >>> seconds("5m"), seconds("1.5h"), seconds(90)
    (300.0, 5400.0, 90)
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
        if match is None:
            raise ValueError("must be a number with s, m or h, such as 90s, 5m or 1.5h")
        return float(match[1]) * SECONDS[match[2]]
    return budget


def parse_size(limit: Any) -> Any:
    """ "8GiB", "500 MB" -> bytes; anything else is returned as it is, for pydantic to judge.

    >>> parse_size("8GiB"), parse_size("0.5 GB"), parse_size(1024)
    (8589934592, 500000000, 1024)
    """
    if isinstance(limit, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", limit.strip())
        if match is None:
            raise ValueError("must be a number with MiB, GiB, MB or GB, such as 8GiB or 500MB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))
    return limit


def on_or_off(value: Any) -> Any:
    """YAML takes on and off for true and false.

    >>> on_or_off(True), on_or_off(False), on_or_off("auto")
    ('on', 'off', 'auto')
    """
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class TrainingRecipe(BaseModel):
    """Options of every training. What is left at None, the rule, the paper or the machine decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]

    random_flip: bool | None = Field(None, examples=["no-flip"], description="Mirror training images at random.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of subset, order, augmentation and mixup.")
    batch: int | None = Field(None, gt=0, le=2**20, description="Examples a step; rate and schedule scale with it.")
    base_lr: float | None = Field(None, gt=0, allow_inf_nan=False, description="Learning rate before decay.")
    steps: int | None = Field(None, gt=0, le=10**8, description="Number of steps; the whole schedule stretches.")
    epochs: float | None = Field(None, gt=0, le=10**6, description="The same, in passes over the data.")
    budget: Annotated[float | None, BeforeValidator(seconds)] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        examples=["TIME"],
        description="Time for all of it, such as 90s, 5m or 1.5h: the schedule shrinks to fit.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of convolutions and activations; float16 comes with loss scaling."
    )
    xla: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = Field(
        "auto", description="Compile the gradient with XLA; auto: where 'hyperrule doctor --measure' found it faster."
    )
    devices: str = Field("all", examples=["all|cpu|0,1|tpu"], description="GPUs to use, by number; or none of them.")
    micro_batch: int | None = Field(
        None, gt=0, description="Examples that a device takes at once; changes nothing but rounding."
    )
    memory_limit: Annotated[int | None, BeforeValidator(parse_size)] = Field(
        None, gt=0, examples=["SIZE"], description="Memory to use of each device, such as 8GiB, on a shared machine."
    )
    remat: bool | None = Field(
        None, description="Compute activations once more in the backward pass: less memory, a third more work."
    )
    eval_every: int | None = Field(None, gt=0, description="Evaluate every so many steps, besides the end.")
    checkpoint_every: int | None = Field(
        None, gt=0, description="Checkpoint every so many steps; by default every minute."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard event files into the run folder while training.")
    skip_corrupt: bool = Field(False, description="Decode every image first and leave out those that fail.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Python takes True for 1; a recipe that says `batch: true` does not mean 1."""
        if (
            isinstance(value, bool)
            and field.field_name != "xla"
            and "bool" not in str(cls.model_fields[field.field_name or ""].annotation)
        ):
            raise ValueError("must not be true or false")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"give one of steps, epochs and budget. Received: {' and '.join(lengths)}")
        return self

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """By name: what is particular first, then what every training has."""
        own = {name: field for name, field in cls.model_fields.items() if name not in TrainingRecipe.model_fields}
        return {**own, **cls.model_fields}


class Recipe(TrainingRecipe):
    """Options of one fine-tuning. What is left at None, the rule or the machine decides."""

    command: ClassVar = "finetune"

    dataset: str = Field(
        description="Folder CLASS/*.jpg or {train,val,test}/CLASS/*.jpg, table, archive, shards, tfds:NAME, hf:NAME or "
        "'digits': 'hyperrule datasets' explains them."
    )
    train_split: str | None = Field(
        None,
        examples=["NAME"],
        description="What is trained on: a split's name; of TFDS and Hugging Face also 'train[:98%]'.",
    )
    validation_split: str | None = Field(None, examples=["NAME"], description="What evaluations on the way see.")
    test_split: str | None = Field(None, examples=["NAME"], description="What the result is measured on.")
    data_dir: str | None = Field(None, examples=["FOLDER"], description="Where TFDS or Hugging Face data sets lie.")
    image_key: str | None = Field(None, examples=["NAME"], description="Column, feature or field of the images.")
    label_key: str | None = Field(None, examples=["NAME"], description="Column, feature or field of the labels.")
    exclude: str | None = Field(
        None, examples=["FILE"], description="Images to leave out, as 'hyperrule check --write-exclusions' writes them."
    )
    strict_data: bool = Field(False, description="Refuse images that are in two classes, or in training and test.")
    backbone: str = Field(
        "bit-r26x0.5",
        description="A name that 'hyperrule backbones' lists, a hub handle or URL, a SavedModel folder or .tar.gz, "
        "a BiT .npz, or a run folder.",
    )
    input_range: Annotated[tuple[float, float] | None, BeforeValidator(parse_input_range)] = Field(
        None, examples=["LOW,HIGH"], description="What pixels a foreign backbone takes: 0,1 or -1,1 or 0,255."
    )
    train: Train = Field("full", description="Train everything, a BiT's last blocks and the head, or the head alone.")
    rule: Rule = Field("code", description="BiT-HyperRule as in the released code, or as in the paper.")
    preset: Literal["rule", "light"] = Field(
        "rule", description="light: batch 128 at rate 0.001, for one small device."
    )
    examples_per_class: int | None = Field(None, gt=0, description="Train on a balanced few-shot subset.")
    balance: Balance = Field(
        "none", description="Rare classes: drawn as often as others, or weighted in the loss. The rule does neither."
    )
    split_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the held-out split, where the data has none.")
    head_init: Literal["zeros", "probe"] | None = Field(
        None, description="Start the head from zeros (the rule) or from a closed-form probe of the features."
    )
    mixup: float | None = Field(None, ge=0, le=10, description="Alpha of mixup, 0 for none.")
    resize: int | None = Field(None, ge=32, le=4096, description="Side in pixels to which images are resized.")
    crop: int | None = Field(None, ge=32, le=4096, description="Side in pixels of the crop that the network sees.")
    random_crop: bool | None = Field(
        None, examples=["no-crop"], description="Crop training images at random; else resize straight to the crop."
    )

    @model_validator(mode="after")
    def _sides_consistent(self) -> Self:
        if self.resize is not None and self.crop is not None and self.resize < self.crop:
            raise ValueError(f"resize must be at least crop. Received: resize {self.resize}, crop {self.crop}")
        return self


def make_recipe(options: Mapping[str, Any], kind: type[R]) -> R:
    """A checked recipe. Raises RecipeError with every mistake, in one line."""
    try:
        return kind(
            **{key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
        )
    except ValidationError as error:
        raise RecipeError("; ".join(_explained(mistake, kind) for mistake in error.errors())) from None


def make_data_recipe(command: str, dataset: str | os.PathLike[str], options: Mapping[str, Any]) -> Recipe:
    """A checked recipe of DATA_OPTIONS. Raises RecipeError as `make_recipe` does, and for other options."""
    taken = DATA_OPTIONS[command]
    if unknown := [name for name in options if name not in taken]:
        raise RecipeError(
            f"{command} does not take {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], taken)} "
            f"Of the options of a recipe it takes {', '.join(taken)}."
        )
    return make_recipe({"dataset": dataset, **options}, Recipe)


def load_recipe(name: str) -> dict[str, Any]:
    """Options from a YAML file, or from the shipped recipe of that name.

    Raises RecipeError if there is none, or if the file is not a YAML mapping.
    """
    path = Path(name)
    if not os.path.isfile(path):  # unlike Path.is_file, never an error
        shipped = shipped_recipes()
        if name not in shipped:
            raise RecipeError(
                f"recipe {name!r} is neither a file nor a shipped recipe. "
                f"Shipped: {', '.join(shipped)} (see 'hyperrule recipes').{did_you_mean(name, shipped)}"
            )
        path = shipped[name]
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise RecipeError(f"{path} must hold 'key: value' lines. Received: {type(options).__name__}")
    return {str(key): value for key, value in options.items()}


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """ "key=value" with the value read as YAML. Raises RecipeError.

    >>> parse_assignment("random-flip=false"), parse_assignment("base_lr=3e-3")
    (('random_flip', False), ('base_lr', '3e-3'))
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set takes key=value, such as --set base_lr=0.001. Received: {assignment!r}")
    try:
        return key.strip().replace("-", "_"), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return key.strip().replace("-", "_"), value


def shipped_recipes() -> dict[str, Path]:
    """The recipe files that come with the package by name, those of `distill` as distill/NAME."""
    package = Path(str(resources.files("hyperrule")))
    installed = package / "recipes"
    folder = (
        installed if installed.is_dir() else package.parent / "recipes"
    )  # a source tree keeps them beside the package
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*/*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _explained(mistake: Any, kind: type[TrainingRecipe]) -> str:
    key = ".".join(str(part) for part in mistake["loc"])
    match mistake["type"]:
        case "extra_forbidden":
            return (
                f"unknown option {key!r}.{did_you_mean(key, kind.model_fields)} "
                f"'hyperrule {kind.command} --help' lists all"
            )
        case "missing":
            return f"option {key!r} is missing: say --{key.replace('_', '-')}"
        case _:
            message = mistake["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            return f"{key}: {message}. Received: {mistake['input']!r}" if key else message


def numbers(value: Any) -> Any:
    """On the command line, "13,7" is a list; one number is as good as a list of one.

    >>> numbers("13,7"), numbers(13), numbers([13, 7])
    (('13', '7'), (13,), [13, 7])
    """
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int) else value


def paths(value: Any) -> Any:
    """One is as good as a list of one.

    >>> paths("a,b"), paths(["a", "b"])
    (('a,b',), ('a', 'b'))
    """
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, list | tuple):
        return several
    return tuple(os.fspath(one) if isinstance(one, os.PathLike) else one for one in several)


class DistillRecipe(TrainingRecipe):
    """Options of one distillation. What is left at None, the paper (arXiv 2106.05237) or the machine decides."""

    command: ClassVar = "distill"

    teacher: str = Field(
        description="A run folder, a classifier that 'hyperrule backbones' lists, a hub handle, a SavedModel folder, "
        "or a BiT .npz; of one without a head, features are matched."
    )
    student: str = Field(
        "r26x0.5",
        description="The BiT to train: r26x0.5, r50x1 ... from scratch, or weights: a name that 'hyperrule backbones' "
        "lists, a BiT .npz, a run folder.",
    )
    dataset: Annotated[tuple[str, ...], BeforeValidator(paths)] = Field(
        min_length=1,
        description="Images, as for finetune; the training part, labels unused; a folder of images will do. Several "
        "make one pool.",
    )
    shares: Annotated[tuple[Annotated[int, Field(gt=0, le=1000)], ...] | None, BeforeValidator(numbers)] = Field(
        None,
        examples=["N,N,..."],
        description="How often each data set is drawn, such as 13,7; by default as it has images.",
    )
    data_dir: str | None = Field(None, examples=["FOLDER"], description="Where TFDS or Hugging Face data sets lie.")
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="That of finetune: what it holds out of a data set without splits is left out here.",
    )
    teacher_range: Annotated[tuple[float, float] | None, BeforeValidator(parse_input_range)] = Field(
        None, examples=["LOW,HIGH"], description="What pixels a foreign teacher takes: 0,1 or -1,1 or 0,255."
    )
    teacher_crop: int | None = Field(
        None, ge=32, le=4096, description="Side in pixels of what the teacher sees of the same crop [the student's]."
    )
    crop: int | None = Field(None, ge=32, le=4096, description="Side in pixels of what the student sees.")
    least_area: float = Field(
        0.05, ge=0.01, le=1, description="Smallest part of an image that a crop shows; 1 for all of it."
    )
    mixup: bool = Field(True, description="Blend images, by a share that is anything from 0 to 1.")
    logits_weight: float | None = Field(
        None, ge=0, le=1e6, description="Of the divergence from the teacher's probabilities, in the loss."
    )
    features_weight: float | None = Field(
        None, ge=0, le=1e6, description="Of the distance to the teacher's standardised features, through a linear map."
    )
    temperature: float = Field(1.0, gt=0, le=100, description="By which the logits of both are divided.")
    weight_decay: float = Field(1e-4, ge=0, lt=1, description="What a step at the highest rate takes off kernels.")
    warmup: int | None = Field(None, ge=0, le=10**8, description="Steps before the highest rate.")
    feature_norm: float | None = Field(
        None, gt=0, le=1e4, description="Scale the student's features at the end, so that this is their mean L2 norm."
    )

    @model_validator(mode="after")
    def _one_share_each(self) -> Self:
        if self.shares is not None and len(self.shares) != len(self.dataset):
            raise ValueError(
                f"shares must be one number for each data set, {len(self.dataset)}. Received: {len(self.shares)}"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if repeated := sorted({name for name in self.dataset if self.dataset.count(name) > 1}):
            raise ValueError(f"dataset must name each once; shares draw one more often. Received twice: {repeated[0]}")
        return self

    @model_validator(mode="after")
    def _something_to_match(self) -> Self:
        if self.logits_weight == 0 and not self.features_weight:
            raise ValueError("logits_weight and features_weight must not both be 0")
        return self
