"""Measures how long a model takes before it serves, and picks threads, instances and batch sizes by that."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .batch_dependence import batch_dependence, shown_error, wrong_rows
from .profile_cache import Profile, ProfileCache, default_cache_directory
from .runtimes.base import Runtime

__all__ = ["Profile", "ProfileCache", "batch_dependence", "default_cache_directory", "run_delay", "tune"]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
Example: TypeAlias = Callable[[Runtime, int], Arrays | None]

_LARGEST = 1024
_LARGEST_BYTES = 64 * 2**20
_UNMEASURED_SIZE = 64
_WORTHWHILE = 1.03
"""What doubling the batch must gain in throughput."""
_EQUAL = 1.10
"""Settings whose throughput differs by less are as good as each other."""
_QUICK = 1e-3
"""Seconds for one row below which more threads cost more than they gain."""
_LOOP_BOUND = 100e-6
"""Seconds per row below which the event loop, not the model, is what limits: about what it takes for a call."""
_LONG = 0.05
"""A run that takes so many seconds needs neither a warm-up nor repetitions."""
_FEWEST, _MOST = 3, 50
_SHORTEST = 1e-9
_SOON = 10.0
_SHARE = 1 / 40
"""Of the budget, for one size."""
_CONCURRENT, _REPEATS = 0.03, 2
"""Seconds, and batches, that instances run side by side at least, to be compared."""


def tune(
    load: Callable[[int], Runtime],
    *,
    cores: int,
    key: str,
    example: Example,
    threads: int | None = None,
    instances: int | None = None,
    max_batch_size: int | None = None,
    budget: float = 2.0,
    cache: ProfileCache | None = None,
    clock: Callable[[], float] = time.perf_counter,
    waited: Callable[[], float] | None = None,
) -> tuple[Runtime, Profile]:
    """Load a model with as many threads as suit it, and say how to run it. What is given is kept, the rest measured.

    `load(threads)` loads the model; what is loaded and not returned is closed. `example(runtime, rows)` makes inputs, or
    None where it cannot. Measuring takes about `budget` seconds at most, loading not counted; one run more where a model is
    that slow. `key` changes with the model and its configuration: a profile in `cache` of the same key, settings and engine is
    used instead. A model that fails with the example is not measured, and `notes` say so. Errors of the first `load` are
    raised.

    `waited` says how many seconds the thread that asks has waited for a processor so far: other programs must not make a model
    look slow, nor two instances of it as slow as one.
    """
    limit = min(max_batch_size or _LARGEST, _LARGEST)
    key = json.dumps([key, cores, threads, instances, max_batch_size])
    known = cache.get(key) if cache is not None else None
    runtime = load(known.threads if known is not None else threads or 1)
    try:
        if known is not None and cache is not None and cache.engine(key) == runtime.name:
            return runtime, known
        if known is not None and known.threads != (threads or 1):
            runtime.close()
            runtime = load(threads or 1)
    except BaseException:
        runtime.close()
        raise
    bench = _Bench(example, clock, waited or run_delay, budget, limit)
    tuner = _Tuner(load, bench, cores, threads, instances)
    profile = tuner.run(runtime)
    runtime = tuner.runtime
    if not runtime.batched:
        profile = dataclasses.replace(profile, max_batch_size=1, rush_batch_size=1)
    elif max_batch_size is not None:
        profile = dataclasses.replace(profile, max_batch_size=max_batch_size, rush_batch_size=max_batch_size)
    if cache is not None and profile.seconds:
        cache.put(key, profile, engine=runtime.name)
    return runtime, profile


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to run the model, with `throughput` in rows per second when all instances are busy."""

    threads: int
    instances: int
    throughput: float
    single: float
    """Seconds for one row."""


class _Tuner:
    """Tries numbers of threads and instances. Holds the best runtime so far in `runtime`, and one more while it is tried."""

    def __init__(
        self,
        load: Callable[[int], Runtime],
        bench: _Bench,
        cores: int,
        threads: int | None,
        instances: int | None,
    ) -> None:
        self._load = load
        self._bench = bench
        self._cores = max(cores, 1)
        self._threads = threads
        self._instances = instances
        self._rows = 0
        """Of the batches that instances are compared by: the same for all numbers of threads."""
        self.runtime: Runtime

    def run(self, first: Runtime) -> Profile:
        """The profile; `first` is loaded with the given threads or one."""
        self.runtime = first
        candidate: Runtime | None = None
        try:
            seconds, best = self._measure(first, self._threads or 1, shares=self._candidates(first, 0.0))
            if best is None:
                return self._unmeasured(first)
            is_tunable = self._threads is None and first.device == "cpu" and not _has_own_threads(first)
            threads = 1
            while (
                is_tunable and best.single >= _QUICK and 2 * threads * (self._instances or 1) <= self._cores
            ):
                threads *= 2
                left = self._candidates(first, threads)
                if self._bench.is_over:
                    self._bench.note(f"There was no time to try {threads} threads.")
                    break
                candidate = self._load_candidate(threads)
                if candidate is None:
                    break
                tried, option = self._measure(candidate, threads, shares=left)
                gains = option is not None and (
                    option.single * _EQUAL < best.single or option.throughput > best.throughput * _EQUAL
                )
                if option is not None and _better([best, option]) is option:
                    loser, self.runtime, seconds, best = self.runtime, candidate, tried, option
                else:
                    loser = candidate
                candidate = None
                loser.close()
                if not gains:
                    break
        except BaseException:
            for runtime in (self.runtime, candidate):
                if runtime is not None:
                    runtime.close()
            raise
        return self._profile(seconds, best)

    def _measure(
        self, runtime: Runtime, threads: int, *, shares: int
    ) -> tuple[dict[int, float], _Option | None]:
        bench = self._bench
        bench.share(shares)
        seconds = bench.curve(runtime)
        if not seconds:
            return seconds, None
        single = seconds[min(seconds)]
        rows = _useful_size(seconds)
        option = _Option(threads, self._instances or 1, rows / seconds[rows], single)
        if self._instances is not None and self._threads is not None:
            return seconds, option  # nothing is left to decide
        if runtime.in_process:
            count = self._instances or max(1, self._cores - 1)  # one core stays with the event loop
            return seconds, dataclasses.replace(option, instances=count)
        if single < _QUICK and seconds[rows] < _LOOP_BOUND * rows:
            return seconds, option
        return seconds, _better(self._side_by_side(runtime, option, seconds) or [option])

    def _side_by_side(self, runtime: Runtime, option: _Option, seconds: Mapping[int, float]) -> list[_Option]:
        """The options with one instance and more, as they are when all of them run at once."""
        if self._instances is not None:
            counts: Sequence[int] = (self._instances,)
        elif runtime.device == "cpu":
            counts = _doublings(self._cores // option.threads)
        else:
            counts = (1, 2)  # two overlap the copies of one with the computation of the other
        if not self._rows:
            self._rows = self._bench.comparable_size(seconds, len(counts))
        rows = min(self._rows, max(seconds))
        options: list[_Option] = []
        for count in counts:
            throughput = self._bench.throughput(runtime, rows, seconds[rows], count)
            if throughput is None:
                break
            options.append(dataclasses.replace(option, instances=count, throughput=throughput))
            if len(options) > 1 and throughput < _WORTHWHILE * options[-2].throughput:
                break
        return options

    def _candidates(self, runtime: Runtime, threads: float) -> int:
        """How many numbers of threads are still to be tried, the next one included."""
        if self._threads is not None or _has_own_threads(runtime) or runtime.device != "cpu":
            return 1
        return sum(count >= threads for count in _doublings(self._cores // (self._instances or 1)))

    def _load_candidate(self, threads: int) -> Runtime | None:
        started = self._bench.now()
        try:
            return self._load(threads)
        except Exception as exc:  # engines' errors share no base class; the model is loaded already
            self._bench.note(f"The model does not load with {threads} threads: {shown_error(exc)}")
            return None
        finally:
            self._bench.extend(self._bench.now() - started)

    def _profile(self, seconds: dict[int, float], best: _Option) -> Profile:
        fixed, per_row = _fit(seconds)
        size = _useful_size(seconds)
        rush = max(seconds, key=lambda rows: (rows / seconds[rows], -rows))
        return Profile(
            fixed=fixed,
            per_row=per_row,
            seconds=seconds,
            max_batch_size=size,
            rush_batch_size=max(rush, size),
            threads=best.threads,
            instances=best.instances,
            notes=self._bench.notes,
        )

    def _unmeasured(self, runtime: Runtime) -> Profile:
        instances = max(1, self._cores - 1) if runtime.in_process else 1
        return Profile(
            fixed=0.0,
            per_row=0.0,
            seconds={},
            max_batch_size=_UNMEASURED_SIZE,
            rush_batch_size=_UNMEASURED_SIZE,
            threads=self._threads or 1,
            instances=self._instances or instances,
            notes=self._bench.notes,
        )


class _Bench:
    """Runs a model with examples and a clock, until its time is over."""

    def __init__(
        self,
        example: Example,
        clock: Callable[[], float],
        waited: Callable[[], float],
        budget: float,
        limit: int,
    ) -> None:
        self.now = clock
        self._waited = waited
        self._example = example
        self._budget = budget
        self._limit = limit
        self._end = clock() + budget
        self._share_end = self._end
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._notes))

    @property
    def is_over(self) -> bool:
        """No time is left at all."""
        return self.now() >= self._end

    def note(self, text: str) -> None:
        self._notes.append(text)

    def extend(self, seconds: float) -> None:
        """Something took time that does not count."""
        self._end += seconds

    def share(self, parts: int) -> None:
        """What follows may use half of the time that is left, or all when it is the last of `parts` parts."""
        now = self.now()
        self._share_end = now + max(self._end - now, 0.0) / min(max(parts, 1), 2)

    def curve(self, runtime: Runtime) -> dict[int, float]:
        """Median seconds by rows, for 1, 2, 4 … as far as it makes sense. Empty: the model cannot be measured."""
        seconds: dict[int, float] = {}
        # what is left is for running instances side by side
        end = self.now() + 0.7 * (self._share_end - self.now())
        flat, bytes_per_row = 0, 0
        for rows in _doublings(self._limit) if runtime.batched else (1,):
            if rows > 1:
                before = seconds[rows // 2]
                if bytes_per_row * rows > _LARGEST_BYTES:
                    break
                if self.now() + 2 * before * (1 if before > _LONG else 2) > (self._end if rows == 2 else end):
                    if rows == 2:
                        self.note(
                            "One row takes so long that batches were not measured; set `max_batch_size` to have them."
                        )
                    break
            try:
                inputs = self._example(runtime, rows)
                if inputs is None:
                    if rows == 1:
                        self.note("The model was not measured: no example input could be made for it.")
                    break
                bytes_per_row = bytes_per_row or sum(array.nbytes for array in inputs.values())
                found = self._median(runtime, inputs, rows, end)
            except Exception as exc:  # a model's own errors share no base class
                what = "The model was not measured" if rows == 1 else f"The model fails with {rows} rows"
                self.note(f"{what}: {shown_error(exc)}")
                break
            seconds[rows] = found
            if rows > 1:
                flat = flat + 1 if 2 * seconds[rows // 2] < _WORTHWHILE * found else 0
                if flat == 2:
                    break
        return seconds

    def comparable_size(self, seconds: Mapping[int, float], times: int) -> int:
        """The largest useful size of which `throughput` can be measured `times` times, each with another number of instances."""
        left = 0.8 * (self._share_end - self.now()) / times
        most = _useful_size(seconds)
        return max(
            (n for n in seconds if n <= most and max(_REPEATS * seconds[n], _CONCURRENT) <= left), default=1
        )

    def throughput(self, runtime: Runtime, rows: int, seconds: float, instances: int) -> float | None:
        """Rows per second of `instances` threads that run batches all the time. None: no time, or they fail.

        `seconds` is what one batch takes.
        """
        times = max(_REPEATS, math.ceil(_CONCURRENT / max(seconds, 1e-6)))
        if self.now() + times * seconds > self._share_end:
            return None
        inputs = self._example(runtime, rows)
        if inputs is None:
            return None

        together = threading.Barrier(instances)

        def work(_: int) -> tuple[float, float]:
            together.wait(_SOON)
            started, waited = self.now(), self._waited()
            for _ in range(times):
                runtime.run(inputs)
            return started, self.now() - (self._waited() - waited)

        try:
            with ThreadPoolExecutor(instances, thread_name_prefix="profile") as pool:
                starts, ends = zip(*pool.map(work, range(instances)), strict=True)
            took: float = max(ends) - min(starts)
        except Exception as exc:
            self.note(f"The model fails in {instances} threads at once: {shown_error(exc)}")
            return None
        return instances * times * rows / max(took, _SHORTEST)

    def _median(self, runtime: Runtime, inputs: Arrays, rows: int, end: float) -> float:
        slice_end = min(end, self.now() + self._budget * _SHARE)
        took, outputs = self._timed(runtime, inputs)
        _check_rows(runtime, outputs, rows)
        # The first run of a size allocates, and the first of all may compile. A long one is not repeated only for that.
        if self.now() + took > (self._end if rows == 1 else end) or (rows > 1 and took > _LONG):
            return max(took, _SHORTEST)
        found: list[float] = []
        while len(found) < _MOST:
            took, _ = self._timed(runtime, inputs)
            found.append(took)
            now = self.now()
            if now + took > end or took > _LONG or (len(found) >= _FEWEST and now >= slice_end):
                break
        return max(statistics.median(found), _SHORTEST)

    def _timed(self, runtime: Runtime, inputs: Arrays) -> tuple[float, Arrays]:
        before, waited = self.now(), self._waited()
        outputs = runtime.run(inputs)
        return self.now() - before - (self._waited() - waited), outputs


def run_delay() -> float:
    """Seconds that this thread was ready to run and had no processor, as Linux counts them; elsewhere 0.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _check_rows(runtime: Runtime, outputs: Arrays, rows: int) -> None:
    if not runtime.batched:
        return
    for name, output in outputs.items():
        found = output.shape[0] if output.ndim else 0
        if found != rows:
            raise ValueError(wrong_rows(name, found, rows))


def _has_own_threads(runtime: Runtime) -> bool:
    """Its number of threads is its own matter: Python code, or a process."""
    return runtime.holds_gil or runtime.in_process


def _better(options: Sequence[_Option]) -> _Option:
    """The one of the best throughput; among equals that with fewer threads and instances, then the quickest single row."""
    enough = max(option.throughput for option in options) / _EQUAL
    good = [option for option in options if option.throughput >= enough]
    return min(good, key=lambda option: (option.threads + option.instances, option.single))


def _doublings(limit: int) -> list[int]:
    """1, 2, 4 … up to `limit`."""
    return [1 << power for power in range(max(limit, 1).bit_length())]


def _useful_size(seconds: Mapping[int, float]) -> int:
    """The smallest size beyond which no measured one gains 3 % of throughput per doubling.

    Compared with all larger ones, so that one measurement that was disturbed does not end it.
    """
    sizes = sorted(seconds)
    for size in sizes:
        throughput = size / seconds[size]
        if all(
            other / seconds[other] < throughput * _WORTHWHILE ** math.log2(other / size)
            for other in sizes
            if other > size
        ):
            return size
    raise AssertionError("the largest size has none beyond it")


def _fit(seconds: Mapping[int, float]) -> tuple[float, float]:
    """a and b of s(n) = a + b·n by least squares of the relative errors, neither negative."""
    total = n = s = nn = ns = 0.0
    for rows, took in seconds.items():
        weight = 1 / (took * took)
        total += weight
        n += weight * rows
        s += weight * took
        nn += weight * rows * rows
        ns += weight * rows * took
    spread = total * nn - n * n
    slope = (total * ns - n * s) / spread if spread > 1e-12 * total * nn else ns / nn
    fixed = (s - slope * n) / total
    if slope <= 0:
        return s / total, 0.0
    return (fixed, slope) if fixed > 1e-9 * s / total else (0.0, ns / nn)
