"""The zoo of released backbones: its names, the command that lists it, and the classes of the heads."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperrule.backbones import zoo as zoo
from hyperrule.backbones.bit.checkpoints import read_architecture
from hyperrule.backbones.class_names import ClassName, class_names, read_class_names
from hyperrule.backbones.zoo import BUCKET, CLASSES, HUB, ZOO, Released, find, matching, suggestions
from hyperrule.cli.catalogue import backbones_command as command
from hyperrule.errors import BackboneError

KAGGLE = "https://www.kaggle.com/models/"


def spellings(released: Released) -> Iterator[str]:
    """All ways in which people write a name, listed anew rather than taken from the zoo."""
    name = released.name
    yield from (name, name.upper(), f" {name}\n", name.replace("-", "_"))
    if released.source.kind == "bucket":
        file = released.source.location
        yield from (file, file.removesuffix(".npz"), file.split("/")[-1], BUCKET + file, f"gs://bit_models/{file}")
        yield from (f"{name}.npz", file.lower().replace("_", "-"))
    if released.source.kind == "hub":
        owner, *path = name.split("/")
        for handle in (name, f"{name}/1"):
            yield from (
                handle,
                HUB + handle,
                f"tfhub.dev/{handle}",
                f"http://tfhub.dev/{handle}?tf-hub-format=compressed",
            )
    if name.startswith("google/"):
        model, *variation = path
        slug = "-".join(variation).replace("_", "-")
        for framework in ("TensorFlow2", "tensorFlow2", "tensorflow2"):
            for version in ("", "/1"):
                handle = f"{owner}/{model}/{framework}/{slug}{version}"
                yield from (handle, KAGGLE + handle, f"kaggle.com/models/{handle}", f"{KAGGLE}{handle}/")
            long = f"{KAGGLE}{owner}/{model}/frameworks/{framework}/variations/{slug}"
            yield from (long, f"{long}/versions/1", f"{long}/versions/1?tfhub-redirect=true")


def test_every_backbone_is_found_by_all_its_spellings_and_no_spelling_means_two() -> None:
    meant = {}
    for released in ZOO.values():
        for spelling in spellings(released):
            assert find(spelling) is released, spelling
            assert meant.setdefault(spelling.lower(), released) is released, spelling


@pytest.mark.parametrize("architecture", ["r50x1", "r50x3", "r101x1", "r101x3", "r152x2", "r152x4"])
def test_the_imagenet_head_of_bit_s_is_its_own(architecture: str) -> None:
    assert find(f"BiT-S-{architecture}-ILSVRC2012.npz") is ZOO[f"bit-s-{architecture}"]
    assert find(f"bit-m-{architecture}-ilsvrc2012") is not ZOO[f"bit-m-{architecture}"]


def test_another_version_is_another_model() -> None:
    for released in ZOO.values():
        if released.source.kind == "hub":
            for spelling in spellings(released):
                if spelling.endswith("/1"):
                    assert find(f"{spelling[:-1]}2") is None, spelling
                    assert find(f"{spelling}0") is None, spelling


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bit",
        "r50x1",
        "m-r50x1",
        "bit-m-r50",
        "bit-m-r50x2",
        "bit-m-r50x1/1",
        "bit-m-r50x1-imagenet21k",
        "folder/BiT-M-R50x1.npz",
        "./BiT-M-R50x1.npz",
        "google/bit",
        "google/bit/m-r152x2/1",
        "https://tfhub.dev/google/collections/bit/1",
        "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5",
        "https://example.com/google/bit/m-r50x1/1",
        "random-r50x1",
    ],
)
def test_what_is_not_in_the_zoo_is_not_found(name: str) -> None:
    assert find(name) is None


def test_the_zoo_is_complete() -> None:
    assert Counter(released.source.kind for released in ZOO.values()) == {
        "embedded": 1,
        "package": 1,
        "bucket": 3 * 6 + 4,
        "hub": 5 * 3 + 5 * 2 + 8,
        "bring": 5,
    }
    locations = [released.source.location for released in ZOO.values() if released.source.location]
    assert len(locations) == len(set(locations))
    # As the README of big_transfer and the module pages write them.
    assert {
        "BiT-M-R50x1.npz",
        "BiT-M-R152x4-ILSVRC2012.npz",
        "BiT-S-R152x2.npz",
        "distill/R50x1_160.npz",
        "distill/R152x2_T_384.npz",
        "https://tfhub.dev/google/bit/s-r101x3/1",
        "https://tfhub.dev/google/bit/m-r152x4/imagenet21k_classification/1",
        "https://tfhub.dev/google/bit/s-r50x1/ilsvrc2012_classification/1",
        "https://tfhub.dev/sayakpaul/distill_bit_r50x1_160_feature_extraction/1",
        "https://tfhub.dev/sayakpaul/distill_bit_resnet50x1_224_classification/1",
        "https://tfhub.dev/sayakpaul/bit_r152x2_384_feature_extraction/1",
        "https://tfhub.dev/sayakpaul/bit_resnet152x2_224_classification/1",
    } <= set(locations)


def test_figures_agree_with_the_architecture() -> None:
    for released in ZOO.values():
        if released.architecture is not None:
            assert released.parameters == released.architecture.parameters
            assert released.features == released.architecture.features
            assert str(released.architecture).lower() in released.name.replace("resnet", "r")
    # Counts of others, heads of 1,000 classes included: timm's table of results for the BiT, keras-hub for Lite0.
    assert ZOO["bit-s-r50x1"].download_bytes == pytest.approx(4 * 25.55e6, rel=1e-3)
    assert ZOO["bit-s-r152x4"].download_bytes == pytest.approx(4 * 936.53e6, rel=1e-5)
    assert ZOO["efficientnet-lite0"].parameters + 1_281_000 == 4_652_008


def test_input_range_and_head_follow_from_where_the_weights_come_from() -> None:
    for released in ZOO.values():
        unit = released.name.startswith("google/bit/") or released.name == "efficientnet-lite0"
        assert released.input_range == ((0, 1) if unit else (-1, 1)), released.name
        head = released.head and (released.head.activation, released.head.classes)
        if released.source.kind in ("embedded", "bring") or "feature_extraction" in released.name:
            assert head is None
        elif released.family.title == "BiT-M" or "imagenet21k" in released.name:
            assert head == ("sigmoid", 21_843)
        elif released.source.kind == "hub" and "classification" not in released.name:
            assert head is None
        else:
            assert head == ("softmax", 1_000)
        assert (released.source.url or "https://").startswith("https://")


def test_the_embedded_file_is_what_the_zoo_says() -> None:
    released = ZOO["bit-r26x0.5"]
    weights = Path(zoo.__file__).parent / "weights" / released.source.location
    assert read_architecture(weights) == released.architecture


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bit-m-r50x", "bit-m-r50x1"),
        ("BiT-M-R50x1-ILSVRC", "bit-m-r50x1-ilsvrc2012"),
        ("m-r101x3", "bit-m-r101x3"),
        ("google/bit/m-r50x1/2", "google/bit/m-r50x1"),
        ("https://tfhub.dev/google/bit/m-r50x1/feature_vector/1", "google/bit/m-r50x1"),
        ("efficientnet-lite1", "efficientnet-lite0"),
    ],
)
def test_a_slip_is_understood(name: str, meant: str) -> None:
    assert meant in suggestions(name)


def test_nothing_is_suggested_for_something_else() -> None:
    assert suggestions("mobilenet") == []


def test_filter_keeps_the_order_of_the_zoo() -> None:
    assert matching("") == list(ZOO.values())
    assert [released.name for released in matching("M_R50x3")] == [name for name in ZOO if "m-r50x3" in name]


def test_json_has_every_fact_of_every_backbone() -> None:
    printed = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert [backbone["name"] for backbone in printed] == list(ZOO)
    for backbone in printed:
        released = ZOO[backbone["name"]]
        assert backbone["architecture"] == (str(released.architecture) if released.architecture else None)
        assert backbone["input_range"] == list(released.input_range)
        assert backbone["source"]["url"] == released.source.url
        for key in ("features", "parameters", "trained_on", "resolution", "download_bytes", "licence", "reference"):
            assert backbone[key] == getattr(released, key)
            assert backbone[key] or key == "download_bytes"
        if released.head is not None:
            assert backbone["head"] == {
                "activation": released.head.activation,
                "classes": released.head.classes,
                "class_names": released.head.class_names,
            }


def test_the_list_names_every_backbone_once_and_fits() -> None:
    printed = CliRunner().invoke(command, []).stdout
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines if line.split() and line.split()[0] in ZOO] == list(ZOO)
    assert max(map(len, lines)) <= 140
    words = " ".join(printed.split())
    for family in {released.family for released in ZOO.values()}:
        assert sum(line.startswith(f"{family.title}: {family.trained_on}; pixels in ") for line in lines) == 1
        assert f"{family.licence}; {family.reference}" in words


def test_what_the_heading_says_holds_for_the_whole_family() -> None:
    for released in ZOO.values():
        kinds = {other.source.kind for other in ZOO.values() if other.family is released.family}
        assert kinds == {released.source.kind}


def test_a_filter_without_match_gets_one_clear_line() -> None:
    with pytest.raises(
        BackboneError, match=r"no backbone has 'bit-m-r51x1' in its name\. Did you mean 'bit-m-r50x1'\?"
    ):
        CliRunner().invoke(command, ["bit-m-r51x1"], catch_exceptions=False)


def test_listing_does_not_import_tensorflow() -> None:
    code = (
        "import sys; from hyperrule.cli.catalogue import backbones_command as command; "
        "command(['lite'], standalone_mode=False); "
        "assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "efficientnet-lite0" in listed.stdout


def test_classes_are_in_the_order_of_the_heads() -> None:
    for key, classes in CLASSES.items():
        wnids = [entry.wnid for entry in class_names(key)]
        assert len(wnids) == classes
        assert wnids == sorted(set(wnids))
        assert all(entry.name == entry.name.strip() != "" for entry in class_names(key))
    small, large = class_names("imagenet-1k"), class_names("imagenet-21k")
    # Landmarks of the 1,000 that every public list agrees on.
    assert [small[index].name for index in (0, 207, 281, 999)] == [
        "tench",
        "golden retriever",
        "tabby",
        "toilet tissue",
    ]
    assert [small[index].wnid for index in (134, 517)] == ["n02012849", "n03126707"]  # bird and machine, both "crane"
    # Two ids that ImageNet-21k as released has no images of (big_transfer issue 18), one of the 1,000 that it lacks.
    assert {"n03931044", "n09859684"} <= {entry.wnid for entry in large}
    assert {entry.wnid for entry in small} - {entry.wnid for entry in large} == {"n04399382"}


def test_names_of_ones_own_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffcat\nn02012849\tcrane\nwhite stork \n", encoding="utf-8")
    assert read_class_names(path, 3) == (
        ClassName("", "cat"),
        ClassName("n02012849", "crane"),
        ClassName("", "white stork"),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"cat\ndog\n", r"expected for each of the head's 3 classes\. Received: 2 lines"),
        (b"cat\n\ndog\n", r"line 2 is empty"),
        (b"\xff\xfe\x00", r"it is not UTF-8 text"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_a_bad_file_of_class_names_gets_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackboneError, match=says) as raised:
        read_class_names(path, 3)
    assert len(str(raised.value).splitlines()) == 1
