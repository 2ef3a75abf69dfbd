//! A configuration for a real Envoy, with a listener of each kind.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::http::Address;
use super::upstream::Upstream;
use super::{Loopback, TempDir};

/// Where Envoy's admin interface listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    Unix,
    Tcp,
    None,
}

/// An Envoy's addresses, and the file that makes it listen there.
pub struct EnvoyConfig {
    pub dir: TempDir,
    pub file: PathBuf,
    /// `None` without an admin interface.
    pub admin: Option<Address>,
    /// HTTP with WebSocket upgrades.
    pub http: SocketAddr,
    /// A TCP proxy to the echo.
    pub tcp: SocketAddr,
    /// A UDP proxy to the echo; a session ends after 2 s of silence.
    pub udp: SocketAddr,
    /// HTTP again, for probes and scrapers: its statistics are under [`EnvoyConfig::METRICS`].
    pub metrics: SocketAddr,
    pub access_log: PathBuf,
    loopback: Loopback,
}

impl EnvoyConfig {
    pub const METRICS: &str = "metrics";

    pub fn new(admin: Admin, upstream: &Upstream) -> EnvoyConfig {
        let dir = TempDir::new();
        let loopback = Loopback::claim();
        let at = |port| SocketAddr::from((loopback.ip, port));
        let config = EnvoyConfig {
            file: dir.join("envoy.yaml"),
            access_log: dir.join("access.log"),
            admin: match admin {
                Admin::Unix => Some(Address::Unix(dir.join("admin.sock"))),
                Admin::Tcp => Some(Address::Tcp(at(9901))),
                Admin::None => None,
            },
            http: at(10_000),
            tcp: at(10_001),
            udp: at(10_002),
            metrics: at(10_003),
            dir,
            loopback,
        };
        fs::write(&config.file, config.yaml(upstream)).unwrap();
        config
    }

    /// Replaces a piece of the configuration.
    #[track_caller]
    pub fn replace(&self, old: &str, new: &str) {
        let yaml = fs::read_to_string(&self.file).unwrap();
        assert!(yaml.contains(old), "{old} is not in\n{yaml}");
        fs::write(&self.file, yaml.replace(old, new)).unwrap();
    }

    /// Puts something before the configuration.
    pub fn prepend(&self, text: &str) {
        let yaml = fs::read_to_string(&self.file).unwrap();
        fs::write(&self.file, format!("{text}{yaml}")).unwrap();
    }

    /// Takes the UDP listener out, of which the kernel tells nothing but that it is there.
    pub fn leave_udp_out(&self) {
        let yaml = fs::read_to_string(&self.file).unwrap();
        let from = yaml.find("  - name: udp\n    address").unwrap();
        let to = yaml.find("  - name: metrics\n").unwrap();
        fs::write(&self.file, format!("{}{}", &yaml[..from], &yaml[to..])).unwrap();
    }

    /// Where drainit's SDS files are to go.
    pub fn resources(&self) -> PathBuf {
        self.dir.join("resources")
    }

    /// Has the HTTP listeners open tunnels to the TCP echo for CONNECT requests.
    pub fn take_connect(&self) {
        self.replace(
            "upgrade_configs: [{ upgrade_type: websocket }]",
            "upgrade_configs: [{ upgrade_type: websocket }, { upgrade_type: CONNECT }]",
        );
        self.replace(
            "routes: [",
            "routes: [{ match: { connect_matcher: {} }, route: { cluster: tcp, upgrade_configs: \
             [{ upgrade_type: CONNECT, connect_config: {} }] } }, ",
        );
    }

    /// Adds a listener for HTTP/3, and says where.
    pub fn serve_http3(&self) -> SocketAddr {
        let address = SocketAddr::from((self.loopback.ip, 10_004));
        self.serve_http3_at(address);
        address
    }

    /// The same at this address.
    pub fn serve_http3_at(&self, address: SocketAddr) {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
        let listener = http_listener("http3", address, "", "")
            .replace("{ socket_address: {", "{ socket_address: { protocol: UDP,")
            .replace("    filter_chains:\n    - filters:\n", &format!(
                "    udp_listener_config: {{ quic_options: {{}} }}
    filter_chains:
    - transport_socket:
        name: quic
        typed_config:
          '@type': {TYPE}.transport_sockets.quic.v3.QuicDownstreamTransport
          downstream_tls_context:
            common_tls_context:
              tls_certificates:
              - {{ certificate_chain: {{ filename: {data}/ec.crt }}, private_key: {{ filename: {data}/ec.key }} }}
      filters:\n"
            ))
            .replace(
                "upgrade_configs: [{ upgrade_type: websocket }]",
                "codec_type: HTTP3",
            );
        self.replace("  clusters:\n", &format!("{listener}  clusters:\n"));
    }

    /// Has the listener for probes, or for a kind of access log that is TCP's the TCP listener,
    /// send its access log to this address.
    pub fn send_access_logs(&self, kind: &str, address: SocketAddr) {
        let by_grpc = !kind.starts_with("fluentd.");
        let how = match by_grpc {
            true => {
                "common_config: { log_name: drained, transport_api_version: V3, \
                 grpc_service: { envoy_grpc: { cluster_name: logs } } }"
            }
            false => {
                "cluster: logs, tag: drained, stat_prefix: drained, \
                 record: { path: '%REQ(:PATH)%' }"
            }
        };
        let log = format!(
            "access_log: [{{ name: sent, typed_config: {{ '@type': {TYPE}.access_loggers.{kind}, {how} }} }}]"
        );
        if kind.contains("Tcp") {
            let tcp = "          stat_prefix: tcp\n";
            self.replace(tcp, &format!("{tcp}          {log}\n"));
        } else {
            let manager = "              stat_prefix: metrics\n";
            self.replace(manager, &format!("{manager}              {log}\n"));
        }
        self.add_cluster("logs", address, by_grpc);
        self.prepend("node: { id: edge, cluster: edge }\n");
    }

    /// Has Envoy send its statistics by UDP, all the time.
    pub fn send_statistics(&self) {
        let address = socket(SocketAddr::from((self.loopback.ip, 8_125)))
            .replace("address: {", "address: { protocol: UDP,");
        self.prepend(&format!(
            "stats_flush_interval: 0.1s\nstats_sinks: [{{ name: envoy.stat_sinks.statsd, typed_config: \
             {{ '@type': type.googleapis.com/envoy.config.metrics.v3.StatsdSink, address: {address} }} }}]\n"
        ));
    }

    fn add_cluster(&self, name: &str, address: SocketAddr, is_http2: bool) {
        let mut cluster = cluster(name, address);
        if is_http2 {
            cluster.push_str(&format!(
                "    typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {{ '@type': {TYPE}.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}\n"
            ));
        }
        self.replace("  clusters:\n", &format!("  clusters:\n{cluster}"));
    }

    /// Has gRPC calls on the HTTP listeners go to a server to be, and says where that has to be.
    pub fn serve_grpc(&self) -> SocketAddr {
        let server = SocketAddr::from((self.loopback.ip, 18_001));
        self.replace(
            "routes: [",
            "routes: [{ match: { prefix: /, grpc: {} }, route: { cluster: grpc, timeout: 0s } }, ",
        );
        self.add_cluster("grpc", server, true);
        server
    }

    /// Has Envoy read the HTTP listener from a file, as a control plane delivers it, and says where:
    /// Envoy takes each file that is moved there.
    pub fn deliver_http(&self) -> PathBuf {
        let file = self.dir.join("lds.yaml");
        let yaml = fs::read_to_string(&self.file).unwrap();
        let [from, to] = ["http", "tcp"].map(|name| yaml.find(&format!("  - name: {name}\n")));
        let (from, to) = (from.unwrap(), to.unwrap());
        let listener = yaml[from..to].replacen(
            "  - ",
            "  - '@type': type.googleapis.com/envoy.config.listener.v3.Listener\n    ",
            1,
        );
        fs::write(&file, format!("resources:\n{listener}")).unwrap();
        let source = format!(
            "node: {{ id: edge, cluster: edge }}\ndynamic_resources: {{ lds_config: \
             {{ path_config_source: {{ path: {} }}, resource_api_version: V3 }} }}\n",
            file.display()
        );
        fs::write(
            &self.file,
            format!("{source}{}{}", &yaml[..from], &yaml[to..]),
        )
        .unwrap();
        file
    }

    /// Has the listener at this address listen on a unix socket instead, and says where.
    pub fn move_to_pipe(&self, listener: SocketAddr) -> PathBuf {
        let path = self.dir.join(&format!("{}.sock", listener.port()));
        let pipe = format!("{{ pipe: {{ path: {} }} }}", path.display());
        let address = format!("    address: {}", socket(listener));
        self.replace(&address, &format!("    address: {pipe}"));
        path
    }

    /// Has the HTTP listener speak TLS with this secret, as scripts/examples/tls.yaml has it.
    pub fn serve_tls(&self, secret: &str) {
        let transport = format!(
            "  - name: http\n    address: {}\n    filter_chains:\n    - ",
            socket(self.http)
        );
        let tls = format!(
            "transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': {TYPE}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs:
            - name: {secret}
              sds_config: {{ path_config_source: {{ path: {}/sds/{} }}, resource_api_version: V3 }}
      ",
            self.resources().display(),
            drainit::certificates::name::file_name(secret)
        );
        self.replace(&transport, &format!("{transport}{tls}"));
        self.prepend("node: { id: edge, cluster: edge }\n");
    }

    /// Has that listener demand a certificate of its clients, by this validation context, as the
    /// README has it.
    pub fn demand_clients(&self, secret: &str) {
        let context = "          common_tls_context:\n";
        self.replace(
            context,
            &format!(
                "          require_client_certificate: true
{context}            validation_context_sds_secret_config:
              name: {secret}
              sds_config: {{ path_config_source: {{ path: {}/sds/{} }}, resource_api_version: V3 }}
",
                self.resources().display(),
                drainit::certificates::name::file_name(secret)
            ),
        );
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.loopback.ip
    }

    /// The arguments that make an Envoy read it.
    pub fn arguments(&self) -> Vec<String> {
        // Two workers and no chatter: the tests run side by side on few processors.
        let file = self.file.display().to_string();
        [
            "-c",
            &file,
            "--concurrency",
            "2",
            "-l",
            "error",
            // The access log within moments, not within ten seconds.
            "--file-flush-interval-msec",
            "50",
        ]
        .map(str::to_owned)
        .into()
    }

    fn yaml(&self, upstream: &Upstream) -> String {
        let admin = match &self.admin {
            Some(Address::Unix(path)) => {
                format!(
                    "admin: {{ address: {{ pipe: {{ path: {} }} }} }}\n",
                    path.display()
                )
            }
            Some(Address::Tcp(address)) => format!("admin: {{ address: {} }}\n", socket(*address)),
            None => String::new(),
        };
        let access_log = format!(
            "\n              access_log:\n              - name: file\n                typed_config:\n\
             \x20                 '@type': {TYPE}.access_loggers.file.v3.FileAccessLog\n\
             \x20                 path: {}",
            self.access_log.display()
        );
        format!(
            "{admin}static_resources:\n  listeners:\n{}{}{}{}  clusters:\n{}{}{}",
            http_listener("http", self.http, "", &access_log),
            tcp_listener(self.tcp),
            udp_listener(self.udp),
            http_listener(
                Self::METRICS,
                self.metrics,
                &format!("    stat_prefix: {}\n", Self::METRICS),
                ""
            ),
            cluster("http", upstream.http),
            cluster("tcp", upstream.tcp),
            cluster("udp", upstream.udp),
        )
    }
}

const TYPE: &str = "type.googleapis.com/envoy.extensions";

fn socket(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!("{{ socket_address: {{ address: {ip}, port_value: {port} }} }}")
}

fn http_listener(name: &str, address: SocketAddr, options: &str, manager: &str) -> String {
    format!(
        "  - name: {name}
    address: {}
{options}    filter_chains:
    - filters:
      - name: http
        typed_config:
              '@type': {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager
              stat_prefix: {name}
              upgrade_configs: [{{ upgrade_type: websocket }}]{manager}
              route_config:
                virtual_hosts:
                - name: all
                  domains: ['*']
                  routes: [{{ match: {{ prefix: / }}, route: {{ cluster: http, timeout: 0s }} }}]
              http_filters:
              - name: router
                typed_config: {{ '@type': {TYPE}.filters.http.router.v3.Router }}
",
        socket(address)
    )
}

fn tcp_listener(address: SocketAddr) -> String {
    format!(
        "  - name: tcp
    address: {}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': {TYPE}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
",
        socket(address)
    )
}

fn udp_listener(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "  - name: udp
    address: {{ socket_address: {{ protocol: UDP, address: {ip}, port_value: {port} }} }}
    listener_filters:
    - name: udp
      typed_config:
        '@type': {TYPE}.filters.udp.udp_proxy.v3.UdpProxyConfig
        stat_prefix: udp
        idle_timeout: 2s
        matcher:
          on_no_match:
            action:
              name: route
              typed_config:
                '@type': {TYPE}.filters.udp.udp_proxy.v3.Route
                cluster: udp
"
    )
}

fn cluster(name: &str, address: SocketAddr) -> String {
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {} }} }}] }}]
",
        socket(address)
    )
}
