"""Bytes a step of a fresh process adds at its peak: ``python -m tests.helpers.memory_probe``, from the repository.

Arguments: SIZE LAYERS ATOMS MOLECULES CHECKPOINT_EVERY fp32|bf16 DROPOUT OBJECTIVE.
"""

import ctypes
import sys
from pathlib import Path

# Give freed memory back at once, so that the peak is what was in use.
for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    ctypes.CDLL("libc.so.6").mallopt(option, 1 << 20)

import torch  # noqa: E402

from tests.helpers.molecules import random_columns  # noqa: E402
from tests.helpers.random_keys import keys  # noqa: E402
from unimol_scale.data.batch import collate  # noqa: E402
from unimol_scale.model.presets import DROPOUTS, preset  # noqa: E402
from unimol_scale.objectives.base import total_loss  # noqa: E402
from unimol_scale.objectives.config import ObjectiveConfig, build_objective  # noqa: E402


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    size, layers, atoms, molecules, every, dtype, dropout, name = sys.argv[1:]
    changes = {key: float(dropout) for key in DROPOUTS}
    config = preset(size, layers=int(layers), checkpoint_every=int(every), **changes)
    objective = build_objective(ObjectiveConfig(name=name), config)
    model = objective.build_model(config)
    if dtype == "bf16":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)

    def step(count: int) -> None:
        batch = collate(random_columns([int(atoms)] * count))
        sample = objective.corrupt(batch, keys(range(count)))
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        total_loss(model(sample), sample.counts, objective.weights).backward()
        print(status("VmHWM") - before)

    step(1)  # makes the gradients and loads the libraries
    step(int(molecules))


if __name__ == "__main__":
    main()
