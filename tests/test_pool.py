"""What a distillation sees: pools of unlabelled images, their crop windows, and how often each data set is sampled."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from hyperrule.data.images import Examples, TableColumn, joined
from hyperrule.data.open import open_source
from hyperrule.data.pipeline import training_batches
from hyperrule.data.pool import Pool, _threshold, open_pool
from hyperrule.data.preprocess import InceptionAugmentation
from hyperrule.errors import DataError
from hyperrule.support.progress import Reporter

COUNT = 300


def encoded(number: int) -> bytes:
    """One of many images, each of other pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:03d}.png").write_bytes(encoded(number))
    return folder


def pool_of(*datasets: Path, **options: bool) -> Pool:
    skip_corrupt = options.get("skip_corrupt", False)
    return open_pool(list(map(str, datasets)), None, 0, skip_corrupt, Reporter(quiet=True))


def images_of(examples: Examples) -> set[bytes]:
    return set(examples.encoded())


def test_a_flat_folder_is_a_pool_and_two_per_cent_are_held_out(tmp_path: Path) -> None:
    pool = pool_of(folder_of(tmp_path / "photos", range(COUNT)))
    (part,) = pool.info.parts
    assert part.kind == "unlabelled folder"
    assert part.examples + part.held_out == COUNT
    assert part.held_out == 20  # 2 % would be too few to tell anything
    assert len(pool.training) == part.examples
    assert images_of(pool.training).isdisjoint(images_of(pool.held_out))
    assert set(pool.class_names) == {""}


def test_equal_images_of_two_data_sets_are_held_out_together(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path / "one", range(COUNT)), folder_of(tmp_path / "two/a", range(COUNT)).parent
    pool = pool_of(one, two)
    assert images_of(pool.training).isdisjoint(images_of(pool.held_out))
    assert pool.info.parts[0].sha256 == pool.info.parts[1].sha256
    assert len(pool.held_out) == 2 * pool.info.parts[0].held_out


def test_only_training_images_count_and_names_of_files_do_not(tmp_path: Path) -> None:
    for split, numbers in (("train", range(COUNT)), ("test", range(COUNT, COUNT + 50))):
        folder_of(tmp_path / "data" / split / "b", numbers)
    folder_of(tmp_path / "data/train/a", range(1000, 1010))
    pool = pool_of(tmp_path / "data")
    everything = images_of(pool.training) | images_of(pool.held_out)
    assert everything == {encoded(number) for number in (*range(COUNT), *range(1000, 1010))}
    in_order = list(pool.training.encoded())
    os.rename(tmp_path / "data/train/a", tmp_path / "data/train/c")
    again = pool_of(tmp_path / "data")
    assert again.info.sha256 == pool.info.sha256
    assert list(again.training.encoded()) == in_order


def test_bad_images_are_named_or_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", range(COUNT))
    (folder / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of the files of .*photos .*: bad\.jpg .*--skip-corrupt"):
        pool_of(folder)
    assert list(pool_of(folder, skip_corrupt=True).info.parts[0].skipped) == ["bad.jpg"]
    folder_of(tmp_path / "only/test/a", range(3))
    with pytest.raises(DataError, match="nothing to train on"):
        pool_of(tmp_path / "only")
    assert len(pool_of(folder_of(tmp_path / "two", range(2))).held_out) == 1
    one = folder_of(tmp_path / "one", range(1))
    with pytest.raises(DataError, match="one image is not enough"):
        pool_of(one)


def test_what_finetune_tests_on_is_not_in_the_pool(image_folder: Path) -> None:
    pool = pool_of(image_folder)
    test = open_source(str(image_folder)).examples("test")
    assert images_of(test).isdisjoint(images_of(pool.training) | images_of(pool.held_out))
    assert len(pool.training) + len(pool.held_out) == 16
    assert set(pool.class_names) == {"cold", "warm"}


def test_large_pools_hold_out_a_thousand() -> None:
    fractions = np.random.default_rng(0).random(200_000)
    assert np.sum(fractions < _threshold(fractions)) == 1000
    fractions = np.random.default_rng(0).random(30_000)
    assert np.sum(fractions < _threshold(fractions)) == pytest.approx(600, abs=80)


def test_data_sets_of_one_name_are_told_apart_and_ignored_options_refused(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path / "one/train", range(50)), folder_of(tmp_path / "two/train", range(50, 100))
    names = [part.name for part in pool_of(one, two).info.parts]
    assert len(set(names)) == 2
    with pytest.raises(DataError, match="--data-dir means nothing"):
        open_pool([str(one)], tmp_path, 0, False, Reporter(quiet=True))


def test_contents_of_several_kinds_are_joined(tmp_path: Path) -> None:
    column = TableColumn.of([encoded(1), encoded(2)])
    mixed = joined([column, TableColumn.of([encoded(3)])])
    assert [mixed[index] for index in range(3)] == [encoded(1), encoded(2), encoded(3)]
    assert mixed.take(np.array([2, 0]))[0] == encoded(3)


def tagged(labels: list[int]) -> Examples:
    """Images of one colour, which is their number."""
    images = []
    for number in range(len(labels)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, number, number)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return Examples([str(number) for number in range(len(labels))], np.array(labels, np.int32), TableColumn.of(images))


def test_every_round_draws_each_data_set_by_its_share() -> None:
    examples = tagged([0] * 6 + [1] * 5)
    opaque = InceptionAugmentation(crop=8, least_area=1.0, random_flip=False, mixup=0.0)
    batches = training_batches(examples, 2, opaque, 4, 4, range(30), seed=0, shares=[3, 1])
    drawn = [np.rint(batch.images.numpy()[:, 0, 0, 0] * 255).astype(int) for batch in batches]
    assert all(np.sum(step < 6) == 3 for step in drawn)
    first, second = (np.concatenate([step[(step < 6) == which] for step in drawn]) for which in (True, False))
    for numbers, size in ((first, 6), (second, 5)):  # in passes, each of another order
        passes = numbers[: len(numbers) // size * size].reshape(-1, size)
        assert all(len(set(one)) == size for one in passes)
        assert len({tuple(one) for one in passes}) > 1


def test_windows_have_the_areas_and_aspect_ratios_of_the_paper() -> None:
    """The pixels of the image are their own coordinates, so that a window says where it was."""
    side = 200
    rows, columns = np.mgrid[:side, :side]
    buffer = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, columns], axis=-1).astype(np.uint8)).save(buffer, "PNG")
    crop = 16
    augment = tf.function(InceptionAugmentation(crop, least_area=0.05, random_flip=True, mixup=0.0))
    seeds = [tf.constant([7, position], tf.int64) for position in range(200)]
    windows = [augment(buffer.getvalue(), seed).numpy() * 255 for seed in seeds]
    assert np.array_equal(windows[0], augment(buffer.getvalue(), seeds[0]).numpy() * 255)
    heights = np.array([window[-1, 0, 0] - window[0, 0, 0] for window in windows]) * crop / (crop - 1)
    widths = np.array([window[0, -1, 1] - window[0, 0, 1] for window in windows]) * crop / (crop - 1)
    areas, ratios = np.abs(heights * widths) / side**2, np.abs(widths) / heights
    assert areas.min() > 0.045
    assert areas.min() < 0.08
    assert areas.max() > 0.9
    assert ratios.min() > 0.7
    assert ratios.max() < 1.4
    assert 60 < np.sum(widths < 0) < 140  # mirrored
    corners = np.array([window[0, 0, 0] for window in windows])
    assert corners.max() > 100
