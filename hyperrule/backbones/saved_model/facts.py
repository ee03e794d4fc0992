"""Facts of a SavedModel: found once by running it, then read from the cache without TensorFlow."""

import hashlib
from pathlib import Path

from hyperrule.backbones.info import ModuleFacts
from hyperrule.errors import BackboneError
from hyperrule.support.files import atomic_write, cache_folder, file_lock
from hyperrule.support.progress import Reporter, silent_native_stderr

FORMAT = 1  # of the cached facts; other formats are not read


def module_facts(folder: Path, reporter: Reporter) -> ModuleFacts:
    """Return the facts of the SavedModel in `folder`.

    Raises BackboneError if it cannot be a backbone, or if the cache cannot be written.
    """
    sha256 = folder_sha256(folder)
    stored = cache_folder() / "modules" / f"{sha256[:16]}.v{FORMAT}.json"
    with file_lock(stored.with_suffix(".lock"), reporter):
        if (known := _known(stored)) is not None:
            return known
        reporter.say(f"Inspecting {folder} (only once) ...")
        with silent_native_stderr():
            from hyperrule.backbones.saved_model.inspection import inspect
        facts = inspect(folder, sha256, stored.with_suffix(".npz"))
        with atomic_write(stored) as partial:
            partial.write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
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
