"""The planner's numbers against hand calculations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unimol_scale.data.dataset import DataConfig
from unimol_scale.engine.planning.accelerators import DEVICES, Target, named_target, parse_bytes, with_given
from unimol_scale.engine.planning.max_pairs import with_max_pairs, with_max_pairs_used, with_stage, with_stage_used
from unimol_scale.engine.planning.plan import check_division, plan_run
from unimol_scale.engine.planning.plan_advice import advice_on, warnings_of
from unimol_scale.engine.planning.plan_text import assumed_sizes, render
from unimol_scale.engine.planning.rank_memory import largest_micro_batch, micro_batch_bytes, rank_memory
from unimol_scale.engine.run.run_config import PretrainConfig, ZeroConfig, resolve
from unimol_scale.engine.run.run_folder import write_config
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import training_flops
from unimol_scale.model.presets import preset
from unimol_scale.objectives.config import build_objective

REPOSITORY = Path(__file__).resolve().parents[4]
PARAMETERS = 1_129_209_696
HISTOGRAM = {18: 200_000, 24: 500_000, 30: 300_000}
GIB = 2**30


def run_of(size="1.1B", stage=3, zero_file=None, max_pairs=40_000, checkpoint_every=0, **train):
    config = PretrainConfig(
        size=size,
        output=Path("runs/x"),
        data=DataConfig(path="nowhere", max_pairs=max_pairs),
        model=preset(size, checkpoint_every=checkpoint_every),
        train=TrainConfig(**train),
        zero=ZeroConfig(stage=stage, config=zero_file and REPOSITORY / "configs/deepspeed" / zero_file),
    )
    return config, build_objective(config.objective, config.model)


def memory_of(config, objective, world_size, cuda=True):
    shape = largest_micro_batch(config, objective, HISTOGRAM, cuda=cuda)
    return rank_memory(config, objective, shape, world_size=world_size, cuda=cuda)


def plan_of(config, objective, world_size=64, **target):
    target = with_given(named_target(target.pop("device", "h100"), config.train.precision), **target)
    return plan_run(config, objective, HISTOGRAM, world_size=world_size, target=target)


def test_micro_batches_side_by_side_need_memory_each():
    one = memory_of(*run_of("2M", stage=0, precision="fp32", side_by_side=1), 1, cuda=False)
    three = memory_of(*run_of("2M", stage=0, precision="fp32", side_by_side=3), 1, cuda=False)
    assert three.activations == 3 * one.activations
    assert three.gradients == one.gradients * 5  # each one's, their sum, and DeepSpeed's


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(0, 1, 1, 1), (1, 1, 1, 1 / 64), (2, 1, 1 / 64, 1 / 64), (3, 1 / 64, 1 / 64, 1 / 64)],
)
def test_a_stage_shares_what_it_says(stage, weights, gradients, optimizer):
    memory = memory_of(*run_of(stage=stage), 64)
    assert memory.weights == pytest.approx(2 * PARAMETERS * weights)
    assert memory.gradients == pytest.approx(2 * PARAMETERS * gradients)
    assert memory.optimizer == pytest.approx(12 * PARAMETERS * optimizer)
    assert (memory.gathered > 0) == (stage == 3)


def test_one_machine_of_two_ranks_needs_what_was_measured_there():
    # 9.4 GiB a rank on two CPU ranks, 17.5 to 17.9 GiB on one, with these small buffers.
    settings = {"max_pairs": 2_000, "checkpoint_every": 1, "zero_file": "zero3-small-memory.json"}
    config, objective = run_of(**settings, save_in_background=False)
    assert memory_of(config, objective, 2, cuda=False).total / GIB == pytest.approx(9.4, rel=0.05)
    assert memory_of(config, objective, 1, cuda=False).total / GIB == pytest.approx(17.7, rel=0.05)
    # The copy of a checkpoint in the making: 12 bytes a parameter, shared.
    copying = replace(config, train=replace(config.train, save_in_background=True))
    assert memory_of(copying, objective, 2, cuda=False).copy == 6 * PARAMETERS


def test_offload_moves_to_the_host_what_it_says():
    memory = memory_of(*run_of(zero_file="zero3-offload.json", save_in_background=False), 8)
    assert memory.weights == memory.gradients == memory.optimizer == 0
    assert memory.host == pytest.approx(16 * PARAMETERS / 8)


def test_averages_cost_four_bytes_a_parameter_in_memory_and_on_disk():
    plain = plan_of(*run_of())
    averaged = plan_of(*run_of(ema_decay=0.999))
    assert averaged.memory.averages == pytest.approx(4 * PARAMETERS / 64)
    assert plain.checkpoint_bytes == 12 * PARAMETERS
    assert averaged.checkpoint_bytes == 16 * PARAMETERS


def test_muon_has_one_state_instead_of_two_and_its_work_takes_time():
    hidden = {"atom": 64 * 6 * 1536**2, "pair": 64 * (512 * (96 + 64**2 + 5 * 64 + 3 * 512) + 2 * 64 * 1536)}
    config, objective = run_of(precision="bf16", optimizer="muon", stage=1)
    plan, plain = plan_of(config, objective), plan_of(*run_of(precision="bf16", stage=1))
    muon = sum(hidden.values())
    assert plan.memory.optimizer == pytest.approx((12 * PARAMETERS - 4 * muon) / 64)
    assert plan.checkpoint_bytes == 12 * PARAMETERS - 4 * muon
    assert plan.muon_share == pytest.approx(muon / PARAMETERS)
    assert plan.time.compute > plain.time.compute
    assert plan.memory.step > plain.memory.step
    text = render(plan, config)
    assert "ZeRO stage 1, Muon (atom+pair) and AdamW" in text
    assert f"one state instead of two for the {muon / PARAMETERS:.0%} of the parameters" in text
    assert "Muon" not in render(plain, run_of(precision="bf16", stage=1)[0])
    for track, elements in hidden.items():
        of_track = plan_of(*run_of(optimizer="muon", muon_tracks=track, ema_decay=0.99))
        assert of_track.checkpoint_bytes == 16 * PARAMETERS - 4 * elements
        assert of_track.optimizer == f"Muon ({track}) and AdamW"


def test_time_is_flops_over_what_the_devices_do_where_they_are_slow_enough():
    config, objective = run_of(steps=1000, warmup_steps=10, stage=1)
    plan = plan_of(config, objective, mfu=0.25, peak_flops=1e13)
    mean = sum(training_flops(config.model, n) * rows for n, rows in HISTOGRAM.items()) / sum(HISTOGRAM.values())
    assert plan.compute.flops_per_step == pytest.approx(1024 * mean)
    assert plan.compute.flops == pytest.approx(1_024_000 * mean)
    seconds = 1_024_000 * mean / (64 * 0.25e13)
    assert plan.time.bound == "compute"
    assert plan.compute.mfu == pytest.approx(0.25)
    assert plan.compute.days == pytest.approx(seconds / 86_400)
    assert plan.compute.device_hours == pytest.approx(64 * seconds / 3600)
    assert plan.steps.epochs == pytest.approx(1.024)


def test_launches_bound_a_run_of_few_molecules_a_rank():
    # 16 molecules a rank: 40 % of the peak would be 2 hours, and launching kernels alone takes a week.
    plan = plan_of(*run_of())
    assert plan.time.bound == "host"
    assert 6 < plan.compute.days < 9
    assert plan.compute.mfu < 0.02
    advice = " ".join(advice_on(plan))
    assert "Kernel launches limit this run" in advice
    assert "16 molecules" in advice
    assert plan.recommended_stage == 1
    assert "Use zero.stage=1: " in advice
    # A file of settings belongs to its stage, and a run with the other stage would refuse it.
    with_file = plan_of(*run_of(zero_file="zero3.json"))
    assert any("zero.stage=1 and zero.config=configs/deepspeed/zero1.json" in text for text in advice_on(with_file))
    assert plan.stages[1].fits
    assert plan.stages[1].seconds_per_step < 0.6 * plan.stages[3].seconds_per_step
    assert plan.fewest_ranks < 64
    assert f"{plan.fewest_ranks} GPUs would be about as fast as 64" in advice


@pytest.mark.parametrize(("layers", "stage", "milliseconds"), [(12, 1, 83), (12, 3, 147), (64, 1, 365), (64, 3, 809)])
def test_the_host_needs_for_a_micro_batch_what_was_measured(layers, stage, milliseconds):
    # It was measured with torch's operations, which compute in fp32.
    config, objective = run_of(size="84M" if layers == 12 else "1.1B", stage=stage, precision="fp32")
    plan = plan_of(config, objective)
    assert plan.steps.micro_batches == 1
    assert plan.time.host * 1e3 == pytest.approx(milliseconds, rel=0.15)


@pytest.mark.parametrize(("size", "share"), [("84M", 0.43), ("1.1B", 0.50)])
def test_large_micro_batches_reach_the_share_of_the_peak_that_the_bandwidth_allows(size, share):
    config, objective = run_of(size=size, stage=1, global_batch_size=65_536, max_pairs=None)
    plan = plan_run(config, objective, {25: 10**6}, world_size=8, target=named_target("h200", "bf16"))
    assert plan.time.bound in ("compute", "memory traffic")
    assert plan.time.seconds == plan.time.compute + plan.time.memory_traffic
    assert plan.time.compute / plan.time.seconds == pytest.approx(share, rel=0.05)
    assert f"{plan.time.bound.capitalize()} limits" in advice_on(plan)[0] or plan.time.bound == "compute"


def test_molecules_too_large_for_the_triton_kernels_and_fp32_start_more_kernels():
    small, large = (
        plan_run(*run_of(size="84M", stage=1), {n: 10**6}, world_size=8, target=named_target("h200", "bf16")).time
        for n in (63, 64)
    )
    assert (small.kernels, large.kernels) == (846, 2523)
    exact = plan_of(*run_of(size="84M", stage=1, precision="fp32"), 8, device="h200").time
    assert exact.kernels == 2523


@pytest.mark.parametrize(
    ("size", "memory", "changes", "stage"),
    [
        ("84M", 24e9, {}, 1),
        ("1.1B", 80e9, {}, 1),
        ("1.1B", 24e9, {}, 3),  # the weights fit, and a micro-batch beside them does not
        ("84M", 24e9, {"max_pairs": 10**6}, 3),
        ("84M", 24e9, {"zero_file": "zero3.json"}, 3),
        ("84M", 24e9, {"stage": 0}, 0),
        ("84M", 24e9, {"stage": 3}, 3),
    ],
)
def test_the_stage_is_1_where_whole_weights_fit_and_a_given_one_stays(size, memory, changes, stage):
    config, objective = run_of(**{"size": size, "stage": None, "max_pairs": None, **changes})
    plan = plan_of(config, objective, 8, memory=memory)
    assert plan.zero_stage == stage
    assert plan.zero_stage_chosen == ("stage" not in changes)
    assert (f"ZeRO stage {stage} (chosen)" in render(plan, config)) == plan.zero_stage_chosen
    if changes.get("zero_file") is None:
        assert plan.time.seconds == plan.stages[stage].seconds_per_step


def test_graphs_take_the_host_off_small_micro_batches_and_need_memory_for_gradients():
    config, objective = run_of(size="84M", stage=1, global_batch_size=64)
    graphed = replace(config, data=replace(config.data, buckets=True), train=replace(config.train, cuda_graphs=True))
    eager, replayed = (plan_of(run, objective, 8) for run in (config, graphed))
    assert eager.time.bound == "host"
    assert replayed.time.host < 0.6 * eager.time.host
    assert replayed.memory.gradients == 3 * eager.memory.gradients
    assert "micro-batches of one CUDA graph" in render(replayed, graphed)
    assert replayed.steps.padding > eager.steps.padding


def test_a_run_side_by_side_is_planned_at_every_stage():
    config, objective = run_of(size="2M", stage=1, precision="fp32", side_by_side=2)
    assert [option.stage for option in plan_of(config, objective, 8).stages] == [0, 1, 2, 3]


def test_on_a_cpu_and_on_unknown_devices_the_stage_is_3_as_it_always_was():
    config, objective = run_of(stage=None)
    for capacity, cuda in ((24e9, False), (None, True)):
        chosen = with_stage(config, objective, HISTOGRAM, capacity, world_size=8, cuda=cuda)
        assert chosen.zero.stage == 3


@pytest.mark.parametrize("recorded", [0, 1, 3])
def test_a_run_in_the_folder_keeps_its_stage(tmp_path, recorded):
    config, _ = run_of(stage=recorded)
    write_config(replace(config, output=tmp_path))
    again = resolve("1.1B", {"output": str(tmp_path), "data": {"path": "nowhere"}})
    assert with_stage_used(again).zero.stage == recorded
    given = resolve("1.1B", {"output": str(tmp_path), "data": {"path": "nowhere"}, "zero": {"stage": 2}})
    assert with_stage_used(given).zero.stage == 2


def test_a_run_older_than_the_choice_of_a_stage_goes_on_at_stage_3(tmp_path):
    config, objective = run_of(size="84M", stage=3)
    write_config(replace(config, output=tmp_path))
    again = resolve("84M", {"output": str(tmp_path), "data": {"path": "nowhere"}})
    assert with_stage(again, objective, HISTOGRAM, 80e9, world_size=8, cuda=True).zero.stage == 3
    new = resolve("84M", {"output": str(tmp_path / "new"), "data": {"path": "nowhere"}})
    assert with_stage(new, objective, HISTOGRAM, 80e9, world_size=8, cuda=True).zero.stage == 1


def test_a_slow_network_bounds_stage_3_and_is_named():
    config, objective = run_of(global_batch_size=4096)
    plan = plan_of(config, objective, network=1e9)
    assert plan.time.bound == "network"
    # Weights gathered twice, gradients summed once, in bf16, at 0.8 of 1 GB/s.
    moved = 3 * plan.steps.micro_batches * 2 * PARAMETERS * 63 / 64
    assert plan.time.network == pytest.approx(moved / 0.8e9)
    assert "--network" in advice_on(plan)[0]
    assert plan_of(config, objective, 8, network=1e9).time.network < 0.1 * plan.time.network  # within a machine


def test_on_a_cpu_host_and_arithmetic_take_turns():
    config, objective = run_of(size="0.1M", stage=1, precision="fp32")
    cpu = Target(
        name="this CPU",
        is_gpu=False,
        memory=8e9,
        peak_flops=1e11,
        matmul_flops=1e11,
        mfu=0.4,
        bandwidth=None,
        link=None,
    )
    plan = plan_run(config, objective, HISTOGRAM, world_size=1, target=cpu)
    assert plan.time.seconds == pytest.approx(plan.time.compute + plan.time.host)
    assert plan.time.memory_traffic == plan.time.network == 0
    assert plan.max_pairs == 40_000
    assert render(plan, config)


def test_the_budget_is_chosen_from_the_memory_of_a_gpu_and_a_set_one_is_kept():
    config, objective = run_of(size="84M", stage=1, max_pairs=None)
    small, large = (plan_of(config, objective, 8, memory=memory) for memory in (24e9, 80e9))
    assert small.max_pairs < small.fit.max_pairs < large.max_pairs < large.fit.max_pairs
    assert small.memory.total < 0.8 * 24e9
    assert small.fit.fits
    assert large.fit.fits
    assert large.steps.micro_batches == 1
    assert "chosen to fit the memory" in render(large, config)
    kept, _ = run_of(size="84M", stage=1, max_pairs=9_000)
    plan = plan_of(kept, objective, 8)
    assert plan.max_pairs == 9_000
    assert any(f"data.max_pairs={plan.fit.max_pairs}, or leave it out" in text for text in advice_on(plan))


def test_a_batch_that_fits_as_a_whole_is_not_cut_by_rounding():
    plan = plan_of(*run_of(size="0.2M", stage=1, max_pairs=None, global_batch_size=1024), 1)
    assert plan.max_pairs == plan.fit.max_pairs == 31**2 * 1024
    assert plan.steps.micro_batches == 1
    assert "more memory" not in " ".join(advice_on(plan))


def test_a_budget_is_chosen_once_and_then_kept(tmp_path):
    config, objective = run_of(size="84M", max_pairs=None)
    here = {"objective": objective, "histogram": HISTOGRAM, "world_size": 8}
    chosen = with_max_pairs(config, capacity=24e9, cuda=True, **here)
    assert chosen.data.max_pairs not in (None, 40_000)
    assert with_max_pairs(chosen, capacity=80e9, cuda=True, **here) == chosen
    assert with_max_pairs(config, capacity=80e9, cuda=False, **here).data.max_pairs == 40_000
    # A run that goes on, on another device too, takes what its folder says.
    write_config(replace(chosen, output=tmp_path))
    assert with_max_pairs_used(replace(config, output=tmp_path)).data.max_pairs == chosen.data.max_pairs
    assert with_max_pairs_used(replace(config, output=tmp_path / "new")).data.max_pairs is None
    asked, _ = run_of(size="84M", max_pairs=7_000)
    assert with_max_pairs_used(replace(asked, output=tmp_path)).data.max_pairs == 7_000


def test_many_epochs_and_what_does_not_fit_are_warned_of():
    config, objective = run_of()
    tiny = plan_run(config, objective, {16: 4614}, world_size=64, target=named_target("h100", "bf16"))
    assert any("179,766 epochs" in text for text in warnings_of(tiny))
    assert "WARNING: This is 179,766 epochs" in render(tiny, config)
    short, _ = run_of(steps=1000, warmup_steps=10)
    assert not warnings_of(plan_of(short, objective))
    hopeless = plan_of(config, objective, memory=1e9)
    assert any("does not fit" in text for text in warnings_of(hopeless))
    assert advice_on(hopeless) == []
    assert "does not fit in memory" in render(hopeless, config).splitlines()[1]


def test_advice_asks_for_no_more_than_memory_holds():
    config, objective = run_of(max_pairs=None, stage=1)
    plan = plan_of(config, objective, 8, memory=40e9)
    assert plan.steps.micro_batches > 1
    advice = " ".join(advice_on(plan))
    assert "larger micro-batches" not in advice
    assert "leave it out" not in advice


def test_assumed_molecules_have_the_mean_that_was_asked_for():
    for atoms in (1, 2, 25, 120):
        sizes = assumed_sizes(atoms)
        assert sum(n * rows for n, rows in sizes.items()) / sum(sizes.values()) == pytest.approx(atoms)
        assert min(sizes) >= 1
        assert min(sizes.values()) > 0


@pytest.mark.parametrize(("size", "stage", "memory"), [("84M", 1, 24e9), ("84M", 1, 80e9), ("1.1B", 3, 40e9)])
def test_the_largest_budget_fits_and_a_larger_one_does_not(size, stage, memory):
    settings = {"size": size, "stage": stage, "zero_file": f"zero{stage}.json"}
    config, objective = run_of(**settings)
    found = plan_of(config, objective, 8, memory=memory).fit.max_pairs
    fitting, _ = run_of(**settings, max_pairs=found)
    assert plan_of(fitting, objective, 8, memory=memory).fit.fits
    more, _ = run_of(**settings, max_pairs=int(found * 1.15))
    assert not plan_of(more, objective, 8, memory=memory).fit.fits


def test_where_nothing_fits_it_says_what_would():
    fit = plan_of(*run_of(stage=0), 8, memory=24e9).fit
    assert fit.fits is False
    assert fit.max_pairs is None
    assert "zero.stage=3" in fit.remedies
    few = plan_of(*run_of(stage=3), 1, memory=16e9).fit
    assert [remedy for remedy in few.remedies if remedy.endswith("ranks")]
    hopeless = plan_of(*run_of(stage=3), 8, memory=1e9).fit
    assert hopeless.remedies == ()


def test_padding_and_micro_batches_come_from_the_histogram():
    equal = plan_run(*run_of(max_pairs=31**2 * 4), {30: 1000}, world_size=64, target=named_target("h100", "bf16")).steps
    assert equal.micro_batches == 4  # 1,024 molecules, 64 ranks, 4 at a time
    assert equal.padding == 0
    assert equal.waiting == 0
    mixed = plan_of(*run_of()).steps
    assert 0 < mixed.padding < 0.3


def test_recomputing_layers_saves_activations():
    config, objective = run_of()
    shape = largest_micro_batch(config, objective, HISTOGRAM, cuda=True)
    recomputing, _ = run_of(checkpoint_every=1)
    saved = micro_batch_bytes(recomputing, objective, shape, cuda=True)
    assert saved < 0.3 * micro_batch_bytes(config, objective, shape, cuda=True)


@pytest.mark.parametrize(
    ("batch", "ranks", "message"),
    [
        (1024, 48, "nearest: train.global_batch_size=1008 or 1056, or 32 or 64 ranks"),
        (4, 8, "nearest: train.global_batch_size=8, or 4 ranks"),
    ],
)
def test_ranks_that_do_not_divide_the_batch_name_those_that_do(batch, ranks, message):
    with pytest.raises(ConfigError, match=message):
        check_division(batch, ranks)
    check_division(1024, 64)


def test_the_whole_plan_is_one_screen_of_aligned_lines():
    config, objective = run_of()
    text = render(plan_of(config, objective), config)
    assert len(text.splitlines()) <= 48
    assert max(map(len, text.splitlines())) <= 120
    for part in (
        "1,129,209,696",
        "embedding",
        "optimizer",
        "activations",
        "data.max_pairs=",
        "GPU-hours",
        "checkpoint",
        "limits the step",
        "stage 1",
        "disk",
    ):
        assert part in text


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero3-offload", "zero3-small-memory"])
def test_every_file_of_deepspeed_settings_is_accepted_at_its_stage(name):
    config, objective = run_of(stage=int(name[4]), zero_file=f"{name}.json")
    assert memory_of(config, objective, 8).total > 0
    meanings = (REPOSITORY / "configs/deepspeed/README.md").read_text()
    for key in json.loads((REPOSITORY / f"configs/deepspeed/{name}.json").read_text())["zero_optimization"]:
        assert f"`{key}`" in meanings


@pytest.mark.parametrize(
    ("text", "value"), [("80GB", 80e9), ("80", 80e9), ("74.5 GiB", 74.5 * GIB), ("512mb", 512e6), ("1e2GB", 1e11)]
)
def test_amounts_of_memory(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80GX", "GB"),
        ("lots", "such as 80GB"),
        ("0GB", "positive"),
        ("8.0.0GB", "such as 80GB"),
        (".", "such"),
        ("1e999GB", "finite"),
    ],
)
def test_wrong_amounts_of_memory(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_bytes(text)


def test_a_given_peak_replaces_the_devices():
    assert named_target("A100", "bf16").peak_flops == DEVICES["a100"].bf16
    assert named_target("a100", "fp32").peak_flops == DEVICES["a100"].fp32
    assert with_given(named_target("a100", "bf16"), peak_flops=5e14).peak_flops == 5e14
    with pytest.raises(ConfigError, match="did you mean 'h100'"):
        named_target("h10", "bf16")
    with pytest.raises(ConfigError, match="--mfu"):
        with_given(named_target("h100", "bf16"), mfu=40.0)
