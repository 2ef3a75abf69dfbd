//! Addresses to listen on, and the sockets bound to them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr as NixUnixAddr, connect,
    listen, setsockopt, socket, sockopt,
};

use crate::cidr::Cidr;
use crate::client::UNIX_MAX;
use crate::process::Credentials;

/// The time between two tries to bind an address that is taken.
const RETRY: Duration = Duration::from_secs(1);

/// The port of [`Listen::Default`].
const PORT: u16 = 8090;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `[::]:8090` for IPv6 and IPv4, or `0.0.0.0:8090` where there is no IPv6.
    Default,
    /// An address and a port; `[::]` is for IPv4 too.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
    /// A unix socket's name in the abstract namespace, without the leading NUL.
    Abstract(String),
    /// Nowhere.
    Off,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "off" {
            return Ok(Listen::Off);
        }
        let wrong = |right: &str| Err(format!("'{text}' is no address here: write {right}"));
        if let Some((_, rest)) = text
            .split_once("://")
            .filter(|(scheme, _)| *scheme != "unix")
        {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return match authority.parse::<Listen>() {
                Ok(right) => wrong(&format!("{right}, without scheme and path")),
                Err(_) => wrong("[::]:8090, 0.0.0.0:8090 or unix:PATH"),
            };
        }
        if text.len() > 1 && text.starts_with(['/', '@']) {
            return wrong(&format!("unix:{text}"));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return wrong(&format!(":{text}"));
        }
        let found = match text.strip_prefix("unix:") {
            Some(path) if path.len() > UNIX_MAX => {
                return Err(format!("a socket's path has at most {UNIX_MAX} bytes"));
            }
            Some(path) => match path.strip_prefix('@') {
                Some(name) if !name.is_empty() => Some(Listen::Abstract(name.to_owned())),
                None if !path.is_empty() => Some(Listen::Unix(path.into())),
                _ => None,
            },
            // As Go has it: every address.
            None if text.starts_with(':') => format!("[::]{text}").parse().ok().map(Listen::Tcp),
            None => {
                let text = text.replacen("localhost:", "127.0.0.1:", 1);
                text.parse().ok().map(Listen::Tcp)
            }
        };
        found.ok_or_else(|| {
            format!("'{text}' is none of [::]:8090, 0.0.0.0:8090, unix:PATH, unix:@NAME and off")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Default => write!(f, "[::]:{PORT}"),
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Abstract(name) => write!(f, "unix:@{name}"),
            Listen::Off => f.write_str("off"),
        }
    }
}

/// A socket that listens. Closed when dropped, and a unix socket's file removed: should it be left
/// behind, because its process was killed, the next that binds it replaces it.
#[derive(Debug)]
pub struct BoundSocket {
    socket: ListeningSocket,
    address: Listen,
    /// Device and inode of a unix socket's file.
    file: Option<(u64, u64)>,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The addresses that are wanted, and the sockets of those that could be had.
///
/// A port that is taken must not keep Envoy from its traffic: it is tried again, once a second.
#[derive(Debug, Default)]
pub struct BoundSockets {
    pub(super) bound: Vec<BoundSocket>,
    /// The first that was wanted: of the others the log tells only what is wrong.
    public: Option<Listen>,
    missing: Vec<Listen>,
    retry_at: Option<Instant>,
}

impl BoundSockets {
    /// Binds `wanted`, the public one first, and remembers what could not be had; the log tells of
    /// it.
    pub fn new(wanted: impl IntoIterator<Item = Listen>) -> BoundSockets {
        let missing: Vec<Listen> = wanted.into_iter().collect();
        let mut listeners = BoundSockets {
            public: missing.first().cloned(),
            missing,
            ..BoundSockets::default()
        };
        listeners.bind_missing(Instant::now(), true);
        listeners
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> impl Iterator<Item = &Listen> {
        self.bound.iter().map(BoundSocket::address)
    }

    /// When to try again, if anything is missing.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries again, if it is time.
    pub(super) fn retry(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.bind_missing(now, false);
        }
    }

    fn bind_missing(&mut self, now: Instant, first: bool) {
        let BoundSockets {
            bound,
            public,
            missing,
            ..
        } = self;
        missing.retain(|address| match bind(address) {
            Ok(listener) => {
                if let Some(listener) = &listener {
                    let level = match public.as_ref() == Some(address) {
                        true => log::Level::Info,
                        false => log::Level::Debug,
                    };
                    log::log!(
                        level,
                        "health, status and metrics are served on {}",
                        listener.address()
                    );
                }
                bound.extend(listener);
                false
            }
            Err(error) => {
                if first {
                    log::warn!(
                        "health, status and metrics are not served on {address} for now: {error}"
                    );
                }
                true
            }
        });
        self.retry_at = (!missing.is_empty()).then(|| now + RETRY);
    }
}

/// Binds `address` and listens on it; `None` for [`Listen::Off`].
///
/// # Errors
/// What binding failed of: for a unix socket, `AddrInUse` when somebody answers on it, or when
/// the path is no socket.
pub fn bind(address: &Listen) -> io::Result<Option<BoundSocket>> {
    let unspecified = |ip: IpAddr| SocketAddr::new(ip, PORT);
    let socket = match address {
        Listen::Default => match bind_tcp(unspecified(Ipv6Addr::UNSPECIFIED.into())) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind_tcp(unspecified(Ipv4Addr::UNSPECIFIED.into()))?
            }
            bound => bound?,
        },
        Listen::Tcp(address) => bind_tcp(*address)?,
        Listen::Unix(path) => bind_unix(path)?,
        Listen::Abstract(name) => {
            let address = UnixAddr::from_abstract_name(name)?;
            ListeningSocket::Unix(UnixListener::bind_addr(&address)?)
        }
        Listen::Off => return Ok(None),
    };
    let file = match address {
        Listen::Unix(path) => identity(path),
        _ => None,
    };
    let address = match &socket {
        ListeningSocket::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            Listen::Tcp(socket.local_addr()?)
        }
        ListeningSocket::Unix(socket) => {
            socket.set_nonblocking(true)?;
            address.clone()
        }
    };
    Ok(Some(BoundSocket {
        socket,
        address,
        file,
    }))
}

/// What tells the file at this path from another that takes its place.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Another's is left alone. The inode is not used again while the socket is open.
        if let Listen::Unix(path) = &self.address
            && self.file == identity(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<ListeningSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // As many as the system lets wait: a probe must not be refused because strangers come.
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(ListeningSocket::Tcp(TcpListener::from(socket)))
}

fn bind_unix(path: &Path) -> io::Result<ListeningSocket> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path).map(ListeningSocket::Unix)
        }
        bound => bound.map(ListeningSocket::Unix),
    }
}

/// Whether `path` is a socket that nobody listens on. Never blocks: a listener whose queue is
/// full is somebody, too.
fn is_stale(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (Ok(address), Ok(socket)) = (
        NixUnixAddr::new(path),
        socket(AddressFamily::Unix, SockType::Stream, flags, None),
    ) else {
        return false;
    };
    is_socket && connect(socket.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED)
}

impl BoundSocket {
    /// Where the socket listens; the port is the one that it got.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// The next connection, non-blocking.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, Caller)> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((stream.into(), Caller::Ip(address.ip().to_canonical())))
            }
            ListeningSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                let caller = Caller::Unix(match Credentials::of(&stream) {
                    Ok(peer) => peer.authorize(),
                    Err(_) => Err("a process that the kernel does not name".to_owned()),
                });
                Ok((stream.into(), caller))
            }
        }
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.as_fd(),
            ListeningSocket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// An address of IPv4 or IPv6; an IPv4-mapped one is IPv4.
    Ip(IpAddr),
    /// A process of this machine: who it is, an error where it may not
    /// [give orders](Credentials::authorize). That was looked at when it came: once it has ended, its
    /// pid may be another's, in whose name a child of it could go on.
    Unix(Result<String, String>),
}

impl Caller {
    /// Who it is, if it may ask for `/shutdown`: an address out of `networks`, or a process that may
    /// give orders.
    ///
    /// # Errors
    /// Who it is, if it may not.
    pub(super) fn authorize(&self, networks: &[Cidr]) -> Result<String, String> {
        match self {
            Caller::Ip(ip) if networks.iter().any(|network| network.contains(*ip)) => {
                Ok(ip.to_string())
            }
            Caller::Ip(ip) => Err(ip.to_string()),
            Caller::Unix(who) => who.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    use crate::testing::TempDir;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "[::]:8090",
            "0.0.0.0:80",
            "unix:/run/a b",
            "unix:@drainit",
            "off",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!(Listen::Default.to_string(), "[::]:8090");
        for text in [
            "",
            "8090",
            ":",
            "::1",
            "unix:",
            "unix:@",
            "example.org:1",
            "localhost:",
            "OFF",
            "http://example.org/",
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn what_is_nearly_an_address_is_told_as_it_should_be() {
        for (text, right) in [
            ("http://127.0.0.1:8090/ready", "write 127.0.0.1:8090,"),
            ("8090", "write :8090"),
            ("/run/a.sock", "write unix:/run/a.sock"),
            ("@a", "write unix:@a"),
        ] {
            let why = text.parse::<Listen>().unwrap_err();
            assert!(why.contains(right), "{text}: {why}");
        }
    }

    #[test]
    fn a_dual_stack_socket_takes_ipv4_and_shows_it_as_such() {
        let listener = bind(&"[::]:0".parse().unwrap()).unwrap().unwrap();
        let Listen::Tcp(address) = listener.address() else {
            panic!("{listener:?}")
        };
        let _client = std::net::TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, Caller::Ip(Ipv4Addr::LOCALHOST.into()));
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let dir = TempDir::new();
        let path = dir.join("stale");
        let address = Listen::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let live = bind(&address).unwrap().unwrap();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(live);
        assert!(!path.exists(), "the socket's file goes with it");

        std::fs::write(&path, "precious").unwrap();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_has_taken_the_sockets_place_is_left_alone() {
        let dir = TempDir::new();
        let path = dir.join("moved");
        let listener = bind(&Listen::Unix(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        let another = UnixListener::bind(&path).unwrap();
        drop(listener);
        UnixStream::connect(&path).unwrap();
        drop(another);
    }

    #[test]
    fn an_abstract_socket_is_free_again_once_closed() {
        let name = format!("drainit-test-{}", std::process::id());
        let address = Listen::Abstract(name);
        let first = bind(&address).unwrap().unwrap();
        assert!(bind(&address).is_err());
        drop(first);
        bind(&address).unwrap();
    }

    #[test]
    fn off_listens_nowhere() {
        assert!(bind(&Listen::Off).unwrap().is_none());
    }

    #[test]
    fn a_process_of_our_own_user_may_shut_down_and_an_address_outside_may_not() {
        let name = format!("drainit-caller-{}", std::process::id());
        let listener = bind(&Listen::Abstract(name.clone())).unwrap().unwrap();
        let address = UnixAddr::from_abstract_name(name).unwrap();
        let _client = UnixStream::connect_addr(&address).unwrap();
        let (_, caller) = listener.accept().unwrap();
        assert!(matches!(caller, Caller::Unix(Ok(_))), "{caller:?}");
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let peer = |text: &str| Caller::Ip(text.parse().unwrap());
        let name = |text: &str| peer(text).authorize(&networks);
        assert_eq!(name("10.1.2.3"), Ok("10.1.2.3".into()));
        assert_eq!(name("192.0.2.1"), Err("192.0.2.1".into()));
    }
}
