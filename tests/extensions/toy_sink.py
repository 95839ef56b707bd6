"""A log of your own in one file: every value of every event as a line of events.csv in the folder of the run.

PYTHONPATH=tests/extensions deepspeed launch/pretrain.py --size 0.1M "log.sinks=[jsonl,toy_sink:CsvSink]"
"""


class CsvSink:
    """Made when a session of a run begins, on rank 0; whatever it raises is told and stops nothing."""

    def __init__(self, start):
        path = start.folder / "events.csv"
        old = path.read_text().splitlines() if start.first_step and path.is_file() else []
        # Later steps are done again: the run goes on from a checkpoint.
        kept = [line for line in old if int(line.split(",")[0]) <= start.first_step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")

    def event(self, event):
        step = event["step"]
        self._file.writelines(f"{step},{key},{value!r}\n" for key, value in event.items() if key != "step")
        self._file.flush()

    def close(self):
        self._file.close()
