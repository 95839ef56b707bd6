"""Nested settings, flat and compared."""

from unimol_scale.common.trees import as_lines, as_newer, differences, flatten, merge, nested, unknown, without

TREE = {"train": {"lr": 1e-3, "adam": {"beta": 0.9}}, "units": {}, "seed": 0}


def test_a_tree_is_flat_by_dotted_keys_and_an_empty_group_has_none():
    assert flatten(TREE) == {"train.lr": 1e-3, "train.adam.beta": 0.9, "seed": 0}


def test_a_change_is_laid_over_a_tree_that_stays_as_it_is():
    assert merge(TREE, nested("train.adam.beta", 0.5))["train"] == {"lr": 1e-3, "adam": {"beta": 0.5}}
    assert merge(TREE, {"train": 3})["train"] == 3
    assert TREE["train"] == {"lr": 1e-3, "adam": {"beta": 0.9}}
    assert without(TREE, ("train", "adam", "beta")) == {"train": {"lr": 1e-3}, "units": {}, "seed": 0}


def test_an_absent_setting_counts_as_its_default():
    before, now = {"a": 1, "gone": 2}, {"a": 1, "b": 5, "c": None, "d": 0}
    assert differences(before, now, {"b": 5, "gone": 2, "d": 1}) == {"d": (1, 0)}
    assert differences(before, now) == {"gone": (2, None), "b": (None, 5), "d": (None, 0)}


def test_a_difference_has_a_line_of_its_own():
    assert as_lines({"train.lr": (1e-3, 0.1), "init": (None, "runs/a")}) == (
        "\n  train.lr: 0.001 → 0.1\n  init: none → runs/a"
    )


def test_settings_that_are_not_known_are_found_but_in_tables_of_the_users_own_names():
    flat = {"train.lr": 1, "units.logS": "mol/l", "train.lrx": 2, "unitsx": 3}
    assert unknown(flat, {"train.lr", "units"}) == {"train.lrx": 2, "unitsx": 3}
    assert as_newer({"train.lrx": 2}, "runs/a/config.yaml").splitlines()[1:] == [
        "  train.lrx: 2",
        "Update unimol-scale to continue with it",
    ]
