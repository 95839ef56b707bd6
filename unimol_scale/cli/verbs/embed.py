"""The verb ``embed``: arguments and printing. Imports the rest only when the verb runs."""

import argparse
from pathlib import Path
from typing import Any, get_args

from unimol_scale.checkpoints.shipped import DEFAULT_MODEL, MODEL_HELP
from unimol_scale.cli.command_line import as_sentence, declare_computing
from unimol_scale.cli.input_options import add_input_options
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.downstream.config import Pooling


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "write representations of molecules, atoms or atom pairs, or attention scores, to a Parquet, CSV or NPZ file"
    verb = verbs.add_parser("embed", help=text, description=as_sentence(text))
    add = verb.add_argument
    add(
        "source",
        type=Path,
        metavar="FILE_OR_STORE",
        help="CSV, TSV, Parquet, SMILES lines, SDF (only its structures are used) or a conformer store; rows are "
        "counted from 1, without the header",
    )
    add(
        "--from", dest="pretrained", default=DEFAULT_MODEL, metavar="MODEL", help=f"{MODEL_HELP} (default: %(default)s)"
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="name ending in .parquet; vectors of whole molecules also .csv or .npz",
    )
    add(
        "--representation",
        choices=("molecule", "atom", "pair", "attention"),
        default="molecule",
        help="what to write; attention: the scores of every layer and head for pairs of atoms, including the pair "
        "bias, before the softmax (default: %(default)s)",
    )
    add(
        "--pooling",
        choices=get_args(Pooling),
        default="mean",
        help="how atoms become the vector of a molecule; layers: mean, standard deviation and sum of the atoms at the "
        "start and at four depths of the stack, better for linear models (default: the mean of the last layer's atoms)",
    )
    add_input_options(add)
    add(
        "--conformers",
        type=int,
        default=1,
        metavar="K",
        help="average over K conformers per molecule (default: %(default)s)",
    )
    add("--smiles-column", metavar="C", help="column of the SMILES (default: found by common names)")
    add("--max-atoms", type=int, metavar="N", help="refuse molecules with more than N heavy atoms (default: 128)")
    add(
        "--fragments",
        choices=("largest", "reject"),
        default="largest",
        help="for molecules of several fragments, such as salts: use the largest, or refuse them "
        "(default: %(default)s)",
    )
    add("--skip-bad", action="store_true", help="list unusable molecules in a table beside the output and continue")
    declare_computing(verb)
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="dtype of the weights (default: %(default)s)")
    verb.set_defaults(run=_embed, stopped="Stopped. Finished conformers are kept; nothing else was written.")


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
