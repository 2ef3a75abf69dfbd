//! What the kernel's tables have of a socket, however they were read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Activity, ConnectionState, Local};
use crate::client::Address;

/// A TCP or UDP socket in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetRow {
    /// What the socket is.
    pub kind: SocketKind,
    /// Whether it is an IPv6 socket, which may have an IPv4 address.
    pub v6: bool,
    /// The socket's own end, canonical.
    pub local: SocketAddr,
    /// The other end, canonical.
    pub peer: SocketAddr,
    /// 0 where no process has a descriptor of it: not yet, or no more.
    pub inode: u64,
    /// Bytes unread; of a listener, how many wait to be accepted.
    pub unread: u32,
    /// Bytes unacknowledged.
    pub unacknowledged: u32,
    /// What went over it, where the table tells.
    pub activity: Option<Activity>,
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A listener's, or of UDP one that is not connected.
    Listening,
    /// A connection's.
    Open(ConnectionState),
}

/// A unix stream socket in the kernel's table that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixRow {
    /// A listener's, or else a connection's.
    pub listening: bool,
    /// 0 while it is not accepted.
    pub inode: u64,
    /// How many wait to be accepted, where the table tells that of a listener.
    pub waiting: u32,
    /// The socket's path, or `@` and its name in the abstract namespace.
    pub name: String,
}

/// The rows of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// TCP sockets: listeners and connections.
    pub tcp: Vec<InetRow>,
    /// UDP sockets that are not connected.
    pub udp: Vec<InetRow>,
    /// Unix sockets: listeners and connections.
    pub unix: Vec<UnixRow>,
}

/// Where Envoy's admin interface is, whose connections do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// At this address.
    At(Local),
    /// On a host whose name is not resolved here: at any address with this port.
    Port(u16),
    /// A unix socket at this path, which Envoy may have bound by the other one, relative to its
    /// directory.
    Path(PathBuf, Option<PathBuf>),
}

impl AdminSocket {
    /// The admin interface at this address, of an Envoy that works in this `directory`; none where
    /// the address is no text.
    pub fn new(address: &Address, directory: Option<&Path>) -> Option<AdminSocket> {
        Some(match address {
            Address::Tcp(text) => match text.parse() {
                Ok(address) => AdminSocket::At(Local::Ip(canonical(address))),
                Err(_) => AdminSocket::Port(text.rsplit_once(':')?.1.parse().ok()?),
            },
            Address::Unix(path) => {
                let relative = directory.and_then(|directory| path.strip_prefix(directory).ok());
                AdminSocket::Path(path.clone(), relative.map(Path::to_owned))
            }
            Address::Abstract(name) => AdminSocket::At(Local::Unix(format!("@{name}"))),
        })
    }

    /// Whether a socket with this local address is the admin's.
    pub fn has_ip(&self, local: SocketAddr) -> bool {
        match self {
            AdminSocket::At(Local::Ip(admin)) => {
                *admin == local || admin.port() == local.port() && admin.ip().is_unspecified()
            }
            AdminSocket::At(Local::Unix(_)) | AdminSocket::Path(..) => false,
            AdminSocket::Port(port) => *port == local.port(),
        }
    }

    /// Whether a unix socket of this name is the admin's: the kernel has it as it was bound.
    pub fn has_unix(&self, name: &str) -> bool {
        match self {
            AdminSocket::At(Local::Unix(admin)) => admin == name,
            AdminSocket::At(Local::Ip(_)) | AdminSocket::Port(_) => false,
            AdminSocket::Path(path, relative) => {
                let bound = Path::new(name.strip_prefix("./").unwrap_or(name));
                bound == path || relative.as_deref() == Some(bound)
            }
        }
    }
}

/// An IPv4 address that is mapped into IPv6 as the IPv4 address that it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}
