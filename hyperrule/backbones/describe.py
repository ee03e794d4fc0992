"""`describe_backbone`: from a user's name for a backbone to its facts, and the file or folder to load."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from hyperrule.backbones.bit.architecture import Architecture
from hyperrule.backbones.bit.checkpoints import read_architecture
from hyperrule.backbones.fetch import bucket, hub
from hyperrule.backbones.info import (
    BIT_RANGE,
    INPUT_RANGES,
    BackboneInfo,
    InputRange,
    Kind,
    ModuleFacts,
    OpaqueNetwork,
    flag_value,
    shown_range,
)
from hyperrule.backbones.lite0 import package
from hyperrule.backbones.zoo import ZOO, Released, find, suggestions
from hyperrule.errors import BackboneError
from hyperrule.support.files import cache_folder, file_lock, write_text
from hyperrule.support.progress import Reporter, silent_native_stderr
from hyperrule.support.wording import resume_command

ARCHIVES = (".tar.gz", ".tgz", ".tar")
CARD = "model_card.md"  # the file that a run writes last
# The input range that fits best is accepted if it is at most PLAUSIBLE standard deviations off (EfficientNet-Lite0
# measured 0.16), and the second-best at least DISTINCT times as far.
PLAUSIBLE, DISTINCT = 0.6, 3.0
MODULE_FORMAT = 1  # of cached facts; other formats are not read
LISTED = "listed by 'hyperrule backbones'"


class UnknownInputRange(BackboneError):
    """The input range of a SavedModel that is not a BiT is unknown.

    `failed_proof` says why the module is not a BiT although it looks like one; None if it does not look like one.
    """

    def __init__(self, message: str, failed_proof: str | None) -> None:
        super().__init__(message)
        self.failed_proof = failed_proof


def describe_backbone(
    backbone: str,
    reporter: Reporter | None = None,
    *,
    input_range: InputRange | None = None,
    fetch: bool = True,
) -> BackboneInfo:
    """Return the facts of a backbone.

    `backbone` is a name of the zoo, a hub handle or URL, a SavedModel folder or archive, a BiT .npz, a run folder, or
    seeded random weights ("random-r50x1"; for tests and as a lower bound). With `fetch`, missing files are downloaded;
    without, a name of the zoo is described from its table and has no `path`. TensorFlow runs a SavedModel once, to
    inspect it.

    Raises BackboneError for an unknown name, a failed download, a file that is not a backbone, and an input range
    that is unknown or contradicts the known one.
    """
    reporter = reporter or Reporter(quiet=True)
    path = Path(os.path.expanduser(backbone))
    if is_backbone(path):
        return _of_path(path.resolve(), input_range, reporter)
    if (released := find(backbone)) is not None:
        return _of_zoo(released, input_range, fetch, reporter)
    if (random := re.fullmatch(r"random-r(\d+)x(\d+(?:\.\d+)?)", backbone.lower())) is not None:
        try:
            architecture = Architecture(int(random[1]), float(random[2]))
        except ValueError as error:
            raise BackboneError(f"backbone {backbone!r}: {error}") from None
        name = f"random-{str(architecture).lower()}"
        return _of_bit(name, "random", "seeded random weights", architecture, None, None, input_range)
    if (handle := hub.as_handle(backbone)) is not None:
        return _of_module(backbone, "hub", handle, hub.resolve(handle, reporter), input_range, None, reporter)
    if path.suffix == ".npz":
        raise BackboneError(f"backbone file {path} does not exist.")
    close = suggestions(backbone)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    what = (
        f"{path} is neither a SavedModel folder nor a run folder" if path.exists() else f"unknown backbone {backbone!r}"
    )
    raise BackboneError(
        f"{what}.{hint} Allowed: a name that 'hyperrule backbones' lists, a hub handle or URL, "
        "or the path of a BiT checkpoint (.npz), a SavedModel folder or .tar.gz, or a run folder."
    )


def backbones_at_hand(reporter: Reporter | None = None) -> list[BackboneInfo]:
    """Return the backbones that need no download, the most promising for little time first.

    These are EfficientNet-Lite0 if its package is installed, the embedded BiT, then the downloaded ones of the zoo,
    the smallest first.
    """

    def here(released: Released) -> bool:
        match released.source.kind:
            case "package":
                return package.installed()
            case "hub":
                return hub.cached(released.source.location) is not None
            case "bucket":
                return bucket.cached(released.source.location) is not None
            case kind:
                return kind == "embedded"

    order = ("package", "embedded", "bucket", "hub")
    found = sorted(
        filter(here, ZOO.values()), key=lambda released: (order.index(released.source.kind), released.parameters)
    )
    return [describe_backbone(released.name, reporter, fetch=False) for released in found]


def is_backbone(path: Path) -> bool:
    """Whether `path` is a file or folder with a backbone in it; if not, it is taken for a name."""
    if os.path.isdir(path):  # unlike Path.is_dir, never an error
        return (path / "saved_model.pb").is_file() or (path / "plan.json").is_file()
    return os.path.isfile(path) and path.name.endswith((".npz", *ARCHIVES))


def is_finished(run: Path) -> bool:
    """Whether the run in the folder `run` is finished."""
    return (run / CARD).is_file()


def _of_path(path: Path, input_range: InputRange | None, reporter: Reporter) -> BackboneInfo:
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        return _of_run(path, input_range, reporter)
    if path.suffix == ".npz":
        return _of_bit(path.name, "file", str(path), read_architecture(path), path, None, input_range)
    folder = path if path.is_dir() else hub.unpack(path, reporter)
    return _of_module(path.name, "file", str(path), folder, input_range, None, reporter)


def _of_run(run: Path, input_range: InputRange | None, reporter: Reporter) -> BackboneInfo:
    """Describe the trained backbone of a finished run: its weights.npz if it is a BiT, else its export."""
    if not is_finished(run):
        raise BackboneError(f"{run} is an unfinished run. Finish it first: {resume_command(run)}")
    try:
        is_bit = json.loads((run / "plan.json").read_text(encoding="utf-8"))["backbone"]["depth"] is not None
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{run / 'plan.json'} is damaged: {error}.") from None
    if is_bit:
        weights = run / "weights.npz"
        return _of_bit(run.name, "file", str(run), read_architecture(weights), weights, None, input_range)
    return _of_module(run.name, "file", str(run), run / "export" / "saved_model" / "1", input_range, None, reporter)


def _of_zoo(released: Released, input_range: InputRange | None, fetch: bool, reporter: Reporter) -> BackboneInfo:
    name, source = released.name, released.source
    match source.kind:
        case "embedded":
            path = Path(str(resources.files("hyperrule.backbones"))) / "weights" / source.location
            return _of_bit(name, "embedded", released.trained_on, read_architecture(path), path, None, input_range)
        case "bring":
            raise BackboneError(
                f"{name} was never released. If you have its file, give its path: --backbone {name.upper()}.npz"
            )
        case "package":
            folder = _lite0(reporter)
            return _of_module(name, "package", source.location, folder, input_range, released.input_range, reporter)
        case "hub" if fetch or hub.cached(source.location) is not None:
            folder = hub.resolve(source.location, reporter)
            described = _of_module(name, "hub", source.location, folder, input_range, released.input_range, reporter)
            if described.network not in (None, released.architecture):
                raise BackboneError(
                    f"{folder} is {described.architecture}, not {released.architecture} as {name} should be."
                )
            return described
        case "bucket" if fetch or bucket.cached(source.location) is not None:
            weights = bucket.fetch(source.location, reporter)
            architecture = read_architecture(weights.path)
            if architecture != released.architecture:
                raise BackboneError(f"{weights.path} is {architecture}; {name} is {released.architecture}.")
            return _of_bit(name, "bucket", source.location, architecture, weights.path, weights.sha256, input_range)
    assert released.architecture is not None
    _check_range(name, input_range, released.input_range, LISTED)
    described = _of_bit(name, source.kind, source.location, released.architecture, None, None, None)
    size = f"{released.download_bytes / 2**20:.0f} MiB" if released.download_bytes else "size not known beforehand"
    return described.model_copy(update={"notes": (f"not here yet ({size}): finetune downloads it",)})


def _lite0(reporter: Reporter) -> Path:
    """Return the SavedModel's folder; TensorFlow makes it on first use."""
    if (folder := package.module_folder()).is_dir() and package.head_file().is_file():
        return folder
    with silent_native_stderr():
        from hyperrule.backbones.lite0.lite0 import lite0_saved_model
    return lite0_saved_model(reporter.say)


def _of_bit(
    name: str,
    kind: Kind,
    origin: str,
    architecture: Architecture,
    path: Path | None,
    sha256: str | None,
    input_range: InputRange | None,
) -> BackboneInfo:
    """Describe a BiT checkpoint, or random weights."""
    _check_range(name, input_range, BIT_RANGE, "every BiT checkpoint does")
    if path is not None and sha256 is None:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return BackboneInfo(
        name=name,
        kind=kind,
        origin=origin,
        path=None if path is None else str(path),
        sha256=sha256,
        architecture=str(architecture),
        depth=architecture.depth,
        width=architecture.width,
        opaque=None,
        features=architecture.features,
        parameters=architecture.parameters,
        input_range=BIT_RANGE,
    )


def _of_module(
    name: str,
    kind: Kind,
    origin: str,
    folder: Path,
    asked: InputRange | None,
    known: InputRange | None,
    reporter: Reporter,
) -> BackboneInfo:
    """Describe a SavedModel: a BiT whose arrays were transplanted, or an opaque graph.

    `asked` is the user's input range, `known` the zoo's.
    """
    facts = module_facts(folder, reporter)
    if facts.depth is not None and facts.width is not None and facts.weights is not None:
        own = facts.own_range or BIT_RANGE
        _check_range(name, asked, own, "proved by comparing it with the native network")
        architecture = Architecture(facts.depth, facts.width)
        note = (
            f"a BiT by the {facts.matched_by} of its variables, run natively: outputs within "
            f"{max(facts.differences):.0e} of the original, which takes {shown_range(own)} and converts inside"
        )
        described = _of_bit(name, kind, origin, architecture, Path(facts.weights), facts.sha256, None)
        return described.model_copy(update={"notes": (note,)})
    assert facts.opaque is not None  # true of every SavedModel that was not transplanted
    input_range, reason = _range_of(name, facts, asked, known)
    notes = [f"not a BiT: runs as an opaque graph, in float32; input range: {reason}", *_peculiarities(facts.opaque)]
    if facts.failed_proof is not None:
        notes.append(f"not run natively: {facts.failed_proof}")
    return BackboneInfo(
        name=name,
        kind=kind,
        origin=origin,
        path=str(folder),
        sha256=facts.sha256,
        architecture="SavedModel",
        depth=None,
        width=None,
        opaque=facts.opaque,
        features=facts.features,
        parameters=facts.parameters,
        input_range=input_range,
        notes=tuple(notes),
    )


def _peculiarities(module: OpaqueNetwork) -> Iterator[str]:
    """Yield what makes an opaque network train differently from a BiT."""
    if module.keeps_statistics:
        yield "its batch norm updates in training, so results depend on the micro-batch, which the plan fixes"
    if module.draws_random_numbers:
        yield "it uses its own random numbers in training: a resumed run is not bit-identical"
    if module.penalties:
        yield f"it adds {module.penalties} own regularisation losses"


def _range_of(
    name: str, facts: ModuleFacts, asked: InputRange | None, known: InputRange | None
) -> tuple[InputRange, str]:
    """Return the input range of a SavedModel that is not a BiT, and how it is known.

    Raises UnknownInputRange if neither the module, the zoo, a measurement nor the user says.
    """
    if facts.own_range is not None:
        _check_range(name, asked, facts.own_range, "stated by the module")
        return facts.own_range, "stated by the module"
    if known is not None:
        _check_range(name, asked, known, LISTED)
        return known, LISTED
    measured = ", ".join(f"{off:.3g} with {shown_range(candidate)}" for candidate, off in facts.deviations)
    evidence = f"standard deviations between real photographs and its first batch norm's statistics: {measured}"
    ranked = sorted(facts.deviations, key=lambda item: item[1])
    if ranked and ranked[0][1] <= PLAUSIBLE and ranked[1][1] >= DISTINCT * ranked[0][1]:
        best = ranked[0][0]
        _check_range(name, asked, best, evidence)
        return best, evidence
    if asked is not None:
        return asked, "set by the user"
    why = evidence if measured else "it has no batch norm to compare with"
    raise UnknownInputRange(
        f"the input range of {name} is unknown ({why}). "
        f"Set it with --input-range: {' or '.join(map(flag_value, INPUT_RANGES))}; its documentation should say which.",
        facts.failed_proof,
    )


def _check_range(name: str, asked: InputRange | None, true: InputRange, why: str) -> None:
    if asked is not None and tuple(asked) != tuple(true):
        raise BackboneError(
            f"{name} takes images in {shown_range(true)} ({why}). Received: --input-range {flag_value(asked)}, "
            "which would cost accuracy silently. Leave it out: hyperrule converts images itself."
        )


def module_facts(folder: Path, reporter: Reporter) -> ModuleFacts:
    """Return the facts of the SavedModel in `folder`.

    Raises BackboneError if it cannot be a backbone, or if the cache cannot be written.
    """
    sha256 = folder_sha256(folder)
    stored = cache_folder() / "modules" / f"{sha256[:16]}.v{MODULE_FORMAT}.json"
    with file_lock(stored.with_suffix(".lock"), reporter):
        if (known := _known(stored)) is not None:
            return known
        reporter.say(f"Inspecting {folder} (only once) ...")
        with silent_native_stderr():
            from hyperrule.backbones.saved_model.inspection import inspect
        facts = inspect(folder, sha256, stored.with_suffix(".npz"))
        write_text(stored, facts.model_dump_json(indent=2) + "\n")
    return facts


def _known(stored: Path) -> ModuleFacts | None:
    """Return the facts in a file; None if it or its .npz of weights is missing or damaged."""
    try:
        facts = ModuleFacts.model_validate_json(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if facts.weights is None or Path(facts.weights).is_file() else None


def folder_sha256(folder: Path) -> str:
    """Return one hash over the graph and the variables of a SavedModel. Raises BackboneError if there is none."""
    graph = folder / "saved_model.pb"
    if not graph.is_file():
        raise BackboneError(f"{folder} holds no SavedModel: it has no saved_model.pb.")
    digest = hashlib.sha256()
    for path in [graph, *sorted((folder / "variables").glob("*"))]:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
