//! A receiver of the access logs that Envoy sends elsewhere (`tests/xds/access_logs.py`).

use std::net::SocketAddr;
use std::process::Stdio;

use super::drainit::Log;
use super::pki::script;
use super::process::Process;
use super::{PATIENCE, wait_for};

pub struct AccessLogs {
    log: Log,
    _process: Process,
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
            _process: process,
        }
    }

    /// How many messages with entries have come.
    pub fn count(&self) -> usize {
        self.log.lines().len() - 1
    }
}
