"""Representations of molecules: their shapes and order, and that neighbours, batches and numbering do not matter."""

import dataclasses

import numpy as np
import pytest
import torch
from rdkit import Chem

from tests.helpers.conformer_stores import CONFORMERS, conformer_store
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_row_once
from unimol_scale.downstream.data.molecules import prepare, prepare_store
from unimol_scale.downstream.embedding import representations
from unimol_scale.downstream.embedding.pooling import inner_depths, vector_width
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent_all
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.model import layers
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.layers import attention_weights
from unimol_scale.model.native.library import torch_only
from unimol_scale.model.presets import preset

SMILES = (
    "CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C", "C[C@H](N)C(=O)O", "OCC", "CCCCCCCCO", "c1ccc2ccccc2c1", "CN",
)  # fmt: skip
MODELS = {
    "ours": preset("0.03M"),
    "released": preset("0.03M", normalize_by="padded", pair_type="chirality"),
    "of the graph": preset("0.03M", geometry=False),
}


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return prepare(SMILES, cache=cache, geometry=True, max_atoms=None, workers=1)


@pytest.fixture(params=MODELS)
def backbone(request):
    torch.manual_seed(0)
    return TwoTrackBackbone(MODELS[request.param]).eval()


def represented(backbone, molecules, rows=None, **settings):
    position_R = molecules.position_M if rows is None else molecules.position_M[rows]
    return represent_all(backbone, molecules.split, position_R, RepresentationConfig(**settings))


@pytest.mark.parametrize("kind", ["molecule", "atom", "pair", "attention"])
def test_a_molecule_is_the_same_alone_and_among_others(backbone, molecules, kind):
    together = represented(backbone, molecules, kind=kind)
    assert len(together) == len(SMILES)
    for row, found in enumerate(together):
        (alone,) = represented(backbone, molecules, [row], kind=kind)
        assert alone.dtype == np.float32
        np.testing.assert_allclose(found, alone, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_rows_is_that_of_the_results(backbone, molecules):
    order = np.random.default_rng(0).permutation(len(SMILES))
    for found, row in zip(represented(backbone, molecules, order), order, strict=True):
        np.testing.assert_allclose(found, represented(backbone, molecules)[row], atol=1e-5, rtol=1e-5)


def test_the_memory_budget_changes_nothing(backbone, molecules):
    for tight, wide in zip(
        represented(backbone, molecules, max_pairs=150), represented(backbone, molecules), strict=True
    ):
        np.testing.assert_allclose(tight, wide, atol=1e-5, rtol=1e-5)


def test_the_number_of_threads_changes_no_bit(molecules):
    # Of this size and so many molecules, threads inside the operations do change some.
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(preset("0.5M")).eval()
    before, found = torch.get_num_threads(), {}
    for threads in (1, 4):
        torch.set_num_threads(threads)
        found[threads] = represented(backbone, molecules, list(range(len(SMILES))) * 6)
    torch.set_num_threads(before)
    for alone, among_others in zip(found[1], found[4], strict=True):
        np.testing.assert_array_equal(alone, among_others)


def test_one_molecule_written_twice_is_represented_twice_alike(backbone, molecules):
    found = represented(backbone, molecules)
    np.testing.assert_allclose(found[0], found[5], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3, "and another one otherwise"


def test_atoms_and_pairs_are_in_the_order_of_the_canonical_smiles(backbone, molecules):
    atoms, pairs = (represented(backbone, molecules, kind=kind) for kind in ("atom", "pair"))
    config = backbone.config
    for smiles, atom, pair in zip(molecules.smiles, atoms, pairs, strict=True):
        elements = [atom.GetAtomicNum() for atom in Chem.MolFromSmiles(smiles).GetAtoms()]
        assert atom.shape == (len(elements), config.atom_width)
        assert pair.shape == (len(elements), len(elements), config.pair_width)
    # In ethanol the oxygen is the one atom that a model of elements alone tells from the others.
    hollow = TwoTrackBackbone(preset("0.03M", layers=1))
    for parameter in hollow.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.normal_(hollow.atom_encoding.token.weight)
    torch.nn.init.ones_(hollow.atom_norm.weight)
    assert molecules.smiles[0] == "CCO"
    ethanol = represented(hollow.eval(), molecules, [0], kind="atom")[0]
    np.testing.assert_array_equal(ethanol[0], ethanol[1])
    assert not np.array_equal(ethanol[0], ethanol[2])
    # And the virtual node's pairs, the only ones that this model tells from the others, are not among the atoms'.
    torch.nn.init.normal_(hollow.pair_encoding.virtual_pair.weight)
    torch.nn.init.ones_(hollow.pair_norm.weight)
    assert not represented(hollow, molecules, [0], kind="pair")[0].any()


def test_the_softmax_of_the_attention_scores_is_what_the_heads_attend_with(backbone, molecules, monkeypatch):
    seen = []

    def recorded(*arguments):
        weights_MNN, values = attention_weights(*arguments)
        seen.append(weights_MNN)
        return weights_MNN, values

    torch.manual_seed(0)
    backbone = TwoTrackBackbone(dataclasses.replace(backbone.config, heads=2)).eval()
    monkeypatch.setattr(layers, "attention_weights", recorded)
    with torch_only():
        (score_AAC,) = represented(backbone, molecules, [2], kind="attention")
    n, H = 11, 2
    assert score_AAC.shape == (n, n, backbone.config.layers * H)
    assert len(seen) == backbone.config.layers > 1
    for layer, weight_HNN in enumerate(seen):
        scores_HAA = torch.from_numpy(score_AAC).permute(2, 0, 1)[layer * H : (layer + 1) * H]
        # Each atom attends to the virtual node too, which is not among the atoms.
        weight_HAA = weight_HNN[:, 1:, 1:] / weight_HNN[:, 1:, 1:].sum(-1, keepdim=True)
        torch.testing.assert_close(scores_HAA.softmax(-1), weight_HAA, atol=1e-6, rtol=1e-5)


def test_watching_the_attention_changes_nothing(backbone, molecules):
    reader = RowReader(molecules.split, molecules.position_M, np.empty((len(SMILES), 0)))
    (sample,) = each_row_once(
        reader, SampleMaker(view=STANDARD_VIEWS["2d"], model=backbone.config), None, torch.device("cpu")
    )
    scores = []
    with torch.no_grad():
        plain, watched = backbone(sample.input), backbone(sample.input, scores.append)
    assert torch.equal(plain.atom_BND, watched.atom_BND)
    assert torch.equal(plain.pair_BNNP, watched.pair_BNNP)
    assert len(scores) == backbone.config.layers


def test_the_mean_is_over_the_atoms_and_the_virtual_node_is_none_of_them(backbone, molecules):
    mean, virtual = (represented(backbone, molecules, pooling=pooling) for pooling in ("mean", "virtual_node"))
    atoms = represented(backbone, molecules, kind="atom")
    for found, over, node in zip(mean, atoms, virtual, strict=True):
        np.testing.assert_allclose(found, over.mean(axis=0), atol=1e-5)
        assert np.abs(found - node).max() > 1e-3


def test_layers_are_mean_deviation_and_sum_of_the_atoms_at_every_depth(backbone, molecules):
    """The first depth is what the first layer gets, and the last one what the other poolings see."""
    D, depths = backbone.config.atom_width, backbone.config.layers + 1
    nodes_DEPTH: list[list[np.ndarray]] = [[] for _ in range(depths)]
    hooks = [backbone.layers[0].register_forward_pre_hook(lambda _, given: nodes_DEPTH[0].append(given[0].numpy()))]
    for index, layer in enumerate(backbone.layers):
        hooks.append(
            layer.register_forward_hook(lambda _, __, out, at=index + 1: nodes_DEPTH[at].append(out[0].numpy()))
        )
    row = [3]  # a single molecule, so that there is no padding
    found = represented(backbone, molecules, row, pooling="layers")[0]
    for hook in hooks:
        hook.remove()
    expected = []
    for (nodes_1ND,) in nodes_DEPTH:
        atom_AD = nodes_1ND[0, 1:].astype(np.float64)
        expected += [atom_AD.mean(0), atom_AD.std(0), atom_AD.sum(0)]
    assert found.shape == (3 * depths * D,)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-3, rtol=1e-4)


def test_layers_of_a_molecule_do_not_depend_on_its_company(backbone, molecules):
    together = represented(backbone, molecules, pooling="layers")
    for row in (0, 3, 8):
        np.testing.assert_allclose(
            represented(backbone, molecules, [row], pooling="layers")[0], together[row], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("layers", "depths"), [(1, (0, 1)), (2, (0, 1, 2)), (4, (0, 1, 2, 3, 4)), (64, (0, 16, 32, 48, 64))]
)
def test_a_deep_model_has_as_many_depths_as_a_flat_one(layers, depths):
    model = dataclasses.replace(preset("0.03M"), layers=layers)
    assert inner_depths(model, "layers") == depths
    assert vector_width(model, "layers") == 3 * len(depths) * model.atom_width


@pytest.mark.parametrize("kind", ["molecule", "atom", "pair"])
def test_the_mean_over_conformers_is_that_of_the_conformers_one_by_one(tmp_path, kind, monkeypatch):
    conformer_store(tmp_path / "all", fewer=4)
    for number in range(CONFORMERS):
        conformer_store(tmp_path / str(number), [number])
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(preset("0.03M")).eval()
    rows = [29, 5, 0, 17, 3, 8]
    single = [
        represented(backbone, prepare_store(tmp_path / str(number)), rows, kind=kind) for number in range(CONFORMERS)
    ]
    everything = prepare_store(tmp_path / "all")
    for together in (32, 2):  # rows of a step: the conformers of a molecule may be in two of them
        monkeypatch.setitem(representations._TOGETHER, kind, together)
        found = represented(backbone, everything, rows, kind=kind, conformers=5)
        assert len(found) == len(rows)
        for at, row in enumerate(rows):
            expected = single[0][at] if row < 4 else np.mean([one[at] for one in single], axis=0)
            assert found[at].dtype == np.float32
            np.testing.assert_allclose(found[at], expected, atol=1e-5)
    assert np.abs(single[0][0] - single[1][0]).max() > 1e-4
    two = represented(backbone, everything, rows, kind=kind, conformers=2)
    np.testing.assert_allclose(two[0], np.mean([one[0] for one in single[:2]], axis=0), atol=1e-5)


def test_a_model_of_depictions_is_refused_to_one_that_sees_space(tmp_path):
    flat = prepare(["CCO"], cache=tmp_path, geometry=False, max_atoms=None, workers=1)
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(preset("0.03M")).eval()
    with pytest.raises(StoreError, match="2D depictions"):
        represented(backbone, flat)
    solid = prepare(["CCO"], cache=tmp_path, geometry=True, max_atoms=None, workers=1)
    np.testing.assert_array_equal(represented(backbone, flat, inputs="2d"), represented(backbone, solid, inputs="2d"))


def test_a_molecule_beyond_the_budget_is_named_by_its_size(molecules):
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="11 atoms needs 144 pairs"):
        represented(TwoTrackBackbone(preset("0.03M")).eval(), molecules, max_pairs=100)


def test_without_a_budget_the_largest_molecule_fits(tmp_path):
    chain = prepare(["C" * 120], cache=tmp_path, geometry=False, max_atoms=None, workers=1)
    torch.manual_seed(0)
    (atoms,) = represented(TwoTrackBackbone(preset("0.03M", geometry=False)).eval(), chain, kind="atom")
    assert atoms.shape == (120, 16)
