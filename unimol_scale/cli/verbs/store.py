"""The verbs ``store info``, ``store verify`` and ``store convert``. Imports the store only when a verb runs."""

import argparse
from pathlib import Path

from unimol_scale.common.exit_status import EXIT_FAILED

NAMED = 20  # largest number of implausible conformers that are listed one by one


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``store`` with its sub-verbs to the command line."""
    store = verbs.add_parser("store", help="inspect, verify or convert a conformer store")
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")

    info = actions.add_parser("info", help="print what a store holds and how it was made")
    info.add_argument("directory", type=Path, metavar="DIR", help="the store")
    info.set_defaults(run=run_info)

    verify = actions.add_parser(
        "verify",
        help="check the hash of every shard, decode every record and check every geometry; exits with status 1 if "
        "anything is wrong",
    )
    verify.add_argument("directory", type=Path, metavar="DIR", help="the store")
    verify.set_defaults(run=run_verify)

    convert = actions.add_parser("convert", help="write the same store in the other file format")
    convert.add_argument("directory", type=Path, metavar="DIR", help="the store")
    convert.add_argument("--backend", choices=("arrow", "lmdb"), required=True, help="file format of the new store")
    convert.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the new store")
    convert.set_defaults(run=run_convert)


def run_info(arguments: argparse.Namespace) -> int:
    """Print the manifest as a table."""
    from rich.console import Console

    from unimol_scale.store.maintain import describe
    from unimol_scale.store.shards import open_store

    Console(highlight=False).print(describe(open_store(arguments.directory)))
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Check every shard and every geometry, and list what is damaged or implausible."""
    from unimol_scale.store.maintain import verify
    from unimol_scale.store.shards import open_store

    store = open_store(arguments.directory)
    found = verify(store)
    for damage in found.damages:
        print(f"damaged: {damage}")
    for one in found.implausible[:NAMED]:
        print(f"implausible: molecule {one.id!r} in {one.file}, conformer {one.conformer}: {one.problem}")
    shards = sum(len(split.shards) for split in store.manifest.splits.values())
    if found.damages:
        print(f"{store.path}: {len(found.damages)} of {shards} shards are damaged; rebuild the store or restore them")
    if found.implausible:
        molecules = len({(one.file, one.id) for one in found.implausible})
        more = f" (the first {NAMED} are named above)" if len(found.implausible) > NAMED else ""
        print(
            f"{store.path}: {len(found.implausible):,} conformers of {molecules:,} molecules are not plausible "
            f"geometries of their molecules{more}; build the store again, which leaves them out"
        )
    if found.damages or found.implausible:
        return EXIT_FAILED
    print(f"{store.path}: {shards} shards, {store.manifest.counts.stored:,} molecules, all intact")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Write the store in the other file format."""
    from unimol_scale.store.maintain import convert
    from unimol_scale.store.shards import open_store

    converted = convert(open_store(arguments.directory), arguments.backend, arguments.output)
    print(f"{converted.path}: {converted.manifest.counts.stored:,} molecules as {arguments.backend}")
    return 0
