"""Runs the code blocks of the documentation that need no cluster, data or hours, and says which fail.

It is a program of its own, in one process for nearly all: examples train, and an error of a rank ends its process.
It works in the current folder, which it fills with what the pages take for granted. Arguments name single pages, such
as reference/python.md.
"""

import itertools
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.doc_blocks import DOCS, PAGES, REPOSITORY, Block, blocks, commands
from unimol_scale.cli.main import main
from unimol_scale.cli.verbs.build import build_parser as build_command
from unimol_scale.cli.verbs.pretrain import build_parser as pretrain_command

# Laid over what a page says, so that running it takes seconds.
SHORTER = {
    "finetune": ["--seeds", "1", "--no-baselines", "train.epochs=1"],
    "build": ["workers=1"],
}
LIMIT = "20"
SCRIPTS = {"conformer_gen/build.py": build_command, "launch/pretrain.py": pretrain_command}
SMILES = (
    "CCO CCN CCCC c1ccccc1 Oc1ccccc1 CC(=O)O CCOC c1ccncc1 CCCl CC#N CCCCC Cc1ccccc1 CCC=O C1CCCCC1 CC(C)O "
    "c1ccc2ccccc2c1 CCCCO OCCO CC(N)=O C1CCOC1"
)
LABELS = (1.1, 1.2, -3.0, -1.6, 0.0, 1.2, 0.2, 0.8, -1.1, 0.9, -3.2, -2.2, 0.6, -3.1, 0.4, -3.6, 0.0, 1.1, 1.6, 1.1)
MOLECULES = dict(zip(SMILES.split(), LABELS, strict=True))


def prepare() -> None:
    """Make the files that pages name and readers have: tables, molecules, the sample store, and the first run."""
    for name in ("configs", "conformer_gen", "launch"):
        Path(name).symlink_to(REPOSITORY / name)
    rows = [f"{place},{smiles},{value}" for place, (smiles, value) in enumerate(MOLECULES.items())]
    Path("solubility.csv").write_text("\n".join(["name,smiles,logS", *rows, ""]))
    Path("new.csv").write_text("name,smiles\nparacetamol,CC(=O)Nc1ccc(O)cc1\ndecane,CCCCCCCCCC\n")
    Path("molecules.smi").write_text("CCO ethanol\nc1ccccc1O phenol\n")
    Path("mine.smi").write_text("".join(f"{smiles} {place}\n" for place, smiles in enumerate(MOLECULES)))
    run_command(["unimol-scale", "build", "--source", "sample", "--limit", "40", "curate.valid_count=5"])
    short = ["--config", "configs/pretrain/cpu.yaml", "train.steps=4", "train.warmup_steps=2", "--output", "runs/hello"]
    run_command(["unimol-scale", "pretrain", "--size", "0.1M", "--data", "data/sample", *short])


def run_command(words: list[str]) -> None:
    """Run one printed command in this process.

    Raises:
        AssertionError: it ends with another status than 0, or is of a kind that this program does not run.
    """
    shorter = [LIMIT if before == "--limit" and int(word) > 40 else word for before, word in itertools.pairwise(words)]
    if words[:2] == ["unimol-scale", "pretrain"]:  # DeepSpeed begins once in a process
        status = subprocess.run([sys.executable, "-m", "unimol_scale.cli", *shorter], check=False).returncode
    elif words[0] == "unimol-scale":
        status = main([*shorter, *SHORTER.get(words[1], [])])
    else:
        kind = words[1] if words[0] == "python" else words[0]
        assert kind in SCRIPTS, f"{' '.join(words)} is not run here: give the block a title that says what it needs"
        parsed = SCRIPTS[kind]().parse_args(shorter[1:])
        status = parsed.run(parsed)
    assert status == 0, f"{' '.join(words)} ended with status {status}"


def run_block(block: Block, names: dict[str, object]) -> None:
    """Run a block; ``names`` are the variables of the page's Python so far."""
    if block.language == "python":
        first = block.text.splitlines()[0]
        if first.startswith("# ") and first.endswith(".py"):  # the block is a file of the reader's
            Path(first.removeprefix("# ")).write_text(block.text)
        exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), names)
        return
    for words in commands(block):
        run_command(words)


def run_pages(names_of_pages: Sequence[str]) -> bool:
    """Run pages, each up to its first failure, and say where each block begins.

    Args:
        names_of_pages: paths below docs/; all pages if there are none.

    Returns:
        Whether all went well.
    """
    order = [DOCS / "get-started.md", *sorted(DOCS.glob("tutorials/*.md")), *PAGES]
    order = [DOCS / name for name in names_of_pages] or order
    well = True
    for page in dict.fromkeys(order):
        names: dict[str, object] = {"__name__": "page"}
        for block in filter(lambda block: block.is_run, blocks(page)):
            print(f"\n===== {page.relative_to(REPOSITORY)}:{block.line}\n{block.text}", file=sys.stderr, flush=True)
            try:
                run_block(block, names)
            except (Exception, SystemExit):
                traceback.print_exc()
                print(f"FAILED {page.relative_to(REPOSITORY)}:{block.line}", file=sys.stderr)
                well = False
                break
    return well


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    prepare()
    sys.exit(not run_pages(sys.argv[1:]))
