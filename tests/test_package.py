"""The wheel, built once, in a clean environment outside the source tree; and what it says that it needs."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from hashlib import sha256
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_every_package_that_is_imported_is_declared() -> None:
    """Not one that another package happens to bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (lines for extra, lines in project["optional-dependencies"].items() if extra != "dev")
    lines = [*project["dependencies"], *chain.from_iterable(extras)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    imported = set()
    for file in (ROOT / "hyperrule").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add((node.module or "").partition(".")[0])
    packages = packages_distributions()
    missing = {
        name
        for name in imported - sys.stdlib_module_names - {"hyperrule"}
        if declared.isdisjoint(map(canonicalize_name, packages.get(name, [name])))
    }
    assert len(imported) > 40
    assert not missing


def test_wheel_carries_recipes_and_weights_and_runs_outside_the_source_tree(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str) -> str:
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr[-2000:]
        return finished.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    recipes = sorted(path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml"))
    packed = [name.removeprefix("hyperrule/recipes/") for name in names if name.startswith("hyperrule/recipes/")]
    assert sorted(packed) == recipes
    weights = "hyperrule/backbones/weights/bit-r26x0.5"
    with zipfile.ZipFile(wheel) as packed_files:
        assert sha256(packed_files.read(f"{weights}.npz")).hexdigest() in packed_files.read(f"{weights}.md").decode()
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "recipes/")) for name in names)

    venv.create(tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel))
    # What it needs is here already, in what the tests run in; the source tree, which is there too, is not found so.
    (site,) = (tmp_path / "clean").glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = str(python.with_name("hyperrule"))
    listed = json.loads(run(command, "recipes", "--json"))
    assert sorted(f"{recipe['name']}.yaml" for recipe in listed) == recipes
    assert all(Path(recipe["file"]).is_relative_to(tmp_path / "clean") for recipe in listed)
    short = ["--steps", "2", "--batch", "8", "--crop", "32", "--head-init", "probe", "--out", "run", "--json"]
    result = json.loads(run(command, "finetune", "--dataset", "digits", *short))
    assert result["top1"] > 0.5
    assert (tmp_path / "run" / "export" / "saved_model" / "1" / "saved_model.pb").is_file()
