"""A place to climb ladders in, with a stand-in for the pretraining command; for the tests of the scaling room."""

from pathlib import Path

import yaml

# Stands in for the pretraining command: reads the command line as that does and leaves the same files. Marker files in
# the folder of the store make it fail, stop early or hang.
PRETRAIN = '''
import argparse, json, os, signal, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})  # the ladder starts this file in a folder that is no repository of ours
from tests.helpers.simulated_runs import write_run
import yaml

# A rank that takes its time to save when it is told to stop, and does not survive a second order.
RANK = """
import signal, sys, time
from pathlib import Path
data, name = Path(sys.argv[1]), sys.argv[2]
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.5)
    (data / f"saved-{{name}}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, save)
(data / f"ready-{{name}}").touch()
time.sleep(600)
"""
parser = argparse.ArgumentParser()
for name in ("size", "objective", "data", "output"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("overrides", nargs="*")
arguments = parser.parse_args()
settings = dict(item.split("=", 1) for item in arguments.overrides)
data, output = Path(arguments.data), Path(arguments.output)
with (data / "calls.txt").open("a") as calls:
    calls.write(output.name + "\\n")
print("training", arguments.size, "in", Path.cwd())
def wait_for(pattern, count):
    deadline = time.monotonic() + 60
    while len(list(data.glob(pattern))) < count:
        if time.monotonic() > deadline:
            sys.exit(f"waited for {{count}} of {{pattern}}")
        time.sleep(0.05)
if (data / "together").exists():
    (data / f"running-{{output.name}}").touch()
    wait_for("running-*", 2)
if (data / f"fail-{{output.name}}").exists():
    wait_for("ready-*", 1)
    sys.exit("rank 1 died beside another run")
if (data / "fail").exists():
    sys.exit("rank 1 died: out of molecules")
if (data / "stop").exists():
    output.mkdir(parents=True)
    (output / "config.yaml").write_text("{{}}")
    (data / "stop").unlink()
    sys.exit(75)
if (data / "hang").exists() or (data / f"hang-{{output.name}}").exists():
    # Like DeepSpeed's launcher: SIGTERM is passed to the ranks, which are then killed before they have saved.
    def kill(*_):
        child.terminate()
        time.sleep(0.1)
        child.kill()
        sys.exit(1)
    signal.signal(signal.SIGTERM, kill)
    child = subprocess.Popen([sys.executable, "-c", RANK, str(data), output.name])
    wait_for(f"ready-{{output.name}}", 1)
    (data / f"pids-{{output.name}}").write_text(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(600)
if (data / "early").exists():
    sys.exit(0)
import shutil
shutil.rmtree(output, ignore_errors=True)
schedule, trunk = settings.get("train.schedule", "linear"), settings.get("branch_from")
if trunk is not None and not (Path(trunk) / "summary.json").exists():
    sys.exit("the trunk is not trained")
branch = trunk and {{"trunk": str(Path(trunk).absolute()), "own": {{"flops": 1e6}}}}
ends = {{"schedule": schedule, "keep_steps": yaml.safe_load(settings.get("train.keep_steps", "[]")), "branch": branch}}
write_run(output, arguments.size, int(settings["train.steps"]), seed=int(settings["seed"]), summary=ends)
nested = {{"seed": int(settings["seed"]), "data": {{"path": str(data)}}, "train": {{}}}}
for key, value in settings.items():
    if key.startswith("train."):
        nested["train"][key[6:]] = yaml.safe_load(value)
(output / "config.yaml").write_text(yaml.safe_dump(nested))
'''


def make_place(place: Path) -> None:
    """Make a repository with a store, the stand-in, and a ladder of two sizes and two seeds."""
    (place / "store").mkdir()
    (place / "launch").mkdir()
    (place / "launch" / "pretrain.py").write_text(PRETRAIN.format(repository=str(Path(__file__).resolve().parents[2])))
    tree = {
        "name": "try",
        "script": "launch/pretrain.py",
        "data": "store",
        "launcher": "python",
        "sizes": ["0.1M", "1M"],
        "steps": [20],
        "seeds": [0, 1],
        "overrides": {"train": {"learning_rate": 0.001}},
    }
    (place / "ladder.yaml").write_text(yaml.safe_dump(tree))


def calls(place: Path) -> list[str]:
    """Return the runs that were started, in order."""
    path = place / "store" / "calls.txt"
    return path.read_text().split() if path.exists() else []


def hanging(place: Path) -> list[int]:
    """Return the processes of the runs that hang: of each its launcher and its rank."""
    return [int(word) for path in (place / "store").glob("pids-*") for word in path.read_text().split()]
