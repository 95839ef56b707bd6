"""Writes the reference of commands and settings from the parsers and dataclasses that the commands themselves use."""

import argparse
import re
from collections.abc import Iterator

from unimol_scale.cli.command_line import CommandParser
from unimol_scale.cli.main import build_parser
from unimol_scale.cli.settings_help import described_settings
from unimol_scale.scaling.report.law_json import SCHEMA

# What argparse calls the groups that no command has named.
UNTITLED = ("positional arguments", "options", "optional arguments")
# An address in a help text; what is code or a link already is left alone.
_URL = re.compile(r"(?<![\w/(<`])(https?://[^\s,;)]+)")


def pages() -> dict[str, str]:
    """Return the path of every generated page, relative to docs/, with its text."""
    verbs = _verbs(build_parser())
    found = {"reference/commands.md": _commands_page(verbs)}
    described: dict[type, str] = {}
    for verb, parser in verbs.items():
        if parser.loads_settings is not None:
            config_type, _ = parser.loads_settings()
            if described.setdefault(config_type, verb) == verb:  # plan has the settings of pretrain
                found[f"reference/settings/{verb}.md"] = _settings_page(verb, parser)
    return found


def law_json_keys() -> str:
    """Return the keys of law.json as a table."""
    rows = [f"| `{key}` | {_text(meaning)} |" for key, meaning in SCHEMA.items()]
    return "\n".join(["| key | meaning |", "|---|---|", *rows])


def _verbs(parser: argparse.ArgumentParser) -> dict[str, CommandParser]:
    """Return name → parser of the verbs directly below a parser, in the order of ``--help``."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def _commands_page(verbs: dict[str, CommandParser]) -> str:
    lines = [
        "# Commands",
        "",
        "After this page you know every command, its arguments and its options. It is written by the parsers of the"
        " commands, so it says what `unimol-scale VERB --help` says.",
        "",
        "`python conformer_gen/build.py` takes the arguments of `unimol-scale build`, and `launch/pretrain.py`, which"
        " `deepspeed`, `torchrun`, `srun` or `python` starts, takes those of `unimol-scale pretrain`. Options that are"
        " written `key=value` are [settings](settings/pretrain.md).",
        "",
        "Every command ends with status 0 only if the work asked for is done. The other"
        " [exit statuses](../how-to/faults.md#exit-statuses) are the same for all commands.",
        "",
    ]
    for name, parser in verbs.items():
        lines += _command(f"unimol-scale {name}", name, parser, 2)
    return "\n".join(lines)


def _command(title: str, path: str, parser: CommandParser, level: int) -> Iterator[str]:
    """Yield the lines of a command and of the commands below it."""
    anchor = path.replace(" ", "-")
    yield f"{'#' * level} {title} {{ #{anchor} }}"
    yield ""
    yield from _description(parser.description or "")
    usage = parser.format_usage().replace("\n       ", "\n").removeprefix("usage: ").rstrip()
    yield from ["```text", usage, "```", ""]
    below = _verbs(parser)
    for group in parser._action_groups:
        titled = group.title not in UNTITLED and group._group_actions
        yield from [f"**{group.title[0].upper()}{group.title[1:]}**", ""] if titled else []
        for action in group._group_actions:
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
                yield from _argument(action)
    if parser.loads_settings is not None:
        page = "pretrain" if anchor == "plan" else anchor
        yield f"[All settings of `{title}`](settings/{page}.md)"
        yield ""
    for name, child in below.items():
        yield from _command(f"{title} {name}", f"{path} {name}", child, level + 1)


def _description(text: str) -> Iterator[str]:
    """Yield a description: lines that begin with the program are examples of use."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        is_example = paragraph.startswith(("unimol-scale ", "python ", "deepspeed "))
        yield from ["```text", paragraph, "```", ""] if is_example else [_text(paragraph), ""]


def _argument(action: argparse.Action) -> Iterator[str]:
    if action.help == argparse.SUPPRESS or action.dest == "help_settings":
        return
    value = _value(action)
    names = [f"{name} {value}".rstrip() for name in action.option_strings] or [value]
    needed = " *(required)*" if action.required and action.option_strings else ""
    choices = ""
    if action.choices:
        choices = f" One of {', '.join(f'`{choice}`' for choice in action.choices)}."
    yield f"{', '.join(f'`{name}`' for name in names)}{needed}"
    yield f":   {_text((action.help or '–') % {'default': action.default, 'prog': ''})}{choices}"
    yield ""


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    shown = action.metavar if isinstance(action.metavar, str) else None
    name = shown or (action.dest.upper() if action.option_strings else action.dest)
    return f"{name} …" if action.nargs in ("+", "*") else f"[{name}]" if action.nargs == "?" else name


def _settings_page(verb: str, parser: CommandParser) -> str:
    config_type, told = parser.loads_settings()
    by_file = not any(action.dest == "assignments" for action in parser._actions)
    given = (
        "They are keys of the YAML file that the command reads."
        if by_file
        else "Each can be given on the command line as `key=value`, in a YAML file with `--config`, where a dot is a"
        ' level of nesting, or from Python with `settings={"key": value}`.'
    )
    lines = [
        f"# Settings of {verb}",
        "",
        f"After this page you know every setting of `unimol-scale {verb}`, its default and its meaning. {given} An"
        " unknown key is an error that names the nearest one.",
        "",
        "This page is made from the dataclasses that hold the settings; `"
        f"unimol-scale {verb} --help-settings` prints the same.",
        "",
    ]
    group = None
    for key, default, kind, meaning, source in described_settings(config_type, told):
        head = key.rpartition(".")[0]
        if head != group:
            group = head
            lines += [f"## {head or 'Top level'} {{ #{head.replace('.', '-') or 'top'} }}", ""]
        anchor = f"key-{key.replace('.', '-')}"
        value = f"({_text(source)})" if source else f"= {_code(default)}"
        lines += [f"`{key}`{{ #{anchor} }} {value} *{kind.replace('|', 'or')}*", f":   {_text(meaning) or '–'}", ""]
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text and "`" not in text else text or "`''`"


def _text(text: str) -> str:
    """Return a help text as Markdown: nothing in it is markup but ``code``."""
    text = " ".join(text.replace("``", "`").split())
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\*_\[\]{}#])", r"\\\1", text).replace("|", "&#124;")
    return _URL.sub(r"<\1>", text.replace("\\_", "_") if "http" in text else text)
