"""Messages of a command as messages of a call, and arguments that are no paths or have no order."""

from pathlib import Path

import pytest

from unimol_scale.common.text.argument_names import in_arguments, naming_arguments, path_text, require_order
from unimol_scale.errors import ConfigError, RunError

NAMES = {"--split": "split", "--from": "model", "--from none": "model=None", "--size NAME": "size=NAME"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choose another --split", "choose another split"),
        ("--from none with --size NAME", "model=None with size=NAME"),
        ("name it with --from, or not", "name it with model, or not"),
        ("--split-column and a--split are others", "--split-column and a--split are others"),
        (
            "unimol-scale finetune --from RUN --split x, or --split",
            "unimol-scale finetune --from RUN --split x, or split",
        ),
        ("run `python tool.py --from none`; --from", "run `python tool.py --from none`; model"),
    ],
)
def test_flags_become_arguments_but_for_those_of_a_whole_command(text: str, said: str) -> None:
    assert in_arguments(text, NAMES) == said


def test_an_error_stays_what_it_is_and_names_arguments() -> None:
    with pytest.raises(RunError, match=r"^lower split$"), naming_arguments(NAMES):
        raise RunError("lower --split")
    with pytest.raises(ValueError, match=r"^lower --split$"), naming_arguments(NAMES):
        raise ValueError("lower --split")


def test_a_path_is_text_or_a_path() -> None:
    assert path_text("a/b", "path", "a folder") == path_text(Path("a/b"), "path", "a folder") == "a/b"
    for wrong in (None, 3, b"a/b"):
        with pytest.raises(ConfigError, match=f"^path: expected a folder, got {type(wrong).__name__}$"):
            path_text(wrong, "path", "a folder")


def test_a_set_is_refused_and_what_has_an_order_is_not() -> None:
    for fine in ([1], (1,), {1: 2}, "a", None, {1: 2}.keys()):
        require_order(fine, "targets")
    for wrong in ({1}, frozenset({1})):
        with pytest.raises(ConfigError, match=f"^targets: expected a list, got a {type(wrong).__name__}, which has no"):
            require_order(wrong, "targets")
