"""The head on the backbone: what stands for a molecule, and that padding does not."""

import pytest
import torch

from tests.helpers.tiny_finetuning import CARBON, TINY, column, model, prepared
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_row_once
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.model.backbone import Representation

CPU = torch.device("cpu")
GRAPH = SampleMaker(view=STANDARD_VIEWS["2d"], model=TINY)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    made = prepared(tmp_path_factory.mktemp("cache"))

    def of(rows):
        return next(
            each_row_once(RowReader(made.split, made.position_M[rows], column(CARBON[rows])), GRAPH, 40_000, CPU)
        )

    return of


def test_a_molecule_is_the_mean_of_its_atoms_or_its_virtual_node():
    atom_BND = torch.tensor([[[9.0], [1.0], [3.0], [100.0]], [[8.0], [5.0], [6.0], [7.0]]])
    valid_BN = torch.tensor([[True, True, True, False], [True, True, True, True]])
    seen = Representation(atom_BND=atom_BND, pair_BNNP=torch.empty(2, 4, 4, 1), valid_BN=valid_BN)
    assert pool(seen, "mean").tolist() == [[2.0], [6.0]]
    assert pool(seen, "virtual_node").tolist() == [[9.0], [8.0]]


def test_what_is_at_padding_does_not_reach_the_mean():
    atom_BND = torch.tensor([[[9.0], [1.0], [float("nan")]]])
    seen = Representation(
        atom_BND=atom_BND, pair_BNNP=torch.empty(1, 3, 3, 1), valid_BN=torch.tensor([[True, True, False]])
    )
    assert pool(seen, "mean").tolist() == [[1.0]]


@pytest.mark.parametrize("pooling", ["mean", "virtual_node", "layers"])
def test_a_molecule_is_worth_the_same_in_every_company(samples, pooling):
    torch.manual_seed(0)
    fitted = model(num_targets=3, pooling=pooling).eval()
    together = samples([0, 6, 22])  # three to eleven atoms
    assert together.input.valid_BA.shape == (3, 11)
    with torch.no_grad():
        out_BL = fitted(together.input)
        assert out_BL.dtype == torch.float32
        assert out_BL.shape == (3, 3)
        for at, row in enumerate(together.row_B.tolist()):
            alone = fitted(samples([[0, 6, 22][row]]).input)
            assert torch.allclose(out_BL[at], alone[0], atol=1e-5)


def test_every_weight_that_the_output_depends_on_learns(samples):
    torch.manual_seed(0)
    fitted = model(pooling="mean")
    fitted(samples(list(range(12))).input).square().sum().backward()
    without = {name for name, p in fitted.named_parameters() if p.grad is None or not p.grad.any()}
    # The last layer's pair track leads nowhere, and a graph has no distances.
    assert all("pair" in name or "distance" in name or "outer" in name or "triangle" in name for name in without), (
        without
    )
    assert not {name for name in without if not name.startswith("backbone.")}
