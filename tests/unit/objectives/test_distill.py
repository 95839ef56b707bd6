"""Distilling: the student learns the teacher's atoms from the graph alone, and the teacher stays as it was."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.config import read_yaml, to_tree
from unimol_scale.data.batch import collate
from unimol_scale.data.transfer import to_device
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.distill import DistillConfig, DistillObjective, Teacher

REPOSITORY = Path(__file__).resolve().parents[3]
SIZES = [9, 4, 17, 1, 2, 12]
EVERYONE = range(6)
TEACHER = preset("0.1M")
STUDENT = preset("0.03M", geometry=False)


def made(config=None, student=STUDENT, members=EVERYONE, sizes=SIZES):
    """Objective, teacher and the sample of some of the molecules."""
    objective = DistillObjective(config or DistillConfig(), student, TEACHER)
    torch.manual_seed(1)
    teacher = Teacher(TwoTrackBackbone(TEACHER), objective.config)
    columns = random_columns(sizes).take(torch.tensor(list(members)).numpy())
    return objective, teacher, objective.corrupt(collate(columns), keys(members))


def built(objective, student=STUDENT):
    torch.manual_seed(0)
    return objective.build_model(student)


def test_the_student_does_not_depend_on_the_geometry():
    objective, _, sample = made()
    model = built(objective).eval()
    moved = dataclasses.replace(sample.input, coordinates_BA3=torch.full_like(sample.input.coordinates_BA3, torch.nan))
    with torch.no_grad():
        assert torch.equal(model.backbone(sample.input).atom_BND, model.backbone(moved).atom_BND)


# Everything of the input that only the graph knows.
OF_THE_GRAPH = ("atom_features_BA8", "degree_BA", "bond_features_BAA3", "path_BAA")


def with_another_graph(sample):
    """The sample with features, degrees, bonds and paths of nowhere."""
    other = {name: torch.zeros_like(getattr(sample.input, name)) for name in OF_THE_GRAPH}
    return dataclasses.replace(sample, input=dataclasses.replace(sample.input, **other))


def test_the_teacher_of_the_paper_sees_elements_and_coordinates_and_nothing_of_the_graph():
    _, teacher, sample = made()
    said = teacher(sample)
    assert torch.equal(teacher(with_another_graph(sample)).target_BAD, said.target_BAD)
    token_BA = torch.where(sample.input.token_BA == 6, 7, sample.input.token_BA)
    others = {"token_BA": token_BA, "coordinates_BA3": sample.input.coordinates_BA3 * 1.3}
    for name, value in others.items():
        other = dataclasses.replace(sample, input=dataclasses.replace(sample.input, **{name: value}))
        assert (teacher(other).target_BAD - said.target_BAD)[sample.input.valid_BA].abs().max() > 1e-3, name
    # It is as it was in pretraining where the features were hidden, and the student goes on seeing them.
    assert torch.equal(said.input.hidden_B, sample.input.hidden_B)
    assert not said.input.hidden_B.any()
    hidden = dataclasses.replace(sample.input, hidden_B=torch.ones_like(sample.input.hidden_B))
    full = Teacher(teacher._backbone, DistillConfig(teacher_inputs="full"))
    assert torch.equal(full(dataclasses.replace(sample, input=hidden)).target_BAD, said.target_BAD)
    model = built(DistillObjective(DistillConfig(), STUDENT, TEACHER)).eval()
    assert model(said) != model(with_another_graph(said))


def test_a_teacher_of_everything_sees_the_clean_conformer_and_the_graph():
    _, teacher, sample = made(DistillConfig(teacher_inputs="full"))
    clean = collate(random_columns(SIZES))
    assert torch.equal(sample.input.coordinates_BA3, torch.from_numpy(clean.coordinates_BA3))
    assert torch.equal(sample.input.token_BA, torch.from_numpy(clean.atomic_number_BA))
    assert not sample.input.hidden_B.any()
    other = dataclasses.replace(sample.input, coordinates_BA3=sample.input.coordinates_BA3 * 1.3)
    first, second = (teacher(s).target_BAD for s in (sample, dataclasses.replace(sample, input=other)))
    assert (first - second)[sample.input.valid_BA].abs().max() > 1e-3
    third = teacher(with_another_graph(sample)).target_BAD
    assert (first - third)[sample.input.valid_BA].abs().max() > 1e-3


@pytest.mark.parametrize("target", ["node", "graph"])
def test_gradients_reach_the_student_and_never_the_teacher(target):
    objective, teacher, sample = made(DistillConfig(target=target))
    model = built(objective)
    before = {name: p.clone() for name, p in teacher._backbone.named_parameters()}
    sample = teacher(sample)
    assert not sample.target_BAD.requires_grad
    total_loss(model(sample), sample.counts, objective.weights).backward()
    assert model.projection.weight.grad.abs().sum() > 0
    assert model.backbone.layers[0].attention.qkv_weight.grad.abs().sum() > 0
    for name, parameter in teacher._backbone.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_a_perfect_student_has_no_loss_and_a_silent_one_a_loss_of_one():
    objective, teacher, sample = made(DistillConfig(normalise="layer_norm"), preset("0.1M", geometry=False))
    sample = teacher(sample)

    class Parrot:
        def __init__(self, atom_BAD):
            self.atom_BAD = atom_BAD

        def backbone(self, _):
            return type("R", (), {"atom_BND": torch.nn.functional.pad(self.atom_BAD, (0, 0, 1, 0))})

    assert objective.heads == Heads()  # equal widths need no projection
    perfect = objective.score(Parrot(sample.target_BAD), sample)
    assert perfect["node"] == perfect["graph"] == 0
    silent = objective.score(Parrot(torch.zeros_like(sample.target_BAD)), sample)
    assert silent["node"].item() / sample.counts["node"] == pytest.approx(1.0, abs=1e-3)
    assert 0 < silent["graph"].item() / sample.counts["graph"] < 1
    # The mean over channels and then over atoms, each atom counting once.
    off = sample.target_BAD.clone()
    off[2, 3, 0] += 2.0
    assert objective.score(Parrot(off), sample)["node"].item() == pytest.approx(4.0 / off.shape[-1], rel=1e-4)
    assert objective.score(Parrot(off), sample)["graph"].item() == pytest.approx(4.0 / off.shape[-1] / 17**2, rel=1e-4)


@pytest.mark.parametrize("target", ["node", "graph"])
def test_a_batch_cut_into_pieces_gives_the_same_loss(target):
    objective, teacher, whole = made(DistillConfig(target=target))
    model = built(objective)
    full = model(teacher(whole))
    parts = [made(members=members)[2] for members in ([0, 2], [1, 3, 4, 5])]
    pieces = [model(teacher(part)) for part in parts]
    for name in objective.weights:
        assert sum(part.counts[name] for part in parts) == whole.counts[name]
        torch.testing.assert_close(sum(p[name] for p in pieces), full[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2]])
def test_the_smallest_molecules_give_finite_losses_and_gradients(sizes):
    objective, teacher, sample = made(sizes=sizes, members=range(len(sizes)))
    model = built(objective)
    loss = total_loss(model(teacher(sample)), sample.counts, objective.weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def overfitted(config, student, scale=1.0):
    """Losses of a student that learns what the teacher, its atoms scaled, says of 32 molecules."""
    sizes = [5 + i % 6 for i in range(32)]
    objective, teacher, sample = made(config, student, range(32), sizes)
    sample = teacher(sample)
    sample = dataclasses.replace(sample, target_BAD=scale * sample.target_BAD)
    model = built(objective, student)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = total_loss(model(sample), sample.counts, objective.weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("normalise", ["layer_norm", "none"])
@pytest.mark.parametrize("target", ["node", "graph"])
def test_the_student_overfits_thirty_two_molecules(target, normalise):
    losses = overfitted(DistillConfig(target=target, normalise=normalise), preset("0.1M", geometry=False))
    assert losses[-1] < 0.05 * losses[0]


def test_a_student_larger_than_its_teacher_learns_from_it():
    student = preset("0.2M", geometry=False)
    assert student.atom_width > TEACHER.atom_width
    objective = DistillObjective(DistillConfig(), student, TEACHER)
    objective.check(student)
    assert objective.heads == Heads(projection=TEACHER.atom_width)  # what is learnt is the teacher's word
    losses = overfitted(DistillConfig(), student)
    assert losses[-1] < 0.05 * losses[0]


def test_the_configuration_file_states_every_default():
    tree, _ = read_yaml(REPOSITORY / "configs" / "pretrain" / "distill.yaml")
    stated = to_tree(DistillConfig(teacher=Path("runs/teacher")))
    del stated["teacher_sha256"]
    assert tree["objective"] == {"name": "distill", "distill": stated}


def test_a_sample_travels_before_and_after_the_teacher():
    _, teacher, sample = made()
    assert to_device(sample, torch.device("cpu")).target_BAD is None
    assert to_device(teacher(sample), torch.device("cpu")).target_BAD is not None


def test_parameters_and_flops_are_those_of_student_and_teacher():
    objective, _, _ = made()
    total = sum(p.numel() for p in built(objective).parameters())
    assert objective.count_parameters(STUDENT).total == total
    alone = DistillObjective(DistillConfig(), STUDENT, STUDENT).training_flops(STUDENT, 20)
    assert objective.training_flops(STUDENT, 20) > alone


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (preset("0.03M"), TEACHER, "model.geometry is true"),
        (STUDENT, preset("0.1M", geometry=False), "sees only the 2D graph, but a teacher must see 3D"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(student, teacher, message):
    objective = DistillObjective(DistillConfig(), student, teacher)
    with pytest.raises(ConfigError, match=message):
        objective.check(student)
