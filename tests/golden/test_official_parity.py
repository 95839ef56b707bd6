"""The public model's own numbers: integers, outputs, losses and gradients of golden/official-a."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rdkit import Chem

from conformer_gen.chemistry.graph import molecule_graph
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import collate
from unimol_scale.model import encodings
from unimol_scale.model.encodings import ModelInput, pairwise_distances
from unimol_scale.model.official.released_file import read_official_file
from unimol_scale.model.official.released_weights import from_official, infer_config, to_official
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseModel, DenoiseSample
from unimol_scale.store.schema import MoleculeColumns

RELATIVE = 2e-5
WEIGHTS = {"token": 1.0, "coordinate": 1.0, "distance": 1.0}


@pytest.fixture(scope="module")
def golden(shared_golden):
    """Meta, released tensors, model, sample made from SMILES and reference arrays."""
    meta = json.loads((shared_golden / "meta.json").read_text())
    tensors, config_tree = read_official_file(shared_golden / "checkpoint.pt")
    config = infer_config(tensors, config_tree["encoder_attention_heads"])
    model = DenoiseModel(config)
    model.load_state_dict(from_official(tensors, model.state_dict(), config))
    outputs = dict(np.load(shared_golden / "outputs.npz"))
    features = dict(np.load(shared_golden / "features.npz"))
    return SimpleNamespace(
        meta=meta,
        tensors=tensors,
        config=config,
        model=model.eval(),
        outputs=outputs,
        features=features,
        sample=make_sample(meta["molecules"], outputs),
        grad_norms=json.loads((shared_golden / "grad_norms.json").read_text()),
    )


def make_sample(molecules, outputs) -> DenoiseSample:
    """Build the batch from SMILES by the project's own path; only corruption is taken from the reference."""
    graphs = [molecule_graph(Chem.MolFromSmiles(m["smiles"])) for m in molecules]
    sizes = np.array([len(g.atomic_number) for g in graphs], dtype=np.int32)
    empty = np.zeros((int(sizes.sum()), 3), dtype=np.float32)
    columns = MoleculeColumns(
        num_atoms=sizes,
        num_bonds=np.array([len(g.bond_index) for g in graphs], dtype=np.int32),
        atomic_number=np.concatenate([g.atomic_number for g in graphs]),
        atom_features=np.concatenate([g.atom_features for g in graphs]),
        bond_index=np.concatenate([g.bond_index for g in graphs]).astype(np.int32),
        bond_features=np.concatenate([g.bond_features for g in graphs]),
        coordinates=empty,
        planar_coordinates=empty,
        conformer_origin=np.zeros(len(graphs), dtype=np.uint8),
        labels=np.empty((len(graphs), 0)),
    )
    batch = collate(columns)
    target = torch.from_numpy(outputs["batch/target_token"].astype(np.int64))
    model_input = ModelInput(
        token_BA=torch.from_numpy(outputs["batch/src_token"].astype(np.uint8)),
        atom_features_BA8=torch.from_numpy(batch.atom_features_BA8),
        degree_BA=torch.from_numpy(batch.degree_BA),
        bond_features_BAA3=torch.from_numpy(batch.bond_features_BAA3),
        path_BAA=torch.from_numpy(batch.path_BAA),
        hidden_B=torch.tensor([m["drop_features"] for m in molecules]),
        coordinates_BA3=torch.from_numpy(outputs["batch/src_pos"]),
    )
    masked = target != 0
    return DenoiseSample(
        input=model_input,
        counts={"token": float(masked.sum()), "coordinate": float(len(graphs)), "distance": float(len(graphs))},
        molecule_B=torch.arange(len(graphs)),
        num_atoms=int(sizes.sum()),
        masked_BA=masked,
        atomic_number_BA=torch.from_numpy(batch.atomic_number_BA),
        clean_BA3=torch.from_numpy(outputs["batch/target_pos"]),
    )


def assert_close(found: torch.Tensor, expected: np.ndarray, what: str) -> None:
    reference = torch.from_numpy(np.asarray(expected))
    difference = (found.detach().double() - reference.double()).abs().max() / reference.double().abs().max()
    assert difference < RELATIVE, f"{what} differs by {difference:.1e} relative"


def test_every_integer_feature_equals_the_reference(golden):
    batch = golden.sample.input
    codes = {
        "atom_feat": encodings.encode_atom_features(batch),
        "degree": encodings.encode_degree(batch),
        "edge_feat": encodings.encode_bonds(batch),
        "shortest_path": encodings.encode_paths(batch),
    }
    first, second = encodings.encode_pair_types(batch, "chirality")
    for index, molecule in enumerate(golden.meta["molecules"]):
        n = molecule["n_atoms"]
        for name, code in codes.items():
            reference = golden.features[f"{index}/{name}"]
            found = code[index].numpy()[
                tuple(slice(n) for _ in range(reference.ndim - (name in ("atom_feat", "edge_feat"))))
            ]
            np.testing.assert_array_equal(found, reference, err_msg=f"{name} of {molecule['smiles']}")
        types = golden.features[f"{index}/pair_type"]
        np.testing.assert_array_equal(first[index, :n].numpy()[:, None].repeat(n, 1), types[..., 0])
        np.testing.assert_array_equal(second[index, :n].numpy()[None].repeat(n, 0), types[..., 1])
        np.testing.assert_array_equal(
            golden.sample.atomic_number_BA[index, :n].numpy(), golden.features[f"{index}/atomic_number"]
        )


def test_representations_logits_coordinates_and_distances_agree(golden):
    model, sample, outputs = golden.model, golden.sample, golden.outputs
    found = model.backbone(sample.input)
    valid_BN = found.valid_BN.numpy()
    pairs_BNN = valid_BN[:, :, None] & valid_BN[:, None]
    assert_close(found.atom_BND[torch.from_numpy(valid_BN)], outputs["x"][valid_BN], "atom representation")
    assert_close(found.pair_BNNP[torch.from_numpy(pairs_BNN)], outputs["pair"][pairs_BNN], "pair representation")
    logits = model.token_head(found.atom_BND[:, 1:][sample.masked_BA])
    assert_close(logits, outputs["logits_masked"], "logits")
    predicted = model.coordinate_head(found, sample.input.coordinates_BA3)
    atoms = valid_BN[:, 1:]
    assert_close(predicted[torch.from_numpy(atoms)], outputs["coord"][atoms], "coordinates")
    pairs = atoms[:, :, None] & atoms[:, None]
    assert_close(pairwise_distances(predicted)[torch.from_numpy(pairs)], outputs["distance"][pairs], "distances")


def test_losses_and_the_gradient_norm_of_every_tensor_agree(golden):
    model, sample, outputs = golden.model, golden.sample, golden.outputs
    model.zero_grad()
    sums = model(sample)
    for ours, theirs in (("token", "masked_token_loss"), ("coordinate", "coord_loss"), ("distance", "dist_loss")):
        assert sums[ours].item() / sample.counts[ours] == pytest.approx(float(outputs[theirs]), rel=RELATIVE)
    loss = total_loss(sums, sample.counts, WEIGHTS)
    assert loss.item() == pytest.approx(float(outputs["loss"]), rel=RELATIVE)
    loss.backward()
    gradients = to_official({name: p.grad for name, p in model.named_parameters()}, golden.config)
    largest = max(golden.grad_norms.values())
    for name, norm in golden.grad_norms.items():
        # Exactly zero gradients (a bias added to every key) are rounding noise on both sides.
        assert gradients[name].norm().item() == pytest.approx(norm, rel=RELATIVE, abs=1e-7 * largest), name


def test_released_tensors_survive_the_round_trip_bit_for_bit(golden):
    released = to_official(golden.model.state_dict(), golden.config)
    assert set(released) == set(golden.tensors)
    for name, tensor in golden.tensors.items():
        assert name.endswith("gaussian.mean") or torch.equal(released[name], tensor), name
    assert sum(p.numel() for p in golden.model.parameters()) == golden.meta["param_count"]
    assert golden.tensors["lm_head.bias"].numel() == vocab.NUM_TOKENS
