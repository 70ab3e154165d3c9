"""Where a run stands: what its files, its workers and Slurm say, joined. Nothing is asked here."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Beat
from oellm.runs.run_directory import Run
from oellm.slurm import job_states
from oellm.slurm.job_states import JobState, Key

DONE, RUNNING, PENDING, FAILED, LOST = "done", "running", "pending", "failed", "lost"

# Seconds without a heartbeat after which a worker is said to be silent.
_SILENT = 60.0


class Place(NamedTuple):
    """The newest submission of a shard's array element."""

    # Of run.json's `jobs`.
    job: Mapping[str, Any]
    # Array index in that job.
    position: int


class Evidence(NamedTuple):
    """What is known of a run at one moment."""

    now: datetime.datetime
    rows: Sequence[Row]
    # Rows with a valid result.
    done: frozenset[str]
    # The key `failure` of the failure files of others, with the time as `finished`.
    failures: Mapping[str, Mapping[str, Any]]
    heartbeats: Mapping[int, Beat]
    # What Slurm says; None where it did not answer, or was not asked.
    jobs: Mapping[Key, JobState] | None
    # How the logs of shards end whose jobs ended or were requeued.
    logs: Mapping[int, str]
    # Shards whose workers run on this machine, outside of jobs, and processes of oe-submit here.
    workers_here: frozenset[int]
    submitters_here: frozenset[int]


class Phase(NamedTuple):
    """What becomes of a shard: it is unsubmitted, queued, running or ended."""

    name: str
    reason: str
    # Failures from before do not count: their rows are tried again. None: all count.
    since: datetime.datetime | None
    job: str = ""
    node: str = ""
    # The heartbeat of the worker that runs.
    beat: Beat | None = None


class RowStatus(NamedTuple):
    """Where a row stands."""

    row: Row
    state: str
    reason: str
    attempts: int
    log: str
    # What the heartbeat says of it.
    work: Mapping[str, Any]
    phase: Phase


class ShardStatus(NamedTuple):
    """Where a shard stands; times in seconds, None where they are not known."""

    shard: int
    rows: Sequence[RowStatus]
    phase: Phase
    estimate_s: float
    # What its workers took so far, and how much of that the model answered.
    measured_s: float
    scoring_s: float
    gpu_s: float
    rows_per_h: float | None
    left_s: float | None

    def number(self, state: str) -> int:
        """Return how many rows are in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def state(self) -> str:
        """The state of the shard: of what it does, or else of the worst of its rows."""
        if self.phase.name == "running" and self.number(RUNNING) + self.number(PENDING):
            return RUNNING
        return next((s for s in (PENDING, LOST, FAILED) if self.number(s)), DONE)


def places(run: Run) -> dict[int, Place]:
    """Return the newest submission of each shard that was submitted."""
    members: dict[tuple[int, int], list[int]] = {}
    for shard in run.shards:
        members.setdefault((shard.array, shard.element), []).append(shard.index)
    found = {}
    for job in run.record["jobs"]:
        for element in job["elements"]:
            for shard_index in members.get((job["array"], element), ()):
                found[shard_index] = Place(job, element - job["offset"])
    return found


def job_key(place: Place | None) -> Key | None:
    """Return by what Slurm knows an element, None where it does not or its number is not known."""
    if place is None or place.job["executor"] != "slurm" or place.job.get("job_id") is None:
        return None
    return place.job["job_id"], place.position


def log_stem(run: Run, shard: int, place: Place) -> str:
    """Return the name, but for its end, of the log of a shard's array element."""
    if place.job["executor"] == "local":
        return f"local_{shard - worker(run, shard, place)}"
    return f"{place.job['job_id']}_{place.position}"


def worker(run: Run, shard: int, place: Place) -> int:
    """Return which of its element's workers evaluates a shard."""
    array = run.arrays[int(place.job["array"])]
    return (shard - array.first_shard) % array.workers


def joined(run: Run, evidence: Evidence) -> list[ShardStatus]:
    """Return where each shard of a run stands, with its rows in the order of the manifest."""
    rows_of: dict[int, list[Row]] = {shard.index: [] for shard in run.shards}
    for row in evidence.rows:
        rows_of[int(row["shard"])].append(row)
    submitted = places(run)
    found = []
    for shard in run.shards:
        beat = evidence.heartbeats.get(shard.index)
        phase = _phase(submitted.get(shard.index), shard.index, beat, evidence)
        rows = [_row_status(row, phase, evidence) for row in rows_of[shard.index]]
        found.append(_measured(shard.index, rows, phase, shard.estimate_s, beat))
    return found


def _phase(place: Place | None, shard: int, beat: Beat | None, evidence: Evidence) -> Phase:
    if shard in evidence.workers_here and beat is not None:
        return Phase("running", "", _time(beat["started"]), beat["job"], beat["host"], beat)
    if place is None:
        return Phase("unsubmitted", "not submitted", None)
    since = _time(place.job["submitted"])
    if place.job["executor"] != "slurm":
        return _local_phase(place, beat, since, evidence)
    key = job_key(place)
    if key is None:
        reason = "its submission was not confirmed; oe-submit looks it up"
        return Phase("queued", reason, since)
    job = f"{key[0]}_{key[1]}"
    ours = beat if beat is not None and beat["job"].split("_")[0] == str(key[0]) else None
    if evidence.jobs is None:
        if ours is not None and not ours["ended"] and _silence(ours, evidence) < _SILENT:
            return Phase("running", "", _time(ours["started"]), job, ours["host"], ours)
        return Phase("queued", f"submitted as job {job}; no word from Slurm", since, job)
    state = evidence.jobs.get(key)
    if state is not None and state.state in job_states.WAITING:
        return Phase("queued", _waiting(state, evidence.logs.get(shard, "")), evidence.now, job)
    if state is not None and state.state in job_states.RUNNING:
        if ours is not None and state.start is not None and _time(ours["updated"]) < state.start:
            # Of an attempt before the job was requeued.
            ours = None
        began = since if ours is None else _time(ours["started"])
        return Phase("running", "", began, job, state.nodes, ours)
    reason = job_states.explained(state, evidence.logs.get(shard, ""))
    return Phase("ended", reason, since, job, state.nodes if state is not None else "")


def _local_phase(
    place: Place, beat: Beat | None, since: datetime.datetime, evidence: Evidence
) -> Phase:
    has_begun = beat is not None and _time(beat["updated"]) >= since
    if place.job.get("job_id") in evidence.submitters_here and not has_begun:
        return Phase("queued", "oe-submit runs others first", evidence.now)
    if has_begun and beat is not None:
        ended = beat["ended"] or "ended without a word: see its log"
        return Phase("ended", f"its worker {ended}", since, node=beat["host"])
    return Phase("ended", "oe-submit ended before it began", since)


def _waiting(job: JobState, log: str) -> str:
    reason = f"in the queue ({job.reason})"
    if job.restarts:
        reason += f", requeued: {job_states.told(log) or 'why is not known'}"
    return reason


def _row_status(row: Row, phase: Phase, evidence: Evidence) -> RowStatus:
    eval_id = row["eval_id"]
    if eval_id in evidence.done:
        return RowStatus(row, DONE, "", 0, "", {}, phase)
    failure = evidence.failures.get(eval_id, {})
    attempts, log = int(failure.get("attempts", 0)), str(failure.get("log", ""))
    why = f"{failure.get('class')}: {failure.get('message')}" if failure else ""
    at_work = phase.beat["rows"] if phase.beat is not None else []
    work = next((each for each in at_work if each["eval_id"] == eval_id), None)
    if work is not None and phase.beat is not None:
        silence = _silence(phase.beat, evidence)
        remark = f"no heartbeat for {silence:.0f} s" if silence > _SILENT else work["phase"]
        if work["phase"] == "waiting" and phase.beat["loading"] and silence <= _SILENT:
            remark = "its model is being loaded"
        return RowStatus(row, RUNNING, remark, attempts, log, work, phase)
    if failure and (phase.since is None or _time(failure["finished"]) >= phase.since):
        if phase.reason == job_states.OUT_OF_MEMORY:
            why += f"; {phase.reason}"
        return RowStatus(row, FAILED, why, attempts, log, {}, phase)
    if phase.name == "ended":
        return RowStatus(row, LOST, phase.reason, attempts, log, {}, phase)
    reason = phase.reason or "in a job that runs, not begun"
    if why:
        reason += f"; before: {why}"
    return RowStatus(row, PENDING, reason, attempts, log, {}, phase)


def _measured(
    index: int, rows: list[RowStatus], phase: Phase, estimate_s: float, beat: Beat | None
) -> ShardStatus:
    attempts = beat["attempts"] if beat is not None else []
    seconds = [_between(attempt["started"], attempt["updated"]) for attempt in attempts]
    taken = sum(seconds)
    gpu_s = sum(s * attempt["gpus"] for s, attempt in zip(seconds, attempts, strict=True))
    rate = None
    if phase.beat is not None and (finished := phase.beat["done"] + phase.beat["failed"]):
        rate = finished / max(1e-3, seconds[-1]) * 3600
    ended = sum(row.state in (DONE, FAILED) for row in rows)
    progress = ended + sum(map(_share, rows))
    left: float | None = None
    if progress == len(rows):
        left = 0.0
    elif taken and progress:
        left = taken * (len(rows) - progress) / progress
    elif estimate_s:
        left = max(0.0, estimate_s - taken)
    scoring = sum(attempt["scoring_s"] for attempt in attempts)
    return ShardStatus(index, rows, phase, estimate_s, taken, scoring, gpu_s, rate, left)


def _share(row: RowStatus) -> float:
    """Return how much of a row that is not done has been."""
    total = row.work.get("requests_total", 0)
    return float(row.work["requests_done"] / total) if total else 0.0


class Totals(NamedTuple):
    """A run in numbers (schema.json, table `totals`)."""

    rows: int
    done: int
    running: int
    pending: int
    failed: int
    lost: int
    # Pending rows of which nothing is submitted.
    unsubmitted: int
    state: str
    rows_per_h: float | None
    left_s: float | None
    gpu_hours: float
    gpu_hours_planned: float | None
    scoring_share: float | None
    # Of the shards that are done.
    estimate_s: float
    measured_s: float

    @property
    def is_awaited(self) -> bool:
        """Whether something runs or is queued."""
        return self.running + self.pending > self.unsubmitted


def totals(run: Run, shards: Sequence[ShardStatus]) -> Totals:
    """Return what the shards of a run come to."""
    counts = Counter(row.state for shard in shards for row in shard.rows)
    unsubmitted = sum(s.number(PENDING) for s in shards if s.phase.name == "unsubmitted")
    running = [shard for shard in shards if shard.state == RUNNING]
    rates = [shard.rows_per_h for shard in running if shard.rows_per_h is not None]
    open_shards = [shard for shard in shards if shard.left_s != 0.0]
    lefts = [shard.left_s for shard in open_shards if shard.left_s is not None]
    left = None
    if running and len(lefts) == len(open_shards):
        # As many go on at a time as now.
        left = max([sum(lefts) / len(running), *lefts], default=0.0)
    finished = [shard for shard in shards if shard.state == DONE and shard.measured_s]
    taken = sum(shard.measured_s for shard in shards)
    standing = next((state for state in (PENDING, LOST, FAILED) if counts[state]), DONE)
    return Totals(
        rows=sum(counts.values()),
        done=counts[DONE],
        running=counts[RUNNING],
        pending=counts[PENDING],
        failed=counts[FAILED],
        lost=counts[LOST],
        unsubmitted=unsubmitted,
        state=RUNNING if running else standing,
        rows_per_h=sum(rates) if rates else None,
        left_s=left,
        gpu_hours=sum(shard.gpu_s for shard in shards) / 3600,
        gpu_hours_planned=run.record["plan"].get("gpu_hours"),
        scoring_share=sum(shard.scoring_s for shard in shards) / taken if taken else None,
        estimate_s=sum(shard.estimate_s for shard in finished),
        measured_s=sum(shard.measured_s for shard in finished),
    )


def _silence(beat: Beat, evidence: Evidence) -> float:
    return (evidence.now - _time(beat["updated"])).total_seconds()


def _between(started: str, ended: str) -> float:
    return max(0.0, (_time(ended) - _time(started)).total_seconds())


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
