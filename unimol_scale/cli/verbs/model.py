"""The verbs ``model list``, ``card``, ``pack`` and ``push``. Imports torch only when a verb runs."""

import argparse
from pathlib import Path

from unimol_scale.errors import CheckpointError, ConfigError


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``model`` with its sub-verbs to the command line."""
    model = verbs.add_parser("model", help="models that come with the package; make one of yours ready for others")
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="name the models that come with the package")
    listing.set_defaults(run=run_list)

    card = actions.add_parser("card", help="print what a model was trained on, how good it is, and its limits")
    card.add_argument("model", metavar="MODEL", help="a name of `model list`, or a folder that `model pack` wrote")
    card.set_defaults(run=run_card)

    pack = actions.add_parser("pack", help="write a finished run as a folder with weights and a card")
    pack.add_argument("pretrained", type=Path, metavar="RUN", help="a finished run; its store must be here")
    pack.add_argument("--output", type=Path, required=True, metavar="DIR")
    pack.add_argument("--name", help="that users load it by (default: name of DIR)")
    _add_stored(pack)
    pack.add_argument("--scores", type=Path, metavar="FILE", help="section of the card, in Markdown")
    pack.set_defaults(run=run_pack)

    push = actions.add_parser("push", help="send a model with its card to the Hugging Face hub")
    push.add_argument("model", metavar="MODEL", help="a finished run, a packed folder, or a name of `model list`")
    push.add_argument("repository", metavar="OWNER/NAME", help="made if it does not exist")
    push.add_argument("--private", action="store_true", help="visible to its owner only")
    _add_stored(push)
    push.set_defaults(run=run_push)


def _add_stored(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the weights in the file; bf16 halves it, and loads as fp32 (default: %(default)s)",
    )


def run_list(arguments: argparse.Namespace) -> int:
    """Print the models that come with the package."""
    from rich.console import Console
    from rich.table import Table

    from unimol_scale.checkpoints.shipped import shipped_models

    table = Table("name", "what it is")
    for model in shipped_models():
        table.add_row(model.name, model.about)
    Console().print(table)
    print("`unimol-scale model card NAME` says what one was trained on, and how good it is.")
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    """Print the card of a model."""
    from unimol_scale.checkpoints.shipped import shipped_models
    from unimol_scale.common.run_files import MODEL_CARD_NAME
    from unimol_scale.downstream.publishing.packed_model import packed_folder

    if (folder := packed_folder(arguments.model)) is None:
        names = ", ".join(model.name for model in shipped_models())
        raise CheckpointError(f"{arguments.model} has no card; with the package come: {names}")
    print((folder / MODEL_CARD_NAME).read_text(encoding="utf-8"), end="")
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """Write a finished run as a folder for others."""
    from unimol_scale.downstream.publishing.packed_model import pack_model

    try:
        scores = arguments.scores.read_text(encoding="utf-8") if arguments.scores else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--scores {arguments.scores} cannot be read: {error}") from error
    pack_model(arguments.pretrained, arguments.output, name=arguments.name, stored=arguments.precision, scores=scores)
    print(f"{arguments.output}: read its card, README.md, before you share it")
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    """Send a model to the hub."""
    from unimol_scale.downstream.publishing.packed_model import push_to_hub

    print(push_to_hub(arguments.model, arguments.repository, private=arguments.private, stored=arguments.precision))
    return 0
