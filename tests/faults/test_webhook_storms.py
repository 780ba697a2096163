"""Storms of events over receivers of which half fail, flap, hang or die, delivered by processes that are killed with kill -9.

Every event ends delivered or dead_letter, with its history. The receivers live in the test, so what they saw outlives the kills.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.fake_receiver import Behaviour, FakeReceiver, receiving
from tests.faults import deliveries
from tests.faults.dispatching import ACTIONS
from tests.ledger.made import make_known
from tests.processes import environment
from tests.webhooks.desk import open_desk

_ROOT = Path(__file__).parents[2]
PROCESSES = {"sqlite": 1, "postgresql": 2}
PAUSE_SECONDS = {"sqlite": 0.03, "postgresql": 0.12}  # of each process after each act of 50 events: a little below what it delivers
ORGANIZATIONS = 4  # each with two webhooks that are well and two that are not; each event goes to one of either
ILL = ("fails", "flaps", "hangs", "dies", "is gone", "flaps", "hangs at times", "dies")


def ill(kind: str, chance: random.Random) -> Behaviour:
    """What dies is well as long as its port is open."""
    flapping = (200, 200, 204, 200, 200, 200, 500, 503, 302, -1)
    return {
        "fails": Behaviour(lambda _: 500),
        "flaps": Behaviour(lambda _: chance.choice(flapping)),
        "hangs": Behaviour(lambda _: 0),
        "hangs at times": Behaviour(lambda _: 0 if chance.random() < 0.005 else 200),
        "is gone": Behaviour(lambda number: 200 if number < 100 else 410),
        "dies": Behaviour(),
    }[kind]


class Dispatching:
    """`tests.faults.dispatching` in a process of its own, which can be killed and started anew on the same database."""

    def __init__(self, folder: Path, url: str, events: int, pause_seconds: float) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "tests.faults.dispatching", str(folder / "data"), url, str(events), str(pause_seconds)]
        self.start()

    def start(self) -> None:
        with (self._folder / "dispatching.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=_ROOT, env=environment(None), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def require_running(self) -> None:
        assert self._process.poll() is None, (self._folder / "dispatching.log").read_text()[-2000:]

    def kill(self) -> None:
        """kill -9, whatever it is doing."""
        self._process.kill()
        self._process.wait(60)


@pytest.mark.slow
def test_every_event_ends_whatever_dies(engine: str, database_url: str, tmp_path: Path, dice: random.Random, seed: int, amount: Any, table: Any) -> None:
    events = amount(10_000, 100_000)
    with contextlib.ExitStack() as stack:
        well = [stack.enter_context(receiving()) for _ in range(ORGANIZATIONS * 2)]
        unwell = [stack.enter_context(receiving(ill(kind, random.Random(dice.getrandbits(32))))) for kind in ILL]
        asyncio.run(_set_up(tmp_path / "data", database_url, well, unwell))
        processes = [Dispatching(tmp_path, database_url, events, PAUSE_SECONDS[engine]) for _ in range(PROCESSES[engine])]
        for process in processes:
            stack.callback(process.kill)
        mortal = [one for one, kind in zip(unwell, ILL, strict=True) if kind == "dies"]
        kills = _rage(database_url, processes, mortal, dice, events=events, kills=amount(3, 20), seconds_max=amount(180, 1800))
        for process in processes:
            process.kill()
        found = deliveries.require_exact(database_url, {one.url: one for one in (*well, *unwell)})
    table(**found, kills=kills, seed=seed)
    assert found["events"] >= events
    assert found["duplicates"] < found["answered"] / 100


async def _set_up(folder: Path, url: str, well: list[FakeReceiver], unwell: list[FakeReceiver]) -> None:
    async with open_desk(folder, url) as desk:
        for number in range(ORGANIZATIONS):
            known = await make_known(desk.instance.database)
            for place, action in zip((2 * number, 2 * number + 1), ACTIONS, strict=True):
                await desk.webhook(well[place].url, action, known=known)
                await desk.webhook(unwell[place].url, action, known=known)


def _rage(url: str, processes: list[Dispatching], mortal: list[FakeReceiver], dice: random.Random, *, events: int, kills: int, seconds_max: float) -> int:
    """Kill processes, and let receivers die and come back, until everything has ended. Returns how many processes were killed."""
    deadline, killed, at = time.monotonic() + seconds_max, 0, time.monotonic() + 2
    dead: set[int] = set()
    while (state := deliveries.progress(url))[0] < events or any(state[1:]) or killed < kills:
        assert time.monotonic() < deadline, f"not all has ended: {state}"
        time.sleep(0.2)
        for process in processes:
            process.require_running()
        for place, receiver in enumerate(mortal):
            if dice.random() < 0.1:
                receiver.open_port() if place in dead else receiver.close_port()
                dead ^= {place}
        if killed < kills and time.monotonic() >= at:
            victim = dice.choice(processes)
            victim.kill()
            victim.start()
            killed, at = killed + 1, time.monotonic() + dice.uniform(2, 5)
    return killed
