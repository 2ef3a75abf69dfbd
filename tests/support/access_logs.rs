//! A receiver of the access logs that Envoy sends elsewhere: by gRPC (`tests/xds/access_logs.py`),
//! or as Fluentd takes them.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::thread;

use super::drainit::Log;
use super::pki::script;
use super::process::Process;
use super::{PATIENCE, wait_for};

pub struct AccessLogs {
    log: Log,
    _process: Option<Process>,
}

impl AccessLogs {
    pub fn start(address: SocketAddr) -> AccessLogs {
        let mut command = script("access_logs.py");
        command.arg(address.to_string());
        command.stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let log = Log::default();
        log.collect(process.child().stdout.take().unwrap());
        wait_for("the receiver of access logs", PATIENCE, || {
            log.find("ready").is_some()
        });
        AccessLogs {
            log,
            _process: Some(process),
        }
    }

    /// A receiver of Fluentd's forward protocol, in which Envoy sends entries and nothing else, and
    /// waits for no answer.
    pub fn of_fluentd(address: SocketAddr) -> AccessLogs {
        let listener = TcpListener::bind(address).unwrap();
        let log = Log::default();
        let seen = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                seen.collect(stream.unwrap());
            }
        });
        AccessLogs {
            log,
            _process: None,
        }
    }

    /// How many messages with entries have come, or lines of them.
    pub fn count(&self) -> usize {
        let lines = self.log.lines();
        lines.iter().filter(|line| *line != "ready").count()
    }
}
