"""The imports of the project as a graph, read from the source files; nothing is imported.

A module has one node. A package has two. The node with its name is for code that uses the package itself, and has all
imports of ``__init__.py``. The node with ``LOADED`` behind the name is for code that only loads the package on the way
to a module inside it. It has the imports at the top level of ``__init__.py`` alone, since those in functions do not run
then. Imports under ``if TYPE_CHECKING`` never run and do not count.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOADED = " (loaded)"
# Node → nodes that it imports.
Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Import:
    """A dotted name that is imported, and whether that happens when the importing module is loaded."""

    name: str
    at_load: bool


def find_modules(root: Path, tops: Iterable[str]) -> dict[str, Path]:
    """Return the dotted name of every module in some folders → its file; a package has the name of its folder."""
    modules = {}
    for top in tops:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if is_package(path) else parts)] = path
    return modules


def is_package(path: Path) -> bool:
    """Return whether a file is the ``__init__.py`` of a package."""
    return path.name == "__init__.py"


def read_imports(path: Path) -> list[Import]:
    """Return what a file imports when it runs; ``from a import b`` imports ``a`` and, if it is a module, ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = list(_imports(tree.body, at_load=True))
    if is_package(path):  # a table of lazy attributes names modules in texts, from the top or from the package
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        package = ".".join(path.parent.relative_to(REPOSITORY).parts)
        found += [Import(name, at_load=False) for text in texts for name in (text, f"{package}.{text}")]
    return found


def _imports(nodes: Iterable[ast.AST], *, at_load: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from the top of the project"
            yield Import(str(node.module), at_load)
            yield from (Import(f"{node.module}.{alias.name}", at_load) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, at_load=at_load)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(ast.iter_child_nodes(node), at_load=at_load and not inside)


class ImportedModules:
    """Which module of the project imports which, directly.

    Args:
        modules: dotted name → file, of ``find_modules``.

    Attributes:
        everything: module → names that it imports when it runs, those of libraries included.
        at_load: the same for imports that run when the module is loaded.
    """

    def __init__(self, modules: Mapping[str, Path]) -> None:
        self._packages = {name for name, path in modules.items() if is_package(path)}
        imports = {name: read_imports(path) for name, path in modules.items()}
        self.everything = {name: {one.name for one in found} - {name} for name, found in imports.items()}
        self.at_load = {name: {one.name for one in found if one.at_load} - {name} for name, found in imports.items()}

    def arrows(self) -> list[tuple[str, str]]:
        """Return (module, module that it imports) of all modules of the project."""
        return [
            (name, other) for name, names in self.everything.items() for other in sorted(names & self.at_load.keys())
        ]

    def graph(self, *, only_at_load: bool = False) -> Graph:
        """Return the graph that the top of this file describes."""
        used = self.at_load if only_at_load else self.everything
        graph = {name: self._targets(name, names) for name, names in used.items()}
        for package in self._packages:
            node = f"{package}{LOADED}"
            graph[node] = self._targets(package, self.at_load[package]) - {node}
            graph[package] |= {node}
        return graph

    def _targets(self, name: str, imported: set[str]) -> frozenset[str]:
        ours = imported & self.at_load.keys()
        return frozenset({*ours, *self._loaded_by(name), *(node for one in ours for node in self._loaded_by(one))})

    def _loaded_by(self, name: str) -> set[str]:
        """Return the packages that are loaded before a module."""
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        return {f"{package}{LOADED}" for package in above if package in self._packages}


def reachable(graph: Graph, start: str) -> dict[str, list[str]]:
    """Return every node that a node leads to → a shortest way there, both ends included."""
    ways = {start: [start]}
    queue = [start]
    for node in queue:
        for other in sorted(graph.get(node, frozenset()) - ways.keys()):
            ways[other] = [*ways[node], other]
            queue.append(other)
    return ways


def find_circles(graph: Graph) -> list[list[str]]:
    """Return a shortest circle for every group of nodes that lead to each other, its first node also at the end."""
    backward: dict[str, set[str]] = {node: set() for node in graph}
    for node, others in graph.items():
        for other in others:
            backward[other].add(node)
    frozen = {node: frozenset(others) for node, others in backward.items()}
    left, circles = set(graph), []
    while left:
        start = min(left)
        ways = reachable(graph, start)
        group = ways.keys() & reachable(frozen, start).keys()
        if len(group) > 1:
            last = min((node for node in group if start in graph[node]), key=lambda node: len(ways[node]))
            circles.append([*ways[last], start])
        left -= group
    return circles
