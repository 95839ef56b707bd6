"""What a user sees of ``unimol-scale plan``."""

import json

import pytest

from unimol_scale.cli.main import main


def plan(capsys, *arguments):
    status = main(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_it_prints_everything_on_one_screen(capsys, sample_store):
    status, out, _ = plan(capsys, "--size", "1.1B", "--gpus", 64, "--gpu-memory", "80GB", "--data", sample_store)
    assert status == 0
    for part in (
        "1,129,209,696", "atom track", "pair track", "heads", "weights", "gradients", "optimizer",
        "ZeRO stage 1 (chosen)", "activations", "of 74.5 GiB", "data.max_pairs=", "micro-batches", "padding",
        "FLOP per step", "GPU-hours",
        "12.62 GiB", "host", "network", "memory traffic", "limits the step", "disk", "chosen to fit the memory",
    ):  # fmt: skip
        assert part in out, part
    assert len(out.splitlines()) <= 48


def test_json_says_the_same(capsys, sample_store):
    arguments = ["--size", "84M", "--gpus", 8, "--device", "a100", "--data", sample_store]
    status, out, _ = plan(capsys, *arguments, "--json", "train.steps=1000", "train.warmup_steps=10", "--mfu", 0.5)
    assert status == 0
    tree = json.loads(out)
    assert tree["world_size"] == 8
    assert tree["parameters"]["total"] == 84_116_080
    assert tree["target"]["mfu"] == 0.5
    assert tree["steps"]["steps"] == 1000
    assert tree["memory"]["total"] > tree["memory"]["activations"] > 0
    assert (
        tree["time"]["seconds"]
        == tree["compute"]["seconds_per_step"]
        == max(tree["time"][part] for part in ("compute", "memory_traffic", "host", "network"))
    )
    assert tree["time"]["bound"] in ("compute", "memory traffic", "host", "network")
    assert 0.8 * tree["fit"]["max_pairs"] < tree["max_pairs"] < tree["fit"]["max_pairs"]
    assert tree["disk_bytes"] > tree["checkpoints_kept"] * tree["checkpoint_bytes"]
    assert [option["stage"] for option in tree["stages"]] == [0, 1, 2, 3]
    assert tree["advice"]
    assert "5,251 epochs" in tree["warnings"][0]


def test_a_run_is_planned_before_there_is_a_store(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = plan(capsys, "--size", "84M", "--gpus", 8, "--atoms", 25)
    assert status == 0
    assert "No store was read: molecules are assumed to have 13 to 37 atoms, 25 on average." in out
    assert "epochs" not in out
    status, out, _ = plan(capsys, "--size", "84M", "--gpus", 8, "--atoms", 25, "--json")
    tree = json.loads(out)
    assert tree["data"]["path"] is None
    assert tree["steps"]["epochs"] is None
    status, _, err = plan(capsys, "--size", "84M", "--gpus", 8)
    assert status == 2
    assert "--atoms 25" in err


def test_what_is_given_counts_for_the_device_of_this_machine_too(capsys):
    words = ("--size", "0.1M", "--gpus", 16, "--device", "here", "--atoms", 25, "--json")
    given = ("--gpu-memory", "3GB", "--peak-flops", 2e12, "--mfu", 0.25, "--network", "5GB")
    status, out, _ = plan(capsys, *words, *given)
    assert status == 0
    target = json.loads(out)["target"]
    told = {key: target[key] for key in ("name", "memory", "peak_flops", "mfu", "network")}
    assert told == {"name": "given peak", "memory": 3e9, "peak_flops": 2e12, "mfu": 0.25, "network": 4e9}
    status, _, err = plan(capsys, *words, "--mfu", 40)
    assert (status, "at most 1" in err) == (2, True)


def test_settings_stand_anywhere_and_files_count(capsys, sample_store, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  steps: 50\n  warmup_steps: 5\n")
    status, out, _ = plan(
        capsys, "train.global_batch_size=64", "--size", "0.1M", "--config", file, "--gpus", 2, "zero.stage=1",
        "--data", sample_store, "data.max_pairs=9000",
    )  # fmt: skip
    assert status == 0
    assert "50 of 64 molecules" in out
    assert "ZeRO stage 1" in out
    assert "data.max_pairs=9000  as set; the largest that fits is" in out


def test_each_objective_can_be_planned(capsys, sample_store):
    status, out, _ = plan(capsys, "--size", "42M", "--gpus", 8, "--objective", "blend", "--data", sample_store)
    assert status == 0
    assert "objective blend" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "1.1b", "--gpus", "8"], "did you mean '1.1B'"),
        (["--size", "84M", "--gpus", "48"], "32 or 64 ranks"),
        (["--size", "84M", "--gpus", "0"], "--gpus must be at least 1"),
        (["--size", "84M", "--gpus", "64", "train.global_batch_size=16"], "or 16 ranks"),
        (["--size", "84M", "--gpus", "8", "--gpu-memory", "eighty gigabytes"], "such as 80GB"),
        (["--size", "84M", "--gpus", "8", "--network", "fast"], "--network: 'fast'"),
        (["--size", "84M", "--gpus", "8", "--atoms", "25"], "give either --data"),
        (["--size", "84M", "--gpus", "8", "--peak-flops", "inf"], "must be positive"),
        (["--size", "84M", "--gpus", "8", "--device", "h1000"], "did you mean 'h100'"),
        (["--size", "84M", "--gpus", "8", "--gpu-memory", "80GX"], "is not a size"),
        (["--size", "84M", "--gpus", "8", "--mfu", "40"], "at most 1"),
        (["--size", "84M", "--gpus", "8", "--peak-flops", "-1"], "must be positive"),
        (["--size", "84M", "--gpus", "8", "--zero-stage", "5"], "valid: 0, 1, 2, 3"),
        (["--size", "84M", "--gpus", "8", "train.step=5"], "did you mean 'steps'"),
        (["--size", "84M", "--gpus", "8", "data.max_pairs=100"], "raise data.max_pairs"),
    ],
)
def test_errors_name_what_would_be_valid(capsys, sample_store, arguments, message):
    status, _, err = plan(capsys, *arguments, "--data", sample_store)
    assert status == 2
    assert message in err


def test_other_verbs_still_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["store", "info", "nowhere", "a=b"])
    assert exit_info.value.code == 2
    assert "unrecognized arguments: a=b" in capsys.readouterr().err
