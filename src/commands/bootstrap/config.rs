//! The configuration that `drainit bootstrap` writes: Contour's, with one aggregated stream.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::utf8;
use crate::certificates::publish::SdsTarget;
use crate::json::json;
use crate::options::bootstrap::Bootstrap;

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";
/// The xDS server's cluster, by Contour's name.
const CLUSTER: &str = "contour";
/// The xDS server's name in its certificate, and what the `:authority` of its stream says.
const SERVER: &str = "contour";

/// The whole configuration, for this node, with this transport socket to the xDS server.
pub fn bootstrap(options: &Bootstrap, node: &str, transport: Option<Value>) -> Value {
    let mut contour = contour_cluster(options);
    if let (Some(transport), Some(contour)) = (transport, contour.as_object_mut()) {
        contour.insert("transport_socket".to_owned(), transport);
    }
    let port = options.admin_port;
    let admin_cluster = json!({
        "name": "envoy-admin",
        "alt_stat_name": format!("{}_envoy-admin_{port}", options.namespace),
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "load_assignment": endpoint("envoy-admin", &admin_address(options)),
    });
    let mut bootstrap = json!({
        // `--service-node` and `--service-cluster` win.
        "node": { "id": node, "cluster": options.namespace },
        "static_resources": { "clusters": [contour, admin_cluster] },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [
                    { "envoy_grpc": { "cluster_name": CLUSTER, "authority": SERVER } },
                ],
            },
            "lds_config": ads(),
            "cds_config": ads(),
        },
        "admin": {
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": format!("{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"),
                    "path": "/dev/null",
                },
            }],
            "address": admin_address(options),
        },
        "layered_runtime": { "layers": [
            { "name": "dynamic", "rtds_layer": { "name": "dynamic", "rtds_config": runtime() } },
            { "name": "admin", "admin_layer": {} },
        ]},
    });
    let manager = overload_manager(options);
    if let (Some(manager), Some(bootstrap)) = (manager, bootstrap.as_object_mut()) {
        bootstrap.insert("overload_manager".to_owned(), manager);
    }
    bootstrap
}

fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

/// Contour sets its limits by the runtime. A server that has none does not answer, and Envoy
/// waits for it before it starts: not for long, and a later answer counts as well.
fn runtime() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.2s" })
}

fn admin_address(options: &Bootstrap) -> Value {
    match options.admin_address.parse::<IpAddr>() {
        Ok(_) => socket_address(&options.admin_address, options.admin_port),
        // 0644: as Contour has it.
        Err(_) => json!({ "pipe": { "path": options.admin_address, "mode": 0o644 } }),
    }
}

fn contour_cluster(options: &Bootstrap) -> Value {
    let (address, port) = (&options.xds_address, options.xds_port);
    let limits = |priority: &str| {
        json!({
            "priority": priority,
            "max_connections": 100_000,
            "max_pending_requests": 100_000,
            "max_requests": 60_000_000,
            "max_retries": 50,
        })
    };
    json!({
        "name": CLUSTER,
        "alt_stat_name": format!("{}_contour_{port}", options.namespace),
        "type": if address.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" },
        "dns_lookup_family": options.dns_family,
        "connect_timeout": "5s",
        "load_assignment": endpoint(CLUSTER, &socket_address(address, port)),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        // A server that vanished is noticed after 45 s.
        "upstream_connection_options": { "tcp_keepalive": {
            "keepalive_time": 30, "keepalive_interval": 5, "keepalive_probes": 3,
        }},
        "circuit_breakers": { "thresholds": [limits("HIGH"), limits("DEFAULT")] },
    })
}

fn endpoint(cluster: &str, address: &Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

/// TLS with the certificates' files in the configuration: they are read once.
pub fn tls_by_file([cert, key, ca]: &[PathBuf; 3]) -> Result<Value, String> {
    Ok(transport(&json!({
        "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": utf8(cert)? },
            "private_key": { "filename": utf8(key)? },
        }],
        "validation_context": {
            "trusted_ca": { "filename": utf8(ca)? },
            "match_typed_subject_alt_names": [
                { "san_type": "DNS", "matcher": { "exact": SERVER } },
            ],
        },
    })))
}

/// TLS with SDS files: what is renamed there is taken.
pub fn tls_by_sds(target: &SdsTarget) -> Result<Value, String> {
    let secret = |secret: &crate::certificates::sds::Secret| {
        Ok::<_, String>(json!({
            "name": secret.name,
            "sds_config": {
                "path_config_source": { "path": utf8(&secret.path)? },
                "resource_api_version": "V3",
            },
        }))
    };
    Ok(transport(&json!({
        "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificate_sds_secret_configs": [secret(&target.first)?],
        "validation_context_sds_secret_config": target.ca.as_ref().map(secret).transpose()?,
    })))
}

fn transport(tls: &Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": tls,
        },
    })
}

fn overload_manager(options: &Bootstrap) -> Option<Value> {
    let mut monitors = Vec::new();
    let mut actions = Vec::new();
    if options.max_heap > 0 {
        let monitor = "envoy.resource_monitors.fixed_heap";
        monitors.push(json!({
            "name": monitor,
            "typed_config": {
                "@type": format!("{EXTENSIONS}.resource_monitors.fixed_heap.v3.FixedHeapConfig"),
                "max_heap_size_bytes": options.max_heap,
            },
        }));
        for (action, threshold) in [("shrink_heap", 0.95), ("stop_accepting_requests", 0.98)] {
            actions.push(json!({
                "name": format!("envoy.overload_actions.{action}"),
                "triggers": [{ "name": monitor, "threshold": { "value": threshold } }],
            }));
        }
    }
    if options.max_connections > 0 {
        let kind = "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
        monitors.push(json!({
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.{kind}"),
                "max_active_downstream_connections": options.max_connections,
            },
        }));
    }
    if monitors.is_empty() {
        return None;
    }
    Some(json!({
        "refresh_interval": "0.250s",
        "resource_monitors": monitors,
        "actions": actions,
    }))
}
