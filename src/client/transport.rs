//! ureq's connector and transport over the two kinds of socket. ureq has none for unix sockets.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, socket, sockopt,
};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use super::{Address, GoesOn, Peer};
use crate::process::{self, Credentials, ProcessPlace};

/// A resolver that is never used for anything: the connector knows the address.
#[derive(Debug)]
pub struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(addresses)
    }
}

/// Has a connection already, for one request.
#[derive(Debug)]
pub struct Connected(Mutex<Option<Stream>>);

impl Connected {
    /// A connection over this stream.
    pub fn new(stream: Stream) -> Connected {
        Connected(Mutex::new(Some(stream)))
    }
}

impl Connector for Connected {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, Error> {
        let stream = self.0.lock().ok().and_then(|mut stream| stream.take());
        let stream = stream.ok_or(Error::ConnectionFailed)?;
        Ok(Some(Socket::new(stream, details.config)))
    }
}

/// Connects to this address and to this peer there.
pub fn connect(address: &Address, peer: Peer, limit: Duration) -> io::Result<Stream> {
    connect_to(address, peer, limit).map(|(stream, _)| stream)
}

/// Connects, and tells where the process is that listens: see [`super::meet`].
pub fn meet(address: &Address, peer: Peer) -> io::Result<ProcessPlace> {
    let (_, place) = connect_to(address, peer, super::CONNECT)?;
    Ok(place.unwrap_or(ProcessPlace::Untold))
}

/// Connects; and tells where the process is that listens, where that was asked.
fn connect_to(
    address: &Address,
    peer: Peer,
    limit: Duration,
) -> io::Result<(Stream, Option<ProcessPlace>)> {
    let stream = match address {
        Address::Tcp(address) => return Ok((Stream::Tcp(connect_tcp(address, limit)?), None)),
        Address::Unix(path) => connect_unix(&UnixAddr::new(path.as_path())?)?,
        Address::Abstract(name) => connect_unix(&UnixAddr::new_abstract(name.as_bytes())?)?,
    };
    let place = match peer {
        Peer::Anyone => None,
        Peer::Descendant => {
            let owner = getsockopt(&stream, sockopt::PeerCredentials)?;
            // Without a /proc of ours nobody can tell, but whether it is in our pid namespace.
            let is_ours = match process::is_proc_ours() {
                true => process::descends_from_us(owner.pid()),
                false => owner.pid() > 0,
            };
            if !is_ours {
                let why = format!("answers for process {}, which is not ours", owner.pid());
                return Err(io::Error::other(why));
            }
            None
        }
        Peer::Drainit(pid) => {
            let place = Credentials::of(&stream)?.believe(pid);
            Some(place.map_err(io::Error::other)?)
        }
    };
    Ok((Stream::Unix(stream), place))
}

fn connect_tcp(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A blocking connect to a unix socket waits for ever while the listener's backlog is full; a
/// non-blocking one fails with EAGAIN.
fn connect_unix(address: &UnixAddr) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(fd.as_raw_fd(), address)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Between two questions whether to go on waiting.
pub const SLICE: Duration = Duration::from_millis(50);

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream
                .set_read_timeout(limit)
                .and(stream.set_write_timeout(limit)),
            Stream::Unix(stream) => stream
                .set_read_timeout(limit)
                .and(stream.set_write_timeout(limit)),
        }
    }

    /// Sends all of it.
    pub fn send(&mut self, text: &str, limit: Duration) -> io::Result<()> {
        self.set_timeouts(Some(limit).filter(|limit| !limit.is_zero()))?;
        match self {
            Stream::Tcp(stream) => stream.write_all(text.as_bytes()),
            Stream::Unix(stream) => stream.write_all(text.as_bytes()),
        }
    }

    /// Waits until there is something to read, while `goes_on` says so after each [`SLICE`].
    pub fn wait(&self, limit: Duration, mut goes_on: GoesOn<'_>) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let waited = start.elapsed();
            let left = limit.saturating_sub(waited);
            let slice = goes_on.as_ref().map_or(left, |_| left.min(SLICE));
            let stays = goes_on.as_mut().is_none_or(|goes_on| goes_on(waited));
            if slice.is_zero() || !stays {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Rounded up: it would spin.
            let slice = PollTimeout::try_from(slice + Duration::from_millis(1));
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, slice.unwrap_or(PollTimeout::MAX)).is_ok_and(|ready| ready > 0) {
                return Ok(());
            }
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }
}

/// A connected socket.
pub struct Socket {
    stream: Stream,
    buffers: LazyBuffers,
}

impl Socket {
    fn new(stream: Stream, config: &Config) -> Socket {
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Socket { stream, buffers }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        // The request has been sent.
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream
            .set_timeouts(timeout.not_zero().map(|left| *left))?;
        loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(in_time(error, timeout.reason)),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // No connection is used twice.
        false
    }
}

/// A socket's own timeout says `WouldBlock`.
pub fn in_time(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(reason),
        _ => Error::Io(error),
    }
}
