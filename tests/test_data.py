"""Sources, subsets and pipelines: what they read, in which order, and what stays the same."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from hyperrule.data.images import Examples, TableColumn
from hyperrule.data.open import open_source
from hyperrule.data.pipeline import evaluation_batches, training_batches, undecodable
from hyperrule.data.preprocess import Augmentation, decode, for_evaluation
from hyperrule.data.selection import Shard, few_shot, hold_out
from hyperrule.errors import DataError


def test_digits_are_scikit_learns() -> None:
    source, expected = open_source("digits"), load_digits()
    together = [source.examples(split) for split in ("train", "test")]
    assert sorted(name for examples in together for name in examples.ids) == [f"digits/{i:04d}" for i in range(1797)]
    for examples in together:
        indices = [int(name.removeprefix("digits/")) for name in examples.ids]
        assert examples.labels.tolist() == expected.target[indices].tolist()
        pixels = np.stack([decode(examples.contents[i]).numpy()[..., 0] for i in range(50)])
        assert np.array_equal(pixels, np.rint(expected.images[indices[:50]] * 255 / 16))


def test_folder_without_splits_is_split_by_class(image_folder: Path) -> None:
    source = open_source(str(image_folder))
    assert source.info.class_names == ("cold", "warm")
    assert source.info.splits["train"].per_class == (8, 8)
    assert source.info.splits["test"].per_class == (2, 2)
    assert set(source.examples("train").ids).isdisjoint(source.examples("test").ids)
    assert (source.info.height, source.info.width) == (20, 24)
    other = open_source(str(image_folder), split_seed=1)
    assert other.examples("test").ids != source.examples("test").ids


def test_folder_with_splits_keeps_them(image_folder: Path, tmp_path: Path) -> None:
    for split, first, last in (("train", 0, 6), ("val", 6, 8), ("test", 8, 10)):
        for name in ("cold", "warm"):
            (tmp_path / "split" / split / name).mkdir(parents=True)
            for index in range(first, last):
                os.link(
                    image_folder / name / f"{index:02d}.jpg", tmp_path / "split" / split / name / f"{index:02d}.jpg"
                )
    (tmp_path / "split/train/cold/notes.txt").write_text("no image")
    info = open_source(str(tmp_path / "split")).info
    assert {split: facts.examples for split, facts in info.splits.items()} == {"train": 12, "validation": 4, "test": 4}
    assert "left out: 1 file without the extension of an image" in info.notes


@pytest.mark.parametrize("mode", ["P", "1"])
def test_bmp_with_a_palette_is_refused(mode: str, image_folder: Path) -> None:
    """TensorFlow's decoder takes the palette's indices for grey."""
    Image.new("RGB", (8, 8), "red").convert(mode).save(image_folder / "cold" / "palette.bmp")
    with pytest.raises(DataError, match=r"cold/palette\.bmp .BMP with a palette"):
        _ = open_source(str(image_folder)).info


def test_fingerprint_follows_content(image_folder: Path) -> None:
    before = open_source(str(image_folder)).info.sha256
    assert open_source(str(image_folder)).info.sha256 == before
    image = image_folder / "cold/00.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert open_source(str(image_folder)).info.sha256 != before


def test_few_shot_subsets_are_balanced_nested_and_seeded() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 100).astype(np.int32)
    names = ("a", "b", "c")
    five, ten = few_shot(labels, names, 5, seed=1), few_shot(labels, names, 10, seed=1)
    assert np.bincount(labels[five]).tolist() == [5, 5, 5]
    assert set(five) < set(ten)
    assert np.array_equal(five, few_shot(labels, names, 5, seed=1))
    assert not np.array_equal(five, few_shot(labels, names, 5, seed=2))


def test_hold_out_keeps_equal_images_together() -> None:
    labels, groups = np.zeros(40, np.int32), np.arange(40) // 4
    train, test = hold_out(labels, groups, seed=0)
    assert len(test) == 8
    assert set(groups[train]).isdisjoint(groups[test])
    for part in hold_out(labels, np.zeros(40, np.int64), seed=0):
        assert len(part)


def test_hold_out_takes_a_fifth_of_each_class_and_at_least_one() -> None:
    labels = np.array([0] * 10 + [1] * 2, np.int32)
    train, test = hold_out(labels, np.arange(12), seed=0)
    assert np.bincount(labels[test]).tolist() == [2, 1]
    assert sorted([*train, *test]) == list(range(12))


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp"])
def test_every_format_decodes_alike_eagerly_and_in_a_pipeline(extension: str, tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(24) * 4, np.arange(30) * 4).astype(np.uint8)
    options = {"lossless": True} if extension == "webp" else {"quality": 95} if extension == "jpg" else {}
    Image.fromarray(smooth).convert("RGB").save(tmp_path / f"image.{extension}", **options)
    encoded = (tmp_path / f"image.{extension}").read_bytes()
    pixels = decode(encoded).numpy()
    assert pixels.shape == (24, 30, 3)
    assert np.abs(pixels[..., 0].astype(int) - smooth).max() <= 4
    dataset = tf.data.Dataset.from_tensors(encoded).map(lambda content: for_evaluation(content, 16))
    assert np.array_equal(next(dataset.as_numpy_iterator()), for_evaluation(encoded, 16).numpy())


def stream(examples: Examples, mixup: float, micro_batch: int, steps: range, seed: int = 3) -> list[np.ndarray]:
    """Images, targets of every example that counts, in order."""
    augmentation = Augmentation(resize=20, crop=16, random_crop=True, random_flip=True, mixup=mixup)
    batches = list(training_batches(examples, 10, augmentation, 12, micro_batch, steps, seed))
    return [
        np.concatenate([getattr(batch, part).numpy()[batch.weights.numpy() > 0] for batch in batches])
        for part in ("images", "targets")
    ]


@pytest.mark.parametrize("mixup", [0.0, 0.1])
def test_training_stream_depends_on_nothing_but_seed_and_position(mixup: float) -> None:
    examples = open_source("digits").examples("train").take(np.arange(30))
    images, targets = stream(examples, mixup, 12, range(6))
    assert images.shape == (72, 16, 16, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    assert targets.sum(axis=1) == pytest.approx(np.ones(72))
    for micro_batch in (5, 4, 1):
        assert all(map(np.array_equal, stream(examples, mixup, micro_batch, range(6)), (images, targets)))
    later = stream(examples, mixup, 12, range(4, 6))
    assert np.array_equal(later[0], images[48:])
    assert not np.array_equal(stream(examples, mixup, 12, range(6), seed=4)[0], images)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize(("workers", "devices", "micro_batch"), [(2, 1, 2), (3, 2, 1), (5, 1, 4)])
def test_workers_share_every_step_without_overlap(mixup: float, workers: int, devices: int, micro_batch: int) -> None:
    examples = open_source("digits").examples("train").take(np.arange(30))
    augmentation = Augmentation(20, 16, random_crop=True, random_flip=True, mixup=mixup)

    def rows(shard: Shard, micro_batch: int, step: int) -> list[np.ndarray]:
        options = (augmentation, 12, micro_batch, range(step, step + 1), 3, "none", shard)
        batches = list(training_batches(examples, 10, *options))
        assert len(batches) == shard.rounds(12, micro_batch) * shard.devices
        return [image for batch in batches for image in batch.images.numpy()[batch.weights.numpy() > 0]]

    for step in (0, 7):
        parts = [rows(Shard(index, workers, devices), micro_batch, step) for index in range(workers)]
        assert np.array_equal(np.concatenate(parts), np.stack(rows(Shard(), 12, step)))


def test_every_pass_sees_every_example_once_in_another_order() -> None:
    examples = open_source("digits").examples("train").take(np.arange(24))
    plain = Augmentation(resize=16, crop=16, random_crop=False, random_flip=False, mixup=0.0)
    seen = [batch.images.numpy() for batch in training_batches(examples, 10, plain, 12, 12, range(4), 0)]
    passes = [np.concatenate(seen[:2]), np.concatenate(seen[2:])]
    expected = sorted(for_evaluation(content, 16).numpy().tobytes() for content in examples.encoded())
    assert [sorted(image.tobytes() for image in images) for images in passes] == [expected, expected]
    assert not np.array_equal(*passes)


def test_mixup_blends_neighbours_with_one_lambda_a_step() -> None:
    examples = open_source("digits").examples("train").take(np.arange(30))
    images, targets = stream(examples, 0.0, 12, range(3))
    mixed_images, mixed_targets = stream(examples, 1.0, 12, range(3))
    lambdas = []
    for step in range(3):
        here = slice(12 * step, 12 * step + 12)
        next_image, next_target = (np.roll(array[here], -1, axis=0) for array in (images, targets))
        # lambda by least squares from the pixels; it must then explain pixels and targets alike.
        difference = (images[here] - next_image).ravel()
        mixing = difference @ (mixed_images[here] - next_image).ravel() / (difference @ difference)
        blended = mixing * images[here] + (1 - mixing) * next_image
        assert np.abs(blended - mixed_images[here]).max() < 1e-5
        assert mixed_targets[here] == pytest.approx(mixing * targets[here] + (1 - mixing) * next_target, abs=1e-5)
        lambdas.append(mixing)
    assert len({round(float(mixing), 4) for mixing in lambdas}) == 3


def imbalanced() -> Examples:
    """Twelve images of class 0, four of class 1, two of class 2."""
    examples = open_source("digits").examples("train")
    return examples.take(np.concatenate([np.flatnonzero(examples.labels == c)[:n] for c, n in enumerate((12, 4, 2))]))


PLAIN = Augmentation(resize=16, crop=16, random_crop=False, random_flip=False, mixup=0.0)


def test_balancing_sampler_draws_each_class_once_a_round_and_each_example_once_a_pass() -> None:
    examples = imbalanced()
    batches = list(training_batches(examples, 3, PLAIN, 9, 9, range(8), 0, balance="sampler"))
    labels = np.concatenate([batch.targets.numpy().argmax(axis=1) for batch in batches])
    assert all(sorted(labels[start : start + 3]) == [0, 1, 2] for start in range(0, 72, 3))
    assert len({tuple(labels[start : start + 3]) for start in range(0, 72, 3)}) > 1
    drawn = np.array([image.tobytes() for batch in batches for image in batch.images.numpy()])
    for label, size in enumerate((12, 4, 2)):
        of_class = drawn[labels == label]
        assert all(len(set(of_class[start : start + size])) == size for start in range(0, 24, size))
    resumed = list(training_batches(examples, 3, PLAIN, 9, 3, range(5, 8), 0, balance="sampler"))
    assert np.array_equal(
        np.concatenate([batch.images for batch in resumed]).reshape(3, 9, -1)[0], np.reshape(batches[5].images, (9, -1))
    )


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_balancing_loss_weighs_classes_by_their_rarity(mixup: float) -> None:
    augmentation = Augmentation(resize=16, crop=16, random_crop=False, random_flip=False, mixup=mixup)
    batches = list(training_batches(imbalanced(), 3, augmentation, 18, 5, range(2), 0, balance="loss"))
    targets, weights = (np.concatenate([getattr(b, part).numpy() for b in batches]) for part in ("targets", "weights"))
    real = weights > 0
    assert real.sum() == 36
    assert weights[real] == pytest.approx(targets[real] @ (18 / (3 * np.array([12, 4, 2]))), rel=1e-5)
    assert weights.sum() == pytest.approx(36, rel=1e-5)


def test_evaluation_sees_every_example_once_and_pads_with_weight_zero() -> None:
    examples = open_source("digits").examples("test").take(np.arange(10))
    batches = list(evaluation_batches(examples, 10, 16, 4))
    weights = np.concatenate([batch.weights.numpy() for batch in batches])
    assert weights.tolist() == [1.0] * 10 + [0.0] * 2
    images = np.concatenate([batch.images.numpy() for batch in batches])[weights > 0]
    assert np.array_equal(images, np.stack([for_evaluation(content, 16).numpy() for content in examples.encoded()]))


def test_evaluation_is_shared_without_overlap() -> None:
    examples = open_source("digits").examples("test").take(np.arange(10))
    shards = [Shard(index, 3, 2) for index in range(3)]
    parts = [list(evaluation_batches(examples, 10, 16, 1, shard)) for shard in shards]
    assert {len(part) for part in parts} == {4}
    shown = np.concatenate([batch.images.numpy()[batch.weights.numpy() > 0] for part in parts for batch in part])
    assert np.array_equal(shown, np.stack([for_evaluation(content, 16).numpy() for content in examples.encoded()]))


def test_undecodable_names_the_bad_ones() -> None:
    good = open_source("digits").examples("test").take(np.arange(3))
    contents = [good.contents[0], good.contents[1][:40], good.contents[2]]
    assert undecodable(good) == []
    assert undecodable(Examples(["a", "b", "c"], good.labels, TableColumn.of(contents))) == ["b"]
