"""The options of `finetune` and `distill`, validated strictly, from a YAML file, the command line or Python.

Every option is a field of `Recipe` or `DistillRecipe`. The command line makes its flags from these fields: the recipe
key `examples_per_class` is the flag `--examples-per-class`, and a field's description is the flag's help.
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
LENGTHS = ("steps", "epochs", "budget")  # at most one may be set
SPLITS = ("train_split", "validation_split", "test_split")
LISTED = ("dataset", *SPLITS, "data_dir", "image_key", "label_key")  # select the images and assign the splits
R = TypeVar("R", bound="TrainingRecipe")
EMBEDDED, AUTO = "bit-r26x0.5", "auto"
SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(budget: Any) -> Any:
    """Convert "90s", "5m" or "1.5h" to seconds; return anything that is not text unchanged, for pydantic to check.

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
    """Convert "8GiB" or "500 MB" to bytes; return anything that is not text unchanged, for pydantic to check.

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
    """Undo YAML's reading of on and off as true and false.

    >>> on_or_off(True), on_or_off(False), on_or_off("auto")
    ('on', 'off', 'auto')
    """
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class TrainingRecipe(BaseModel):
    """Options common to `finetune` and `distill`. None leaves the choice to the rule, the paper or the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]

    random_flip: bool | None = Field(None, examples=["no-flip"], description="Mirror training images at random.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the few-shot subset, order, augmentation and mixup.")
    batch: int | None = Field(
        None, gt=0, le=2**20, description="Images per step; learning rate and schedule scale with it."
    )
    base_lr: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Learning rate after warm-up, before decay."
    )
    steps: int | None = Field(None, gt=0, le=10**8, description="Number of steps; the schedule is scaled to it.")
    epochs: float | None = Field(
        None, gt=0, le=10**6, description="Length of training in passes over the data, instead of steps."
    )
    budget: Annotated[float | None, BeforeValidator(seconds)] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        examples=["TIME"],
        description="Time for the whole run, such as 90s, 5m or 1.5h; the schedule shrinks to fit.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Data type of convolutions and activations; float16 adds loss scaling."
    )
    xla: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = Field(
        "auto", description="Compile the gradient with XLA; auto: only if 'hyperrule doctor --measure' found it faster."
    )
    devices: str = Field(
        "all",
        examples=["all|cpu|0,1|tpu"],
        description="Devices to train on: all GPUs, the CPU, GPUs by number, or a TPU.",
    )
    micro_batch: int | None = Field(
        None, gt=0, description="Images per device and pass; affects memory and speed, results only by rounding."
    )
    memory_limit: Annotated[int | None, BeforeValidator(parse_size)] = Field(
        None, gt=0, examples=["SIZE"], description="Memory to use on each device, such as 8GiB, if others use it too."
    )
    remat: bool | None = Field(
        None, description="Recompute activations in the backward pass: less memory, a third more computation."
    )
    eval_every: int | None = Field(None, gt=0, description="Evaluate every N steps, and at the end.")
    checkpoint_every: int | None = Field(
        None, gt=0, description="Write a checkpoint every N steps; default: every minute."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard event files into the run folder while training.")
    skip_corrupt: bool = Field(False, description="Decode every image before training and leave out those that fail.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse `batch: true`, which Python would accept as 1."""
        kind = str(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, bool) and field.field_name != "xla" and "bool" not in kind:
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
        """The fields by name: the command's own first, then the common ones."""
        own = {name: field for name, field in cls.model_fields.items() if name not in TrainingRecipe.model_fields}
        return {**own, **cls.model_fields}


class Recipe(TrainingRecipe):
    """Options of `finetune`. None leaves the choice to the rule or the machine."""

    command: ClassVar = "finetune"

    dataset: str = Field(
        description="Folder CLASS/*.jpg or {train,val,test}/CLASS/*.jpg, table, archive, shards, tfds:NAME, hf:NAME or "
        "'digits'; 'hyperrule datasets' describes them."
    )
    train_split: str | None = Field(
        None,
        examples=["NAME"],
        description="Split to train on, by name; with TFDS and Hugging Face also a part, such as 'train[:98%]'.",
    )
    validation_split: str | None = Field(None, examples=["NAME"], description="Split to evaluate on during training.")
    test_split: str | None = Field(None, examples=["NAME"], description="Split to measure the result on.")
    data_dir: str | None = Field(None, examples=["FOLDER"], description="Folder of TFDS or Hugging Face data sets.")
    image_key: str | None = Field(None, examples=["NAME"], description="Column, feature or field of the images.")
    label_key: str | None = Field(None, examples=["NAME"], description="Column, feature or field of the labels.")
    exclude: str | None = Field(
        None, examples=["FILE"], description="Images to leave out, as 'hyperrule check --write-exclusions' writes them."
    )
    strict_data: bool = Field(False, description="Refuse images that are in two classes, or in both training and test.")
    backbone: str = Field(
        EMBEDDED,
        description="A name that 'hyperrule backbones' lists, a hub handle or URL, a SavedModel folder or .tar.gz, "
        "a BiT .npz, or a run folder; with --budget also auto, its default: the best of those that are here.",
    )
    input_range: Annotated[tuple[float, float] | None, BeforeValidator(parse_input_range)] = Field(
        None, examples=["LOW,HIGH"], description="Pixel range that an unknown backbone expects: 0,1 or -1,1 or 0,255."
    )
    train: Train = Field(
        "full", description="Train all weights, the last blocks of a BiT and the head, or the head alone."
    )
    rule: Rule = Field("code", description="Follow the BiT-HyperRule of the released code or of the paper.")
    preset: Literal["rule", "light"] = Field(
        "rule", description="light: batch 128, learning rate 0.001, for one small device."
    )
    examples_per_class: int | None = Field(None, gt=0, description="Train on a few-shot subset of N images per class.")
    balance: Balance = Field(
        "none", description="Help rare classes: sample all equally often, or weight the loss. The rule does neither."
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the random train/test split, for data without splits."
    )
    head_init: Literal["zeros", "probe"] | None = Field(
        None, description="Initialise the head with zeros (the rule) or a closed-form linear probe."
    )
    mixup: float | None = Field(None, ge=0, le=10, description="Alpha of mixup; 0 switches it off.")
    resize: int | None = Field(
        None, ge=32, le=4096, description="Side in pixels to which training images are resized before the crop."
    )
    crop: int | None = Field(None, ge=32, le=4096, description="Side in pixels of the network's input.")
    random_crop: bool | None = Field(
        None, examples=["no-crop"], description="Crop training images at random; otherwise resize them to the crop."
    )

    @model_validator(mode="before")
    @classmethod
    def _auto_with_a_budget(cls, options: dict[str, Any]) -> dict[str, Any]:
        if (backbone := options.get("backbone")) == AUTO and options.get("budget") is None:
            raise ValueError("backbone auto is the best within a time: add --budget, such as --budget 5m")
        return {**options, "backbone": AUTO} if backbone is None and options.get("budget") is not None else options

    @model_validator(mode="after")
    def _sides_consistent(self) -> Self:
        if self.resize is not None and self.crop is not None and self.resize < self.crop:
            raise ValueError(f"resize must be at least crop. Received: resize {self.resize}, crop {self.crop}")
        return self


def make_recipe(options: Mapping[str, Any], kind: type[R]) -> R:
    """Return the validated recipe. Raises RecipeError that lists every mistake in one line."""
    try:
        return kind(
            **{key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
        )
    except ValidationError as error:
        raise RecipeError("; ".join(_explained(mistake, kind) for mistake in error.errors())) from None


def load_recipe(name: str) -> dict[str, Any]:
    """Return the options of a YAML file, or of the shipped recipe of that name.

    Raises RecipeError if neither exists, or if the file is not a YAML mapping.
    """
    path = Path(name)
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
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
    """Split "key=value" and parse the value as YAML. Raises RecipeError.

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
    """Return the recipe files of the package by name; those for `distill` are named distill/NAME."""
    package = Path(str(resources.files("hyperrule")))
    installed = package / "recipes"
    # A source tree keeps them beside the package.
    folder = installed if installed.is_dir() else package.parent / "recipes"
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
            return f"option {key!r} is missing: give --{key.replace('_', '-')}"
        case _:
            message = mistake["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            return f"{key}: {message}. Received: {mistake['input']!r}" if key else message


def numbers(value: Any) -> Any:
    """Split the command line's "13,7" into a tuple; wrap a single number into one.

    >>> numbers("13,7"), numbers(13), numbers([13, 7])
    (('13', '7'), (13,), [13, 7])
    """
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int) else value


def paths(value: Any) -> Any:
    """Turn one path or a list of paths into a tuple of text.

    >>> paths("a,b"), paths(["a", "b"])
    (('a,b',), ('a', 'b'))
    """
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, list | tuple):
        return several
    return tuple(os.fspath(one) if isinstance(one, os.PathLike) else one for one in several)


class DistillRecipe(TrainingRecipe):
    """Options of `distill`. None leaves the choice to the paper (arXiv 2106.05237) or the machine."""

    command: ClassVar = "distill"

    teacher: str = Field(
        description="A run folder, a classifier that 'hyperrule backbones' lists, a hub handle, a SavedModel folder, "
        "or a BiT .npz; without a head, its features are matched instead of its logits."
    )
    student: str = Field(
        "r26x0.5",
        description="The BiT to train: r26x0.5, r50x1, ... from scratch; or from weights: a name that 'hyperrule "
        "backbones' lists, a BiT .npz, or a run folder.",
    )
    dataset: Annotated[tuple[str, ...], BeforeValidator(paths)] = Field(
        min_length=1,
        description="Data set as for finetune, or a folder of unlabelled images; only the training split is used, not "
        "its labels. Several data sets form one pool.",
    )
    shares: Annotated[tuple[Annotated[int, Field(gt=0, le=1000)], ...] | None, BeforeValidator(numbers)] = Field(
        None,
        examples=["N,N,..."],
        description="Sampling ratio of the data sets, such as 13,7; default: in proportion to their images.",
    )
    data_dir: str | None = Field(None, examples=["FOLDER"], description="Folder of TFDS or Hugging Face data sets.")
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of finetune's random split; its test images are left out here."
    )
    teacher_range: Annotated[tuple[float, float] | None, BeforeValidator(parse_input_range)] = Field(
        None, examples=["LOW,HIGH"], description="Pixel range that an unknown teacher expects: 0,1 or -1,1 or 0,255."
    )
    teacher_crop: int | None = Field(
        None, ge=32, le=4096, description="Side in pixels of the teacher's input, from the same crop [the student's]."
    )
    crop: int | None = Field(None, ge=32, le=4096, description="Side in pixels of the student's input.")
    least_area: float = Field(
        0.05, ge=0.01, le=1, description="Smallest fraction of the image's area in a random crop; 1: the whole image."
    )
    mixup: bool = Field(True, description="Mixup with a weight uniform in [0, 1].")
    logits_weight: float | None = Field(
        None, ge=0, le=1e6, description="Loss weight of the divergence from the teacher's probabilities."
    )
    features_weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Loss weight of the distance to the teacher's standardised features, by a linear map.",
    )
    temperature: float = Field(1.0, gt=0, le=100, description="Divisor of the logits of teacher and student.")
    weight_decay: float = Field(
        1e-4, ge=0, lt=1, description="Fraction of the kernels subtracted per step at the highest rate."
    )
    warmup: int | None = Field(None, ge=0, le=10**8, description="Steps of warm-up to the highest rate.")
    feature_norm: float | None = Field(
        None, gt=0, le=1e4, description="Rescale the trained student's features to this mean L2 norm."
    )

    @model_validator(mode="after")
    def _one_share_each(self) -> Self:
        if self.shares is not None and len(self.shares) != len(self.dataset):
            raise ValueError(
                f"shares must have one number per data set, {len(self.dataset)}. Received: {len(self.shares)}"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if repeated := sorted({name for name in self.dataset if self.dataset.count(name) > 1}):
            raise ValueError(
                f"dataset must name each data set once; shares sample one more often. Received twice: {repeated[0]}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_match(self) -> Self:
        if self.logits_weight == 0 and not self.features_weight:
            raise ValueError("logits_weight and features_weight must not both be 0")
        return self
