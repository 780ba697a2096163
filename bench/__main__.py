"""`python -m bench`: run the groups, keep the results of the day in bench/results, and write docs/performance.md."""

import argparse
import datetime as dt
import fcntl
import json
import signal
import sys
import time
from typing import Any

from bench import machine, report
from bench.groups import GROUPS, Options
from bench.load import WRK
from bench.processes import ROOT, WORK, Absent
from bench.rounds import say

RESULTS = ROOT / "bench" / "results"
QUICK = ("tokens",)


def main() -> None:
    options, chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is stopped
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("bench: another benchmark is running here")
        results = _head(options)
        path = RESULTS / f"{results['date']}.json"
        if not options.quick and path.exists() and chosen != list(GROUPS):
            results = json.loads(path.read_text("utf-8")) | results  # the groups of the day that are not measured anew
        for name in chosen:
            results[name] = _group(name, options)
            if not options.quick:
                RESULTS.mkdir(exist_ok=True)
                path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if not options.quick:
        report.write(results)
    print(report.table(results, 4 if options.quick else None))


def _head(options: Options) -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "generator": "wrk" if WRK else "own",
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def _group(name: str, options: Options) -> dict[str, Any]:
    started = time.monotonic()
    try:
        part = GROUPS[name](options)
    except Absent as error:
        say(f"{name}: absent: {error}")
        part = {"contestants": {}, "absent": {name: str(error)}}
    how = {"commit": machine.commit(), "rounds": options.rounds, "seconds": options.seconds, "load_after": machine.load()}
    return part | how | {"took_seconds": round(time.monotonic() - started)}


def _arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first ratios only, in under a minute; nothing is written")
    parser.add_argument("--only", default="", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--skip", default="", help="groups to leave out")
    parser.add_argument("--rounds", type=int, help="rounds of each group (5)")
    parser.add_argument("--seconds", type=float, help="of load per contestant and round (4)")
    for name, what in (
        ("agents", "in the database"),
        ("page-agents", "to page through"),
        ("events", "behind"),
        ("tokens", "for the memory figure"),
        ("links", "to verify"),
        ("waiting", "for a dead receiver of webhooks"),
        ("deliveries", "of webhooks at once"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{what} ({getattr(Options, name.replace('-', '_')):,})")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value not in (None, "")}
    only, skip = str(given.pop("only", "")), str(given.pop("skip", ""))
    defaults = {"rounds": 3, "seconds": 2.0} if given["quick"] else {}
    options = Options(**(defaults | given))
    chosen = only.split(",") if only else list(QUICK) if options.quick else list(GROUPS)
    if unknown := {*chosen, *filter(None, skip.split(","))} - GROUPS.keys():
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    return options, [name for name in chosen if name not in skip.split(",")]


if __name__ == "__main__":
    main()
