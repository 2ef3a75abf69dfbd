"""Rolling restarts where the clients hear of a change late: how long must an instance stay up?"""

import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor

import load
import rollout

LAGS = [0.2, 1, 3, 10]  # seconds
CLIENTS = {"anew": load.ANEW, "pooled": load.POOLED}
CONTESTANTS = [("wrapper", "1.40"), ("sidecar", "1.40"), ("drainit", "1.36"), ("drainit", "1.40")]
LANES = 8  # rigs side by side
FIRST = 100  # the first rig's second byte


def run_rig(arguments):
    rig, (contestant, version), lag, clients, restarts = arguments
    row = asyncio.run(rollout.roll(rig, contestant, version, restarts, lag, CLIENTS[clients]))
    return {**row, "lag": lag, "clients": clients}


def measure(quick):
    restarts = 1 if quick else 5
    jobs = [
        (contestant, lag, clients, restarts)
        for lag in (LAGS[:2] if quick else LAGS)
        for clients in CLIENTS
        for contestant in CONTESTANTS
    ]
    print(f"lag: {len(jobs)} rigs, {LANES} side by side, {restarts} restarts each", file=sys.stderr)
    with ProcessPoolExecutor(LANES) as pool:
        return list(pool.map(run_rig, [(FIRST + n, *job) for n, job in enumerate(jobs)]))
