"""The imports of the project as a graph, read from the source files; nothing is imported.

A module has one node. A package has two: its name for who uses something of the package itself, and its name with
``LOADED`` for who only loads it on the way to a module inside. The second node has the imports at the top level of
``__init__.py`` alone, since those that stand in functions do not run when the package is loaded. Imports under
``if TYPE_CHECKING`` never run and do not count.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOADED = " (loaded)"
Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Import:
    """One imported name: dotted as it is written, and whether it is imported when the module is loaded."""

    name: str
    at_load: bool


def find_modules(root: Path, tops: Iterable[str]) -> dict[str, Path]:
    """Return the dotted name of every module under some folders → its file; a package has the name of its folder."""
    modules = {}
    for top in tops:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def is_package(path: Path) -> bool:
    """Return whether a file is that of a package itself."""
    return path.name == "__init__.py"


def read_imports(path: Path) -> list[Import]:
    """Return what a file imports when it runs: each name, and for ``from a import b`` both ``a`` and ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = list(_imports(tree.body, at_load=True))
    if is_package(path):  # names of modules in a table of lazy attributes
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found += [Import(text, at_load=False) for text in texts if text.replace(".", "").isidentifier()]
    return found


def _imports(nodes: Iterable[ast.AST], *, at_load: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield Import(str(node.module), at_load)
            yield from (Import(f"{node.module}.{alias.name}", at_load) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, at_load=at_load)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (Import(a.value, at_load) for a in node.args if isinstance(a, ast.Constant))
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(ast.iter_child_nodes(node), at_load=at_load and not inside)


def used_modules(modules: Mapping[str, Path], *, only_at_load: bool = False) -> dict[str, set[str]]:
    """Return module → the modules of the project that it uses by name, itself left out."""
    used = {}
    for name, path in modules.items():
        imports = [one for one in read_imports(path) if one.at_load or not only_at_load]
        used[name] = {one.name for one in imports if one.name in modules} - {name}
    return used


def import_graph(modules: Mapping[str, Path], *, only_at_load: bool = False) -> Graph:
    """Return node → nodes that it imports, see the top of this file."""
    packages = {name for name, path in modules.items() if is_package(path)}
    at_load = used_modules(modules, only_at_load=True)
    used = at_load if only_at_load else used_modules(modules)

    def loads(name: str) -> set[str]:
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        return {f"{package}{LOADED}" for package in above if package in packages}

    def targets(owner: str, names: Iterable[str]) -> frozenset[str]:
        reached = loads(owner).union(*(loads(name) for name in names), names)
        return frozenset(node for node in reached if node != owner)

    graph = {name: targets(name, names) for name, names in used.items()}
    for package in packages:
        graph[f"{package}{LOADED}"] = targets(package, at_load[package]) - {f"{package}{LOADED}"}
        graph[package] |= {f"{package}{LOADED}"}
    return graph


def reachable(graph: Graph, start: str) -> dict[str, list[str]]:
    """Return every node that a node leads to → the shortest way to it."""
    ways = {start: [start]}
    queue = [start]
    for node in queue:
        for other in sorted(graph[node] - ways.keys()):
            ways[other] = [*ways[node], other]
            queue.append(other)
    return ways


def find_circles(graph: Graph) -> list[list[str]]:
    """Return a shortest circle through every group of nodes that lead to each other."""
    left = set(graph)
    circles = []
    while left:
        start = min(left)
        ways = reachable(graph, start)
        group = {node for node in ways if start in reachable(graph, node)} if len(ways) > 1 else {start}
        if len(group) > 1:
            back = (reachable(graph, other) for other in graph[start] if other in group)
            circles.append([start, *min((ways[start] for ways in back if start in ways), key=len)])
        left -= group
    return circles
