"""Every command that the README and the documentation pages print is parsed, and every file they name exists."""

import argparse
import importlib
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers import doc_blocks
from tests.helpers.doc_blocks import REASONS, Block, blocks
from unimol_scale.cli.main import build_parser as verbs
from unimol_scale.cli.verbs.build import build_parser as build_command
from unimol_scale.cli.verbs.pretrain import build_parser as pretrain_command

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *doc_blocks.PAGES, REPOSITORY / "CONTRIBUTING.md"]
FENCED = [block for page in doc_blocks.PAGES for block in blocks(page)]
LANGUAGES = {"bash", "python", "yaml", "text"}
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(#[^)]*)?\)")
VARIABLE = re.compile(r"[A-Z_]+=")  # of the environment, before a command
OUR_MODULE = re.compile(r"`(python -m benchmarks\.[^`…]*)`")
OUR_FILE = re.compile(r"(?:configs|benchmarks|launch|conformer_gen|tests)/[\w./-]*\w")


def commands(pages: list[Path]) -> list[list[str]]:
    """Return the printed commands that start a program or a benchmark, and the benchmarks named in the text."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    lines = re.findall(r"^    (?:\w+=\S+ )?((?:unimol-scale|python|deepspeed) ?.*)$", text, re.MULTILINE)
    lines += OUR_MODULE.findall(text)
    printed = [shlex.split(line, comments=True) for line in lines]
    for block in (block for page in pages for block in blocks(page) if block.language == "bash"):
        for words in doc_blocks.commands(block):
            start = list(itertools.dropwhile(VARIABLE.match, words))
            printed += [start] if start and start[0] in ("unimol-scale", "python", "deepspeed") else []
    return [words for words in printed if "…" not in words]


def benchmark_parser(module: str) -> argparse.ArgumentParser:
    """Return the parser of what ``python -m module`` runs."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no {module}"
    if spec.submodule_search_locations is not None:
        module = f"{module}.__main__"
    return importlib.import_module(module).build_parser()


@pytest.mark.parametrize("words", commands(PAGES), ids=" ".join)
def test_a_printed_command_is_understood(words: list[str]) -> None:
    module = "unimol_scale.cli"  # what launchers start where there is no checkout
    if words[0] == "unimol-scale" or module in words:
        verbs().parse_args(words[words.index(module) + 1 if module in words else 1 :])
        return
    if words[1:2] == ["-m"]:
        benchmark_parser(words[2]).parse_args(words[3:])
        return
    script = next(position for position, word in enumerate(words) if word.endswith(".py"))
    if words[script].startswith("benchmarks/"):  # a program of its own, for another environment
        benchmark_parser(words[script].removesuffix(".py").replace("/", ".")).parse_args(words[script + 1 :])
        return
    parser = {"conformer_gen/build.py": build_command, "launch/pretrain.py": pretrain_command}[words[script]]()
    parser.parse_args(words[script + 1 :])


@pytest.mark.parametrize("block", FENCED, ids=lambda block: f"{block.page.name}:{block.line}")
def test_a_block_of_code_is_run_or_says_what_it_needs(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.title:
        assert block.title.startswith(REASONS)


@pytest.mark.parametrize("page", doc_blocks.PAGES, ids=lambda page: page.name)
def test_a_page_starts_with_what_the_reader_can_do_after_it(page: Path) -> None:
    assert "fter this page" in page.read_text(encoding="utf-8").split("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"`[^`]*`", "", text)  # a SMILES may look like a link
    # Links between pages of the site, some of which are made from the code, are checked when the site is built.
    links = [] if page in doc_blocks.PAGES else LINK.findall(prose)
    linked = {(page.parent / target).resolve() for target, _ in links}
    named = {REPOSITORY / name for name in OUR_FILE.findall(text)}
    assert not {path for path in linked | named if not path.exists()}


def test_the_readme_is_short_and_has_the_three_commands() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150
    starts = {" ".join(words[:2]) for words in commands(PAGES[:1])}
    assert {"python conformer_gen/build.py", "deepspeed launch/pretrain.py"} <= starts
    assert "unimol-scale fit-scaling-law" in starts
