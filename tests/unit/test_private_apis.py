"""What other libraries do not promise is there: every entry of ``private_apis.py``, and no use without an entry."""

import argparse
import ast
import builtins
import ctypes
import errno
import functools
import importlib
import importlib.util
import inspect
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import types
from importlib.metadata import version
from multiprocessing import queues, reduction
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from unimol_scale.common.machine.devices import full_memory
from unimol_scale.private_apis import PRIVATE_APIS, VERSIONS, PrivateApi

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for top in ("unimol_scale", "conformer_gen", "launch") for p in (REPOSITORY / top).rglob("*.py"))
PACKAGES = ("unimol_scale", "conformer_gen", "launch")
# Documented, for all that their names begin with an underscore.
PUBLIC = {"__abstractmethods__", "_exit", "_replace", "_asdict", "_fields", "_make", "_thread", "_fields_"}


def cases(kind: str) -> list[object]:
    return [
        pytest.param(entry, name, id=f"{entry.owner}-{name}")
        for entry in PRIVATE_APIS
        if entry.kind == kind
        for name in entry.names
    ]


def told(entry: PrivateApi, problem: str) -> str:
    """Return what whoever raises a version needs to know."""
    release = sys.version.split()[0] if entry.library == "python" else version(entry.library)
    return f"{entry.library} {release}: {problem}; used in {', '.join(entry.where)} for: {entry.why}"


# --- attributes ---


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str | None]]:
    """What is wrong with DeepSpeed's engines: owner → name → problem or None."""
    folder = tmp_path_factory.mktemp("engines")
    command = [sys.executable, "-m", "tests.helpers.private_probe", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "RANK"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


def takes(function: object, number: int) -> bool:
    return callable(function) and len(inspect.signature(function).parameters) == number


def launcher_problem(name: str) -> str | None:
    module = name if name.startswith("deepspeed") else "deepspeed.launcher.launch"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"there is no module {module} any more"
    option = "" if name == module else name
    return None if option in Path(spec.origin).read_text() else f"{module} has no option {name} any more"


def oneDNN_problem() -> str | None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    a, b, bias = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    found = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return None if torch.allclose(found, a @ b + bias, atol=1e-5) else "_linear_pointwise is another function now"


def instance_of(owner: str) -> object:
    """Return what has the attributes of an entry: the named object, or an example of it where those are its own."""
    if owner == "argparse.ArgumentParser":
        return argparse.ArgumentParser()
    if owner == "ray.exceptions.RayTaskError":
        return importlib.import_module("ray.exceptions").RayTaskError("a task", "its traceback", ValueError())
    module, found = owner, []
    while importlib.util.find_spec(module.partition(".")[0]) and not found:
        try:
            found = [importlib.import_module(module)]
        except ModuleNotFoundError:
            module = module.rpartition(".")[0]
    return functools.reduce(getattr, filter(None, owner.removeprefix(module).split(".")), found[0])


@pytest.mark.deepspeed
@pytest.mark.parametrize(("entry", "name"), cases("attribute"))
def test_an_attribute_is_there_and_of_the_right_shape(
    entry: PrivateApi, name: str, engines: dict[str, dict[str, str | None]]
) -> None:
    if entry.owner in engines:
        problem = engines[entry.owner].get(name, "tests/helpers/private_probe.py does not look at it")
    elif entry.owner == "modules of its launchers":
        problem = launcher_problem(name)
    elif entry.owner == "tensorboard.compat.proto":
        problem = None if importlib.util.find_spec(f"{entry.owner}.{name}") else f"{entry.owner} has no {name} any more"
    elif not hasattr(instance_of(entry.owner), name):
        problem = f"{entry.owner} has no attribute {name!r} any more"
    elif name == "_on_queue_feeder_error":
        problem = None if takes(queues.Queue._on_queue_feeder_error, 2) else f"{name} takes other arguments now"
    elif name == "_apply":
        problem = None if takes(torch.nn.Module._apply, 3) else f"{name} takes other arguments now"
    elif name == "_linear_pointwise":
        problem = oneDNN_problem()
    elif name == "masked_crc32c":
        crc32c = getattr(instance_of(entry.owner), name)
        problem = None if crc32c(b"unimol") == crc32c(bytearray(b"unimol")) > 0 else f"{name} is no number of bytes now"
    else:
        problem = None
    assert problem is None, told(entry, problem or "")


# --- texts ---


class Ends(Dataset[int]):
    """One item, whose loader process gets a signal instead, or raises."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> int:
        if not self.number:
            raise ConnectionError("by the item")
        os.kill(os.getpid(), self.number)
        return at


def loading(number: int = 0) -> str:
    loader = DataLoader(Ends(number), num_workers=1, multiprocessing_context="fork")
    with pytest.raises((RuntimeError, ConnectionError)) as caught:
        list(loader)
    return str(caught.value)


def in_fresh_process(code: str) -> str:
    """Return what a program prints; it changes limits of its own process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


LIMITED = """
import os, resource, signal, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{limit}
try:
    torch.empty(1 << 20).share_memory_()
except RuntimeError as error:
    print(error)
"""
SMALL_FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))"
NO_FILES = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
"""
LOST_RANK = """
import os, sys, torch
import torch.distributed as dist
from datetime import timedelta
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
dist.all_reduce(torch.ones(1))
if rank:
    os._exit(0)
sys.stdin.readline()  # until the other one is gone, with nothing on its way
try:
    for _ in range(1000):
        dist.all_reduce(torch.ones(1 << 16))
except RuntimeError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.fixture(scope="session")
def lost_rank(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a rank says whose only neighbour has ended."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    commands = [[sys.executable, "-c", LOST_RANK, str(rank), str(meeting)] for rank in range(2)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(command, **pipes) for command in commands)
    second.communicate(timeout=300)
    return first.communicate("it is\n", timeout=300)[0]


def text_in_torch(text: str, name: str = "libtorch_cpu.so") -> str:
    """Return the text if torch's library holds it; for what no test can bring about."""
    library = Path(torch.__file__).parent / "lib" / name
    if not library.is_file():
        pytest.skip("this torch is built in another way")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return text if content.find(text.encode()) >= 0 else ""


def gloo_text(name: str, said: str) -> str:
    """Return what gloo said; what it says else, when the other rank ends at another moment, are the system's words."""
    systems = {os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE)}
    return name if name in systems and "gloo/transport" in said else said


def taken_port() -> str:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(dist.DistNetworkError) as caught:
            dist.TCPStore("127.0.0.1", other.getsockname()[1], 1, is_master=True)
    return str(caught.value)


def full_host() -> str:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    return str(caught.value)


def lost_descriptor() -> str:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        left.send(b"x")
        with pytest.raises(RuntimeError) as caught:
            reduction.recvfds(right, 1)
    return str(caught.value)


def refused_words(capsys: pytest.CaptureFixture[str]) -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objective", choices=["denoise", "blend"])
    for words in (["--objective", "denoize"], ["--steps=3"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
    return capsys.readouterr().err


def nccl_text() -> str:
    for name in ("libnccl.so.2", "libnccl.so"):
        try:
            describe = ctypes.CDLL(name).ncclGetErrorString
        except OSError:
            continue
        describe.restype = ctypes.c_char_p
        return str(describe(6).decode())  # ncclRemoteError
    pytest.skip("there is no NCCL here")


def full_device(name: str) -> str:
    if name.startswith("_"):
        return text_in_torch(f"CUBLAS_STATUS{name}", "libtorch_cuda.so")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 48, dtype=torch.uint8, device="cuda")
    return name if full_memory(RuntimeError(str(caught.value))) else str(caught.value)


@pytest.mark.parametrize(("entry", "name"), cases("text"))
def test_an_error_still_says_so(
    entry: PrivateApi, name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    provoke = {
        "a loader process that was killed": lambda: loading(signal.SIGKILL),
        # torch notices such a death in one of two ways, and names the signal in one of them.
        "a loader process that died of a full shared memory": lambda: (
            text_in_torch("is killed by signal: {}", "libtorch_python.so") and str(signal.strsignal(signal.SIGBUS))
        ),
        "an error that a loader process raised itself": loading,
        # Only a full /dev/shm brings about the last one.
        "shared memory that has no room": lambda: (
            in_fresh_process(LIMITED.format(limit=SMALL_FILES)) if name == "/torch_" else text_in_torch(name)
        ),
        "a file that cannot be opened because too many are": lambda: in_fresh_process(LIMITED.format(limit=NO_FILES)),
        "a port that is taken": taken_port,
        "the allocator of the host": full_host,
        "libraries of a GPU": lambda: full_device(name),
        "gloo when another rank is gone": lambda: gloo_text(name, request.getfixturevalue("lost_rank")),
        "NCCL when another rank is gone": nccl_text,
        "multiprocessing when a descriptor does not arrive": lost_descriptor,
        "argparse when a word is not understood": lambda: refused_words(capsys),
    }[entry.owner]
    said = provoke()
    assert name in said, told(entry, f"{entry.owner}: its message has no {name!r} any more, but: {said!r}")


# --- the list itself ---


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = {"python": project["requires-python"]}
    for requirement in project["dependencies"]:
        name, _, bounds = re.fullmatch(r"([\w-]+)(\[\w+\])?(.*)", requirement).groups()
        pins[name] = bounds
    assert {name: pins[name] for name in VERSIONS} == VERSIONS
    assert {entry.library for entry in PRIVATE_APIS} == set(VERSIONS)


@pytest.mark.parametrize("entry", PRIVATE_APIS, ids=lambda entry: f"{entry.owner}-{entry.names[0]}")
def test_an_entry_names_the_files_that_use_it(entry: PrivateApi) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES if path.name in entry.where}
    for place in entry.where:
        used = [name for path, text in texts.items() for name in entry.names if path.name == place and name in text]
        assert used, f"{place} uses nothing of {entry.names}; take it out of private_apis.py"
    everything = "".join(texts.values())
    unused = [name for name in entry.names if name not in everything]
    assert not unused, f"nobody uses {unused}; take them out of private_apis.py"


def private_names(tree: ast.AST) -> list[tuple[int, str]]:
    """Return (line, name) of every attribute and module whose name says that it is not public, and of ``getattr``'s."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, part) for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(PACKAGES):
            found += [(node.lineno, part) for part in (node.module or "").split(".")]
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            found += [(node.lineno, str(a.value)) for a in node.args[1:2] if isinstance(a, ast.Constant)]
    return [(line, name) for line, name in found if name.startswith("_") and not is_ordinary(name)]


def is_ordinary(name: str) -> bool:
    """Return whether a name with two underscores is one of the language's."""
    return name.startswith("__") and any(
        hasattr(thing, name)
        for thing in (object, type, types.FunctionType, builtins, BaseException, importlib, dict, int)
    )


def own_names(trees: dict[str, ast.AST]) -> dict[str, set[str]]:
    """Return file → what is called with an underscore there, and in files with classes that its own inherit from."""
    nodes = {path: list(ast.walk(tree)) for path, tree in trees.items()}
    place_of = {node.name: path for path in nodes for node in nodes[path] if isinstance(node, ast.ClassDef)}
    defined = {path: names_given(nodes[path]) for path in nodes}

    def own(path: str) -> set[str]:
        bases = {
            base.id
            for node in nodes[path]
            if isinstance(node, ast.ClassDef)
            for base in node.bases
            if isinstance(base, ast.Name)
        }
        return defined[path].union(*(own(place_of[base]) for base in bases if place_of.get(base, path) != path))

    return {path: own(path) for path in trees}


def names_given(nodes: list[ast.AST]) -> set[str]:
    """Return the functions, classes, variables and attributes of itself that a file gives names to."""
    own: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            # Of itself; what is stored elsewhere belongs to another.
            own |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
    return own


def unlisted(sources: dict[str, ast.AST]) -> list[str]:
    own = own_names(sources)
    listed = {(place, part) for e in PRIVATE_APIS for place in e.where for name in e.names for part in name.split(".")}
    return [
        f"{path}:{line} uses {name!r}"
        for path, tree in sources.items()
        for line, name in private_names(tree)
        if name not in own[path] | PUBLIC and (Path(path).name, name) not in listed
    ]


def asks_a_message(tree: ast.AST) -> bool:
    """Return whether a file looks for words in ``str(error)``."""
    found = False
    for node in ast.walk(tree):
        sides = node.comparators if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.func.attr in ("search", "match", "fullmatch", "startswith", "endswith")
            sides = [*([node.func.value] if asked else []), *(node.args if asked else [])]
        for side in sides:
            if isinstance(side, ast.Call) and isinstance(side.func, ast.Name) and side.func.id == "str":
                names = {argument.id for argument in side.args if isinstance(argument, ast.Name)}
                found = found or bool(names & {"error", "exc", "cause"})
    return found


def test_nothing_of_another_library_is_used_without_an_entry() -> None:
    trees = {str(path.relative_to(REPOSITORY)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert not unlisted(trees), "add them to unimol_scale/private_apis.py, with a test"
    listed = {place for entry in PRIVATE_APIS if entry.kind == "text" for place in entry.where}
    asking = {Path(path).name for path, tree in trees.items() if asks_a_message(tree)}
    assert not asking - listed, "the texts that these look for belong into unimol_scale/private_apis.py"


@pytest.mark.parametrize(
    "code",
    [
        "optimizer._hidden",
        "getattr(optimizer, '_hidden')",
        "from torch._C import x",
        "deepspeed.ops.__hidden__ = {}",
        "engine._config",  # as attributes in other files of the project are called
    ],
)
def test_such_a_use_is_found(code: str) -> None:
    others = {"unimol_scale/other.py": ast.parse("class Other:\n    def __init__(self):\n        self._config = 1")}
    found = unlisted({"unimol_scale/new.py": ast.parse(code), **others})
    assert [place.partition(" ")[0] for place in found] == ["unimol_scale/new.py:1"]


def test_what_a_class_of_the_project_inherits_is_its_own() -> None:
    base = "class Other:\n    def __init__(self):\n        self._config = 1"
    heir = "class New(Other):\n    def read(self):\n        return self._config"
    sources = {"unimol_scale/other.py": ast.parse(base), "unimol_scale/new.py": ast.parse(heir)}
    assert not unlisted(sources)
