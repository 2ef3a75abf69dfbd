//! A gRPC client, and the server of its calls (`tests/xds/grpc_client.py`).

use std::net::SocketAddr;
use std::process::Stdio;

use super::drainit::Log;
use super::pki::script;
use super::process::Process;
use super::{PATIENCE, wait_for};

/// One channel, which has made a call and stays connected.
pub struct GrpcClient {
    _process: Process,
}

impl GrpcClient {
    /// Nothing goes over the connection after the call but, where it `pings`, a PING every second.
    pub fn start(server: SocketAddr, envoy: SocketAddr, pings: bool) -> GrpcClient {
        let mut command = script("grpc_client.py");
        command.args([server.to_string(), envoy.to_string()]);
        command.args(pings.then_some("--pings"));
        command.stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let log = Log::default();
        log.collect(process.child().stdout.take().unwrap());
        wait_for("the answer to a gRPC call", PATIENCE, || {
            log.find("answered").is_some()
        });
        GrpcClient { _process: process }
    }
}
