"""The picture of a run shows what was logged, whatever there is of it."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.engine.log.curve import curve_figure, draw_curve
from unimol_scale.engine.log.jsonl import encode

TERMS = ("token", "coordinate", "distance")


def run_events(steps=2000, every=10, validate_every=200, seed=0, start=9.0):
    """Events as a run of a decaying loss logs them: resumed once, with two skipped steps and one spike."""
    rng = np.random.default_rng(seed)
    events = []
    for step in range(0, steps + 1, every):
        clean = 0.4 + start * np.exp(-step / (steps / 20)) + 1.2 * (step + 1.0) ** -0.3
        session = 1 if step < 0.6 * steps else 2
        if step:
            noisy = clean * (1 + 0.05 * rng.standard_normal())
            events.append({
                "step": step, "loss": noisy * (4.0 if step == 700 else 1.0), "lr": 1e-4 * min(step / 200, 1.0),
                "grad_norm": 3.0 * noisy, "skipped": (step >= 900) + (step >= 1500), "session": session,
                **{f"loss/{term}": noisy * share for term, share in zip(TERMS, (0.6, 0.3, 0.1), strict=True)},
            })  # fmt: skip
        if step % validate_every == 0:
            events.append({
                "step": step, "session": session, "valid/loss": 1.05 * clean,
                **{f"valid/loss/{term}": clean * share for term, share in zip(TERMS, (0.63, 0.31, 0.1), strict=True)},
            })  # fmt: skip
    return events


def write(folder, events):
    (folder / "metrics.jsonl").write_bytes(b"".join(encode(event) for event in events))


def labels(figure):
    return figure.axes[0].get_legend_handles_labels()[1]


def test_the_figure_shows_losses_terms_settings_and_marks():
    figure = curve_figure(run_events(), "run")
    assert figure.get_suptitle() == "run"
    assert [axes.get_title() for axes in figure.axes[1:]] == [*TERMS, "gradient norm", "learning rate"]
    assert labels(figure) == [
        "training, every log event", "training, smoothed", "validation", "resumed (1×)", "steps skipped (2)",
    ]  # fmt: skip
    main = figure.axes[0]
    assert main.get_yscale() == "log"
    (resumed,) = [line for line in main.get_lines() if line.get_label().startswith("resumed")]
    assert resumed.get_xdata()[0] == 1190  # the last step of the session before
    (skipped,) = [line for line in main.get_lines() if line.get_label().startswith("steps skipped")]
    assert list(skipped.get_xdata()) == [900, 1500]
    assert all(axes.get_xlim()[1] >= 2000 for axes in figure.axes)


def test_the_smoothed_curve_follows_the_loss_to_both_ends():
    figure = curve_figure(run_events(steps=20000), "run")
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    smooth, valid = drawn["training, smoothed"], drawn["validation"] / 1.05
    assert smooth[-1] == pytest.approx(valid[-1], rel=0.05)
    assert np.abs(np.diff(smooth[1000:])).max() < 0.02 * smooth[-1]


def test_a_loss_that_hardly_moves_is_drawn_on_a_linear_axis():
    figure = curve_figure(run_events(start=0.1)[20:], "run")
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    "events",
    [
        [{"step": 0, "valid/loss": 3.0, "valid/loss/token": 3.0}],
        [{"step": 1, "loss": 3.0, "loss/token": 3.0, "lr": 1e-4, "grad_norm": 1.0}],
        [{"step": 1, "loss": 0.0, "lr": 0.0, "grad_norm": float("nan")}, {"step": 2, "loss": float("nan")}],
        [{"step": 0, "valid/loss": -1.0}, {"step": 1, "loss": -2.0}],
        run_events(steps=100),
        run_events()[:25],
    ],
)
def test_a_run_that_has_logged_little_or_oddly_has_a_picture(tmp_path, events, recwarn):
    write(tmp_path, events)
    assert draw_curve(tmp_path) == tmp_path / "curve.png"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert [str(warning.message) for warning in recwarn if "atplotlib" in str(warning.filename)] == []


def test_a_mixture_has_a_panel_for_each_objective_and_term():
    events = [
        {"step": step, "loss": 1.0, f"loss/{part}/token": 1.0}
        for step, part in enumerate(["denoise", "blend", "denoise", "blend"], start=1)
    ]
    figure = curve_figure(events, "$a_b$ [run]")
    FigureCanvasAgg(figure).draw()
    assert [axes.get_title() for axes in figure.axes[1:3]] == ["denoise/token", "blend/token"]
    assert figure.get_suptitle() == "$a_b$ [run]"


def test_before_the_first_event_there_is_nothing_to_draw(tmp_path):
    assert draw_curve(tmp_path) is None
    write(tmp_path, [{"step": 0, "molecules": 0}])
    assert draw_curve(tmp_path) is None
    assert not (tmp_path / "curve.png").exists()


def test_a_damaged_log_is_drawn_without_its_damaged_lines_and_a_step_done_again_counts_once(tmp_path):
    events = run_events(steps=100, validate_every=50)
    again = [{**event, "loss": 1.0, "session": 2} for event in events if "loss" in event and event["step"] > 50]
    path = tmp_path / "metrics.jsonl"
    lines = [encode(event) for event in [*events, *again]]
    path.write_bytes(b"".join([*lines[:3], lines[3][:9] + b"\n", b'{"step": 30, "loss": NaN}\n', *lines[4:], b"\0\0"]))
    assert draw_curve(tmp_path) == tmp_path / "curve.png"
    (main, *_) = curve_figure(read_metrics(path).events, "run").axes
    (training,) = [line for line in main.get_lines() if line.get_label() == "training"]
    steps, losses = training.get_data()
    assert list(steps) == sorted(set(steps))
    assert list(losses[steps > 50]) == [1.0] * 5
