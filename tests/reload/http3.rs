//! HTTP/3, asked all along by a client that nobody here wrote.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::{OPTIONS, Rig};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::scene;
use crate::support::{self, PATIENCE, pki};

/// scripts/bench.d/http3.py, which goes on until its input ends.
struct Client {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// Returns once a first answer was there.
    fn start(config: &EnvoyConfig) -> Client {
        let mut process = pki::python(Path::new("scripts/bench.d/http3.py"))
            .args([&config.ip().to_string(), "10004", "/fast"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut client = Client {
            process,
            input,
            output,
        };
        assert_eq!(client.line(), "ready\n");
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Ends it; what became of its requests.
    fn tally(&mut self) -> Value {
        drop(self.input.take());
        let tally = serde_json::from_str(&self.line()).unwrap();
        self.process.wait().unwrap();
        tally
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn fails_nothing(program: PathBuf) {
    let (upstream, config) = scene::of(Admin::Unix);
    config.serve_http3();
    let options = [&OPTIONS[..], &["--min-drain", "3s"]].concat();
    let mut rig = Rig::of_program(program, &options, config, upstream);
    let mut client = Client::start(&rig.config);
    rig.reload_well();
    rig.wait_alone();
    rig.drainit.signal(Signal::SIGTERM);
    // The client hears of it, and comes back on new connections while Envoy still accepts them.
    rig.drainit.wait_log("connection left");
    let tally = client.tally();
    assert_eq!(tally["failed"], 0, "{tally}");
    assert!(tally["answered"].as_u64() > Some(20), "{tally}");
    assert!(
        tally["connections"].as_u64() > Some(1),
        "the old generation told it to go: {tally}"
    );
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    rig.drainit.wait_log("drained after");
}

#[test]
fn http3_loses_no_request_by_a_hot_restart_and_a_drain() {
    fails_nothing(support::envoy());
}

#[test]
fn http3_loses_no_request_on_the_other_envoy_either() {
    fails_nothing(support::other_envoy());
}
