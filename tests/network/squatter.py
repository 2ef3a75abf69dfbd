"""squatter.py [--names PREFIX COUNT] [--port PORT] [--hang] [--claim PID] [NAME...]

Listens on names of the abstract namespace that are a drainit's by right, and says to every
question what somebody who asks a drainit wants to hear: all is well, whatever was asked is done,
and the process with the pid that it claims is the drainit. Says `ready` once it listens.
"""

import argparse
import json
import os
import selectors
import socket

EVIL = "\x1b]0;owned\x07\x1b[2J\u009b31m"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", nargs=2, default=["", "0"])
    parser.add_argument("--port", type=int)
    parser.add_argument("--claim", type=int, default=0)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("name", nargs="*")
    return parser.parse_args()


def body(path, reload, claim):
    if path.startswith("/status"):
        return json.dumps(
            {
                "state": "live" + EVIL,
                "reason": EVIL,
                "drainit": {
                    "pid": claim,
                    # A negative one is in another container.
                    "pid_namespace": os.stat("/proc/self/ns/pid").st_ino if claim >= 0 else 1,
                },
                "reload": {"number": reload, "ok": True, "message": "done" + EVIL},
            },
            ensure_ascii=False,
        )
    return "LIVE" + EVIL


def main():
    options = arguments()
    prefix, count = options.names
    names = options.name + [f"{prefix}{number:016x}" for number in range(int(count))]
    waiting = selectors.DefaultSelector()
    for name in names:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)
        listener.listen(8)
        waiting.register(listener, selectors.EVENT_READ)
    if options.port:
        listener = socket.create_server(("127.0.0.1", options.port))
        waiting.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    reload = 0
    kept = []
    while True:
        for key, _ in waiting.select():
            stream, _ = key.fileobj.accept()
            if options.hang:
                kept.append(stream)
                continue
            stream.settimeout(0.5)
            try:
                path = stream.recv(65536).decode().split(" ")[1]
                reload += 1
                text = body(path, reload, options.claim).encode()
                head = f"HTTP/1.1 200 OK\r\nDrain-Result: drained\r\nContent-Length: {len(text)}\r\n\r\n"
                stream.sendall(head.encode() + text)
            except (OSError, IndexError):
                pass
            stream.close()


main()
