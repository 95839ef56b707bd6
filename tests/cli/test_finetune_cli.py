"""``unimol-scale finetune`` and ``predict`` as a user calls them."""

import csv

import pytest
import torch

from unimol_scale import config as strict
from unimol_scale.cli.main import main
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.results import read

SMILES = (
    "CCO", "CCN", "CCC(=O)O", "c1ccccc1", "Oc1ccccc1", "Nc1ccccc1", "CCCCCC", "CCCCCCCC", "C1CCCCC1", "c1ccncc1",
    "c1ccoc1", "c1ccsc1", "CC(C)O", "ClCCl", "FC(F)F", "CC#N", "CS(C)=O", "CCOC(C)=O", "OCC(O)CO", "CCSCC",
)  # fmt: skip


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{text},{len(text)},{int('c1' in text)}" for text in SMILES]
    (tmp_path / "set.csv").write_text("\n".join(["smiles,length,aromatic", *rows]) + "\n")
    return tmp_path / "set.csv"


@pytest.fixture
def run(table, capsys):
    """Run a verb; return the status and what was printed."""

    def called(*arguments):
        status = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return called


SCRATCH = ("--from", "none", "--size", "0.03M", "--split", "random", "--inputs", "2d", "--device", "cpu")
SHORT = ("train.epochs=2", "train.batch_size=8", "baselines=false")


def refused(result):
    """Return the one line of an error that the user can mend."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_the_settings_of_the_papers_are_given_as_key_and_value(run, tmp_path):
    papers = (
        "head=dense-tanh", "train.schedule=cosine", "train.end_learning_rate=1e-9", "train.beta2=0.999",
        "train.epsilon=1e-6", "train.attention_dropout=0.1", "train.drop_path=0.1", "train.ema_decay=0.9",
    )  # fmt: skip
    arguments = ("finetune", *SCRATCH, "--data", "set.csv", "--seeds", 1, "--target", "length", *SHORT)
    status, _, _ = run(*arguments, *papers)
    assert status == 0
    written = strict.build(FinetuneConfig, *strict.read_yaml(tmp_path / "finetuned" / "set-scratch" / "config.yaml"))
    assert written.head == "dense-tanh"
    train = written.train
    assert (train.schedule, train.end_learning_rate, train.beta2, train.epsilon) == ("cosine", 1e-9, 0.999, 1e-6)
    assert (train.attention_dropout, train.drop_path, train.ema_decay) == (0.1, 0.1, 0.9)
    assert "holds a fine-tuning with other settings" in run(*arguments, *papers[1:])[2]
    for wrong, said in (
        ("head=cubic", "head: unknown value 'cubic'; valid: dense-tanh, linear, mlp"),
        ("train.schedule=cosin", "train.schedule: unknown value 'cosin'; did you mean 'cosine'"),
        ("train.noise_std=0.1", "train.noise_std is noise on coordinates"),
        ("train.betas=1", "train.betas: unknown key"),
    ):
        assert said in refused(run(*arguments, "--output", "elsewhere", wrong))


def test_a_table_becomes_a_model_that_predicts(run, tmp_path):
    arguments = ("finetune", *SCRATCH, "--data", "set.csv", "--seeds", 2, "--target", "length", *SHORT)
    status, out, err = run(*arguments)
    folder = tmp_path / "finetuned" / "set-scratch"
    done = read(folder)
    assert status == 0
    assert "set from scratch: test rmse" in out
    assert f"{done.mean:.4g} ± {done.seed_std:.2g} (2 seeds)" in out
    assert "report: finetuned/set-scratch/report.md" in out
    assert "[set, seed 1] done after 2 epochs" in err
    assert (folder / "report.md").is_file()
    assert (folder / "parity.png").stat().st_size > 5000
    (tmp_path / "asked.smi").write_text("CCO\nbroken(\n")
    predict = ("predict", "asked.smi", "--from", folder, "--output", "p.csv")
    assert "row 2 'broken('" in refused(run(*predict))
    status, out, _ = run(*predict, "--skip-bad")
    assert status == 0
    assert "1 of 2 rows predicted: p.csv; the others: p.skipped.csv" in out
    with (tmp_path / "p.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["length"])
    assert second["length"] == second["length seed_std"] == ""

    status, out, err = run(*arguments)
    assert status == 0
    assert "nothing was computed" in out
    assert f"{done.mean:.4g}" in out
    assert "epochs" not in err
    status, out, err = run(*arguments, "train.epochs=3")
    assert (status, out) == (2, "")
    assert "\n  train.epochs: 2 → 3\nChoose another --output or remove it\n" in err


def test_a_cross_validation_becomes_a_model_of_all_folds_and_two_are_compared(run, tmp_path):
    arguments = (
        "finetune",
        *SCRATCH,
        "--split",
        "random-kfold",
        "--folds",
        2,
        "--data",
        "set.csv",
        "--target",
        "length",
    )
    status, out, err = run(*arguments, "train.epochs=1", "--output", "short")
    done = read(tmp_path / "short")
    assert status == 0
    assert f"test rmse {done.mean:.4g}, 95 % interval {done.interval.low:.4g} to" in out
    assert "(2 folds)" in out
    assert "[set, repeat 1, fold 2] done after 1 epoch " in err
    (tmp_path / "asked.smi").write_text("CCO\n")
    assert run("predict", "asked.smi", "--from", "short", "--output", "p.csv")[0] == 0
    with (tmp_path / "p.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["length seed_std"]) > 0.0
    assert "nothing was computed" in run(*arguments, "--folds", 2, "train.epochs=1", "--output", "short")[1]
    assert run(*arguments, *SHORT, "--output", "longer")[0] == 0
    status, out, _ = run("compare", "short", "longer", "--output", "cmp.md")
    assert status == 0
    assert "| longer − short |" in out.replace("short − longer", "longer − short")
    assert "report: cmp.md" in out
    assert "repeats applies to split=" in refused(
        run("finetune", *SCRATCH, "--data", "set.csv", "--target", "length", "repeats=2")
    )


def test_the_last_lines_say_against_what_how_sure_and_where_not_to_use_it(run, tmp_path):
    arguments = ("finetune", *SCRATCH, "--data", "set.csv", "--seeds", 1, "--target", "length", *SHORT[:2])
    status, out, _ = run(*arguments)
    assert status == 0
    against, sure, where = out.splitlines()[-3:]
    assert against.startswith("too few test molecules to compare the model with the best baseline")
    assert sure == (
        "how sure: the 90 % intervals of `predict`: none, because 2 calibration rows are too few; this coverage needs 9"
    )
    assert where.startswith("where not to use it: ")
    folder = tmp_path / "finetuned" / "set-scratch"
    assert "- **Against what:** 2 test molecules are too few to say whether" in (folder / "report.md").read_text()
    again = run(*arguments)[1].splitlines()
    assert "nothing was computed" in again[0]
    assert again[-3:] == [against, sure, where]
    status, out, _ = run(*arguments, "--no-baselines", "--no-domain", "--output", "without")
    assert out.splitlines()[-2:] == ["report: without/report.md (with its pictures in one file: report.html)", sure]
    assert "expected true or false" in refused(run(*arguments, "--output", "wrong", "baselines=maybe"))


def test_settings_come_from_a_file_and_flags_and_assignments_go_before_it(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "targets: [length]\nsplit: scaffold\nmetric: mae\nseeds: 3\nbaselines: false\n"
        "train: {epochs: 9, batch_size: 4}\n"
    )
    status, *_ = run(
        "finetune", "--config", "mine.yaml", *SCRATCH, "--data", "set.csv", "--seeds", 1, "train.epochs=2",
        "--output", "mine", "train.batch_size=8",
    )  # fmt: skip
    assert status == 0
    config = strict.build(FinetuneConfig, *strict.read_yaml(tmp_path / "mine" / "config.yaml"))
    assert (config.split, config.metric, config.seeds) == ("random", "mae", 1)
    assert (config.train.epochs, config.train.batch_size) == (2, 8)


def test_of_several_files_the_later_win_and_an_error_names_the_right_one(run, tmp_path):
    (tmp_path / "set.yaml").write_text(
        "data: set.csv\ntargets: [length]\nunits: {length: atoms}\nsplit: random\ntrain: {epochs: 9, batch_size: 4}\n"
    )
    (tmp_path / "paper.yaml").write_text(
        "metric: mae\nseeds: 1\nbaselines: false\nunits: {aromatic: none}\ntrain:\n  epochs: 1\n"
    )
    files = ("--config", "set.yaml", "--config", "paper.yaml")
    status, *_ = run("finetune", *files, *SCRATCH, "--output", "mine")
    assert status == 0
    config = strict.build(FinetuneConfig, *strict.read_yaml(tmp_path / "mine" / "config.yaml"))
    assert (config.metric, config.seeds, config.units) == ("mae", 1, {"length": "atoms", "aromatic": "none"})
    assert (config.train.epochs, config.train.batch_size) == (1, 4)
    (tmp_path / "paper.yaml").write_text("seeds: 1\ntrain:\n  epoch: 1\n")
    assert "paper.yaml:3: train.epoch: unknown key" in refused(run("finetune", *files, *SCRATCH))
    (tmp_path / "paper.yaml").write_text("seeds: 1\ntrain:\n  batch_size: 0\n")
    assert "paper.yaml:3: train.batch_size must be at least 1" in refused(run("finetune", *files, *SCRATCH))


def test_without_from_the_model_of_the_package_is_fitted(run):
    status, out, _ = run("finetune", "--data", "set.csv", "--target", "length", "--seeds", "1", *SHORT, "inputs=2d")
    assert status == 0
    assert "finetuned/set-unimol-scale-2m-v2/report.md" in out


def test_none_and_the_data_may_be_settings(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "pretrained: none\nsize: 0.03M\ntargets: [aromatic]\ninputs: 2d\nsplit: random\n"
    )
    status, out, _ = run(
        "finetune", "--config", "mine.yaml", "data=set.csv", "seeds=1", *SHORT, "output=mine", "fractions=[0.6,0.2,0.2]"
    )
    assert status == 0
    assert "test roc_auc" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0.1M", "--data", "set.csv", "--target", "length"), "add --from none"),
        (("--from", "none", "--data", "set.csv", "--target", "length"), "--from none with --size NAME"),
        (("--from", "runs/lost", "--data", "set.csv", "--target", "length"), "runs/lost"),
        ((*SCRATCH, "--target", "length"), "--data is required"),
        ((*SCRATCH, "--data", "set.csv"), "name the label columns with --target"),
        ((*SCRATCH, "--data", "lost.csv", "--target", "length"), "lost.csv does not exist"),
        ((*SCRATCH, "--data", "set.csv", "--target", "lenght"), "did you mean 'length'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "--smiles-column", "smile"), "did you mean 'smiles'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "smiles"), "smiles"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "--metric", "rsme"), "did you mean 'rmse'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "--metric", "roc_auc"), "does not apply to regression"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "train.epoch=3"), "did you mean 'epochs'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "epochs=3"), "did you mean 'train.epochs'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "frob=3", "length"), "unknown key 'frob'"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "trian.epochs=3"), "did you mean 'train'?"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "--seeds", "0"), "seeds must be at least 1"),
        ((*SCRATCH, "--data", "set.csv", "--target", "length", "--config", "lost.yaml"), "lost.yaml does not exist"),
        (
            (*SCRATCH[:2], "--size", "5M", "--data", "set.csv", "--target", "length"),
            "unknown size '5M'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(run, tmp_path, arguments, message):
    assert message in refused(run("finetune", *arguments))
    assert not (tmp_path / "finetuned").exists()


def test_a_wrong_value_is_looked_for_where_it_was_given(run, tmp_path):
    (tmp_path / "mine.yaml").write_text("pretrained: none\nsize: 0.03M\ntrain:\n  epochs: some\n")
    given = ("finetune", "--config", "mine.yaml", "--data", "set.csv", "--target", "length")
    assert "mine.yaml:4: train.epochs: " in refused(run(*given))
    assert "error: command line: train.epochs: " in refused(run(*given, "--seeds", "1", "train.epochs=many"))


def test_a_gpu_that_is_not_there_is_one_line(run):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    line = refused(run("finetune", *SCRATCH[:-1], "cuda", "--data", "set.csv", "--target", "length"))
    assert "--device cuda: this machine has no GPU" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set.csv", "--from", "nowhere", "--output", "p.csv"), "nowhere is not a fine-tuned model"),
        (("set.csv", "--from", "nowhere", "--output", "p.xlsx"), "must end in .csv or .parquet"),
        (
            ("set.csv", "--from", "nowhere", "--output", "set.csv"),
            "would overwrite the input set.csv",
        ),
    ],
)
def test_a_mistake_in_what_to_predict_is_one_line(run, arguments, message):
    assert message in refused(run("predict", *arguments))


def test_conformers_and_hydrogens_are_flags_or_settings_of_a_file(run, tmp_path):
    scratch = ("--from", "none", "--size", "0.03M", "--split", "random", "--device", "cpu")
    asked = ("--data", "set.csv", "--target", "length", "--seeds", 1, "train.epochs=1")
    assert run("finetune", *scratch, *asked, "--conformers", 2, "--hydrogens", "--output", "flags")[0] == 0
    (tmp_path / "mine.yaml").write_text("conformers: 2\nhydrogens: true\n")
    assert run("finetune", *scratch, *asked, "--config", "mine.yaml", "--output", "file")[0] == 0
    assert read(tmp_path / "flags") == read(tmp_path / "file")
    (tmp_path / "asked.smi").write_text("CCO\nCCCC\n")
    predict = ("predict", "asked.smi", "--from", "flags", "--output", "p.csv")
    assert run(*predict)[0] == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["length conformer_std"]) >= 0 for row in rows] == [True, True]
    assert run(*predict, "--conformers", 1)[0] == 0
    assert "conformer_std" not in (tmp_path / "p.csv").read_text()
    assert "conformers must be 1 to 255" in refused(run(*predict, "--conformers", 0))
    assert "conformers must be at least 1" in refused(run("finetune", *scratch, *asked, "--conformers", 0))
    told = refused(run("finetune", *scratch, *asked, "--inputs", "2d", "--conformers", 2, "--output", "flat"))
    assert "set conformers to 1, or inputs to 2d+3d or 3d" in told
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize("verb", ["finetune", "predict"])
def test_help_is_there(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert "--from" in capsys.readouterr().out


def test_words_behind_the_targets_are_settings_unless_the_table_has_such_a_column(run, tmp_path):
    rows = [f"{text},{len(text)},{len(text) % 3}" for text in SMILES]
    (tmp_path / "odd.csv").write_text("\n".join(["smiles,epochs=3,train.seed=1", *rows]) + "\n")
    given = ("finetune", *SCRATCH, "--seeds", 1, *SHORT, "--output", "odd", "--data", "odd.csv", "--target")
    assert run(*given, "epochs=3", "train.seed=1", "train.dropout=0.3", "seed=4")[0] == 0
    config = strict.build(FinetuneConfig, *strict.read_yaml(tmp_path / "odd" / "config.yaml"))
    assert config.targets == ("epochs=3", "train.seed=1")
    assert (config.train.dropout, config.seed) == (0.3, 4)
    assert "no target: name the label columns" in refused(run(*given, "seed=4", "--output", "other"))


def test_what_must_be_known_of_a_score_is_in_the_first_line(run, tmp_path):
    status, out, _ = run("finetune", *SCRATCH, "--data", "set.csv", "--seeds", 1, "--target", "length", *SHORT)
    assert status == 0
    first, report = out.splitlines()[0], (tmp_path / "finetuned" / "set-scratch" / "report.md").read_text()
    assert "CAUTION: only 2 test molecules: other test molecules may give a very different score" in first
    assert report.splitlines()[0] == f"# {first}"


def test_a_fine_tuned_model_where_a_pretrained_one_is_asked_for_says_what_to_do(run):
    assert run("finetune", *SCRATCH, "--data", "set.csv", "--seeds", 1, "--target", "length", *SHORT)[0] == 0
    model = "finetuned/set-scratch"
    for arguments in (
        ("finetune", "--from", model, "--data", "set.csv", "--target", "length", "--output", "other"),
        ("embed", "set.csv", "--from", model, "--output", "e.parquet"),
        ("checkpoint", "info", model),
        ("checkpoint", "export", model, "--format", "official", "--output", "e"),
    ):
        line = refused(run(*arguments))
        assert (
            f"{model} is a fine-tuned model, not a pretrained one. To predict with it: unimol-scale predict FILE"
            in line
        )
        assert "it started from random weights" in line


def test_salts_are_counted_and_can_be_refused(run, tmp_path):
    rows = [f"{text},{len(text)}" for text in (*SMILES, "CCN.Cl", "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1")]
    (tmp_path / "salts.csv").write_text("\n".join(["smiles,length", *rows]) + "\n")
    given = ("finetune", *SCRATCH, "--data", "salts.csv", "--seeds", 1, "--target", "length", *SHORT)
    status, out, _ = run(*given)
    assert status == 0
    said = (
        "2 of 22 rows have several fragments and were reduced to the largest (row 21 without Cl; row 22 without "
        "[Fe+2], c1cc[cH-]c1), so a salt gets the value of its largest ion"
    )
    assert said in out
    assert said in (tmp_path / "finetuned" / "salts-scratch" / "report.md").read_text()
    assert "2 of 22 rows have no usable molecule: row 21 'CCN.Cl': several_fragments" in refused(
        run(*given, "--fragments", "reject", "--output", "other")
    )
    assert run(*given, "fragments=reject", "--skip-bad", "--output", "other")[0] == 0
    line = refused(run("predict", "salts.csv", "--from", "other", "--output", "p.csv"))  # as it was fine-tuned
    assert "row 21 'CCN.Cl': several_fragments" in line
    assert run("predict", "salts.csv", "--from", "other", "--output", "p.csv", "--fragments", "largest")[0] == 0


def test_a_forgotten_option_or_target_is_told_with_what_to_write(run, table):
    assert "set.csv needs its option: --data set.csv" in refused(run("finetune", "set.csv", "--target", "length"))
    assert "The columns of set.csv are 'smiles', 'length', 'aromatic'" in refused(run("finetune", "--data", "set.csv"))


def test_the_command_alone_lists_its_verbs(run):
    status, out, err = run()
    assert (status, err) == (2, "")
    assert "fine-tune a pretrained model" in out
