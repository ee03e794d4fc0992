"""The layout of the package: imports run one way, and the README's map of it is true."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hyperrule"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ENTRIES = sorted(entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__")

Graph = Mapping[str, set[str]]


def imports(module: str) -> set[str]:
    """Modules of the package that a module imports: at its top, in functions, and for type checkers."""
    return set(imported(ast.parse(MODULES[module].read_text(encoding="utf-8")))) - {module, "hyperrule"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


def entry_of(module: str) -> str:
    return module.split(".")[1]


def circle(graph: Graph) -> str:
    """The modules of a circle, in their order; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


MODULE_GRAPH: Graph = {module: imports(module) for module in MODULES if module != "hyperrule"}
ENTRY_GRAPH: Graph = {
    entry: {entry_of(target) for module in MODULE_GRAPH if entry_of(module) == entry for target in MODULE_GRAPH[module]}
    - {entry}
    for entry in map(entry_of, MODULE_GRAPH)
}


def summary(entry: Path) -> str:
    """The first line of an entry's docstring."""
    source = entry / "__init__.py" if entry.is_dir() else entry
    documented = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    assert documented, f"{source} has no docstring"
    return documented.splitlines()[0]


def map_in_readme() -> list[tuple[str, str]]:
    """Entry and summary, a line each, of the README's section "How it is built"."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## How it is built")[1].split("\n## ")[0]
    lines = section.split("\n    hyperrule/\n")[1].split("\n\n")[0].splitlines()
    return [(name, text.strip()) for name, text in (line.split(maxsplit=1) for line in lines)]


def test_a_circle_is_named() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in {
        "a <- c <- b <- a",
        "b <- a <- c <- b",
        "c <- b <- a <- c",
    }
    assert circle({"a": {"b"}, "b": set()}) == ""


def test_imports_in_functions_count() -> None:
    source = (
        "def f():\n    from hyperrule.rule import schedule\nif TYPE_CHECKING:\n    from hyperrule.data import source\n"
    )
    assert set(imported(ast.parse(source))) == {"hyperrule.rule", "hyperrule.data.source"}


@pytest.mark.parametrize("graph", [MODULE_GRAPH, ENTRY_GRAPH], ids=["modules", "folders"])
def test_imports_make_no_circle(graph: Graph) -> None:
    assert not circle(graph)


def test_no_module_is_imported_by_a_string() -> None:
    by_string = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id == "__import__")
        or (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.alias) and node.name in ("importlib", "import_module"))
    ]
    assert not by_string


def test_few_entries_and_modules_of_a_size() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert len(ENTRIES) <= 22
    assert len(lines) <= 200
    assert median(lines.values()) >= 110
    assert {module: count for module, count in lines.items() if count > 400} == {}


def test_the_map_in_the_readme_is_that_of_the_docstrings() -> None:
    shown = {name.rstrip("/"): text for name, text in map_in_readme()}
    there = {entry.name: summary(entry) for entry in ENTRIES if not entry.name.startswith("__")}
    assert shown == there


def test_every_entry_imports_only_what_stands_below_it_in_the_readme() -> None:
    order = [name.rstrip("/").removesuffix(".py") for name, _ in map_in_readme()]
    upwards = {
        f"{entry} -> {target}"
        for place, entry in enumerate(order)
        for target in ENTRY_GRAPH[entry]
        if target in order[:place]
    }
    assert not upwards


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in MODULES.values()} - {PACKAGE}), ids=lambda path: path.name
)
def test_every_folder_says_what_it_holds(folder: Path) -> None:
    assert summary(folder).endswith((".", "?"))
