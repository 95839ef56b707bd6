"""A source from somebody else's file, as a user builds with it: here, on Ray, stopped and gone on with."""

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from conformer_gen import build
from conformer_gen.config import BuildConfig
from conformer_gen.run import assemble
from conformer_gen.selection.selection_passes import Passes
from conformer_gen.sources.config import SourceConfig
from tests.helpers.extensions import importable
from unimol_scale.store.shards import open_store

# Started as a script, and not imported: it changes the builder for the process that it is.
ON_RAY = Path(__file__).parents[1] / "helpers" / "build_on_ray.py"
TEXT = "ethanol | CCO | -0.31\nbenzene | c1ccccc1 | 2.13\nhalf a line\nphenol | Oc1ccccc1 | 1.46\nnothing | XX | 0\n"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return the arguments of a build of four molecules, of which one is none, in a folder of packed files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.toy.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "in" / "b.txt").write_text("not | of | these")
    with importable():
        yield ["--source", "toy_source:TOY", "--input", "in", "--workers", "1", "curate.valid_fraction=0"]


def test_a_build_of_it_is_stopped_and_goes_on(command, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "assemble", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert build.main(command) == 2
    assert build.main(command) == 0
    assert "5 rows read = 3 stored" in capsys.readouterr().out
    store = open_store(tmp_path / "data" / "toy")
    assert store.manifest.source == "toy_source:TOY"
    assert store.manifest.labels == {"logP": "log10(octanol/water)"}
    records = store.split("train").column("label:logP").to_pylist()
    assert sorted(records) == pytest.approx([-0.31, 1.46, 2.13])
    assert build.main(command) == 0
    assert "already finished" in capsys.readouterr().out
    (tmp_path / "c.csv").write_text("smiles\nCCO\n")
    assert build.main(["--source", "csv", "--input", "c.csv", "--output", "data/toy"]) == 2
    assert "source: toy_source:TOY → csv" in capsys.readouterr().err


@pytest.mark.ray
def test_on_ray_it_gives_the_same_store(command, tmp_path):
    assert build.main([*command, "--output", "here"]) == 0
    done = subprocess.run(
        [sys.executable, ON_RAY, *command, "--output", "ray"], text=True, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{os.path.dirname(build.__file__)}/.."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one, two) = (open_store(tmp_path / name).manifest.splits["train"].shards for name in ("here", "ray"))
    assert [shard.sha256 for shard in one] == [shard.sha256 for shard in two]


def test_workers_need_not_have_the_file(command, tmp_path):
    config = BuildConfig(source=SourceConfig(name="toy_source:TOY", input=("in",)), output=tmp_path / "out")
    sent = pickle.dumps(Passes(work=tmp_path, config=config))
    code = "import pickle, sys; print(*pickle.load(sys.stdin.buffer).labels); assert 'toy_source' not in sys.modules"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    root = os.path.dirname(os.path.dirname(build.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, check=True, cwd=root, env=environment
    )
    assert done.stdout.decode().strip() == "logP"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("toy_sorce:TOY", "there is no module 'toy_sorce'"),
        ("toy_source:TOYS", "the module toy_source has no 'TOYS'; did you mean 'TOY'"),
        ("toy_source.py:TOY", "unknown source 'toy_source.py:TOY'; name your own code as Python imports it"),
        ("mine:labelled", "row 1 ('a') has 1 labels, but the source has 2 (x, y)"),
        ("mine:flat", "row 1 ('a') has no coordinates, but the source declares geometry='all'"),
        ("mine:other", "must yield conformer_gen.sources.molecule.SourceMolecule, but its row 1 is 'CCO'"),
        ("mine:numbered", "row 1 (7): id must be text, not 7"),
        ("mine:quoted", "row 1 ('a'): the label x must be a number (NaN if missing), not '1.0'"),
        ("mine:silent", "the reader of the source mine:silent must yield rows; it returned None"),
        ("mine:both", "a source has one of the readers read_stream, read_file, read_files, got read_stream, read_file"),
    ],
)
def test_what_is_wrong_with_one_is_told_before_anything_is_built(command, tmp_path, capsys, source, message):
    (tmp_path / "mine.py").write_text(
        "from conformer_gen.sources.molecule import SourceMolecule\n"
        "from conformer_gen.sources.source import Source\n"
        "def source(rows, **more):\n"
        "    return Source(name='mine', suffixes=('.toy',), read_file=lambda path, config: iter(rows), **more)\n"
        "labelled = source([SourceMolecule(id='a', smiles='C', labels=(1.0,))], labels={'x': '', 'y': ''})\n"
        "flat = source([SourceMolecule(id='a', smiles='C')], geometry='all')\n"
        "other = source(['CCO'])\n"
        "numbered = source([SourceMolecule(id=7, smiles='C')])\n"
        "quoted = source([SourceMolecule(id='a', smiles='C', labels=('1.0',))], labels={'x': ''})\n"
        "silent = Source(name='mine', suffixes=('.toy',), read_stream=lambda stream, config: None)\n"
        "def both(): return source([], read_stream=print)\n"
    )
    sys.modules.pop("mine", None)
    assert build.main([*command, "--source", source]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
