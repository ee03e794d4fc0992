"""What was asked of a distillation: one strict set of options, from a YAML file, the command line or Python."""

import os
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from hyperrule.backbones.input_range import parse_input_range
from hyperrule.recipe import TrainingRecipe


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
