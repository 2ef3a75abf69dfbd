//! How the client commands find the drainit that runs: by the names of its control sockets
//! ([`crate::http::control`]), which prove nothing. The kernel tells who listens there.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{clean, pid_in, read_status};
use crate::client::{self, Address, Peer};
use crate::http::Listen;
use crate::http::control::{prefix, socket_name};
use crate::options::Options;
use crate::process::{self, ProcessPlace};

/// How long the names of strangers may take: a thousandth of it for a hundred of them.
const SEARCH: Duration = Duration::from_secs(5);

/// The most that is read of /proc/net/unix, in bytes: over 200,000 sockets.
const TABLE: u64 = 32 << 20;

/// A running drainit that was found.
#[derive(Clone, Debug)]
pub struct Target {
    address: Address,
    /// Who must answer there, at every exchange.
    peer: Peer,
    /// The pid of drainit; none where it runs in another pid namespace than we do.
    pid: Option<i32>,
}

impl Target {
    /// The pid of drainit; none where it runs in another pid namespace than we do, in which that
    /// pid is somebody else's.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Where it answers, and who must.
    pub fn door(&self) -> (Peer, &Address) {
        (self.peer, &self.address)
    }
}

/// Where the running drainit can be asked.
///
/// # Errors
/// One line, when none runs that is to be believed, or several and it is not clear which is meant.
pub fn target(options: &Options) -> Result<Target, String> {
    if let Some(pid) = options.pid {
        return prove(pid).map_err(|why| format!("--pid {pid}: {why}"));
    }
    if options.listen_given && options.listen != Listen::Off {
        return listening(&options.listen);
    }
    // systemd tells ExecStop and ExecReload the pid, and means no other.
    if let Some(pid) = std::env::var_os("MAINPID").filter(|pid| !pid.is_empty()) {
        let pid = pid.to_string_lossy();
        let number = pid.parse().ok().filter(|pid| *pid > 0);
        let number = number.ok_or_else(|| format!("MAINPID is `{pid}`, which is no pid"))?;
        return prove(number).map_err(|why| format!("MAINPID {number}: {why}"));
    }
    if let Ok(target) = prove_by(1, &[]) {
        return Ok(target);
    }
    only(&names())
}

/// The drainit with this pid.
fn prove(pid: i32) -> Result<Target, String> {
    let found = prove_by(pid, &[]).or_else(|_| prove_by(pid, &names()));
    found.map_err(|doubt| match doubt {
        Some(who) => format!("no drainit answers: {who}"),
        None => "no drainit has this pid".into(),
    })
}

/// The drainit with this pid, by the name that it has unless a stranger had it first, or by one of
/// these. It is met, and has said nothing yet.
///
/// # Errors
/// Who else answers, if anybody does.
fn prove_by(pid: i32, names: &[(i32, String)]) -> Result<Target, Option<String>> {
    let until = Instant::now() + SEARCH;
    let known = socket_name(pid);
    let others = names.iter().filter(|(whose, _)| *whose == pid);
    let mut doubt = None;
    for name in std::iter::once(&known).chain(others.map(|(_, name)| name)) {
        let target = Target {
            address: Address::Abstract(name.clone()),
            peer: Peer::Drainit(Some(pid)),
            pid: Some(pid),
        };
        match client::meet(&target.address, target.peer) {
            Ok(_) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::Other => doubt = Some(error.to_string()),
            // Nobody listens there, or too many knock.
            Err(_) => {}
        }
        if Instant::now() > until {
            break;
        }
    }
    Err(doubt)
}

/// Pid 1, if it is a drainit, or else the only one of our pid namespace.
fn only(names: &[(i32, String)]) -> Result<Target, String> {
    let until = Instant::now() + SEARCH;
    let (mut found, mut doubt) = (Vec::new(), None);
    let mut pids: Vec<i32> = names.iter().map(|(pid, _)| *pid).collect();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        match prove_by(pid, names) {
            Ok(target) if pid == 1 => return Ok(target),
            Ok(target) => found.push(target),
            Err(who) => doubt = doubt.or(who),
        }
        if Instant::now() > until {
            break;
        }
    }
    match found.as_slice() {
        [] => Err(match doubt {
            Some(who) => format!("no drainit runs here: {who}"),
            None => "no drainit runs here".into(),
        }),
        [_] => Ok(found.remove(0)),
        _ => {
            let each: Vec<_> = found.iter().map(describe).collect();
            Err(format!(
                "several drainits run here, say which with --pid: {}",
                each.join("; ")
            ))
        }
    }
}

/// A drainit among several: `7 ([::]:8090, envoy -c envoy.yaml)`.
fn describe(target: &Target) -> String {
    let pid = target.pid.unwrap_or_default();
    let (listen, envoy) = match read_status(target, true) {
        Ok(status) => {
            let envoy = status.pointer("/envoy/pid").and_then(Value::as_u64);
            (listen_of(&status), envoy.and_then(command_line))
        }
        Err(_) => (Some("does not answer".into()), None),
    };
    let listen = listen.unwrap_or_else(|| "unknown".into());
    let envoy = envoy.unwrap_or_else(|| "no envoy".into());
    format!("{pid} ({}, {})", clean(&listen, 60), clean(&envoy, 200))
}

fn listen_of(status: &Value) -> Option<String> {
    let listen = status.pointer("/drainit/listen").and_then(Value::as_str);
    listen.map(str::to_owned)
}

fn command_line(pid: u64) -> Option<String> {
    if !process::is_proc_ours() {
        return None;
    }
    let mut line = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(4096).read_to_end(&mut line).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    Some(line.trim_end().to_owned()).filter(|line| !line.is_empty())
}

/// The drainit that listens there, and no other.
fn listening(listen: &Listen) -> Result<Target, String> {
    let address = match listen {
        Listen::Unix(path) => Address::Unix(path.clone()),
        Listen::Abstract(name) => Address::Abstract(name.clone()),
        Listen::Tcp(address) => return over_tcp(*address),
        Listen::Default | Listen::Off => return Err("no drainit listens there".into()),
    };
    let mut target = Target {
        address,
        peer: Peer::Drainit(None),
        pid: None,
    };
    let met = client::meet(&target.address, target.peer);
    match met.map_err(|error| format!("{}: {error}", target.address))? {
        ProcessPlace::Here(pid) => {
            target.peer = Peer::Drainit(Some(pid));
            target.pid = Some(pid);
        }
        ProcessPlace::Elsewhere => {}
        ProcessPlace::Untold => target.pid = pid_in(&read_status(&target, true)?),
    }
    Ok(target)
}

/// Anybody may listen on a port. So what answers there only tells which drainit it is, and the
/// control socket of that one is asked, unless it runs in another container.
fn over_tcp(listen: SocketAddr) -> Result<Target, String> {
    let at = |ip: IpAddr| Target {
        address: Address::Tcp(SocketAddr::new(ip, listen.port()).to_string()),
        peer: Peer::Anyone,
        pid: None,
    };
    // Every address may be one of IPv6 alone, or one without any.
    let asked = match listen.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => vec![
            at(Ipv6Addr::LOCALHOST.into()),
            at(Ipv4Addr::LOCALHOST.into()),
        ],
        ip if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        ip => vec![at(ip)],
    };
    let mut why = String::new();
    for target in asked {
        match read_status(&target, true) {
            Ok(status) => {
                return match pid_in(&status) {
                    Some(pid) => on_port(pid, listen),
                    None => Ok(target),
                };
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// The drainit with this pid, if it says itself that it listens on that port.
fn on_port(pid: i32, listen: SocketAddr) -> Result<Target, String> {
    let named = |why| format!("{listen} says that it is the drainit with pid {pid}: {why}");
    let target = prove(pid).map_err(named)?;
    let own = listen_of(&read_status(&target, true)?);
    let port = |own: &str| own.rsplit_once(':')?.1.parse::<u16>().ok();
    match own.as_deref().and_then(port) {
        // It was given by the kernel, or is not told.
        None | Some(0) => Ok(target),
        Some(own) if own == listen.port() => Ok(target),
        Some(own) => Err(named(format!("that one listens on port {own}"))),
    }
}

/// The names of control sockets in our network and pid namespace, each with the pid that is in it,
/// whoever bound them.
fn names() -> Vec<(i32, String)> {
    let mut table = Vec::new();
    if let Ok(file) = fs::File::open("/proc/net/unix") {
        // What could be read of it counts.
        let _ = file.take(TABLE).read_to_end(&mut table);
    }
    let mut names = names_in(&table, &prefix());
    // Where there is no such table, the names that are known may do.
    names.extend(processes().into_iter().map(|pid| (pid, socket_name(pid))));
    // This command is none that serves.
    names.retain(|(pid, _)| u32::try_from(*pid) != Ok(std::process::id()));
    names
}

/// The names in /proc/net/unix that begin so: each line ends with one, and an abstract one begins
/// with `@` there. What strangers put into theirs may look like lines.
pub fn names_in(table: &[u8], prefix: &str) -> Vec<(i32, String)> {
    let mut names = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        let name = line.rsplit_once('@').map_or("", |(_, name)| name);
        let Some((text, _)) = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        // As drainit writes it: `01` is nobody's.
        let is_written_so = |pid: &i32| *pid > 0 && pid.to_string() == text;
        if let Some(pid) = text.parse().ok().filter(is_written_so) {
            names.push((pid, name.to_owned()));
        }
    }
    names
}

/// Every process that is called drainit.
fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc")
        .ok()
        .filter(|_| process::is_proc_ours());
    let pids = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "drainit\n")
    })
    .collect()
}
