//! How the client commands find the drainit that runs.
//!
//! It serves the same as on its port on a socket in Linux' abstract namespace, named after its pid
//! and pid namespace: that needs no port, no writable file system and no configuration, and is
//! there with `--listen off`. What it shows is no secret; a drain it takes from its own user and
//! from root alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::client::{self, Address, Method};
use crate::http::Listen;
use crate::options::Options;
use crate::process;

/// The name of the control socket of the drainit with this pid.
pub fn socket_name(pid: u32) -> String {
    // Pods on the host's network share one abstract namespace, and each has a pid 1.
    format!("drainit/{}/{pid}", process::pid_namespace())
}

/// Where the running drainit can be asked.
///
/// # Errors
/// One line, when none runs, or several and it is not clear which is meant.
pub fn find(options: &Options) -> Result<Address, String> {
    match &options.listen {
        Listen::Tcp(address) if options.listen_given => {
            let at = |ip: IpAddr| Address::Tcp(SocketAddr::new(ip, address.port()).to_string());
            // Every address may be one of IPv6 alone, or one without any.
            let loopback = at(Ipv6Addr::LOCALHOST.into());
            return Ok(match address.ip() {
                IpAddr::V6(ip) if ip.is_unspecified() && answers(&loopback) => loopback,
                ip if ip.is_unspecified() => at(Ipv4Addr::LOCALHOST.into()),
                ip => at(ip),
            });
        }
        Listen::Unix(path) if options.listen_given => return Ok(Address::Unix(path.clone())),
        Listen::Abstract(name) if options.listen_given => {
            return Ok(Address::Abstract(name.clone()));
        }
        _ => {}
    }
    // systemd tells ExecStop and ExecReload the pid; in a container it is 1.
    let told = std::env::var("MAINPID")
        .ok()
        .and_then(|pid| pid.parse().ok());
    for pid in told.into_iter().chain([1]) {
        if let Some(address) = answering(pid) {
            return Ok(address);
        }
    }
    let mut others = processes()
        .into_iter()
        .filter_map(|pid| answering(pid).map(|address| (pid, address)));
    match (others.next(), others.next()) {
        (Some((_, address)), None) => Ok(address),
        (Some((first, _)), Some((second, _))) => Err(format!(
            "several drainits run here, {first} and {second} among them: say which with --listen, as it was started with"
        )),
        _ => Err("no drainit runs here".into()),
    }
}

/// The control socket of the drainit with this pid, if it answers.
pub fn answering(pid: u32) -> Option<Address> {
    let address = Address::Abstract(socket_name(pid));
    answers(&address).then_some(address)
}

fn answers(address: &Address) -> bool {
    let limits = client::Limits {
        time: super::commands::PATIENCE,
        body: super::commands::BODY,
    };
    client::fetch(address, Method::Get, "/", limits).is_ok()
}

/// Every other process that is called drainit.
fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "drainit\n")
        })
        .collect()
}
