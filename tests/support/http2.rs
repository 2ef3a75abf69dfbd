//! A client that speaks HTTP/2: an Envoy of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::http::Address;
use super::process::Process;
use super::{Loopback, PATIENCE, TempDir, envoy, wait_for};

/// Turns HTTP/1.1 into HTTP/2 with prior knowledge. All requests are streams of one connection,
/// until the server says that it goes away; none is tried twice.
pub struct Http2Client {
    /// Where it takes HTTP/1.1.
    pub address: SocketAddr,
    admin: Address,
    _process: Process,
    _loopback: Loopback,
    _dir: TempDir,
}

impl Http2Client {
    pub fn start(server: SocketAddr) -> Http2Client {
        let (dir, loopback) = (TempDir::new(), Loopback::claim());
        let (address, admin) = (
            SocketAddr::from((loopback.ip, 10_000)),
            dir.join("admin.sock"),
        );
        let (file, admin_path) = (dir.join("client.yaml"), admin.display());
        let at = |address: SocketAddr| {
            let (ip, port) = (address.ip(), address.port());
            format!("{{ socket_address: {{ address: {ip}, port_value: {port} }} }}")
        };
        let (own, server) = (at(address), at(server));
        let yaml = format!(
            "admin: {{ address: {{ pipe: {{ path: {admin_path} }} }} }}
static_resources:
  listeners:
  - address: {own}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: server, timeout: 0s }} }}]
          http_filters:
          - name: router
            typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: server
    type: STATIC
    load_assignment:
      cluster_name: server
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {server} }} }}] }}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
"
        );
        fs::write(&file, yaml).unwrap();
        let mut command = Command::new(envoy());
        command.arg("-c").arg(&file).arg("--disable-hot-restart");
        command.args(["--concurrency", "1", "-l", "error"]);
        let client = Http2Client {
            address,
            admin: Address::Unix(admin),
            _process: Process::spawn(command.stdin(Stdio::null())),
            _loopback: loopback,
            _dir: dir,
        };
        wait_for("the client", PATIENCE, || {
            let answer = client.admin.request("GET", "/ready", PATIENCE);
            answer.is_ok_and(|answer| answer.status == 200)
        });
        client
    }

    /// How many connections it has opened, each of HTTP/2.
    #[track_caller]
    pub fn connections(&self) -> usize {
        let name = "cluster.server.upstream_cx_http2_total";
        let path = format!("/stats?filter=^{name}$");
        let page = self.admin.request("GET", &path, PATIENCE).unwrap().body;
        let value = page
            .trim()
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(": "));
        value.expect(&page).parse().unwrap()
    }
}
