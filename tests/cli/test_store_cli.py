"""``unimol-scale store info|verify|convert`` as a user calls them."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.store_samples import chain_record, write_store
from unimol_scale.cli.main import main
from unimol_scale.store.manifest import MANIFEST_NAME, Backend
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo
from unimol_scale.store.shards import Store

RECORDS = [chain_record(number) for number in range(12)]


@pytest.fixture(params=["arrow", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return write_store(tmp_path / "store", RECORDS[:9], RECORDS[9:], backend=request.param)


def test_info_prints_counts_and_recipe(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", str(store.path)]) == 0
    output = capsys.readouterr().out
    assert "12 stored" in output
    assert "9 molecules" in output
    assert store.manifest.backend in output


def test_info_prints_labels_with_units_and_what_the_conformers_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = dataclasses.replace(
        chain_record(0, max_conformers=1, num_labels=2),
        conformer_origin=np.array([ConformerOrigin.FLAT], np.uint8),
        conformer_stereo=np.array([ConformerStereo.OPEN], np.uint8),
        labels=(1.0, math.nan),
    )
    store = write_store(tmp_path / "store", [flat] * 6, labels={"gap": "eV", "active": ""})
    assert main(["store", "info", str(store.path)]) == 0
    output = capsys.readouterr().out
    for said in ("gap (eV): 6 molecules", "active (no unit): 0 molecules", "FLAT 6", "OPEN 6"):
        assert said in output
    assert main(["store", "verify", str(store.path)]) == 0


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
def test_verify_finds_labels_that_are_not_what_the_manifest_says(
    tmp_path: Path, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite = dataclasses.replace(chain_record(0, num_labels=1), labels=(math.inf,))
    store = write_store(tmp_path / "a", [infinite], labels={"gap": "eV"}, backend=backend)
    assert main(["store", "verify", str(store.path)]) == 1
    assert "a label is infinite" in capsys.readouterr().out
    store = write_store(tmp_path / "b", [chain_record(0, num_labels=1)], labels={"gap": "eV"}, backend=backend)
    manifest = store.path / MANIFEST_NAME
    tree = json.loads(manifest.read_text())
    tree["splits"]["train"]["shards"][0]["labelled"] = {"gap": 0}
    manifest.write_text(json.dumps(tree))
    assert main(["store", "verify", str(store.path)]) == 1
    assert "its labelled are {'gap': 1}, the manifest says {'gap': 0}" in capsys.readouterr().out


def test_verify_passes_an_intact_store(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "verify", str(store.path)]) == 0
    assert "4 shards, 12 molecules, all intact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(_flip(path.read_bytes())), "SHA-256 differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "the manifest says"),
        (Path.unlink, "missing"),
    ],
)
def test_verify_names_the_damaged_shard_and_fails(
    store: Store, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    bad = store.manifest.splits["train"].shards[1].file
    damage(store.path / bad)
    assert main(["store", "verify", str(store.path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged")]
    assert len(lines) == 1
    assert bad in lines[0]
    assert said in lines[0]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_convert_writes_the_other_format(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"arrow": "lmdb", "lmdb": "arrow"}[store.manifest.backend]
    output = tmp_path / "other"
    assert main(["store", "convert", str(store.path), "--backend", other, "--output", str(output)]) == 0
    assert "12 molecules" in capsys.readouterr().out
    assert main(["store", "verify", str(output)]) == 0


def test_convert_does_not_touch_a_directory_with_something_in_it(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    command = ["store", "convert", str(store.path), "--backend", "arrow", "--output", str(tmp_path / "full")]
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_missing_store_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", str(tmp_path / "nowhere")]) == 2
    assert "make one with" in capsys.readouterr().err


def test_verify_names_the_molecules_whose_atoms_are_not_where_atoms_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = chain_record(8, max_conformers=1)
    assert len(sound.atomic_number) > 3
    origin = np.zeros(1, np.uint8)
    on_one_point = dataclasses.replace(sound, id="zeros", coordinates=0 * sound.coordinates, conformer_origin=origin)
    drawn_by_none = dataclasses.replace(on_one_point, id="flat", conformer_origin=origin + ConformerOrigin.FLAT)
    apart = sound.coordinates.copy()
    apart[:, 0] += 5
    torn = dataclasses.replace(sound, id="torn", coordinates=apart)
    store = write_store(tmp_path / "store", [sound, on_one_point, sound, drawn_by_none], [torn])
    assert main(["store", "verify", str(store.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if line.startswith("implausible")]
    assert [line.split("'")[1] for line in named] == ["zeros", "flat", "torn"]
    assert "at the same point" in named[0]
    assert "are bonded but lie" in named[2]
    assert "3 conformers of 3 molecules" in lines[-1]
