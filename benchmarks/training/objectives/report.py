"""The report of the benchmark of objectives: expectations and measurements. Imports no torch.

Everything is computed from the results; a part whose runs are not there is left out.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Tree = Mapping[str, Any]
RELATIONS = ("path", "edge", "distance")
UNITS = {"token": "nats", "path": "nats", "edge": "nats", "coordinate": "Å", "distance": "Å", "noise": "1 − cosine"}
WHOLE = ("blend", "path", "edge", "3D")
SINGLE = WHOLE[1:]
MASKS = tuple(f"{name} mask" for name in SINGLE)
DENOISERS = ("denoise", "denoise-chirality", "denoise-padded")
DISTILLERS = ("distill-node", "distill-graph")
# Title → runs, for one picture each.
CURVES = {"denoise": DENOISERS, "blend": ("blend",), "distill": DISTILLERS}
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#7f7f7f")
PANELS_A_ROW = 4


def write_report(results: Tree, output: Path) -> tuple[str, list[dict[str, Any]]]:
    """Write OUTPUT.md and the pictures into ``output``; return the text and the claims."""
    claims = all_claims(results)
    lines = ["# What the objectives learn", "", *_setting_lines(results), ""]
    lines += ["## Expected and measured", "", *_claim_lines(claims)]
    for section in (_term_lines, _relation_lines, _denoised_lines, _distilled_lines, _ablation_lines):
        lines += section(results)
    pictures = draw_all(results, output)
    lines += ["## Pictures", "", *(f"![{title}]({output.name}/{file.name})\n" for title, file in pictures.items())]
    text = "\n".join(lines).rstrip() + "\n"
    output.with_name(f"{output.name}.md").write_text(text, encoding="utf-8")
    return text, claims


def all_claims(results: Tree) -> list[dict[str, Any]]:
    """Return every claim with what was measured; ``met`` asks it of every seed."""
    return [*_falling(results), *_blend_claims(results), *_denoise_claims(results), *_distill_claims(results)]


def _claim(wanted: str, measured: str, met: bool) -> dict[str, Any]:
    return {"wanted": wanted, "measured": measured, "met": met}


def _falling(results: Tree) -> list[dict[str, Any]]:
    """Every term that a run learns ends below where it began."""
    claims = []
    for name in ("denoise", "blend", *DISTILLERS):
        if not (curves := _curves(results, name)):
            continue
        terms = [term for term in curves[0] if not term.startswith("hidden_")]
        ends = [f"{term} {_from_to(curves, term)}" for term in terms]
        met = all(curve[term][-1][1] < curve[term][0][1] for curve in curves for term in terms)
        claims.append(_claim(f"{name}: every validation term falls", ", ".join(ends), met))
    return claims


def _blend_claims(results: Tree) -> list[dict[str, Any]]:
    """The blended model's error is below that of every other model, in three comparisons; None: own kind of input."""
    matrices = list(results["relations"].values())
    questions: list[tuple[str, Sequence[str], Sequence[str] | None]] = [
        ("every single-view mask, each on input as it was trained with", MASKS, None),
        ("every single view, all on blended input", SINGLE, ("blend",)),
        ("every single view, mean over the four kinds of input", SINGLE, WHOLE),
    ]
    claims = []
    for question, others, inputs in questions:
        if not matrices or any(name not in matrix for matrix in matrices for name in ("blend", *others)):
            continue
        for what in (*RELATIONS, "sum"):
            errors = {n: [_error(m[n], inputs or [n], what) for m in matrices] for n in ("blend", *others)}
            met = all(mine < errors[n][k] for n in others for k, mine in enumerate(errors["blend"]))
            against = ", ".join(f"{_mean(errors[n])} ({n})" for n in others)
            wanted = f"blended beats {question}: hidden {what}"
            claims.append(_claim(wanted, f"{_mean(errors['blend'])} against {against}", met))
    return claims


def _error(by_input: Tree, inputs: Sequence[str], what: str) -> float:
    """Return the mean error over kinds of input that hide a relation; ``sum`` adds the relations, weight 1 each."""
    if what == "sum":
        return sum(_error(by_input, inputs, name) for name in RELATIONS if any(name in by_input[k] for k in inputs))
    return statistics.mean(by_input[kind][what] for kind in inputs if what in by_input[kind])


def _denoise_claims(results: Tree) -> list[dict[str, Any]]:
    claims = []
    by_seed = list(results["denoised"].values())
    for features in by_seed[0] if by_seed else ():
        medians = [seed[features]["median"] for seed in by_seed]
        wanted = f"denoised nearer to clean than noised: median RMSD ratio below 1, features {features}"
        claims.append(_claim(wanted, _mean(medians), max(medians) < 1.0))
    return claims


def _distill_claims(results: Tree) -> list[dict[str, Any]]:
    claims = []
    for name in DISTILLERS:
        if not (curves := _curves(results, name)):
            continue
        variant = name.removeprefix("distill-")
        met = all(curve[variant][-1][1] < curve[variant][0][1] for curve in curves)
        wanted = f"{variant}: distilled student nearer to the teacher than an untrained one"
        claims.append(_claim(wanted, f"squared error {_from_to(curves, variant)}", met))
        errors = [curve[variant][-1][1] for curve in curves]
        said = [seed[variant]["element"] for seed in results["baselines"].values()]
        wanted = f"{variant}: and nearer than the mean atom of each element (not asked for)"
        met = all(mine < theirs for mine, theirs in zip(errors, said, strict=True))
        claims.append(_claim(wanted, f"{_mean(errors)} against {_mean(said)}", met))
    return claims


def _setting_lines(results: Tree) -> list[str]:
    setting = results["setting"]
    runs = [run for seed in results["runs"].values() for run in seed.values()]
    diverged = [f"{name} (seed {seed})" for seed, by in results["runs"].items() for name in by if by[name]["diverged"]]
    seeds = ", ".join(str(seed) for seed in setting["seeds"])
    return [
        f"- {setting['date']}, {setting['machine']}; {setting['versions']}",
        f"- `{setting['command']}`",
        f"- store: {setting['molecules']:,} molecules, scored on {setting['validation_molecules']:,} others × "
        f"{setting['validation_repeats']} corruptions, manifest {setting['manifest_sha256'][:12]}",
        f"- every run: size {setting['size']}, {setting['steps']} steps of {setting['batch']} molecules, fp32, peak "
        f"learning rate {setting['learning_rate']:g}; seeds {seeds}",
        f"- {len(runs)} runs, {sum(run['seconds'] for run in runs) / 60:.0f} minutes of training steps",
        *([f"- diverged (loss ended far above its best): {', '.join(diverged)}"] if diverged else []),
        "- of several seeds: mean ± standard deviation; a claim is met if it holds for every seed",
    ]


def _claim_lines(claims: Sequence[Tree]) -> list[str]:
    rows = [[claim["wanted"], claim["measured"], "yes" if claim["met"] else "**no**"] for claim in claims]
    return _table(["wanted", "measured", "met?"], rows)


def _term_lines(results: Tree) -> list[str]:
    first = next(iter(results["runs"].values()))
    rows = []
    for name in (name for names in CURVES.values() for name in names if name in first):
        curves, parameters = _curves(results, name), first[name]["parameters"]
        rows += [[name, f"{parameters:,}", term, *_ends(curves, term)] for term in curves[0]]
    if not rows:
        return []
    return ["## Validation terms", "", *_table(["run", "parameters", "term", "before", "after"], rows)]


def _relation_lines(results: Tree) -> list[str]:
    matrices = list(results["relations"].values())
    if not matrices:
        return []
    whole = [name for name in WHOLE if name in matrices[0]]
    masks = [name for name in ("blend", *MASKS) if name in matrices[0]]
    lines = [
        "## Hidden relations",
        "",
        "Mean error over the pairs that hide the relation (path, edge: nats; distance: Å). All relation weights are 1,",
        "without a noise term. A relation that every pair shows is left out. Lowest of a row in bold. A model of one",
        "view has not learnt to read the others, so it cannot use them when they are shown.",
        "",
    ]
    if whole:
        rows = []
        for kind in WHOLE:
            for what in (name for name in RELATIONS if name in matrices[0][whole[0]][kind]):
                rows.append(
                    _best(f"{kind} input, {what}", [[_error(m[n], [kind], what) for m in matrices] for n in whole])
                )
        for what in (*RELATIONS, "sum"):
            rows.append(
                _best(f"mean of inputs, {what}", [[_error(m[n], WHOLE, what) for m in matrices] for n in whole])
            )
        lines += _table(["shown, hidden relation", *(f"trained on {name}" for name in whole)], rows)
    if len(masks) > 1:
        lines += [
            "Masks of a single view, as in table 4 of MoleBlend: each shows its view of as many pairs as blending",
            "does, and nothing of the others. Every model on its own kind of input.",
            "",
        ]
        rows = [
            _best(what, [[_error(m[n], [n], what) for m in matrices] for n in masks]) for what in (*RELATIONS, "sum")
        ]
        lines += _table(["hidden relation", *masks], rows)
    return lines


def _denoised_lines(results: Tree) -> list[str]:
    by_seed = list(results["denoised"].values())
    if not by_seed:
        return []
    rows = []
    for features in by_seed[0]:
        values = {key: [seed[features][key] for seed in by_seed] for key in by_seed[0][features]}
        rows.append([features, *(_mean(values[key]) for key in ("low", "median", "high", "below_one"))])
        rows[-1].append(str(values["geometries"][0]))
    head = ["features", "lower quartile", "median", "upper quartile", "share below 1", "geometries"]
    text = "RMSD(denoised, clean) / RMSD(noised, clean) of 3D geometries, the noised one aligned onto the clean one."
    return ["## Denoised coordinates", "", text, "", *_table(head, rows)]


def _distilled_lines(results: Tree) -> list[str]:
    rows = []
    for name in DISTILLERS:
        if not (curves := _curves(results, name)):
            continue
        variant = name.removeprefix("distill-")
        said = list(results["baselines"].values())
        baselines = [_mean([seed[variant][what] for seed in said]) for what in ("zero", "mean", "element")]
        rows.append([variant, *reversed(_ends(curves, variant)), *baselines])
    head = ["variant", "student", "untrained student", "zero", "mean atom", "mean atom of the element"]
    text = "Squared error against the teacher's layer-normalised atoms, mean over channels, on validation molecules."
    return ["## Distilled", "", text, "", *_table(head, rows)] if rows else []


def _ablation_lines(results: Tree) -> list[str]:
    present = [name for name in DENOISERS if _curves(results, name)]
    if len(present) < 2:
        return []
    labels = {
        "denoise": "element, molecule (defaults)",
        "denoise-chirality": "pair_type chirality",
        "denoise-padded": "normalize_by padded",
    }
    rows = [
        _best(term, [[curve[term][-1][1] for curve in _curves(results, name)] for name in present])
        for term in _curves(results, present[0])[0]
    ]
    return ["## Ablation of denoise", "", *_table(["validation term", *(labels[name] for name in present)], rows)]


def draw_all(results: Tree, folder: Path) -> dict[str, Path]:
    """Draw the curves of every objective and the hidden relations; return title → file."""
    jobs: dict[str, tuple[str, Figure]] = {}
    for title, names in CURVES.items():
        present = [name for name in names if _curves(results, name)]
        if present:
            jobs[f"Validation terms of {title}"] = (f"curves_{title}.png", _curve_figure(results, present))
    if any(name in matrix for matrix in results["relations"].values() for name in WHOLE):
        jobs["Hidden relations by training and input"] = ("relations.png", _relation_figure(results))
    files = {}
    for title, (name, figure) in jobs.items():
        FigureCanvasAgg(figure)
        figure.savefig(folder / name, dpi=130)
        files[title] = folder / name
    return files


def _curve_figure(results: Tree, names: Sequence[str]) -> Figure:
    terms = list(dict.fromkeys(term for name in names for term in _curves(results, name)[0]))
    columns = min(PANELS_A_ROW, len(terms))
    rows = math.ceil(len(terms) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[len(terms) :]:
        panel.remove()
    for panel, term in zip(panels, terms, strict=False):
        for name, colour in zip(names, COLOURS, strict=False):
            for number, curve in enumerate(_curves(results, name)):
                if term in curve:
                    label = name if number == 0 else None
                    panel.plot(*zip(*curve[term], strict=True), color=colour, marker=".", linewidth=1.3, label=label)
        unit = UNITS.get(term.removeprefix("hidden_"), "squared error")
        panel.set_title(f"{term.replace('_', ' ')}, {unit}", fontsize=10)
        panel.set_xlabel("step")
        if unit == "squared error":
            panel.set_yscale("log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _relation_figure(results: Tree) -> Figure:
    matrices = list(results["relations"].values())
    trained = [name for name in WHOLE if name in matrices[0]]
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    width = 0.8 / max(1, len(trained))
    for panel, what in zip(figure.subplots(1, len(RELATIONS)), RELATIONS, strict=True):
        for number, (name, colour) in enumerate(zip(trained, COLOURS, strict=False)):
            kinds = [kind for kind in WHOLE if what in matrices[0][name][kind]]
            heights = [statistics.mean(_error(matrix[name], [kind], what) for matrix in matrices) for kind in kinds]
            places = [k + (number - (len(trained) - 1) / 2) * width for k in range(len(kinds))]
            panel.bar(places, heights, width=width, color=colour, label=f"trained on {name}")
            panel.set_xticks(range(len(kinds)), [f"{kind}\ninput" for kind in kinds])
        panel.set_title(f"hidden {what}, {UNITS[what]}", fontsize=10)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _curves(results: Tree, name: str) -> list[Tree]:
    """Return the validation curves of a run, one of each seed; none if it was not done."""
    return [runs[name]["curves"] for runs in results["runs"].values() if name in runs]


def _ends(curves: Sequence[Tree], term: str) -> list[str]:
    return [_mean([curve[term][at][1] for curve in curves]) for at in (0, -1)]


def _from_to(curves: Sequence[Tree], term: str) -> str:
    return " → ".join(_ends(curves, term))


def _mean(values: Sequence[float]) -> str:
    """Return a mean for people, with the standard deviation if there is one."""
    text = _number(statistics.mean(values))
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.1g}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1.0 else f"{value:.3f}"


def _best(head: str, columns: Sequence[Sequence[float]]) -> list[str]:
    """Return a row of a table, the columns of the lowest mean in bold."""
    lowest = min(statistics.mean(values) for values in columns)
    return [head, *(f"**{_mean(v)}**" if statistics.mean(v) == lowest else _mean(v) for v in columns)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)] + [""]
