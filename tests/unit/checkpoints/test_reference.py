"""The reference's integers back to our input: what stands for nothing is refused, by molecule."""

import dataclasses

import numpy as np
import pytest
import torch

from unimol_scale.checkpoints.parity import compare
from unimol_scale.checkpoints.reference import decode_batch, read_reference
from unimol_scale.errors import CheckpointError, StoreError
from unimol_scale.model import encodings
from unimol_scale.model.encodings import ModelInput, check_input
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseModel
from unimol_scale.store.schema import ATOM_VOCABULARIES, BOND_VOCABULARIES

SIZES = (4, 2, 3)
HIDDEN = 2
A = max(SIZES)


@pytest.fixture
def model_input() -> ModelInput:
    """Three molecules; the last one is hidden. What is padded or hidden is 0, as the decoder leaves it."""
    rng = np.random.default_rng(0)
    real_BA = np.arange(A) < np.array(SIZES)[:, None]
    shown_BA = real_BA & (np.arange(len(SIZES)) != HIDDEN)[:, None]
    shown_BAA = shown_BA[:, :, None] & shown_BA[:, None]
    shape = (len(SIZES), A)
    atoms = np.stack([rng.integers(0, len(words), shape) for words in ATOM_VOCABULARIES.values()], -1)
    bonds = np.stack([rng.integers(0, len(words) + 1, (*shape, A)) for words in BOND_VOCABULARIES.values()], -1)
    return ModelInput(
        token_BA=torch.from_numpy((rng.integers(1, 128, shape) * real_BA).astype(np.uint8)),
        atom_features_BA8=torch.from_numpy((atoms * shown_BA[..., None]).astype(np.uint8)),
        degree_BA=torch.from_numpy((rng.integers(0, 126, shape) * shown_BA).astype(np.uint8)),
        bond_features_BAA3=torch.from_numpy((bonds * shown_BAA[..., None]).astype(np.uint8)),
        path_BAA=torch.from_numpy((rng.integers(0, 510, (*shape, A)) * shown_BAA).astype(np.int16)),
        hidden_B=torch.arange(len(SIZES)) == HIDDEN,
        coordinates_BA3=torch.from_numpy(rng.normal(size=(*shape, 3)).astype(np.float32)),
    )


@pytest.fixture
def batch(model_input) -> dict:
    target = np.zeros(model_input.token_BA.shape, dtype=np.int16)
    target[0, 1], target[2, 0] = 6, 8
    return {
        "src_token": model_input.token_BA.numpy().astype(np.int16),
        "target_token": target,
        "src_pos": model_input.coordinates_BA3.numpy(),
        "target_pos": model_input.coordinates_BA3.numpy() + 1,
        "atom_feat": encodings.encode_atom_features(model_input).numpy(),
        "degree": encodings.encode_degree(model_input).numpy(),
        "edge_feat": encodings.encode_bonds(model_input).numpy(),
        "shortest_path": encodings.encode_paths(model_input).numpy(),
    }


def test_decoding_undoes_encoding(model_input, batch):
    sample = decode_batch(batch)
    assert sample.input.shown_BAA is model_input.shown_BAA is None
    assert sample.input.path_bonds_BAAS is model_input.path_bonds_BAAS is None
    for field in dataclasses.fields(ModelInput):
        if field.name not in ("shown_BAA", "path_bonds_BAAS"):
            assert torch.equal(getattr(sample.input, field.name), getattr(model_input, field.name)), field.name
    assert sample.masked_BA.nonzero().tolist() == [[0, 1], [2, 0]]
    assert sample.atomic_number_BA[0, 1] == 6
    assert sample.atomic_number_BA[0, 0] == model_input.token_BA[0, 0]
    assert sample.counts == {"token": 2.0, "coordinate": 3.0, "distance": 3.0}
    assert sample.num_atoms == sum(SIZES)


@pytest.mark.parametrize(
    ("name", "index", "code"),
    [
        ("src_token", (1, 1), 128),
        ("src_token", (1, 1), -1),
        ("target_token", (1, 1), 127),
        ("target_token", (1, 3), 6),  # of padding
        ("atom_feat", (1, 1, 0), 2),
        ("atom_feat", (1, 1, 0), 3 + 5),  # chirality has five codes
        ("atom_feat", (1, 1, 7), 1),  # hidden, in a molecule that is not
        ("atom_feat", (1, 2, 7), 115),  # at padding
        ("degree", (1, 0), 128),
        ("degree", (1, 0), 1),
        ("edge_feat", (1, 0, 1, 0), 3),
        ("edge_feat", (1, 0, 1, 1), 2 + 16),
        ("edge_feat", (1, 0, 1, 2), 3 + 32 + 3),
        ("edge_feat", (2, 0, 1, 0), 2),  # shown, in a molecule that is hidden
        ("shortest_path", (1, 0, 1), 511),
        ("shortest_path", (1, 0, 1), 0),
        ("shortest_path", (2, 0, 1), 3),
        ("shortest_path", (1, 3, 1), 3),
    ],
)
def test_a_code_that_stands_for_nothing_names_its_molecule(batch, name, index, code):
    batch[name] = batch[name].copy()
    batch[name][index] = code
    with pytest.raises(StoreError, match=rf"molecule {index[0]} of the batch: {name} "):
        decode_batch(batch)


def test_arrays_must_be_there_and_of_one_batch(batch):
    for name in batch:
        with pytest.raises(CheckpointError, match=f"batch/{name}' is missing"):
            decode_batch({key: value for key, value in batch.items() if key != name})
    with pytest.raises(CheckpointError, match=r"batch/degree' is int64 of shape \(2, 4\), expected integers of"):
        decode_batch({**batch, "degree": batch["degree"][:2]})
    with pytest.raises(CheckpointError, match=r"batch/degree' is float32"):
        decode_batch({**batch, "degree": batch["degree"].astype(np.float32)})


@pytest.mark.parametrize(
    ("field", "index", "value", "said"),
    [
        ("token_BA", (1, 0), 128, "atomic number 128"),
        ("token_BA", (1, slice(None)), 0, "number of atoms 0"),
        ("atom_features_BA8", (1, 0, 2), 12, "feature formal_charge 12"),
        ("bond_features_BAA3", (1, 0, 1, 2), 3, "feature is_conjugated 3"),
        ("degree_BA", (1, 0), 126, "degree 126"),
        ("path_BAA", (1, 0, 1), 510, "shortest path 510"),
        ("path_BAA", (1, 0, 1), -1, "shortest path -1"),
        ("coordinates_BA3", (1, 1, 2), float("nan"), "coordinates of atom 1 are not finite"),
    ],
)
def test_input_out_of_range_names_its_molecule(model_input, field, index, value, said):
    check_input(model_input)
    getattr(model_input, field)[index] = value
    with pytest.raises(StoreError, match=f"molecule 1 of the batch: .*{said}"):
        check_input(model_input)


@pytest.mark.parametrize(("atoms", "fits"), [(509, True), (510, False)])
def test_more_atoms_than_paths_can_tell_apart_are_refused(atoms, fits):
    empty = torch.zeros(1, atoms, dtype=torch.uint8)
    big = ModelInput(
        token_BA=empty + 6,
        atom_features_BA8=empty[..., None].expand(-1, -1, 8),
        degree_BA=empty,
        bond_features_BAA3=empty[:, None, :, None].expand(-1, atoms, -1, 3),
        path_BAA=empty[:, None].expand(-1, atoms, -1).short(),
        hidden_B=torch.zeros(1, dtype=torch.bool),
        coordinates_BA3=empty[..., None].expand(-1, -1, 3).float(),
    )
    if fits:
        check_input(big)
    else:
        with pytest.raises(StoreError, match="molecule 0 of the batch: number of atoms 510"):
            check_input(big)


def test_reference_files_that_are_none_are_refused(tmp_path, batch):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_reference(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read as npz of plain arrays"):
        read_reference(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="cannot be read as npz of plain arrays"):
        read_reference(tmp_path / "objects.npz")
    np.savez(tmp_path / "empty.npz", **{f"batch/{name}": value for name, value in batch.items()})
    with pytest.raises(CheckpointError, match="none of the outputs x, pair"):
        read_reference(tmp_path / "empty.npz")


def test_an_output_that_is_not_finite_never_passes(tmp_path, batch):
    model = DenoiseModel(ModelConfig(layers=1, atom_width=8, heads=1, ffn_width=8, pair_width=4, pair_hidden=2)).eval()
    arrays = {f"batch/{name}": value for name, value in batch.items()}
    np.savez(tmp_path / "outputs.npz", **arrays, loss=np.float64("nan"), x=np.zeros((3, A + 1, 8), np.float32))
    found = {d.output: d for d in compare(model, read_reference(tmp_path / "outputs.npz"))}
    assert not found["loss"].within(1e9)
    assert not found["atom representation (x)"].within(1.0)
    assert found["coord_loss"].value is None
    assert found["coord_loss"].within(0.0)
    np.savez(tmp_path / "outputs.npz", **arrays, x=np.zeros((3, A + 1, 9), np.float32))
    with pytest.raises(CheckpointError, match=r"'x' has shape \(3, 5, 9\), this model returns \(3, 5, 8\)"):
        compare(model, read_reference(tmp_path / "outputs.npz"))
