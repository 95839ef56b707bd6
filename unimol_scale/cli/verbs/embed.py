"""The verb ``embed``: arguments and printing. Imports the rest only when the verb runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.shipped import DEFAULT_MODEL, MODEL_HELP
from unimol_scale.common.machine.memory import keep_freed_memory


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "write the representations of molecules, atoms or pairs of atoms, or attention scores, as a Parquet file"
    verb = verbs.add_parser("embed", help=text, description=text)
    add = verb.add_argument
    add(
        "source",
        type=Path,
        metavar="FILE_OR_STORE",
        help="CSV, TSV, Parquet, SMILES lines or SDF (its structures alone are taken), or a conformer store; "
        "rows count from 1, without the header",
    )
    add(
        "--from", dest="pretrained", default=DEFAULT_MODEL, metavar="MODEL", help=f"{MODEL_HELP} (default: %(default)s)"
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".parquet; of whole molecules also .csv or .npz",
    )
    add(
        "--representation",
        choices=("molecule", "atom", "pair", "attention"),
        default="molecule",
        help="attention: the scores of every layer and head for pairs of atoms, before the softmax and with the pair "
        "bias (default: %(default)s)",
    )
    add(
        "--pooling",
        choices=("mean", "virtual_node"),
        default="mean",
        help="what a molecule is (default: its atoms' mean)",
    )
    add("--inputs", choices=("2d", "3d", "2d+3d"), help="what the model sees (default: all it can)")
    add(
        "--hydrogens",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the model sees hydrogens as atoms (default: as it was pretrained)",
    )
    add("--conformers", type=int, default=1, metavar="K", help="write the mean over so many (default: %(default)s)")
    add("--smiles-column", metavar="C", help="found by the usual names if not given")
    add("--max-atoms", type=int, metavar="N", help="refuse molecules with more heavy atoms (default: 128)")
    add("--fragments", choices=("largest", "reject"), default="largest", help="of a salt (default: %(default)s)")
    add("--skip-bad", action="store_true", help="list unusable molecules in a table beside the output and go on")
    add("--cache", type=Path, default=Path("data/cache"), metavar="DIR", help="of conformers (default: %(default)s)")
    add("--max-pairs", type=int, metavar="N", help="memory budget: padded pairs at once (default: suits the device)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of the weights (default: %(default)s)")
    verb.set_defaults(run=_embed, stopped="Stopped. Conformers that are ready are kept; nothing else was written.")


def _embed(arguments: argparse.Namespace) -> int:
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.embedding.embed_file import embed_file
    from unimol_scale.downstream.embedding.representations import RepresentationConfig
    from unimol_scale.downstream.embedding.row_chunks import EmbedFileConfig
    from unimol_scale.downstream.launched_ranks import launched_ranks
    from unimol_scale.engine.parallel.ranks import leave_ranks

    config = EmbedFileConfig(
        source=arguments.source,
        pretrained=arguments.pretrained,
        output=arguments.output,
        representation=RepresentationConfig(
            kind=arguments.representation,
            pooling=arguments.pooling,
            inputs=arguments.inputs,
            max_pairs=arguments.max_pairs,
            conformers=arguments.conformers,
        ),
        smiles_column=arguments.smiles_column,
        cache=arguments.cache,
        device=arguments.device,
        precision=arguments.precision,
        skip_bad=arguments.skip_bad,
        max_atoms=arguments.max_atoms,
        fragments=arguments.fragments,
        hydrogens=arguments.hydrogens,
    )
    keep_freed_memory()
    use_granted_cores()
    ranks = launched_ranks(config.device)
    said = embed_file(config, ranks)
    if ranks is not None:
        leave_ranks()
    if ranks is None or ranks.is_main:
        print(said)
    return 0
