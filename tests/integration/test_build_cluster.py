"""A build on a cluster of two nodes, one of which is lost half-way; both nodes run on this machine."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.build.faults import file_hashes
from conformer_gen.run.watchdog import read_hint
from conformer_gen.selection.pieces import CONFORMERS, done_pieces
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.reader import read_source

ray_cluster = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.ray
SCRIPT = Path(__file__).parents[2] / "conformer_gen" / "build.py"
# Several conformers: the work must outlast the second node's start.
ROWS = 100
COMMON = ["--source", "smiles", "--conformers", "8"]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    """A file without a limit, so that it is read on the cluster, too."""
    path = tmp_path / "molecules.smi"
    rows = itertools.islice(read_source(SourceConfig(name="sample")), ROWS)
    path.write_text("".join(f"{row.smiles} {row.id}\n" for row in rows))
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator["ray_cluster.Cluster"]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_enable_metrics_collection", "0")
    # A node counts as dead after two missed beats of half a second; Ray's own patience is made for networks.
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def build(molecules: Path, output: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), *COMMON, "--input", str(molecules), "--output", str(output), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_lost_node_costs_neither_a_molecule_nor_a_byte(
    cluster: "ray_cluster.Cluster", molecules: Path, tmp_path: Path
) -> None:
    lost = cluster.add_node(**NODE)
    process = build(molecules, tmp_path / "cluster", "--ray-address", cluster.address, "task_size=8")
    work = tmp_path / "cluster" / ".build"
    while process.poll() is None and not _half_way(work, lost.node_id):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    cluster.remove_node(lost, allow_graceful=False)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    alone = build(molecules, tmp_path / "alone", "--workers", "1")
    output, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, output
    assert file_hashes(tmp_path / "cluster") == file_hashes(tmp_path / "alone")


def _half_way(work: Path, node: str) -> bool:
    """Return whether some pieces are done and the node is at others."""
    hints = [read_hint(path) for path in (work / "hints").glob(f"{CONFORMERS}-*")]
    return len(list(done_pieces(work, CONFORMERS))) >= 3 and node in {hint.node for hint in hints if hint is not None}
