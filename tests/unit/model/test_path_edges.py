"""A model with ``edges: path`` is told the mean over the bonds along a path, spelt out pair by pair here."""

import dataclasses

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from tests.unit.objectives.test_relations import graph, stored
from unimol_scale.checkpoints.weights import load_pretrained, save_official, save_pretrained
from unimol_scale.data.batch import collate
from unimol_scale.errors import CheckpointError
from unimol_scale.model.accounting import DENOISE_HEADS, count_parameters
from unimol_scale.model.encodings import PairEncoding, encode_bonds
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import clean_input, corruption_of
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.objectives.distill import DistillConfig, DistillObjective

PATH = preset("0.1M", edges="path")


def encoding(config=PATH):
    """A pair encoding of which every part says something, and distances and paths nothing."""
    torch.manual_seed(0)
    made = PairEncoding(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        made.path.weight.zero_()
        made.bonds.weight[0].zero_()
    made.distance = None
    return made


def molecules():
    """Trees, a ring of four that closes in two equally short ways, and an atom that stands alone."""
    trees = clean_input(collate(random_columns([12, 5, 1])))
    bonds, path = graph(12, [(0, 1, stored()), (1, 2, stored("DOUBLE")), (2, 3, stored()), (3, 0, stored("TRIPLE"))])
    ring = dataclasses.replace(
        clean_input(collate(random_columns([12]))),
        bond_features_BAA3=torch.from_numpy(bonds),
        path_BAA=torch.from_numpy(path),
    )
    return trees, ring


def spelt_out(made, batch, b, i, j):
    """Mean over the hops of w_s ∘ the mean of the three feature embeddings of the hop's bond."""
    code, path = encode_bonds(batch)[b], batch.path_BAA[b]
    if not (batch.valid_BA[b, i] and batch.valid_BA[b, j]):
        return torch.zeros(made.bonds.weight.shape[1])
    if batch.hidden_B[b] or i == j or path[i, j] >= len(path):  # hidden, or no bond
        return made.hop_scale_SP[0] * made.bonds(code[i, j]).mean(0)

    def walks(i):
        if i == j:
            return [[]]
        closer = [k for k in range(len(path)) if batch.bond_features_BAA3[b, i, k, 0] and path[k, j] == path[i, j] - 1]
        return [[code[i, k].tolist(), *rest] for k in closer for rest in walks(k)]

    hops = min(walks(i))[:5]
    return sum(made.hop_scale_SP[s] * made.bonds(torch.tensor(hop)).mean(0) for s, hop in enumerate(hops)) / len(hops)


def test_a_pair_is_told_the_mean_over_the_bonds_along_its_path():
    made = encoding()
    trees, ring = molecules()
    for batch in (trees, ring, dataclasses.replace(trees, hidden_B=torch.tensor([False, True, False]))):
        found = made(batch)[:, 1:, 1:]
        B, A = batch.token_BA.shape
        expected = torch.stack([spelt_out(made, batch, b, i, j) for b in range(B) for i in range(A) for j in range(A)])
        torch.testing.assert_close(found.reshape(B * A * A, -1), expected)


def test_a_direct_bond_says_what_it_says_to_a_model_of_bonds():
    trees, _ = molecules()
    made, plain = encoding(), encoding(preset("0.1M"))
    plain.load_state_dict({name: value for name, value in made.state_dict().items() if name != "hop_scale_SP"})
    with torch.no_grad():
        made.hop_scale_SP.fill_(1.0)
    bonded = trees.path_BAA == 1
    assert torch.equal(made(trees)[:, 1:, 1:][bonded], plain(trees)[:, 1:, 1:][bonded])
    assert not torch.equal(made(trees), plain(trees))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_and_gradients(dtype):
    batch, _ = molecules()
    made = encoding()
    exact = made(batch)
    exact.square().sum().backward()
    expected = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    assert expected["hop_scale_SP"].ne(0).all()
    made.to(dtype).zero_grad()
    found = made(batch)
    assert found.dtype == dtype
    found.float().square().sum().backward()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), exact, rtol=tolerance, atol=tolerance)
    for name, gradient in expected.items():
        error = (dict(made.named_parameters())[name].grad.float() - gradient).norm() / gradient.norm()
        assert error < tolerance


def test_loader_processes_find_the_paths_for_whatever_is_learnt():
    batch = collate(random_columns([7, 4]))
    denoise = DenoiseObjective(DenoiseConfig())
    assert corruption_of(denoise, preset("0.1M"))(batch, keys([0, 1]), 0).input.path_bonds_BAAS is None
    student, teacher = preset("0.1M", geometry=False), preset("0.1M", edges="path")
    distill = DistillObjective(DistillConfig(), student, teacher)
    blend = BlendObjective(BlendConfig(), "path")
    for objective, model in ((denoise, PATH), (distill, student), (blend, PATH)):
        found = corruption_of(objective, model)(batch, keys([0, 1]), 0).input
        assert found.path_bonds_BAAS.shape == (2, 7, 7, 5)
        assert found.path_bonds_BAAS.dtype == torch.uint8
        # Whoever does not have them finds the same.
        made = encoding()
        assert torch.equal(made(found), made(dataclasses.replace(found, path_bonds_BAAS=None)))


def test_files_say_what_the_edges_are(tmp_path):
    model = HeadedModel(PATH, DENOISE_HEADS)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(PATH).total
    save_pretrained(model, tmp_path / "model")
    assert load_pretrained(tmp_path / "model").backbone.config.edges == "path"
    released = dict(gaussians=128, normalize_by="padded", pair_type="chirality")
    with pytest.raises(CheckpointError, match="edges"):
        save_official(HeadedModel(preset("0.03M", edges="path", **released), DENOISE_HEADS), tmp_path / "released.pt")
    save_official(HeadedModel(preset("0.03M", **released), DENOISE_HEADS), tmp_path / "released.pt")
