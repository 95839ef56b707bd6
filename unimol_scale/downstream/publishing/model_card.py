"""Writes the card of a pretrained model, README.md, from what its run and its store recorded."""

from collections.abc import Sequence
from typing import Any

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.units import duration, prefixed
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.downstream.data.pretraining_data import size_quantile
from unimol_scale.downstream.publishing.pretraining_records import PretrainingRecords
from unimol_scale.errors import ConfigError

FRONT = """---
license: mit
library_name: unimol-scale
tags: [chemistry, molecules, pretraining, {objective}]
---
"""
OBJECTIVES = {
    "denoise": "denoising of atoms and 3D coordinates (Uni-Mol2)",
    "blend": "blended 2D and 3D relations of atom pairs (MoleBlend)",
    "distill": "distillation of a 3D model into a 2D one (D&D)",
    "mixture": "a mixture of objectives",
}
SHOWN = {"2d": "the molecular graph", "3d": "a 3D conformer", "2d+3d": "the molecular graph with a 3D conformer"}
SHOWN_SETTINGS = ("schedule", "optimizer", "learning_rate", "warmup_steps", "precision")
RARE = 0.001  # share of molecules below which an element has hardly been seen


def model_card(
    name: str,
    records: PretrainingRecords,
    seen: InputsSeen | None,
    *,
    parameters: int,
    width: int,
    geometry: bool,
    scores: str = "",
) -> str:
    """Return the card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        name: of the model, as users will load it.
        records: of the run and its store.
        seen: what pretraining showed to the model; None: that is not known.
        parameters: of the model, heads included.
        width: of a molecule's vector.
        geometry: whether the model can see distances.
        scores: a section in Markdown, such as a benchmark's table; empty: the card says that none were measured.

    Raises:
        ConfigError: the name would not be one line.
    """
    if not name or len(name.splitlines()) != 1:
        raise ConfigError(f"a model's name must be one line, not {name!r}")
    objective = str(records.summary.value("objective", str))
    views = [SHOWN[view] for view in (seen.views if seen else ("2d+3d" if geometry else "2d",))]
    return "\n".join(
        [
            FRONT.format(objective=objective),
            f"# {name}",
            "",
            f"{parameters:,} parameters, pretrained by {OBJECTIVES.get(objective, objective)} on "
            f"{records.distinct:,} molecules. It sees {_listed(views)}, and its vectors "
            f"have {width} numbers.",
            "",
            *_use(name, width),
            *_data(records),
            *_recipe(records),
            *_scores(scores),
            *_intended_use(),
            *_domain(records),
            "## Licence",
            "",
            "MIT, weights and card. The training molecules belong to those who published them.",
            "",
        ]
    )


def _use(name: str, width: int) -> list[str]:
    return [
        "## Use",
        "",
        "    import unimol_scale as us",
        "",
        f'    model = us.from_pretrained("{name}")',
        f'    vectors = model.embed(["CCO", "c1ccccc1O"])      # float32 [2, {width}]',
        "",
        "or, for a table with SMILES and a measured column:",
        "",
        f"    unimol-scale finetune molecules.csv --target COLUMN --from {name}",
        f"    unimol-scale embed molecules.csv --from {name} --output vectors.parquet",
        "",
    ]


def _data(records: PretrainingRecords) -> list[str]:
    manifest = records.manifest
    sizes = manifest.splits["train"].size_histogram
    quantiles = [size_quantile(sizes, share) for share in (0.01, 0.5, 0.99)]
    atoms = "atoms, hydrogens counted" if manifest.hydrogens else "heavy atoms"
    recipe = manifest.conformer_recipe
    excluded = _names(manifest.parameters.get("exclude"))
    what = "scaffolds" if manifest.parameters.get("exclude_by") == "scaffold" else "molecules"
    rows = [
        ("source", f"{manifest.source}: {', '.join(_names(manifest.parameters.get('inputs'))) or 'see the store'}"),
        ("molecules read, stored", f"{manifest.counts.read:,}, {manifest.counts.stored:,}"),
        ("training molecules", f"{records.distinct:,}"),
        (f"{atoms}: 1 %, median, 99 %", ", ".join(map(str, quantiles))),
        ("conformers each", str(recipe.get("conformers", "all of the source"))),
        ("made by", str(recipe.get("method", "the source"))),
        (f"{what} left out on purpose", f"those of {_listed(excluded, 'and')}" if excluded else "none"),
        ("SHA-256 of the store's manifest", str(records.summary.get("data_manifest_sha256"))),
    ]
    return ["## Training data", "", *markdown_table(("", ""), rows), ""]


def _recipe(records: PretrainingRecords) -> list[str]:
    summary, train = records.summary, records.settings.get("train", {})
    seen = summary.number("molecules")
    chosen = {
        key: train[key]
        for key in ("schedule", "optimizer", "learning_rate", "warmup_steps", "precision")
        if key in train
    }
    rows = [
        ("objective", f"`{summary.value('objective', str)}`, settings in the run's own config.yaml"),
        ("steps", f"{int(summary.number('steps')):,} of {int(summary.number('global_batch_size')):,} molecules"),
        ("molecules seen", f"{seen:,.0f}, {seen / records.distinct:.1f} times each"),
        ("settings", ", ".join(f"{key} {_plain(value)}" for key, value in chosen.items())),
        ("compute", f"{prefixed(summary.number('flops'))}FLOP, {duration(summary.number('seconds'))} on "
                    f"{int(summary.world_size)} process{'es' if summary.world_size > 1 else ''}"),
        ("validation loss", f"{summary.group('final').number('valid/loss'):.4f}"),
    ]  # fmt: skip
    return ["## Pretraining", "", *markdown_table(("", ""), rows), ""]


def _scores(scores: str) -> list[str]:
    text = scores.strip() or "None were measured for this card. Compare the model on data of your own with `finetune`."
    return ["## Scores", "", text, ""]


def _intended_use() -> list[str]:
    return [
        "## Intended use",
        "",
        "Vectors of small organic molecules, and a start for fine-tuning on measured properties where labels are few.",
        "The report of each fine-tuning compares the model with fingerprints and a forest. Where those are better, use",
        "them.",
        "",
        "## Limits",
        "",
        "- It has seen single, computed conformers of small molecules in vacuum: no proteins, polymers, crystals,",
        "  mixtures or solvents.",
        "- It does not see what depends on several conformers, on tautomers or on the solvent.",
        "- Its predictions are no ground for decisions about safety, dosage or synthesis.",
        "",
    ]


def _domain(records: PretrainingRecords) -> list[str]:
    total = records.manifest.splits["train"].rows
    usual = [name for name, count in records.molecules_with.items() if count >= RARE * total]
    rare = [name for name, count in records.molecules_with.items() if count < RARE * total]
    sizes = records.manifest.splits["train"].size_histogram
    low, high = (size_quantile(sizes, share) for share in (0.01, 0.99))
    atoms = "atoms" if records.manifest.hydrogens else "heavy atoms"
    lines = [
        "## Applicability domain",
        "",
        f"- {low} to {high} {atoms}, as 98 % of the training molecules",
        f"- elements that at least one molecule in a thousand has: {', '.join(usual)}",
    ]
    if rare:
        lines.append(f"- seen more rarely: {', '.join(rare)}; no others")
    return [*lines, ""]


def _names(files: Any) -> list[str]:  # noqa: ANN401 - of a manifest
    """Return names of files without size and hash, as manifests describe them."""
    return [str(one).split(" (")[0] for one in files] if isinstance(files, list | tuple) else []


def _plain(value: Any) -> str:  # noqa: ANN401 - of settings
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(words: Sequence[str], last: str = "or") -> str:
    return f" {last} ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)
