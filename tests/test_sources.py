"""The contract of all sources: the same labelled images are the same data set in every format."""

import hashlib
import importlib
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from writers import LabelledImage

import hyperrule
from hyperrule.data.images import Examples
from hyperrule.data.open import source_of
from hyperrule.data.pipeline import evaluation_batches, training_batches
from hyperrule.data.preprocess import Augmentation
from hyperrule.data.selection import few_shot
from hyperrule.data.source import Source
from hyperrule.recipe import Recipe, make_recipe
from hyperrule.support.progress import Reporter

KINDS = ("image_folder", "archive", "manifest", "arrays", "tar_shards", "tfrecords", "tfds", "huggingface")
KEEPS_BYTES = tuple(kind for kind in KINDS if kind != "arrays")
CLASSES = ("bird", "cat", "dog")
SIZES = {"train": 12, "validation": 3, "test": 4}  # images of each class
SIDE = 24  # pixels


def labelled_images() -> list[LabelledImage]:
    """Noise tinted by class, as JPEG: by split, class and name."""
    rng = np.random.default_rng(0)
    images = []
    for split, count in SIZES.items():
        for label, class_name in enumerate(CLASSES):
            for number in range(count):
                pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[..., label] += 120
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG")
                images.append(LabelledImage(split, class_name, f"{number:02d}.jpg", buffer.getvalue()))
    return images


IMAGES = labelled_images()


@pytest.fixture(scope="module")
def options_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From a kind to the options of a recipe for the images, written as that kind."""

    @cache
    def written(kind: str) -> dict[str, Any]:
        if kind == "huggingface":
            pytest.importorskip("datasets", reason="pip install 'hyperrule[hf]'")
        return dict(importlib.import_module(f"writers.{kind}").write(tmp_path_factory.mktemp(kind), IMAGES))

    return written


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERRULE_CACHE_DIR", str(tmp_path / "cache"))


def opened(options: dict[str, Any]) -> Source:
    return source_of(make_recipe(options, Recipe), Reporter(quiet=True))


def hashes(examples: Examples) -> list[str]:
    return [hashlib.sha256(encoded).hexdigest() for encoded in examples.encoded()]


def expected(split: str, class_name: str) -> set[str]:
    """Hashes of the images of a class."""
    return {hashlib.sha256(i.encoded).hexdigest() for i in IMAGES if (i.split, i.class_name) == (split, class_name)}


def pixels_of(encoded: bytes) -> bytes:
    return Image.open(io.BytesIO(encoded)).convert("RGB").tobytes()


def test_facts(kind: str, options_of: Any) -> None:
    info = opened(options_of(kind)).info
    assert info.class_names == CLASSES
    assert {split: facts.per_class for split, facts in info.splits.items()} == {
        split: (count,) * 3 for split, count in SIZES.items()
    }
    assert (info.height, info.width) == (SIDE, SIDE)
    assert info.warnings == ()


@pytest.mark.parametrize("kind", KEEPS_BYTES)
def test_images_are_those_that_were_written_and_the_fingerprint_says_so(kind: str, options_of: Any) -> None:
    source = opened(options_of(kind))
    for split in SIZES:
        examples = source.examples(split)
        found = np.array(hashes(examples))
        for label, class_name in enumerate(CLASSES):
            assert set(found[examples.labels == label]) == expected(split, class_name)
        assert len(set(examples.ids)) == len(examples)
    assert source.info.sha256 == opened(options_of("image_folder")).info.sha256


def test_arrays_hold_the_pixels(options_of: Any) -> None:
    examples = opened(options_of("arrays")).examples("test")
    written = {pixels_of(image.encoded) for image in IMAGES if image.split == "test"}
    assert {pixels_of(encoded) for encoded in examples.encoded()} == written


def test_order_is_that_of_every_opening(kind: str, options_of: Any) -> None:
    first, second = (opened(options_of(kind)) for _ in range(2))
    assert first.listing_sha256() == second.listing_sha256()
    one, other = first.examples("train"), second.examples("train")
    assert list(one.ids) == list(other.ids)
    assert hashes(one) == hashes(other)
    assert hashes(pickle.loads(pickle.dumps(one))) == hashes(one)


@pytest.mark.parametrize("kind", KEEPS_BYTES)
def test_few_shot_subsets_are_balanced_and_those_of_every_other_kind(kind: str, options_of: Any) -> None:
    def subset(source: Source, seed: int) -> Examples:
        examples = source.examples("train")
        return examples.take(few_shot(examples.labels, CLASSES, 5, seed))

    source = opened(options_of(kind))
    chosen = subset(source, 1)
    assert np.bincount(chosen.labels).tolist() == [5, 5, 5]
    assert hashes(chosen) == hashes(subset(opened(options_of("image_folder")), 1))
    assert hashes(chosen) != hashes(subset(source, 2))


def stream(examples: Examples, steps: range) -> Iterator[tuple[bytes, bytes]]:
    augmentation = Augmentation(resize=20, crop=16, random_crop=True, random_flip=True, mixup=0.1)
    for batch in training_batches(examples, 3, augmentation, 10, 5, steps, seed=7):
        yield batch.images.numpy().tobytes(), batch.targets.numpy().tobytes()


def test_resuming_at_a_step_goes_on_as_if_never_stopped(kind: str, options_of: Any) -> None:
    examples = opened(options_of(kind)).examples("train")
    whole = list(stream(examples, range(6)))
    assert len(whole) == 12
    assert list(stream(examples, range(4, 6))) == whole[8:]
    if kind in KEEPS_BYTES:
        assert whole == list(stream(opened(options_of("image_folder")).examples("train"), range(6)))


def test_evaluation_sees_every_image_once(kind: str, options_of: Any) -> None:
    examples = opened(options_of(kind)).examples("test")
    batches = list(evaluation_batches(examples, 3, SIDE, 5))
    weights = np.concatenate([batch.weights for batch in batches])
    images = np.rint(255 * np.concatenate([batch.images for batch in batches])[weights > 0]).astype(int)
    assert len(images) == len(examples) == 12
    written = [pixels_of(encoded) for encoded in examples.encoded()]
    for image, pixels in zip(images, written, strict=True):  # decoders of JPEG differ by a level or two
        assert np.abs(image - np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3)).max() <= 4


def test_description_needs_no_tensorflow(kind: str, options_of: Any) -> None:
    script = (
        "import hyperrule, json, sys\n"
        "planned = hyperrule.plan(**json.loads(sys.argv[1]))\n"
        "print(planned.examples.value, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", script, json.dumps(options_of(kind))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["36", "False"]


def test_plans_agree_but_for_what_the_data_is_stored_in(options_of: Any) -> None:
    plans = [hyperrule.plan(**options_of(kind), examples_per_class=4) for kind in ("image_folder", "manifest", "tfds")]
    for planned in plans[1:]:
        assert plans[0].differences(planned) == []
