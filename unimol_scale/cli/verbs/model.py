"""The verbs ``model list``, ``card``, ``pack`` and ``push``. Imports torch only when a verb runs."""

import argparse
from pathlib import Path

from unimol_scale.errors import CheckpointError, ConfigError


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``model`` with its sub-verbs to the command line."""
    model = verbs.add_parser("model", help="list the models that come with the package; package or publish your own")
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list the models that come with the package")
    listing.set_defaults(run=run_list)

    card = actions.add_parser("card", help="print a model's card: training data, scores and limits")
    card.add_argument("model", metavar="MODEL", help="a name of `model list`, or a folder that `model pack` wrote")
    card.set_defaults(run=run_card)

    pack = actions.add_parser("pack", help="write a finished run as a folder with weights and a model card")
    pack.add_argument("pretrained", type=Path, metavar="RUN", help="a finished run; its store must be on this machine")
    pack.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    pack.add_argument("--name", help="name by which users load the model (default: name of DIR)")
    _add_stored(pack)
    pack.add_argument(
        "--scores", type=Path, metavar="FILE", help="Markdown file with the section of the card about scores"
    )
    pack.set_defaults(run=run_pack)

    push = actions.add_parser("push", help="upload a model and its card to the Hugging Face hub")
    push.add_argument("model", metavar="MODEL", help="a finished run, a packed folder, or a name of `model list`")
    push.add_argument("repository", metavar="OWNER/NAME", help="repository on the hub; created if it does not exist")
    push.add_argument("--private", action="store_true", help="create a repository that only its owner can see")
    _add_stored(push)
    push.set_defaults(run=run_push)


def _add_stored(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="dtype of the stored weights; bf16 halves the file and is loaded as fp32 (default: %(default)s)",
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
    print("`unimol-scale model card NAME` prints what a model was trained on and how good it is.")
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    """Print the card of a model."""
    from unimol_scale.checkpoints.shipped import shipped_models
    from unimol_scale.common.run_files import MODEL_CARD_NAME
    from unimol_scale.downstream.publishing.packed_model import packed_folder

    if (folder := packed_folder(arguments.model)) is None:
        names = ", ".join(model.name for model in shipped_models())
        raise CheckpointError(f"{arguments.model} has no model card; these models come with the package: {names}")
    print((folder / MODEL_CARD_NAME).read_text(encoding="utf-8"), end="")
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """Write a finished run as a folder to share."""
    from unimol_scale.downstream.publishing.packed_model import pack_model

    try:
        scores = arguments.scores.read_text(encoding="utf-8") if arguments.scores else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--scores {arguments.scores} cannot be read: {error}") from error
    pack_model(arguments.pretrained, arguments.output, name=arguments.name, stored=arguments.precision, scores=scores)
    print(f"{arguments.output}: read its card, README.md, before you share it")
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    """Upload a model to the hub and print its address."""
    from unimol_scale.downstream.publishing.packed_model import push_to_hub

    print(push_to_hub(arguments.model, arguments.repository, private=arguments.private, stored=arguments.precision))
    return 0
