"""Processes of one thread each that carry out runs of the study of rank strategies."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Self, final

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments.rank_runs import READY, RankRun, Record

_PROGRAM = ("-m", "adaptive_moe.experiments.rank_trial")
_PATIENCE_SECONDS = 30.0


@final
class Workers:
    """So many processes, each with a run at a time; they end when their input does.

    A process that dies takes its run with it, which is recorded as failed, and is replaced. One
    that does not even begin says nothing about a run: that is an error.
    """

    def __init__(self, count: int, sets: Sequence[str]) -> None:
        self._sets = sets
        self._processes: list[subprocess.Popen[str]] = []
        self._is_ending = threading.Event()
        try:
            for _ in range(count):
                self._processes.append(self._start())
            for process in self._processes:
                _wait_until_ready(process)
        except BaseException:
            self._end_all(at_once=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end_all(at_once=kind is not None)

    def perform(self, runs: Sequence[RankRun]) -> Iterator[Record]:
        """A record for every run, in the order in which they end.

        Raises AdaptiveMoEError when a process that died cannot be replaced.
        """
        waiting: queue.SimpleQueue[RankRun] = queue.SimpleQueue()
        for run in runs:
            waiting.put(run)
        done: queue.SimpleQueue[Record | AdaptiveMoEError] = queue.SimpleQueue()
        for place in range(len(self._processes)):
            work = threading.Thread(target=self._work, args=(place, waiting, done), daemon=True)
            work.start()
        for _ in runs:
            record = done.get()
            if isinstance(record, AdaptiveMoEError):
                raise record
            yield record

    def _work(
        self,
        place: int,
        waiting: "queue.SimpleQueue[RankRun]",
        done: "queue.SimpleQueue[Record | AdaptiveMoEError]",
    ) -> None:
        while True:
            try:
                run = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(self._ask(place, run))
            except AdaptiveMoEError as error:
                done.put(error)
                return

    def _ask(self, place: int, run: RankRun) -> Record:
        process = self._processes[place]
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(run)) + "\n")
            process.stdin.flush()
            answer: Record = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            reason = f"the process ended with {_end(process)}"
            if self._is_ending.is_set():
                raise AdaptiveMoEError(f"the study was stopped: {reason}") from None
            self._processes[place] = self._start()
            _wait_until_ready(self._processes[place])
            return {"kind": "failed", "key": run.key, "run": asdict(run), "reason": reason}
        return answer

    def _end_all(self, *, at_once: bool) -> None:
        self._is_ending.set()
        for process in self._processes:
            if at_once:
                process.terminate()
            _end(process)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *_PROGRAM, *self._sets],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        )


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Until it has loaded its sets; AdaptiveMoEError when it ends instead, having said why."""
    assert process.stdout is not None
    if process.stdout.readline() != READY:
        raise AdaptiveMoEError(
            f"a process of the study did not begin, it ended with {_end(process)}"
        )


def _end(process: subprocess.Popen[str]) -> int:
    """Close its input, wait a while, and say how it ended."""
    try:
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        return process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
