"""The verbs ``checkpoint info``, ``verify``, ``import`` and ``export``. Imports torch only when a verb runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unimol_scale.common.exit_status import EXIT_FAILED
from unimol_scale.common.output_checks import require_file, require_folder

if TYPE_CHECKING:
    from rich.table import Table

    from unimol_scale.checkpoints.parity import Difference
    from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo
    from unimol_scale.model.model_with_heads import HeadedModel

MODEL_HELP = (
    "a run folder or one of its checkpoints, an exported model folder, a released Uni-Mol2 file, or owner/name on the "
    "Hugging Face hub"
)


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``checkpoint`` with its sub-verbs to the command line."""
    checkpoint = verbs.add_parser("checkpoint", help="inspect, verify or convert the weights of a model")
    actions = checkpoint.add_subparsers(dest="action", required=True, metavar="ACTION")

    info = actions.add_parser("info", help="print the format, step, size, hash and options of a checkpoint")
    info.add_argument("checkpoint", type=Path, metavar="PATH", help=MODEL_HELP)
    info.set_defaults(run=run_info)

    verify = actions.add_parser(
        "verify",
        help="check every hash, or with --reference compare the outputs with another implementation's; exits with "
        "status 1 if anything differs",
    )
    verify.add_argument("checkpoint", type=Path, metavar="PATH", help=MODEL_HELP)
    verify.add_argument(
        "--reference",
        type=Path,
        metavar="NPZ",
        help="inputs (arrays batch/*) and outputs to compare with",
    )
    verify.add_argument(
        "--features", type=Path, metavar="NPZ", help="features of its molecules (default: features.npz beside it)"
    )
    verify.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="dtype of the weights (default: %(default)s)"
    )
    verify.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="cpu",
        help="device that computes the outputs (default: %(default)s)",
    )
    verify.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest relative difference that counts as equal (default: 2e-5, in bf16 5e-2)",
    )
    verify.set_defaults(run=run_verify)

    importer = actions.add_parser("import", help="convert a released Uni-Mol2 file to a model folder")
    importer.add_argument("checkpoint", type=Path, metavar="RELEASED", help="the released Uni-Mol2 file")
    importer.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model folder to write")
    importer.set_defaults(run=run_import)

    export = actions.add_parser("export", help="write a checkpoint in the released format or as safetensors")
    export.add_argument("checkpoint", type=Path, metavar="PATH", help=MODEL_HELP)
    export.add_argument(
        "--weights",
        choices=("averaged", "last"),
        default="averaged",
        help="averaged: the running mean of the weights, if the run keeps one; last: the weights of the last step "
        "(default: %(default)s)",
    )
    export.add_argument(
        "--format",
        choices=("official", "safetensors"),
        required=True,
        help="official: the format of the released Uni-Mol2 files; safetensors: a model folder",
    )
    export.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="file (official) or folder (safetensors) to write",
    )
    export.set_defaults(run=run_export)


def run_info(arguments: argparse.Namespace) -> int:
    """Print format, size, parameters by group, dtype, hash and options of a model."""
    from rich.console import Console

    from unimol_scale.checkpoints.weights import find_checkpoint, load_checkpoint, load_pretrained, local_path

    path = local_path(arguments.checkpoint)
    checkpoint = find_checkpoint(path) if path.is_dir() else None
    model = load_checkpoint(checkpoint) if checkpoint else load_pretrained(path)
    Console(highlight=False).print(_describe(model, path, checkpoint))
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Check the files; with a reference, run the model on its batch and print the largest difference per output."""
    if arguments.reference is None:
        return _verify_files(arguments.checkpoint)
    import torch
    from rich.console import Console

    from unimol_scale.checkpoints.parity import DEFAULT_TOLERANCE, cast_parameters, compare
    from unimol_scale.checkpoints.reference import read_reference
    from unimol_scale.checkpoints.weights import load_pretrained
    from unimol_scale.common.machine.devices import pick_device
    from unimol_scale.errors import ConfigError

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    tolerance: float = DEFAULT_TOLERANCE[dtype] if arguments.tolerance is None else arguments.tolerance
    if not tolerance >= 0.0:
        raise ConfigError(f"--tolerance must not be negative, got {tolerance}")
    device = pick_device(arguments.device)
    reference = read_reference(arguments.reference, arguments.features)
    model = cast_parameters(load_pretrained(arguments.checkpoint), dtype).to(device)
    differences = compare(model, reference)
    Console(highlight=False).print(_difference_table(differences, tolerance, f"{arguments.dtype} on {device}"))
    failed = [difference.output for difference in differences if not difference.within(tolerance)]
    if failed:
        print(f"{arguments.checkpoint}: {len(failed)} of {len(differences)} differ: {', '.join(failed)}")
        return EXIT_FAILED
    compared = sum(difference.value is not None for difference in differences)
    print(f"{arguments.checkpoint}: all {compared} agree within {tolerance:g}")
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """Convert a released file to a model folder."""
    from unimol_scale.checkpoints.weights import load_official_checkpoint, save_pretrained

    require_folder(arguments.output)
    save_pretrained(load_official_checkpoint(arguments.checkpoint), arguments.output)
    print(f"{arguments.output}: written")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write any model as a file in the released format, or as a model folder."""
    from unimol_scale.checkpoints.weights import load_pretrained, save_official, save_pretrained

    (require_file if arguments.format == "official" else require_folder)(arguments.output)
    model = load_pretrained(arguments.checkpoint, averaged=arguments.weights == "averaged")
    save = save_official if arguments.format == "official" else save_pretrained
    save(model, arguments.output)
    print(f"{arguments.output}: written")
    return 0


def _verify_files(path: Path) -> int:
    """Check the hashes of a model file, or of every checkpoint of a run; return 1 if one is damaged, else 0."""
    from unimol_scale.checkpoints.model_folder import CONFIG_NAME, model_folder
    from unimol_scale.checkpoints.run.checkpoint_folder import checkpoints_in, verify
    from unimol_scale.checkpoints.run.shares import ShareReader
    from unimol_scale.checkpoints.weights import load_pretrained, local_path
    from unimol_scale.errors import CheckpointError

    path = local_path(path)
    folders = checkpoints_in(path) if path.is_dir() else []
    damaged = 0
    for folder in folders:
        try:
            info = verify(folder)
            ShareReader(folder)
        except CheckpointError as error:
            damaged += 1
            print(f"DAMAGED: {error}")
        else:
            print(f"{folder}: step {info.step}, {len(info.files)} shares, {info.bytes:,} bytes, intact")
    if damaged:
        print(f"{path}: {damaged} of {len(folders)} damaged")
        return EXIT_FAILED
    if not folders or (model_folder(path) / CONFIG_NAME).is_file():
        load_pretrained(path)
        print(f"{path}: the model is intact")
    return 0


def _describe(model: "HeadedModel", path: Path, checkpoint: "CheckpointInfo | None") -> "Table":
    from rich.table import Table

    from unimol_scale.checkpoints.model_folder import CONFIG_NAME, WEIGHTS_NAME, model_folder
    from unimol_scale.checkpoints.run.shares import MOMENTUM, ShareReader
    from unimol_scale.common.files import hash_file
    from unimol_scale.config import to_tree
    from unimol_scale.model.accounting import count_parameters

    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    if checkpoint is not None:
        reader = ShareReader(checkpoint.path)
        of_adamw, of_muon = (", ".join(sorted(reader.kinds_of(muon=muon))) for muon in (False, True))
        rows = {
            "format": f"checkpoint of a run, {checkpoint.path.name}",
            "step": f"{checkpoint.step:,}",
            "shares": str(len(checkpoint.files)),
            **(
                {"of AdamW's parameters": of_adamw, "of Muon's parameters": of_muon}
                if MOMENTUM in reader.kinds
                else {"of every parameter": of_adamw}
            ),
            "bytes": f"{checkpoint.bytes:,}",
            "sha256": checkpoint.sha256,
        }
    else:
        file = model_folder(path) / WEIGHTS_NAME if path.is_dir() else path
        rows = {
            "format": f"safetensors + {CONFIG_NAME}" if path.is_dir() else "released Uni-Mol2 file",
            "bytes": f"{file.stat().st_size:,}",
            "sha256": hash_file(file),
        }
    rows["dtype in memory"] = ", ".join(dtypes)
    rows["inputs seen"] = "not recorded" if model.seen is None else ", ".join(model.seen.inputs)
    for group, count in count_parameters(model.backbone.config, model.heads).as_dict().items():
        rows[f"parameters, {group.replace('_', ' ')}"] = f"{count:,}"
    rows |= {f"heads.{name}": str(value) for name, value in to_tree(model.heads).items()}
    rows |= {f"model.{name}": str(value) for name, value in to_tree(model.backbone.config).items()}
    table = Table(title=str(path), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _difference_table(differences: list["Difference"], tolerance: float, how: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"Largest relative difference ({how}, tolerance {tolerance:g})")
    table.add_column("output")
    table.add_column("difference", justify="right")
    table.add_column("")
    table.add_column("largest at", overflow="fold")
    for difference in differences:
        if difference.value is None:
            table.add_row(difference.output, "absent", "", "")
            continue
        shown = f"{difference.value:.0f} unequal" if difference.exact else f"{difference.value:.1e}"
        verdict = "ok" if difference.within(tolerance) else "DIFFERS"
        table.add_row(difference.output, shown, verdict, difference.note)
    return table
