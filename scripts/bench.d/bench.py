"""Measures, and writes the table and the chart. Called by scripts/bench."""

import argparse
import json
import os
import platform
import re
import time
from pathlib import Path

import change
import cost
import lag
import latency
import protocols
import report
import rollout
import rotation
from instance import HERE, WORK

PARTS = {
    "rollout": rollout,
    "lag": lag,
    "protocols": protocols,
    "change": change,
    "latency": latency,
    "cost": cost,
    "rotation": rotation,
}


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = model.group(1) if model else platform.machine()
    return f"{os.cpu_count()} processors ({name}), Linux {platform.release().split('-')[0]}"


def main():
    arguments = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    arguments.add_argument("part", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them when left out")
    arguments.add_argument("--quick", action="store_true", help="two restarts and few samples, to see that it works; writes no files")
    chosen = arguments.parse_args()
    if unknown := set(chosen.part) - set(PARTS):
        arguments.error(f"no such part: {', '.join(unknown)} ({', '.join(PARTS)})")
    WORK.mkdir(parents=True, exist_ok=True)
    kept = WORK / "results.json"
    results = {}
    if chosen.part and kept.exists() and not chosen.quick:
        results = json.loads(kept.read_text())
    results["machine"] = machine()
    start = time.monotonic()
    for name in chosen.part or PARTS:
        results[name] = PARTS[name].measure(chosen.quick)
    table = report.text(results)
    print(table)
    print(f"It took {(time.monotonic() - start) / 60:.0f} minutes.")
    if chosen.quick:
        return
    kept.write_text(json.dumps(results))
    (HERE.parent / "bench.txt").write_text(table)
    if "rollout" in results:
        (HERE.parent / "bench.svg").write_text(report.chart(results))


if __name__ == "__main__":
    main()
