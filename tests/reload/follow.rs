//! `--watch-config`: a changed configuration is loaded by itself, and gone back from if it is worse.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::rig::Rig;
use crate::support::clients::HttpConnection;
use crate::support::drainit::run;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::upstream::Upstream;
use crate::support::{self, PATIENCE, scene, wait_for};

const WATCHES: [&str; 4] = ["--hot-restart", "--watch-config", "--drain-timeout", "20s"];

/// What is done to a configuration, by name.
type Change = (&'static str, fn(&EnvoyConfig, &Upstream));

const ROUTE: &str = "route: { cluster: http, timeout: 0s }";

/// Puts something into the cluster of this name.
fn into_cluster(config: &EnvoyConfig, name: &str, text: &str) {
    let cluster = format!("  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n");
    config.replace(&cluster, &format!("{cluster}    {text}\n"));
}

fn into_router(config: &EnvoyConfig, filter: &str) {
    config.replace(
        "http_filters:\n",
        &format!("http_filters:\n              - {filter}\n"),
    );
}

/// Takes a listener out.
fn without(config: &EnvoyConfig, name: &str) {
    let yaml = fs::read_to_string(&config.file).unwrap();
    let from = yaml
        .find(&format!("  - name: {name}\n    address"))
        .unwrap();
    let rest = &yaml[from + 4..];
    let next = rest
        .find("\n  - name: ")
        .into_iter()
        .chain(rest.find("\n  clusters:"));
    let to = from + 4 + next.min().unwrap() + 1;
    write(config, &format!("{}{}", &yaml[..from], &yaml[to..]));
}

fn write(config: &EnvoyConfig, yaml: &str) {
    let new = config.dir.join("new.yaml");
    fs::write(&new, yaml).unwrap();
    fs::rename(new, &config.file).unwrap();
}

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// Each passes `--mode validate`. The first ones are always tried.
const BAD: [Change; 20] = [
    ("a wrong upstream port", |config, upstream| {
        config.replace(
            &format!("port_value: {}", upstream.http.port()),
            "port_value: 1",
        );
    }),
    ("a dead route", |config, _| {
        config.replace("prefix: /", "prefix: /nowhere")
    }),
    ("a listener that is gone", |config, _| {
        without(config, "http")
    }),
    ("an upstream that answers 503", |config, _| {
        config.replace(ROUTE, "direct_response: { status: 503 }");
    }),
    ("TLS to plaintext", |config, _| {
        into_cluster(
            config,
            "http",
            &format!(
                "transport_socket: {{ name: tls, typed_config: {{ '@type': {TYPE}.transport_sockets.tls.v3.UpstreamTlsContext }} }}"
            ),
        );
    }),
    ("a wrong port of a TCP upstream", |config, upstream| {
        config.replace(
            &format!("port_value: {}", upstream.tcp.port()),
            "port_value: 1",
        );
    }),
    ("half to nowhere", |config, upstream| {
        let yaml = fs::read_to_string(&config.file).unwrap();
        let endpoint = format!("port_value: {} }} }} }} }}", upstream.http.port());
        assert!(yaml.contains(&endpoint), "{yaml}");
        let dead = endpoint.replace(&upstream.http.port().to_string(), "1");
        let more = format!(
            "{endpoint}, {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, {dead}"
        );
        write(config, &yaml.replace(&endpoint, &more));
    }),
    ("another domain", |config, _| {
        config.replace("domains: ['*']", "domains: [nobody.example]")
    }),
    ("another port", |config, _| {
        config.replace("port_value: 10000", "port_value: 10090")
    }),
    ("an upstream that speaks no HTTP", |config, upstream| {
        config.replace(
            &format!("port_value: {}", upstream.http.port()),
            &format!("port_value: {}", upstream.udp.port()),
        );
    }),
    ("a method that nobody uses", |config, _| {
        config.replace(
            "prefix: /",
            "prefix: /, headers: [{ name: ':method', string_match: { exact: PUT } }]",
        );
    }),
    ("no connection allowed", |config, _| {
        into_cluster(
            config,
            "http",
            "circuit_breakers: { thresholds: [{ max_connections: 0, max_pending_requests: 0 }] }",
        );
    }),
    ("no request allowed", |config, _| {
        into_cluster(
            config,
            "http",
            "circuit_breakers: { thresholds: [{ max_requests: 0, max_pending_requests: 0 }] }",
        );
    }),
    ("a fault", |config, _| {
        into_router(
            config,
            &format!(
                "{{ name: fault, typed_config: {{ '@type': {TYPE}.filters.http.fault.v3.HTTPFault, abort: {{ http_status: 500, percentage: {{ numerator: 30 }} }} }} }}"
            ),
        );
    }),
    ("a cluster without hosts", |config, _| {
        config.replace("cluster: http, timeout", "cluster: empty, timeout");
        config.replace(
            "  clusters:\n",
            "  clusters:\n  - name: empty\n    type: STATIC\n",
        );
    }),
    ("HTTP/2 to an upstream without", |config, _| {
        into_cluster(
            config,
            "http",
            "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }",
        );
    }),
    ("HTTP/2 from clients without", |config, _| {
        config.replace(
            "stat_prefix: http\n",
            "stat_prefix: http\n              codec_type: HTTP2\n",
        );
    }),
    ("a redirect to a cluster that is not there", |config, _| {
        config.replace(ROUTE, "route: { cluster_header: x-none, timeout: 0s }");
    }),
    ("a TCP listener that is gone", |config, _| {
        without(config, "tcp")
    }),
    ("no listener", |config, _| {
        for name in ["http", "tcp", "metrics"] {
            without(config, name);
        }
    }),
];

const GOOD: [Change; 20] = [
    ("a comment", |config, _| config.prepend("# a comment\n")),
    ("one more route", |config, _| {
        crate::add_route(config, "/new")
    }),
    ("a longer timeout", |config, _| {
        config.replace("timeout: 0s", "timeout: 30s")
    }),
    ("a node", |config, _| {
        config.prepend("node: { id: a, cluster: b }\n")
    }),
    ("a listener that nobody used is gone", |config, _| {
        without(config, "metrics")
    }),
    ("a limit", |config, _| {
        into_cluster(
            config,
            "http",
            "circuit_breakers: { thresholds: [{ max_requests: 5000 }] }",
        );
    }),
    ("another name of a domain", |config, _| {
        config.replace("domains: ['*']", "domains: ['*', a.example]")
    }),
    ("a retry", |config, _| {
        config.replace(
            "timeout: 0s",
            "timeout: 0s, retry_policy: { retry_on: 5xx }",
        )
    }),
    ("another name of a listener", |config, _| {
        config.replace("- name: http\n    address", "- name: web\n    address")
    }),
    ("a route's name", |config, _| {
        config.replace("{ match: { prefix: /", "{ name: all, match: { prefix: /")
    }),
    ("a cluster more", |config, _| {
        config.replace(
            "  clusters:\n",
            "  clusters:\n  - name: more\n    type: STATIC\n",
        );
    }),
    ("a dead cluster that nobody uses", |config, _| {
        config.replace("  clusters:\n", "  clusters:\n  - name: dead\n    type: STATIC\n    load_assignment: { cluster_name: dead, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }] }\n");
    }),
    ("a header", |config, _| {
        config.replace("domains: ['*']", "domains: ['*']\n                  response_headers_to_add: [{ header: { key: x-a, value: b } }]")
    }),
    ("another prefix of statistics", |config, _| {
        config.replace("stat_prefix: http\n", "stat_prefix: web\n")
    }),
    ("a server's name", |config, _| {
        config.replace(
            "stat_prefix: http\n",
            "stat_prefix: http\n              server_name: mine\n",
        )
    }),
    ("no access log", |config, _| {
        let yaml = fs::read_to_string(&config.file).unwrap();
        let from = yaml.find("              access_log:").unwrap();
        let to = from + yaml[from..].find("              route_config").unwrap();
        write(config, &format!("{}{}", &yaml[..from], &yaml[to..]));
    }),
    ("a shorter connect timeout", |config, _| {
        config.replace("connect_timeout: 5s", "connect_timeout: 2s")
    }),
    ("a flush interval", |config, _| {
        config.prepend("stats_flush_interval: 1s\n")
    }),
    ("a fault that never comes", |config, _| {
        into_router(
            config,
            &format!(
                "{{ name: fault, typed_config: {{ '@type': {TYPE}.filters.http.fault.v3.HTTPFault, abort: {{ http_status: 500, percentage: {{ numerator: 0 }} }} }} }}"
            ),
        );
    }),
    ("two of them at once", |config, _| {
        config.prepend("# one\n");
        config.prepend("# two\n");
    }),
];

/// Clients that connect anew again and again, some of HTTP and some of TCP.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(rig: &Rig) -> Clients {
        let mut clients = Clients {
            stop: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        let (http, tcp) = (rig.config.http, rig.config.tcp);
        for of_http in [true, true, false] {
            let stop = clients.stop.clone();
            let (answered, failed) = (clients.answered.clone(), clients.failed.clone());
            clients.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let fine = if of_http {
                        let answer = HttpConnection::open(http).and_then(|mut it| it.get("/fast"));
                        answer.is_ok_and(|answer| answer.status == 200)
                    } else {
                        let session = std::net::TcpStream::connect(tcp);
                        session.is_ok_and(echoes)
                    };
                    let count = if fine { &answered } else { &failed };
                    count.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                }
            }));
        }
        clients
    }

    fn failures(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.failed.load(Ordering::SeqCst)
    }
}

fn echoes(mut stream: std::net::TcpStream) -> bool {
    use std::io::{Read, Write};
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

/// One drainit, a change under load, and what came of it.
fn follow(program: &std::path::Path, (name, change): Change, bad: bool, whole: bool) {
    let (upstream, config) = scene::of(Admin::Unix);
    config.leave_udp_out();
    let rig = Rig::with_times(&WATCHES, config, upstream, ["1", "20"]);
    if program != support::envoy() {
        rig.replace_program(program);
        rig.reload_well();
        rig.wait_alone();
    }
    let before = rig.epoch();
    let clients = Clients::start(&rig);
    wait_for("load", PATIENCE, || {
        clients.answered.load(Ordering::SeqCst) > 300
    });
    change(&rig.config, &rig.upstream);
    let begun = Instant::now();
    wait_for(name, PATIENCE, || rig.epoch() == before + 1);
    if bad {
        let back = || rig.status()["configuration"]["worse"].is_string();
        wait_for_within(name, &back);
        let took = begun.elapsed();
        let why = rig.status()["configuration"]["worse"].to_string();
        println!("{name}: back after {took:?}: {why}");
        assert!(took < Duration::from_secs(35), "{name}: {took:?}");
        assert_eq!(rig.epoch(), before + 2);
        rig.drainit.wait_log("the new configuration is worse: ");
        let fails = clients.failed.load(Ordering::SeqCst);
        let answers = clients.answered.load(Ordering::SeqCst);
        wait_for("answers", PATIENCE, || {
            clients.answered.load(Ordering::SeqCst) > answers + 100
        });
        assert!(clients.failed.load(Ordering::SeqCst) <= fails + 5, "{name}");
        clients.failures();
        assert_eq!(copies(&rig), 1, "the good one alone is kept");
    } else {
        if whole {
            wait_for_within(name, &|| {
                rig.drainit
                    .log
                    .find("the new configuration is good")
                    .is_some()
            });
            println!("{name}: good");
        } else {
            thread::sleep(Duration::from_secs(8));
        }
        assert_eq!(rig.epoch(), before + 1, "{name}");
        assert_eq!(
            rig.status()["configuration"]["worse"],
            serde_json::Value::Null
        );
        assert_eq!(clients.failures(), 0, "{name}");
    }
}

/// How many copies of configurations drainit keeps, in a directory that it has open.
fn copies(rig: &Rig) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", rig.drainit.pid())).unwrap();
    let mut open = open.flatten().flat_map(|fd| fs::read_link(fd.path()));
    let dir = open.find(|path| path.to_string_lossy().contains("/drainit-config-"));
    fs::read_dir(dir.expect("a directory of copies"))
        .unwrap()
        .count()
}

/// Waits for longer than a configuration is watched.
fn wait_for_within(name: &str, holds: &dyn Fn() -> bool) {
    wait_for(name, Duration::from_secs(60), holds);
}

/// How many of each are tried; all of them on both Envoys with `TEST_CONFIGURATIONS=20`.
fn tried() -> usize {
    let number = std::env::var("TEST_CONFIGURATIONS").ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(3)
}

#[test]
fn a_configuration_that_does_worse_is_gone_back_from_and_a_good_one_is_not() {
    let all = tried();
    let mut tasks = Vec::new();
    for program in [support::envoy(), support::other_envoy()] {
        for (bad, changes) in [(true, &BAD), (false, &GOOD)] {
            tasks.extend(
                changes[..all]
                    .iter()
                    .map(|change| (program.clone(), *change, bad)),
            );
        }
    }
    if all == 3 {
        // Of the other Envoy one of each.
        tasks.retain(|(program, (name, _), _)| {
            *program == support::envoy() || [BAD[0].0, GOOD[0].0].contains(name)
        });
    }
    for some in tasks.chunks(4) {
        thread::scope(|scope| {
            for (program, change, bad) in some {
                scope.spawn(|| follow(program, *change, *bad, all > 3));
            }
        });
    }
}

#[test]
fn behind_a_shell_and_for_a_prober_that_never_rests_a_configuration_is_followed() {
    let (upstream, config) = scene::of(Admin::Unix);
    let log = config.dir.join("admin.log");
    config.replace(
        "admin: {",
        &format!(
            "admin: {{ access_log: [{{ name: f, typed_config: {{ '@type': {TYPE}.access_loggers.file.v3.FileAccessLog, path: {} }} }}],",
            log.display()
        ),
    );
    let shell = ["sh", "-c", "ulimit -n 4096; exec \"$@\"", "sh"];
    let rig = Rig::behind(&shell, &WATCHES, config, upstream);
    let health = rig.drainit.health.clone();
    thread::spawn(move || {
        while health.request("GET", "/healthz", PATIENCE).is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    });
    // What Envoy serves is known before another one does.
    wait_for("a look at what Envoy serves", PATIENCE, || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("downstream_rq_completed"))
    });
    crate::add_route(&rig.config, "/new");
    wait_for("generation 1", PATIENCE, || rig.epoch() == 1);
    rig.reload_well();
}

#[test]
fn what_cannot_be_followed_is_a_usage_error() {
    for (line, why) in [
        (
            &["--watch-config", "--", "envoy", "-c", "x"][..],
            "--hot-restart",
        ),
        (
            &["--hot-restart", "--watch-config", "--", "envoy"],
            "envoy -c envoy.yaml",
        ),
    ] {
        let (code, _, said) = run(&[&["--listen", "off"], line].concat());
        assert!(code == 2 && said.contains(why), "{said}");
    }
}
