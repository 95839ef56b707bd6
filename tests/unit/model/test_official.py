"""Released tensors to ours: what does not fit is refused by name, and files are read without running code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from unimol_scale.checkpoints.weights import empty_model
from unimol_scale.errors import CheckpointError
from unimol_scale.model.official.released_file import read_official_file
from unimol_scale.model.official.released_weights import (
    check_dimensions,
    from_official,
    infer_config,
    released_dimensions,
    to_official,
)
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseModel

CONFIG = ModelConfig(
    layers=3, atom_width=16, heads=2, ffn_width=24, pair_width=8, pair_hidden=4,
    normalize_by="padded", pair_type="chirality",
)  # fmt: skip


@pytest.fixture
def released():
    torch.manual_seed(0)
    return to_official(DenoiseModel(CONFIG).state_dict(), CONFIG)


def load(tensors):
    config = infer_config(tensors)
    return from_official(tensors, empty_model(config).state_dict(), config)


def test_dimensions_are_read_off_the_tensors(released):
    assert infer_config(released) == CONFIG
    assert released_dimensions(CONFIG)["encoder_ffn_embed_dim"] == 24


def test_stated_dimensions_must_be_those_of_the_tensors():
    check_dimensions(CONFIG, {"encoder_layers": 3, "learning_rate": 1.0})
    with pytest.raises(CheckpointError, match="encoder_attention_heads 4, but its tensors have 2"):
        check_dimensions(CONFIG, {"encoder_attention_heads": 4})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.pop("lm_head.bias"), "'lm_head.bias' is missing"),
        (lambda t: t.pop("encoder.layers.2.opm.linear_in.bias"), "'encoder.layers.2.opm.linear_in.bias' is missing"),
        (lambda t: t.update({"lm_head.scale": torch.ones(1)}), "first is 'lm_head.scale'"),
        (
            lambda t: t.update({"lm_head.bias": torch.ones(127)}),
            r"'lm_head.bias' has shape \(127,\), expected \(128,\)",
        ),
        (
            lambda t: t["embed_tokens.weight"].view(-1)[35:37].fill_(torch.nan),
            "'embed_tokens.weight' has 2 .* nan at 35",
        ),
        (lambda t: t["lm_head.bias"][3].fill_(-torch.inf), "'lm_head.bias' has 1 .* -inf at 3"),
        (lambda t: t.update({"lm_head.bias": torch.ones(128, dtype=torch.int64)}), "'lm_head.bias' holds torch.int64"),
        (lambda t: t["se3_invariant_kernel.gaussian.mean"].mul_(2), "gaussian.mean"),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("encoder.layers.1.")],
            r"encoder.layers.1.\* *' are missing, although layer 2 is present",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(released, damage, said):
    damage(released)
    with pytest.raises(CheckpointError, match=said):
        load(released)


@pytest.mark.parametrize(
    "change",
    [{"gaussians": 64}, {"normalize_by": "molecule"}, {"pair_type": "element"}, {"kernel_max_distance": 8.0}],
)
def test_what_the_released_format_can_not_say_is_refused(change):
    (name,) = change
    with pytest.raises(CheckpointError, match=f"cannot express a model with {name}="):
        released_dimensions(ModelConfig(**{**CONFIG.__dict__, **change}))


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["archive", "old archive", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, released, form):
    trace, file = tmp_path / "ran", tmp_path / "checkpoint.pt"
    content = {"model": released, "args": Hostile(trace)}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(CheckpointError, match=r"holds code: at byte \d+ its pickle asks for '.*'"):
        read_official_file(file)
    assert not trace.exists()
    # The trap itself works: it is the reader that did not step into it.
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()


def test_a_cut_file_says_where_it_ends(tmp_path, released):
    file = tmp_path / "checkpoint.pt"
    torch.save({"model": released}, file)
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 40):
        file.write_bytes(whole[:size])
        with pytest.raises(
            CheckpointError, match=f"truncated: it ends at byte {size}, in or after its record '[a-z/.0-9_]+'"
        ):
            read_official_file(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="0 bytes"):
        read_official_file(file)


def test_a_flipped_byte_of_a_weight_is_found(tmp_path):
    file = tmp_path / "checkpoint.pt"
    weight = torch.linspace(0, 1, 1000)
    torch.save({"model": {"weight": weight}}, file)
    content = bytearray(file.read_bytes())
    at = content.index(weight.numpy().tobytes()[400:440])
    content[at] ^= 1
    file.write_bytes(content)
    assert not torch.equal(torch.load(file, weights_only=True)["model"]["weight"], weight), "torch sees it now"
    with pytest.raises(CheckpointError, match="checksum of its record 'checkpoint/data/0'"):
        read_official_file(file)


def test_arguments_of_the_released_training_are_read(tmp_path):
    import argparse

    file = tmp_path / "checkpoint.pt"
    torch.save({"model": {}, "args": argparse.Namespace(encoder_layers=3)}, file)
    assert read_official_file(file)[1] == {"encoder_layers": 3}


@pytest.mark.parametrize("content", [b"hello", {"weights": {}}, {"model": {"a": 1}}, [1]])
def test_a_file_of_something_else_is_said_to_be_that(tmp_path, content):
    file = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"not a torch file|no tensors under 'model'"):
        read_official_file(file)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_official_file(tmp_path / "nowhere.pt")
