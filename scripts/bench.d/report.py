"""The results as a table in text, and as a chart."""

from statistics import median, quantiles

from change import WAYS
from instance import CONTESTANTS


def spread(values):
    """The median, and where nine tenths of the values lie."""
    low, *_, high = quantiles(values, n=20, method="inclusive") if len(values) > 1 else (values[0], values[0])
    return median(values), low, high


def percentile(values, percent):
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def table(head, rows):
    """Columns as wide as they need; the first to the left, the others to the right."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = []
    for row in cells:
        first, *rest = (cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths)))
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines) + "\n"


def rollout(part):
    rows = []
    for row in part["rows"]:
        middle, low, high = spread(row["seconds"])
        rows.append(
            [
                CONTESTANTS[row["contestant"]],
                row["envoy"],
                row["requests"],
                row["failed"],
                row["sessions"],
                row["cut"],
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
                row["killed"] or "",
            ]
        )
    restarts = part["rows"][0]["restarts"]
    return (
        f"Rollout: {restarts} rolling restarts of two instances, the clients hear of a change 1 s later and\n"
        "never retry. HTTP/1.1 keep-alive, HTTP/2, requests of 3 s, WebSocket and TCP sessions of 2 s.\n"
        "drainit with no option, as in a pod; seconds from SIGTERM (or the hook) to the exit, median and 5 to 95 %.\n\n"
        + table(["", "Envoy", "requests", "failed", "sessions", "cut", "seconds", "spread", "SIGKILL"], rows)
    )


def lag(rows):
    lags = sorted({row["lag"] for row in rows})
    lines = {}
    for row in rows:
        line = lines.setdefault((row["contestant"], row["envoy"], row["clients"]), {})
        line[row["lag"]] = [f"{row['failed']} of {row['requests']}", f"{median(row['seconds']):.1f}"]
    return (
        "Lag: rolling restarts as above, but the clients hear of a change so many seconds late. 20 new\n"
        "connections a second, or 20 keep-alive connections that are pooled; failed requests, and seconds to\n"
        "the exit, median. drainit with no option, as in a pod.\n\n"
        + table(
            ["", "Envoy", "clients", *(cell for lag in lags for cell in (f"{lag:g} s late", "seconds"))],
            [
                [CONTESTANTS[contestant], version, clients, *(cell for lag in lags for cell in line[lag])]
                for (contestant, version, clients), line in lines.items()
            ],
        )
    )


def protocols(rows):
    lines = []
    for row in rows:
        lines.append(
            [
                row["kind"],
                row["envoy"],
                CONTESTANTS[row["contestant"]],
                row["sessions"],
                row["cut"],
                f"{row['seconds']:.1f}",
                "yes" if row["killed"] else "",
                row["verdict"],
            ]
        )
    return (
        "Protocols: one drain each, with nothing but these sessions in flight; they began a second before it\n"
        "and would take as long as it says. Seconds from SIGTERM (or the hook) to the exit; the verdict\n"
        "is drainit's own.\n\n"
        + table(["", "Envoy", "", "sessions", "cut", "seconds", "SIGKILL", "verdict"], lines)
    )


def change(rows):
    lines = []
    for row in rows:
        middle, low, high = spread(row["seconds"])
        lines.append(
            [
                WAYS[row["way"]][-1],
                row["envoy"],
                row["requests"],
                row["failed"],
                row["refused"],
                row["sessions"],
                row["cut"],
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
            ]
        )
    return (
        f"Change: {rows[0]['changes']} new configurations for the only node there is, one after the other; the same\n"
        "clients, which have nowhere else to go. Default options; seconds from the request for a change until\n"
        "the new configuration answers, median and 5 to 95 %. Refused connections are among the failed.\n\n"
        + table(["", "Envoy", "requests", "failed", "refused", "sessions", "cut", "seconds", "spread"], lines)
    )


def latency(part):
    drains = [
        [
            CONTESTANTS[row["contestant"]],
            row["envoy"],
            len(row["seconds"]),
            f"{median(row['seconds']) * 1000:.0f}",
            f"{percentile(row['seconds'], 90) * 1000:.0f}",
            f"{max(row['seconds']) * 1000:.0f}",
        ]
        for row in part["drains"]
    ]
    idle = [
        [CONTESTANTS[row["contestant"]], row["envoy"], f"{median(row['seconds']):.1f}", row["killed"] or ""]
        for row in part["idle"]
    ]
    return (
        "Drain latency: from the last connection's end to the exit, ms.\n\n"
        + table(["", "Envoy", "drains", "p50", "p90", "most"], drains)
        + "\nWith only idle keep-alive connections (5 HTTP/1.1, 5 HTTP/2): from SIGTERM to the exit, seconds;\n"
        "after 30 s an orchestrator kills.\n\n"
        + table(["", "Envoy", "seconds", "SIGKILL"], idle)
        + silent(part)
    )


def silent(part):
    if "silent" not in part:
        return ""  # kept from before that was measured
    lines = [
        [
            CONTESTANTS[row["contestant"]],
            row["envoy"],
            f"{median(row['seconds']):.2f}",
            len(asked["seconds"]),
            asked["requests"],
            asked["failed"],
            f"{median(asked['seconds']):.1f}",
        ]
        for row, asked in zip(part["silent"], part["asked"])
    ]
    return (
        "\nThe same connections with --min-drain 0s: silent for 10 s before SIGTERM; and asked every 4 s, where\n"
        "a client that is not told to close has failed, too. Seconds from SIGTERM to the exit, median.\n\n"
        + table(["", "Envoy", "silent: seconds", "asked: drains", "requests", "failed", "seconds"], lines)
    )


def cost(part):
    rest = part["rest"]
    base = "tini"
    lines = [["binary, kB", *(f"{rest[init]['binary'] / 1000:.0f}" for init in rest)]]
    for key, name in (("Pss", "Pss at rest, kB"), ("Private_Dirty", "private dirty, kB"), ("Anonymous", "anonymous, kB")):
        lines.append([name, *(f"{rest[init][key] * 1.024:.0f}" for init in rest)])
    lines.append(["threads", *(rest[init]["threads"] for init in rest)])
    lines.append(["wakeups a minute", *(f"{rest[init]['wakeups']:.0f}" for init in rest)])
    for key, name, digits in (
        ("starts", "start to exec, us", 0),
        ("signals", "signal to child, us", 1),
        ("orphans", "10,000 orphans, ms", 0),
    ):
        values = {init: spread(part[key][init]) for init in rest}
        lines.append([name, *(f"{values[init][0]:.{digits}f}" for init in rest)])
        lines.append(["  5 to 95 %", *(f"{values[init][1]:.{digits}f}-{values[init][2]:.{digits}f}" for init in rest)])
        lines.append([f"  of {base}'s", *(f"{values[init][0] / values[base][0]:.2f}" for init in rest)])
    polls = []
    for row in part["polls"]:
        middle = {name: median(values) for name, values in row["ms"].items()}
        page = list(middle)[1]
        polls.append(
            [
                f"{row['clusters']:,} clusters",
                *(f"{value:.2f}" for value in middle.values()),
                f"{middle['drainit'] / middle[page]:.3f}",
            ]
        )
    looks = [
        [f"{row['connections']:,} connections", f"{row['first']:.1f}", f"{median(row['later']):.1f}"] for row in part["looks"]
    ]
    return (
        "Cost: an Envoy 1.40 below each; drainit with its HTTP port on. kB are 1,000 bytes.\n\n"
        + table(["", *rest], lines)
        + "\nA certificate and its key at rest, us of a processor a second: where the kernel tells of changes"
        + f" {part['check'][0]:.0f}, with --certificate-check 1s {part['check'][1]:.0f}.\n"
        + "\nA poll's cost: time of Envoy's main thread, ms, median.\n\n"
        + table(["", *part["polls"][0]["ms"], "drainit : Contour's"], polls)
        + "\nA look's cost, with the poll that goes with it: time of drainit's thread, ms, at first and later (median).\n\n"
        + table(["", "first", "later"], looks)
    )


def rotation(rows):
    def loaded(times):
        taken = [time * 1000 for time in times if time is not None]
        if len(taken) < len(times):
            return "never"
        high = percentile(taken, 95) if len(taken) > 1 else taken[0]
        return f"{median(taken):.0f} / {high:.0f}"

    def cost(cell):
        return f"{cell['failed']} of {cell['all']}" + ("" if cell["healed"] else ", for ever")

    head = ["", *(f"{row['way']}, {row['envoy']}" for row in rows)]
    writers = [[name, *(loaded(row["writers"][name]) for row in rows)] for name in rows[0]["writers"]]
    bad = [[name, *(cost(row["bad"][name]) for row in rows)] for name in rows[0]["bad"]]
    bad.append(["certificates 2 s after the start", *("served" if row["late"] else "never" for row in rows)])
    good = [
        sum(None not in times for times in row["writers"].values())
        + sum(cell["failed"] == 0 and cell["healed"] for cell in row["bad"].values())
        + row["late"]
        for row in rows
    ]
    total = len(writers) + len(bad)
    return (
        "Rotation: a listener's certificate and client CA from files, which Envoy watches in the form of\n"
        "Contour's bootstrap, with its newer fields, or by drainit. From the writer's last byte until Envoy\n"
        "has the new leaf, ms, median and 95 %.\n\n"
        + table(head, writers)
        + "\nFailed handshakes while a bad set is in the files (1.5 s); 'for ever' where the good one after it\n"
        "is not taken either.\n\n"
        + table(head, [*bad, ["without loss", *(f"{count} of {total}" for count in good)]])
    )


def text(results):
    parts = [
        ("rollout", rollout),
        ("lag", lag),
        ("protocols", protocols),
        ("change", change),
        ("latency", latency),
        ("cost", cost),
        ("rotation", rotation),
    ]
    head = f"Measured on {results['machine']}.\n"
    return "\n".join([head, *(write(results[name]) for name, write in parts if name in results)])


# The chart: by hand, for it is bars and words only. It reads on a light and on a dark ground.
LEFT, BAR, ROW, FULL = 190, 400, 20, 800
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.note{fill:#57606a;font-size:12px}"
    ".other{fill:#8c959f}.ours{fill:#1a7f37}.cut{fill:#cf222e}.lost{fill:#e16f24}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#8d96a0}}"
)


class Chart:
    def __init__(self):
        self.y = 10
        self.shapes = []

    def say(self, x, words, kind="", anchor="start"):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.shapes.append(f'<text class="{kind}" x="{x}" y="{self.y + 14}" text-anchor="{anchor}">{words}</text>')

    def panel(self, title, note, rows):
        """rows: a name, the lengths of its bar's pieces with their classes, and what they say."""
        self.say(0, title, "title")
        self.y += 18
        self.say(0, note, "note")
        self.y += 24
        most = max(sum(length for length, _ in pieces) for _, pieces, _ in rows) or 1
        for name, pieces, words in rows:
            self.say(LEFT - 8, name, "", "end")
            x = LEFT
            for length, kind in pieces:
                width = length / most * BAR
                if width > 0:
                    self.shapes.append(f'<rect class="{kind}" x="{x:.1f}" y="{self.y + 2}" width="{width:.1f}" height="15"/>')
                x += width
            self.say(x + 6, words)
            self.y += ROW
        self.y += 16

    def svg(self):
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {FULL} {self.y}" width="{FULL}" height="{self.y}">'
            f"<style>{STYLE}</style>\n" + "\n".join(self.shapes) + "\n</svg>\n"
        )


def colour(name):
    return "ours" if name == "drainit" else "other"


def chart(results):
    drawn = Chart()
    for version in ("1.40", "1.36"):
        rows = [row for row in results["rollout"]["rows"] if row["envoy"] == version]
        drawn.panel(
            f"Lost in {rows[0]['restarts']} rolling restarts, Envoy {version}",
            "failed requests (orange) and cut sessions (red); clients hear of a change 1 s late, never retry",
            [
                (CONTESTANTS[r["contestant"]], [(r["failed"], "lost"), (r["cut"], "cut")], f"{r['failed']} + {r['cut']}")
                for r in rows
            ],
        )
    rows = [row for row in results["rollout"]["rows"] if row["envoy"] == "1.40"]
    drawn.panel(
        "From SIGTERM to the exit, under that load",
        "seconds, median",
        [
            (CONTESTANTS[r["contestant"]], [(median(r["seconds"]), colour(r["contestant"]))], f"{median(r['seconds']):.1f} s")
            for r in rows
        ],
    )
    if "change" in results:
        rows = [row for row in results["change"] if row["envoy"] == "1.40"]
        drawn.panel(
            f"Lost in {rows[0]['changes']} changes of one node's configuration, Envoy 1.40",
            "failed requests (orange) and cut sessions (red), and the median of seconds to the new configuration",
            [
                (
                    WAYS[r["way"]][-1],
                    [(r["failed"], "lost"), (r["cut"], "cut")],
                    f"{r['failed']} + {r['cut']}, {median(r['seconds']):.1f} s",
                )
                for r in rows
            ],
        )
    if "cost" in results:
        rest = results["cost"]["rest"]
        drawn.panel(
            "Memory at rest",
            "Pss: its own pages, and its share of those it has in common with others",
            [
                (init, [(row["Pss"] * 1.024, colour(init))], f"{row['Pss'] * 1.024:.0f} kB, anonymous {row['Anonymous'] * 1.024:.0f} kB")
                for init, row in rest.items()
            ],
        )
    return drawn.svg()
