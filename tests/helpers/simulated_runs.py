"""Writes run folders as the trainer does, with losses from a known law; for the tests of the scaling room."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SIZES = {"0.1M": 126_641, "0.2M": 214_000, "0.5M": 479_742, "1M": 937_840, "2M": 1_803_883, "4M": 3_776_232}
EMBEDDING = 70_000
BATCH = 64
TERMS = {"token": 0.5, "coordinate": 0.3, "distance": 0.2}

LossLaw = Callable[[float, float], float]


def chinchilla(parameters: float, molecules: float) -> float:
    """E + A/N^α + B/D^β with values that give losses of about 0.5 to 2 at the sizes above."""
    return 0.3 + 60.0 / parameters**0.4 + 150.0 / molecules**0.5


def write_run(
    folder: Path,
    size: str,
    steps: int,
    *,
    seed: int = 0,
    law: LossLaw = chinchilla,
    noise: float = 0.0,
    summary: dict[str, object] | None = None,
) -> Path:
    """Write one finished run folder; ``summary`` overrides keys of summary.json, a value of None removes the key."""
    folder.mkdir(parents=True)
    parameters = SIZES[size]
    rng = np.random.default_rng([seed, steps, parameters])
    jitter = float(np.exp(rng.normal(0.0, noise)))
    events = []
    for step in sorted({*np.linspace(steps // 10, steps, 10, dtype=int).tolist()}):
        molecules = step * BATCH
        early = 1.0 + 1.5 * (1 - step / steps) ** 2
        loss = law(parameters, molecules) * jitter * early
        count = {"step": step, "molecules": molecules, "seconds": float(step)}
        events.append({**count, "loss": loss * 1.02, "lr": 1e-3})
        events.append({**count, "valid/loss": loss, **{f"valid/loss/{k}": loss * share for k, share in TERMS.items()}})
    final = {key: value for key, value in events[-1].items() if key.startswith("valid/")}
    tree: dict[str, object] = {
        "schema_version": 1,
        "name": folder.name,
        "status": "finished",
        "size": size,
        "objective": "denoise",
        "seed": seed,
        "parameters": {
            "embedding": EMBEDDING,
            "atom_track": parameters - EMBEDDING - 2000,
            "pair_track": 1000,
            "heads": 1000,
            "total": parameters,
        },
        "steps": steps,
        "molecules": steps * BATCH,
        "conformers": steps * BATCH,
        "atoms": steps * BATCH * 17,
        "flops": 150.0 * parameters**0.95 * steps * BATCH,
        "seconds": float(steps),
        "global_batch_size": BATCH,
        "final": final,
        "best": final,
        "data_manifest_sha256": "d" * 64,
        "validation_sha256": "v" * 64,
        "objective_sha256": "o" * 64,
        "world_size": 2,
        "diverged": False,
    }
    tree = {key: value for key, value in {**tree, **(summary or {})}.items() if value is not None}
    (folder / "summary.json").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    settings = f"size: {size}\nseed: {seed}\ntrain:\n  steps: {steps}\n  global_batch_size: {BATCH}\n"
    (folder / "config.yaml").write_text(settings, encoding="utf-8")
    return folder


def write_ladder(
    root: Path,
    sizes: Sequence[str] = tuple(SIZES),
    steps: Sequence[int] = (400,),
    seeds: Sequence[int] = (0,),
    law: LossLaw = chinchilla,
    noise: float = 0.0,
) -> Path:
    """Write a run folder for every size, budget and seed."""
    for size in sizes:
        for budget in steps:
            for seed in seeds:
                write_run(root / f"{size}-{budget}-{seed}", size, budget, seed=seed, law=law, noise=noise)
    return root
