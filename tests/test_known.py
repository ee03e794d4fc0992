"""Augmentations that destroy labels: known data sets, and hints from class names."""

import string

import pytest

from hyperrule.data.label_safety import destroys_label, hints


@pytest.mark.parametrize(
    ("name", "label", "off"),
    [
        ("dsprites", "label_orientation", {"flip"}),
        ("dsprites", "label_x_position", {"flip", "crop"}),
        ("dsprites", "label_y_position", {"crop"}),
        ("dSprites-location", "label", {"flip", "crop"}),
        ("dsprites", "label_shape", set()),
        ("smallnorb", "label_azimuth", {"flip"}),
        ("smallnorb", "label_elevation", set()),
        ("clevr", "count_all", {"crop"}),
        ("someone/clevr-closest-distance", None, {"crop"}),
        ("clevr", None, set()),
        ("dmlab", "label", {"crop"}),
        ("kitti", "closest_vehicle_distance", {"crop"}),
        ("kitti", "type", set()),
        ("cifar10", "label", set()),
    ],
)
def test_destroys_label(name: str, label: str | None, off: set[str]) -> None:
    assert set(destroys_label(name, label)) == off


@pytest.mark.parametrize(
    "names",
    [
        ["left", "right"],
        ["left", "straight"],
        ["turn_left", "turn_right", "stop"],
        ["PointLeft", "PointRight"],
        ["left eye", "right eye"],
        ["clockwise", "anti-clockwise"],
        ["spin clockwise", "spin counter-clockwise"],
        ["north", "east", "south", "west"],
        ["north-east wind", "north-west wind"],
    ],
)
def test_directions(names: list[str]) -> None:
    (hint,) = hints(names)
    assert "sides" in hint
    assert "--no-flip" in hint
    assert "--no-crop" not in hint


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (list("0123456789"), "if these are digits"),
        (["zero", "one", "two"], "digits"),
        (["Three", "Seven"], "digits"),
        (list(string.ascii_uppercase), "letters"),
        ([*string.ascii_uppercase, "del", "nothing", "space"], "letters"),
        (list(string.digits + string.ascii_letters), "letters"),
    ],
)
def test_signs(names: list[str], word: str) -> None:
    (hint,) = hints(names)
    assert word in hint
    assert "--no-flip" in hint
    assert "--no-crop" in hint


@pytest.mark.parametrize(
    "names",
    [
        ["bright", "dark", "leftover", "copyright"],
        ["right whale", "blue whale"],
        ["West Highland white terrier", "North American otter", "East Siberian laika"],
        ["northern lights", "southern cross"],
        ["0", "1"],
        [str(number) for number in range(100)],
        ["one", "many"],
        ["a", "b"],
        ["x", "fish", "fowl", "y", "z", "ant", "bee"],
        ["数字", "😀"],
        [],
    ],
)
def test_no_false_alarm(names: list[str]) -> None:
    assert hints(names) == ()
