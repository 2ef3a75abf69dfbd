//! As people have it: the configurations and start scripts that are met in the field, and what a
//! drain of each is to be.

#[path = "shapes/check.rs"]
mod check;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use support::clients::{SlowRequest, TcpSession, UdpSession, WebSocket};
use support::drainit::Drainit;
use support::envoy_config::{Admin, EnvoyConfig};
use support::scene;
use support::upstream::Upstream;
use support::{PATIENCE, holds_for, wait_for};

/// What is open when SIGTERM comes.
#[derive(Clone, Copy, Debug)]
enum Open {
    Nothing,
    /// A request that takes 1.5 s.
    Request,
    /// A session that its client ends after 1 s.
    WebSocket,
    Tcp,
    /// A session that Envoy ends after 2 s of silence.
    Udp,
}

impl Open {
    fn listener(self) -> Option<&'static str> {
        match self {
            Open::Nothing => None,
            Open::Request | Open::WebSocket => Some("http"),
            Open::Tcp => Some("tcp"),
            Open::Udp => Some("udp"),
        }
    }
}

/// How Envoy is started: by itself, or by a script in which ENVOY stands for it and its arguments
/// but those that drainit adds.
#[derive(Clone, Copy, Debug)]
enum Start {
    Envoy,
    Script(&'static str),
}

/// A shape, and what is right.
struct Shape {
    name: &'static str,
    admin: Admin,
    /// What is other than in the configuration of all tests.
    change: fn(&EnvoyConfig),
    start: Start,
    /// The first Envoy that takes such a configuration, by its minor version.
    since: u32,
    /// Whether what is right depends on what Envoy itself does: the other Envoy is looked at, too.
    on_both: bool,
    /// Options of drainit; ADMIN stands for the admin interface's address.
    options: &'static [&'static str],
    open: Open,
    /// Whether `/ready` comes to say so.
    live: bool,
    /// Whether what was open came to its end.
    drained: bool,
    /// Connections and UDP sessions at the start of the drain, if it tells any.
    counted: Option<(u64, u64)>,
    /// How the summary begins.
    verdict: &'static str,
    code: i32,
}

/// Envoy by itself, with an admin interface, and a request in flight.
const PLAIN: Shape = Shape {
    name: "",
    admin: Admin::Unix,
    change: |_| {},
    start: Start::Envoy,
    since: 0,
    on_both: false,
    options: &[],
    open: Open::Request,
    live: true,
    drained: true,
    counted: Some((1, 0)),
    verdict: "drained after",
    code: 0,
};

const KEPT: &[&str] = &["--envoy-flags", "keep", "--admin-address", "ADMIN"];

const SHAPES: &[Shape] = &[
    Shape {
        name: "a request",
        ..PLAIN
    },
    Shape {
        name: "the admin interface on TCP, a WebSocket",
        on_both: true,
        admin: Admin::Tcp,
        open: Open::WebSocket,
        ..PLAIN
    },
    Shape {
        name: "HTTP/3 at the port of HTTP, and a statsd",
        on_both: true,
        change: |config| {
            config.serve_http3_at(config.http);
            config.send_statistics();
        },
        ..PLAIN
    },
    Shape {
        name: "a TCP session",
        open: Open::Tcp,
        ..PLAIN
    },
    Shape {
        name: "a UDP session that ends",
        on_both: true,
        open: Open::Udp,
        counted: Some((0, 1)),
        ..PLAIN
    },
    Shape {
        name: "a UDP session that does not",
        change: |config| config.replace("idle_timeout: 2s", "idle_timeout: 60s"),
        options: &["--drain-timeout", "4s"],
        open: Open::Udp,
        drained: false,
        counted: Some((0, 1)),
        verdict: "CUT by the deadline after 4",
        ..PLAIN
    },
    Shape {
        name: "nothing open",
        open: Open::Nothing,
        counted: Some((0, 0)),
        ..PLAIN
    },
    Shape {
        name: "a script that becomes Envoy",
        start: Start::Script("exec ENVOY \"$@\""),
        ..PLAIN
    },
    Shape {
        name: "a script that sets things up first",
        start: Start::Script("set -e\nulimit -n 4096\nexport LEVEL=error\nexec ENVOY \"$@\""),
        ..PLAIN
    },
    Shape {
        name: "a script that drops its arguments, and is told where the admin interface is",
        start: Start::Script("exec ENVOY --disable-hot-restart"),
        options: &["--admin-address", "ADMIN"],
        ..PLAIN
    },
    Shape {
        name: "a script that gives a drain time behind ours",
        on_both: true,
        start: Start::Script("exec ENVOY \"$@\" --drain-time-s 30"),
        open: Open::Nothing,
        live: false,
        counted: None,
        verdict: "envoy refuses its command line or configuration: (--drain-time-s)",
        code: 1,
        ..PLAIN
    },
    Shape {
        name: "the same with all flags its own",
        start: Start::Script(
            "exec ENVOY --drain-time-s 30 --drain-strategy immediate --disable-hot-restart",
        ),
        options: KEPT,
        ..PLAIN
    },
    Shape {
        name: "statistics of all but what counts hidden",
        change: |config| {
            config.prepend(
                "stats_config: { stats_matcher: { inclusion_list: { patterns: [\
                 { prefix: 'server.' }, { prefix: 'listener.' }, { prefix: 'http.' }, \
                 { prefix: 'udp.' }] } } }\n",
            );
        },
        ..PLAIN
    },
    Shape {
        name: "clusters' statistics hidden",
        change: |config| {
            config.prepend(
                "stats_config: { stats_matcher: { exclusion_list: { patterns: [\
                 { prefix: 'cluster.' }] } } }\n",
            );
        },
        open: Open::Tcp,
        ..PLAIN
    },
    Shape {
        name: "an admin interface that allows a few paths",
        since: 37,
        change: |config| {
            config.replace(
                "admin: { ",
                "admin: { allow_paths: [{ exact: /ready }, { prefix: /stats }, \
                 { prefix: /healthcheck }, { prefix: /drain_listeners }], ",
            );
        },
        ..PLAIN
    },
    // Faults A9 and B1: behind a script without exec.
    Shape {
        name: "a script that waits for Envoy",
        start: Start::Script("ENVOY \"$@\""),
        ..PLAIN
    },
    Shape {
        name: "a script that cleans up behind Envoy",
        start: Start::Script("ENVOY \"$@\"\ncode=$?\nrm -f /nonexistent\nexit $code"),
        ..PLAIN
    },
    Shape {
        name: "a script that has Envoy in the background",
        start: Start::Script("ENVOY \"$@\" &\nwait $!"),
        ..PLAIN
    },
    Shape {
        name: "a script that neither becomes Envoy nor hands its arguments on",
        start: Start::Script("ENVOY --disable-hot-restart"),
        options: &["--admin-address", "ADMIN"],
        ..PLAIN
    },
    // Faults A15 and B3: nobody can be asked, and the kernel counts.
    Shape {
        name: "no admin interface",
        admin: Admin::None,
        change: EnvoyConfig::leave_udp_out,
        live: false,
        ..PLAIN
    },
    Shape {
        name: "no admin interface, and a UDP listener whose sessions nobody can count",
        admin: Admin::None,
        options: &["--drain-timeout", "4s"],
        live: false,
        drained: false,
        counted: Some((1, 1)),
        verdict: "CUT by the deadline after 4",
        ..PLAIN
    },
    Shape {
        name: "a script that drops its arguments",
        change: EnvoyConfig::leave_udp_out,
        start: Start::Script("exec ENVOY --disable-hot-restart"),
        live: false,
        ..PLAIN
    },
    // Faults A1, A2 and A13: hidden statistics, and free names.
    Shape {
        name: "the listeners' statistics hidden by address",
        change: |config| {
            config.leave_udp_out();
            config.prepend(
                "stats_config: { stats_matcher: { exclusion_list: { patterns: [\
                 { prefix: 'listener.127' }] } } }\n",
            );
        },
        ..PLAIN
    },
    Shape {
        name: "an inclusion list without server. and listener., as Istio has it",
        on_both: true,
        change: |config| {
            config.leave_udp_out();
            config.prepend(
                "stats_config: { stats_matcher: { inclusion_list: { patterns: [\
                 { prefix: 'cluster_manager' }, { prefix: 'listener_manager' }, \
                 { prefix: 'cluster.xds-grpc' }, { prefix: 'wasm' }] } } }\n",
            );
        },
        ..PLAIN
    },
    Shape {
        name: "a listener whose statistics are called admin",
        on_both: true,
        change: |config| {
            config.replace(
                "  - name: tcp\n    address: {",
                "  - name: tcp\n    stat_prefix: admin\n    address: {",
            );
        },
        open: Open::Tcp,
        ..PLAIN
    },
    Shape {
        name: "a listener whose statistics are called as a worker's",
        change: |config| {
            config.replace(
                "  - name: tcp\n    address: {",
                "  - name: tcp\n    stat_prefix: x.worker_3\n    address: {",
            );
        },
        open: Open::Tcp,
        ..PLAIN
    },
];

/// What is open, until SIGTERM has come; afterwards whether it came to its end.
fn hold(open: Open, config: &EnvoyConfig, upstream: &Upstream, drainit: &Drainit) -> bool {
    let second = Duration::from_secs(1);
    let term = || {
        drainit.signal(Signal::SIGTERM);
        if drainit.get("/ready").0 == 200 {
            drainit.wait_unready();
        }
    };
    match open {
        Open::Nothing => {
            drainit.signal(Signal::SIGTERM);
            true
        }
        Open::Request => {
            let slow = SlowRequest::start(config.http, Duration::from_millis(1500));
            upstream.wait_in_flight(1);
            term();
            slow.finish().is_ok_and(|answer| answer.status == 200)
        }
        Open::WebSocket => {
            let mut session = WebSocket::open(config.http);
            term();
            holds_for("the WebSocket", second, || session.echo().is_ok());
            true
        }
        Open::Tcp => {
            let mut session = TcpSession::open(config.tcp);
            term();
            holds_for("the TCP session", second, || session.echo().is_ok());
            true
        }
        Open::Udp => {
            let session = UdpSession::open(config.udp);
            term();
            holds_for("the UDP session", second, || session.echo().is_ok());
            true
        }
    }
}

/// Whether somebody listens there. A connection would be counted.
fn listens(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else {
        panic!("{address}");
    };
    let (ip, port) = (u32::from_ne_bytes(address.ip().octets()), address.port());
    let row = format!(" {ip:08X}:{port:04X} 00000000:0000 0A ");
    fs::read_to_string("/proc/net/tcp").unwrap().contains(&row)
}

/// What the summary says was open when the drain began.
fn counted(summary: &str) -> Option<(u64, u64)> {
    let start = summary.split(" at the start").next()?;
    let start = start.rsplit_once("): ").map(|(_, start)| start)?;
    let number = |name| {
        let words = start.split(" and ");
        let mut found = words.filter(|words| words.contains(name));
        found
            .next()
            .map_or(Some(0), |words| words.split(' ').next()?.parse().ok())
    };
    Some((number("connection")?, number("UDP session")?))
}

/// Runs one on this Envoy, and says what was not right.
fn play(shape: &Shape, envoy: &Path) -> Vec<String> {
    let (upstream, config) = scene::of(shape.admin);
    (shape.change)(&config);
    let mut command = vec![envoy.display().to_string()];
    command.extend(config.arguments());
    if let Start::Script(script) = shape.start {
        let path = config.dir.join("start.sh");
        let script = script.replace("ENVOY", &command.join(" "));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        command = vec![path.display().to_string()];
    }
    let admin = config.admin.as_ref().map(support::http::Address::text);
    let options = shape.options.iter().map(|option| match *option {
        "ADMIN" => admin.as_deref().unwrap(),
        option => option,
    });
    let options: Vec<_> = options.collect();
    let foretold = check::foretell(&options, &command);
    let mut drainit = Drainit::start(&options, &command);
    if shape.live {
        drainit.wait_ready();
    } else {
        let ready = || drainit.request("GET", "/ready", PATIENCE);
        holds_for("not being ready", Duration::from_secs(1), || {
            !ready().is_ok_and(|(status, _)| status == 200)
        });
        if shape.open.listener().is_some() {
            wait_for("envoy's listener", PATIENCE, || listens(config.http));
        }
    }
    let ended = drainit.has_exited() || hold(shape.open, &config, &upstream, &drainit);
    let code = drainit.wait_exit(PATIENCE);
    let summary = drainit.wait_log("; exit code ");
    let said = summary.split_once("] ").unwrap().1;
    let mut wrong = Vec::new();
    let mut check = |right: bool, what: &str| {
        if !right {
            wrong.push(format!("{}: {what}: {said}", shape.name));
        }
    };
    let cut = !ended || said.starts_with("CUT");
    check(cut != shape.drained, "drained");
    check(counted(said) == shape.counted, "counted");
    check(said.starts_with(shape.verdict), "verdict");
    check(code == shape.code, "exit code");
    let disagrees = if let Start::Script(_) = shape.start {
        let unseen = foretold["not_looked_at"].to_string();
        Some("told of the script")
            .filter(|_| !unseen.contains("was not run"))
            .map(str::to_owned)
    } else {
        let hidden = drainit.log.find("stats_matcher").is_some();
        let admin = config.admin.is_some();
        check::disagrees(
            &foretold,
            admin,
            shape.open.listener(),
            shape.drained,
            hidden,
        )
    };
    if let Some(said) = disagrees {
        wrong.push(format!("{}: drainit check said {said}", shape.name));
    }
    wrong
}

#[test]
fn every_shape_in_the_field_drains_as_it_should() {
    let (envoy, other) = (support::envoy(), support::other_envoy());
    let on_both = SHAPES.iter().filter(|shape| shape.on_both);
    let plays = SHAPES.iter().map(|shape| (shape, &envoy));
    let plays: Vec<_> = plays.chain(on_both.map(|shape| (shape, &other))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some((shape, envoy)) = plays.get(next.fetch_add(1, Ordering::SeqCst)) {
            if support::minor(envoy) < shape.since {
                continue;
            }
            println!("{} on {}", shape.name, envoy.display());
            let played = panic::catch_unwind(|| play(shape, envoy));
            let played = played.unwrap_or_else(|_| vec![format!("{}: see above", shape.name)]);
            wrong.extend(
                played
                    .iter()
                    .map(|what| format!("{}: {what}", envoy.display())),
            );
        }
        wrong
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let workers = [(); 4].map(|()| scope.spawn(work));
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
