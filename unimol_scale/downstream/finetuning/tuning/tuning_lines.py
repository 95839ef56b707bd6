"""Lines of the report on a search."""

from collections.abc import Sequence

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.finetuning.tuning.trials import TunedSettings, TuneResult
from unimol_scale.downstream.tune_settings import Tunable


def describe_search(found: Sequence[TuneResult]) -> list[str]:
    """Return a line on each search: the number of trials, and the chosen settings."""
    lines = []
    for each in found:
        where = "" if each.fold is None else f"{each.fold}: "
        given_up = each.count("pruned") + each.count("failed")
        failed = f", {each.count('failed')} of them failed" if each.count("failed") else ""
        taken = "the settings as given" if each.chosen == 0 else f"trial {each.chosen + 1}"
        chosen = ", ".join(f"{name} {_shown(each.best.settings, name)}" for name in each.searched)
        lines.append(
            f"{where}search: {len(each.trials)} trials ({given_up} stopped early{failed}) by {each.folds}-fold "
            f"cross-validation within the {each.rows:,} training and validation rows, without the test rows; chosen: "
            f"{taken} ({chosen}), mean {each.best.mean:.4g}"
        )
    return lines


def tuning_table(found: Sequence[TuneResult], metric: str) -> list[str]:
    """Return a section with every trial: the chosen one first, then the other complete ones in order, then the rest."""
    lines: list[str] = []
    for each in found:
        title = "## Search" if each.fold is None else f"## Search, {each.fold}"
        order = sorted(
            range(len(each.trials)),
            key=lambda at: (at != each.chosen, each.trials[at].state != "complete", at),
        )
        rows = []
        for at in order:
            trial = each.trials[at]
            name = f"{at + 1}{' (chosen)' if at == each.chosen else ''}{' (as given)' if at == 0 else ''}"
            settings = [_shown(trial.settings, setting) for setting in each.searched]
            rows.append(
                [name, *settings, f"{trial.mean:.4g}" if trial.scores else "", str(len(trial.scores)), trial.state]
            )
        header = ["trial", *each.searched, f"mean {metric}", "folds", "state"]
        lines += ["", title, "", *markdown_table(header, rows)]
    return lines


def _shown(settings: TunedSettings, name: Tunable) -> str:
    value = getattr(settings, name)
    if value is None:
        return "all"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
