import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.simulated_runs import BATCH, EMBEDDING, SIZES, chinchilla, write_ladder, write_run

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.read_runs import read_runs
from unimol_scale.scaling.runs.loss_tables import read_table


def test_a_run_folder_is_read_at_the_end_of_its_schedule(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", "1M", 100, seed=3)
    (record,), notes = read_runs([tmp_path / "runs"])
    assert notes == []
    assert (record.name, record.size, record.seed, record.steps) == ("one", "1M", 3, 100)
    assert record.molecules == 100 * BATCH
    assert record.loss == pytest.approx(chinchilla(SIZES["1M"], 100 * BATCH))
    assert record.terms["token"] == pytest.approx(record.loss * 0.5)
    assert record.flops == pytest.approx(150.0 * SIZES["1M"] ** 0.95 * 100 * BATCH)
    losses = [loss for _, loss in record.curve]
    assert len(losses) == 10
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == record.loss


def test_n_counts_the_parameters_that_were_asked_for(tmp_path: Path) -> None:
    write_ladder(tmp_path, sizes=["0.1M"])
    records, _ = read_runs([tmp_path])
    assert make_points(records, "total").columns["N"][0] == SIZES["0.1M"]
    assert make_points(records, "non-embedding").columns["N"][0] == SIZES["0.1M"] - EMBEDDING


def test_a_resumed_run_counts_the_later_line_of_a_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", "1M", 100)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 100, "molecules": 100 * BATCH, "valid/loss": 9.0}) + "\n")
    (record,), _ = read_runs([tmp_path])
    assert len(record.curve) == 10
    assert record.curve[-1] == (100 * BATCH, 9.0)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"status": "stopped"}, "stopped"), ({"status": "failed"}, "failed"), ({"diverged": True}, "diverged")],
)
def test_a_run_that_is_no_use_is_left_out_with_a_note(tmp_path: Path, change: dict[str, object], word: str) -> None:
    write_run(tmp_path / "good", "1M", 100)
    write_run(tmp_path / "bad", "2M", 100, summary=change)
    records, notes = read_runs([tmp_path])
    assert [record.name for record in records] == ["good"]
    assert len(notes) == 1
    assert "bad" in notes[0]
    assert word in notes[0]


def test_a_run_whose_settings_changed_on_the_way_or_that_began_with_other_weights_is_noted(tmp_path: Path) -> None:
    changes = [
        {"step": 0, "changes": {"train.steps": [50, 100]}, "curve": ["train.steps"]},
        {"step": 40, "changes": {"train.beta2": [0.99, 0.9], "zero.stage": [3, 1]}, "curve": ["train.beta2"]},
        {"step": 60, "changes": {"data.workers": [0, 1]}, "curve": []},
    ]
    write_run(tmp_path / "changed", "1M", 100, summary={"settings_changes": changes})
    write_run(tmp_path / "begun", "2M", 100, summary={"init": {"path": "runs/other", "sha256": "a"}})
    write_run(tmp_path / "plain", "4M", 100, summary={"settings_changes": [], "init": None})
    records, notes = read_runs([tmp_path])
    assert len(records) == 3
    assert len(notes) == 2
    assert "started from the weights of runs/other" in notes[0]
    assert "changed after step 40 (train.beta2 0.99 → 0.9)" in notes[1]


def test_a_run_that_ended_at_another_step_than_its_settings_say_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "1M", 100)
    write_run(tmp_path / "bad", "2M", 100, summary={"steps": 150})
    records, (note,) = read_runs([tmp_path])
    assert [record.name for record in records] == ["good"]
    assert "says 100 steps but its summary.json 150" in note


def test_a_run_without_summary_is_left_out_with_a_note(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "1M", 100)
    (write_run(tmp_path / "running", "2M", 100) / "summary.json").unlink()
    records, notes = read_runs([tmp_path])
    assert len(records) == 1
    assert "running" in notes[0]


@pytest.mark.parametrize("key", ["objective", "objective_sha256", "validation_sha256"])
def test_runs_that_differ_in_what_the_loss_means_are_refused(tmp_path: Path, key: str) -> None:
    write_run(tmp_path / "a", "1M", 100)
    write_run(tmp_path / "b", "2M", 100, summary={key: "other"})
    with pytest.raises(RunError, match=rf"differ in {key}.*b has other"):
        read_runs([tmp_path])


def test_runs_of_two_optimizers_do_not_share_a_law_and_older_ones_had_adamw(tmp_path: Path) -> None:
    muon = "Muon (atom+pair) and AdamW"
    write_run(tmp_path / "old", "0.1M", 100)
    write_run(tmp_path / "adamw", "0.1M", 200, summary={"optimizer": "AdamW"})
    assert len(read_runs([tmp_path])[0]) == 2
    write_run(tmp_path / "pure" / "a", "0.1M", 100, summary={"optimizer": muon})
    write_run(tmp_path / "pure" / "b", "0.1M", 200, summary={"optimizer": muon})
    assert len(read_runs([tmp_path / "pure"])[0]) == 2
    with pytest.raises(RunError, match=r"different optimizers.*old has AdamW, .*a has Muon \(atom\+pair\)"):
        read_runs([tmp_path / "old", tmp_path / "pure" / "a"])


def test_a_run_of_another_optimizer_beside_a_ladder_is_left_out_with_a_note_unless_it_is_named(tmp_path: Path) -> None:
    muon = {"optimizer": "Muon (atom+pair) and AdamW"}
    ladder = [write_run(tmp_path / f"sample-{steps}", "0.1M", steps, summary=muon) for steps in (100, 200)]
    hello = write_run(tmp_path / "hello", "0.1M", 300)
    records, (note,) = read_runs([tmp_path])
    assert [record.source for record in records] == [str(folder) for folder in ladder]
    assert note.startswith(f"{hello}: left out because AdamW trained it, and Muon (atom+pair) and AdamW the other 2")
    with pytest.raises(RunError, match="different optimizers"):
        read_runs([*ladder, hello])
    write_run(tmp_path / "again", "0.1M", 400)
    with pytest.raises(RunError, match="different optimizers"):  # half and half: which was meant is unknown
        read_runs([tmp_path])


def test_a_mix_names_the_setting_that_differs(tmp_path: Path) -> None:
    for name, size, noise in (("a", "1M", 0.2), ("b", "2M", 0.3)):
        folder = write_run(tmp_path / name, size, 100, summary={"objective_sha256": name * 64})
        (folder / "config.yaml").write_text(f"objective:\n  name: denoise\n  denoise:\n    noise_std: {noise}\n")
    with pytest.raises(RunError, match=r"objective\.denoise\.noise_std: 0\.2 → 0\.3"):
        read_runs([tmp_path])


def test_a_table_that_does_not_say_what_it_measured_is_not_mixed_with_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "1M", 100)
    (tmp_path / "t.csv").write_text("N,D,loss\n1e6,1e6,2.5\n")
    with pytest.raises(RunError, match="has no record of it"):
        read_runs([tmp_path / "a", tmp_path / "t.csv"])


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "1M", 100)
    write_run(tmp_path / "b", "1M", 100)
    with pytest.raises(RunError, match="same size, budget and seed"):
        read_runs([tmp_path])
    with pytest.raises(RunError, match="same name"):
        read_runs([tmp_path / "a", tmp_path / "a"])


def test_missing_and_empty_directories_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(RunError, match=r"holds no run .*unimol-scale ladder"):
        read_runs([tmp_path])
    write_run(tmp_path / "a", "1M", 100, summary={"status": "failed"})
    with pytest.raises(RunError, match=r"no finished run.*\n.*'failed'"):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flops": None}, "'flops' must be a number"),
        ({"seed": None}, "lacks the key 'seed'"),
        ({"steps": "many"}, "'steps' is 'many', not of type int"),
        ({"final": {}}, "'valid/loss' must be a number"),
        ({"schema_version": 2}, "schema_version 2 is newer than 1.*update unimol-scale"),
    ],
)
def test_a_damaged_summary_names_the_file_and_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_run(tmp_path / "a", "1M", 100, summary=change)
    with pytest.raises(RunError, match=rf"summary\.json.*{message}"):
        read_runs([tmp_path])


def damage(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def with_loss(value: bytes, lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], re.sub(rb'"valid/loss": [^,]*', b'"valid/loss": ' + value, lines[3]), *lines[4:]]


@pytest.mark.parametrize(
    ("change", "damaged", "validations"),
    [
        pytest.param(lambda lines: [*lines, b'{"step": 5, "val'], 0, 10, id="torn at the end"),
        pytest.param(lambda lines: [*lines, bytes(200) + b"\xff\xfe"], 0, 10, id="binary at the end"),
        pytest.param(lambda lines: [*lines[:9], lines[9][:20] + lines[10], *lines[11:]], 1, 9, id="torn in the middle"),
        pytest.param(
            lambda lines: [*lines[:4], b"\xff\n", b"7\n", b"[]\n", b"null\n", *lines[4:]], 4, 10, id="foreign"
        ),
        pytest.param(lambda lines: [line.replace(b"\n", b"\r\n") for line in lines], 0, 10, id="CRLF"),
        pytest.param(lambda lines: [b"\n", *lines, b"\n\n"], 0, 10, id="empty lines"),
        pytest.param(lambda lines: with_loss(b"null", lines), 0, 9, id="null"),
        pytest.param(lambda lines: with_loss(b"NaN", lines), 0, 9, id="NaN"),
        pytest.param(lambda lines: with_loss(b"-Infinity", lines), 0, 9, id="Infinity"),
        pytest.param(lambda lines: with_loss(b'"0.5"', lines), 0, 9, id="text"),
        pytest.param(lambda lines: [], 0, 0, id="empty"),
    ],
)
def test_a_damaged_log_costs_its_damaged_lines_and_nothing_else(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], damaged: int, validations: int
) -> None:
    folder = write_run(tmp_path / "a", "1M", 100)
    ((whole,), _) = read_runs([tmp_path])
    damage(folder, change)
    (record,), notes = read_runs([tmp_path])
    assert notes == []
    assert (len(record.curve), record.damaged_lines) == (validations, damaged)
    assert set(record.curve) <= set(whole.curve)
    assert record.loss == whole.loss
    cautions = " ".join(make_points([record], "total").cautions)
    assert (f"a ({damaged})" in cautions) == bool(damaged)


def test_the_steps_that_a_resumed_run_did_again_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "1M", 100)
    # With another batch size the same step has seen other molecules.
    again = [{"step": step, "molecules": step * 2 * BATCH, "valid/loss": 9.0 - step / 100} for step in (90, 100)]
    damage(folder, lambda lines: [*lines, *(json.dumps(event).encode() + b"\n" for event in again)])
    (record,), _ = read_runs([tmp_path])
    assert len(record.curve) == 10
    assert record.curve[-2:] == ((180 * BATCH, 8.1), (200 * BATCH, 8.0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b'{"status": "fini', "is not JSON"),
        ("summary.json", b"", "is not JSON"),
        ("summary.json", b"\xff\xfe\x00", "is not JSON"),
        ("summary.json", b"[]", "must hold a JSON object"),
        ("summary.json", b"{}", "lacks the key 'status'"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named_and_the_others_count(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write_run(tmp_path / "good", "1M", 100)
    (write_run(tmp_path / "torn", "2M", 100) / name).write_bytes(content)
    (record,), (note,) = read_runs([tmp_path])
    assert record.name == "good"
    assert note.startswith(f"{tmp_path / 'torn'}: left out")
    assert message in note
    with pytest.raises(RunError, match=rf"no finished run under .*\n.*torn.*{message}"):
        read_runs([tmp_path / "torn"])


def test_a_run_whose_log_is_lost_counts_by_its_summary(tmp_path: Path) -> None:
    (write_run(tmp_path / "a", "1M", 100) / "metrics.jsonl").unlink()
    (record,), _ = read_runs([tmp_path])
    assert record.curve == ()
    points = make_points([record], "total", burn_in=0.1)
    assert points.loss.tolist() == [record.loss]
    assert "count only with their last loss: a" in points.cautions[-1]


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, float("inf")])
def test_losses_must_be_positive_and_finite(tmp_path: Path, value: float) -> None:
    write_run(tmp_path / "a", "1M", 100, summary={"final": {"valid/loss": value}})
    records, _ = read_runs([tmp_path])
    with pytest.raises(RunError, match=r"loss is .*finite positive values"):
        make_points(records, "total")


def test_steps_of_different_batch_sizes_are_not_one_column(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "1M", 100)
    write_run(tmp_path / "b", "2M", 100, summary={"global_batch_size": 128})
    records, _ = read_runs([tmp_path])
    assert "S" not in make_points(records, "total").columns


def test_a_table_is_read_by_its_headers(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text("size,flop,loss,who\n1e6,6e12,2.5,a\n2e6,24e12,2.0,b\n")
    (one, two), _ = read_table(table, {"N": "size", "C": "flop", "D": "C/(6N)", "name": "who"})
    assert (one.name, one.parameters, one.molecules, one.flops, one.loss) == ("a", 1e6, 1e6, 6e12, 2.5)
    assert two.molecules == 2e6


def test_a_table_without_compute_has_none(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text("N,D,loss\n1e6,1e6,2.5\n")
    ((record,), _) = read_table(table, {})
    assert record.flops is None
    assert record.name == "row 1"


@pytest.mark.parametrize(
    ("text", "headers", "message"),
    [
        ("N,loss\n1,1\n", {}, r"no column 'D' for D; name it with --column D=HEADER"),
        ("size,D,loss\n1,1,1\n", {"N": "sise"}, "no column 'sise' for N.*did you mean 'size'"),
        ("N,D,loss\n1,1,1\n", {"M": "N"}, "unknown column 'M'"),
        ("N,D,loss\n1,1,low\n", {}, r"losses\.csv: row 1 \(line 2\): 'loss' must be a number, not 'low'"),
        ("N,D,loss\n1,1\n", {}, r"losses\.csv: row 1 \(line 2\): 'loss' must be a number, not ''"),
        ("N,D,loss\n1,1,2\n1,1,2\n", {}, "duplicate run"),
        ("N,loss\n1,1\n", {"D": "C/(6N)"}, "no column 'C' for C"),
    ],
)
def test_a_bad_table_says_what_is_wrong(tmp_path: Path, text: str, headers: dict[str, str], message: str) -> None:
    table = tmp_path / "losses.csv"
    table.write_text(text)
    with pytest.raises(RunError, match=message):
        read_runs([table], headers)


def with_store(folder: Path, store: Path, counts: dict[str, int]) -> str:
    """Let a run say that it was trained on a store; return the hash of the store's manifest."""
    store.mkdir(exist_ok=True)
    text = json.dumps({"splits": {"train": {"size_histogram": counts}}})
    (store / "manifest.json").write_text(text)
    with (folder / "config.yaml").open("a") as file:
        file.write(f"data:\n  path: {store}\n")
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_run_says_how_many_distinct_molecules_it_had(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "new", "1M", 100, summary={"unique_molecules": 4000})
    old = write_run(tmp_path / "runs" / "old", "2M", 100)
    sha256 = with_store(old, tmp_path / "store", {"10": 3000, "20": 500})
    tree = json.loads((old / "summary.json").read_text())
    (old / "summary.json").write_text(json.dumps({**tree, "data_manifest_sha256": sha256}))
    records, _ = read_runs([tmp_path / "runs"])
    assert {record.name: record.unique for record in records} == {"new": 4000.0, "old": 3500.0}
    assert make_points(records, "total").columns["U"].tolist() == [4000.0, 3500.0]
    # A store that was built anew since is not the one that the run had.
    with_store(old, tmp_path / "store", {"10": 9000})
    records, _ = read_runs([tmp_path / "runs"])
    assert {record.name: record.unique for record in records} == {"new": 4000.0, "old": None}
    assert "U" not in make_points(records, "total").columns


def test_a_run_says_its_learning_rate(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", "1M", 100)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("train:\n", "train:\n  learning_rate: 2.5e-4\n"))
    write_run(tmp_path / "two", "2M", 100)
    records, _ = read_runs([tmp_path])
    assert [record.learning_rate for record in records] == [2.5e-4, None]
