"""Kills publishing processes at random moments and counts what is left; prints JSON.

Run as a program: the parent imports no torch, so that a fork is cheap. Arguments: folder, kills.
"""

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from adaptive_moe.errors import CorruptExpertError
from adaptive_moe.experts.store import Store
from tests.experts.published import publish


def change_the_store(root: Path, seed: int) -> None:
    """Publish, retrain and remove until somebody ends us."""
    for turn in range(1000):
        with Store(root) as store:
            publish(store, "chemistry", content=f"{seed} {turn}".encode() * 6000)
            if turn % 3 == seed % 3:
                publish(store, "physics", content=bytes([turn % 200]) * 1000)
                store.remove("physics")
                store.collect()


def kill_one(root: Path, chance: random.Random) -> None:
    child = os.fork()
    if child == 0:
        change_the_store(root, chance.randrange(10_000))
        os._exit(0)
    time.sleep(chance.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def look(root: Path, tally: dict[str, int]) -> None:
    with Store(root) as store:
        records = store.list()
        kept = [record for record in records if record.status != "removed"]
        for record in kept:
            try:
                store.verify(record.expert_id)
            except CorruptExpertError:
                tally["half_visible"] += 1
        known = {record.expert_id for record in records}
        objects = {folder.name for folder in (root / "objects").iterdir()}
        tally["leftovers"] += len(list((root / "staging").iterdir())) + len(objects - known)
        versions = [record.version for record in records if record.name == "chemistry"]
        tally["lost"] += tally["published"] > len(versions)
        tally["gaps"] += versions != list(range(1, len(versions) + 1))
        tally["published"] = len(versions)
        serving = [record for record in store.active() if record.name == "chemistry"]
        tally["stale"] += bool(versions) and [record.version for record in serving] != versions[-1:]
    with sqlite3.connect(root / "index.sqlite") as index:
        tally["broken_index"] += index.execute("PRAGMA integrity_check").fetchone() != ("ok",)


def main(root: Path, kills: int) -> None:
    chance = random.Random(11)  # noqa: S311
    tally = dict.fromkeys(
        ("half_visible", "leftovers", "lost", "gaps", "stale", "broken_index", "published"), 0
    )
    for _ in range(kills):
        kill_one(root, chance)
        look(root, tally)
    tally["torch"] = sum(name.split(".")[0] in {"torch", "peft"} for name in sys.modules)
    print(json.dumps(tally))  # noqa: T201 - the program's result


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
