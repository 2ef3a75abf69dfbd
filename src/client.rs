//! A small HTTP client over TCP and unix sockets: every wait has a limit, and so has every answer.

mod transport;

use std::fmt;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ureq::http;
use ureq::{Agent, Proxy, Timeout};

use transport::{Connected, Nowhere, Stream, in_time};

pub use transport::SLICE;

use crate::process::ProcessPlace;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`; the host may be an IPv4 or a bracketed IPv6 address.
    Tcp(String),
    /// A unix socket's path.
    Unix(PathBuf),
    /// A name in Linux' abstract namespace of unix sockets, written `@name`.
    Abstract(String),
}

/// The longest path of a unix socket, in bytes (unix(7)).
pub const UNIX_MAX: usize = 107;

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = |right: &str| Err(format!("`{text}` is no address: write {right}"));
        if text.len() > UNIX_MAX && !text.contains("://") {
            return Err(format!("a socket's path has at most {UNIX_MAX} bytes"));
        }
        if let Some(name) = text.strip_prefix('@').filter(|name| !name.is_empty()) {
            return Ok(Address::Abstract(name.into()));
        }
        if let Some(name) = text.strip_prefix("unix:@").filter(|name| !name.is_empty()) {
            return wrong(&format!("@{name}"));
        }
        let path = text.strip_prefix("unix:").filter(|path| !path.is_empty());
        if let Some(path) = path.or_else(|| text.starts_with(['/', '.']).then_some(text)) {
            return Ok(Address::Unix(path.into()));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            return match authority.parse() {
                Ok(Address::Tcp(right)) => wrong(&format!("{right}, without scheme and path")),
                _ => wrong(EXAMPLES),
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return match text.parse::<u16>() {
                Ok(port) => wrong(&format!("host:port, 127.0.0.1:{port}")),
                Err(_) => wrong(EXAMPLES),
            };
        };
        if port.parse::<u16>().is_err() {
            return wrong(EXAMPLES);
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return wrong(&format!(
                "host:port, an IPv6 address in brackets: [{host}]:{port}"
            ));
        }
        let named = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%')
        };
        if host.is_empty() || !host.chars().all(named) {
            return wrong(EXAMPLES);
        }
        Ok(Address::Tcp(text.into()))
    }
}

const EXAMPLES: &str = "host:port (127.0.0.1:9901) or a unix socket's path (/run/admin.sock)";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST, with an empty body
    Post,
}

/// Limits on one exchange.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeLimits {
    /// The time for all of the exchange, from the connect to the body's last byte.
    pub time: Duration,
    /// The most bytes of the answer's body.
    pub body: u64,
}

/// Who may answer at an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// Whoever listens there.
    #[default]
    Anyone,
    /// At a unix socket, a process that descends from this one. Its path may have been taken over
    /// by a stranger; a TCP port cannot be, while its owner lives.
    Descendant,
    /// At a unix socket, a drainit that we believe ([`Credentials::believe`]): the one with this
    /// pid in our pid namespace, or whichever listens there.
    ///
    /// [`Credentials::believe`]: crate::process::Credentials::believe
    Drainit(Option<i32>),
}

/// A connection is made anew for each exchange, and has this long to come about.
const CONNECT: Duration = Duration::from_secs(1);

/// An answer, but for its body.
#[derive(Debug)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The value of `drain-result`, with which drainit answers `/shutdown`.
    pub drain_result: Option<String>,
    /// The value of `drain-clean`, beside that; none of a drainit that is older than this.
    pub drain_clean: Option<bool>,
    /// Whether Envoy says that it is Envoy that answers.
    pub is_envoy: bool,
}

/// Asks the server at `address`, hands the answer's body to `sink` piece by piece, and returns
/// the answer's head.
///
/// # Errors
/// One line: no connection, a limit passed, no HTTP, a body that is cut or too long. Then what
/// `sink` was given is worth nothing.
pub fn exchange(
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
    sink: impl FnMut(&[u8]),
) -> Result<Head, String> {
    exchange_with(Peer::Anyone, address, method, path, limits, sink)
}

/// Does what [`exchange`] does, with this peer and nobody else.
///
/// # Errors
/// As [`exchange`], and when somebody else listens.
pub fn exchange_with(
    peer: Peer,
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
    sink: impl FnMut(&[u8]),
) -> Result<Head, String> {
    exchange_while(peer, address, method, path, limits, None, sink)
}

/// Whether to go on waiting for an answer, of which nothing has come for so long. Asked every
/// [`SLICE`].
pub type GoesOn<'a> = Option<&'a mut dyn FnMut(Duration) -> bool>;

/// Does what [`exchange_with`] does, for as long as `goes_on` says, where it is given.
///
/// # Errors
/// As [`exchange_with`], and when `goes_on` says no.
pub fn exchange_while(
    peer: Peer,
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
    goes_on: GoesOn<'_>,
    mut sink: impl FnMut(&[u8]),
) -> Result<Head, String> {
    let start = Instant::now();
    let left = || limits.time.saturating_sub(start.elapsed());
    let stream = transport::connect(address, peer, CONNECT.min(limits.time))
        .and_then(|mut stream| {
            stream.send(&request(method, path), left())?;
            stream.wait(left(), goes_on)?;
            Ok(stream)
        })
        .map_err(|error| explain(address, in_time(error, Timeout::Global)))?;
    let limits = ExchangeLimits {
        // None at all is no limit to a socket.
        time: left().max(Duration::from_millis(1)),
        ..limits
    };
    let agent = agent(limits, Connected::new(stream));
    ask(&agent, method, path, limits, &mut sink).map_err(|error| explain(address, error))
}

/// A request without a body. It is sent before the answer is waited for, which ureq then reads.
fn request(method: Method, path: &str) -> String {
    let (name, length) = match method {
        Method::Get => ("GET", ""),
        Method::Post => ("POST", "content-length: 0\r\n"),
    };
    format!(
        "{name} {path} HTTP/1.1\r\nhost: drainit\r\nuser-agent: drainit\r\n{length}\
         connection: close\r\n\r\n"
    )
}

/// Reads an answer from a connection that is there, whoever is at its other end. No request is sent.
///
/// # Errors
/// As [`exchange`], where that goes over this connection.
pub fn read_answer(
    stream: UnixStream,
    path: &str,
    limits: ExchangeLimits,
) -> Result<(Head, Vec<u8>), String> {
    let mut body = Vec::new();
    let agent = agent(limits, Connected::new(Stream::Unix(stream)));
    let head = ask(&agent, Method::Get, path, limits, &mut |piece| {
        body.extend_from_slice(piece);
    });
    Ok((head.map_err(|error| error.to_string())?, body))
}

fn agent(limits: ExchangeLimits, connector: Connected) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None::<Proxy>)
        .max_idle_connections(0)
        .input_buffer_size(16 * 1024)
        .output_buffer_size(4 * 1024)
        .timeout_global(Some(limits.time))
        .build();
    Agent::with_parts(config, connector, Nowhere)
}

fn ask(
    agent: &Agent,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Head, ureq::Error> {
    let method = match method {
        Method::Get => http::Method::GET,
        Method::Post => http::Method::POST,
    };
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://drainit{path}"))
        .body(())
        .map_err(ureq::Error::Http)?;
    let response = agent.run(request)?;
    let header = |name| response.headers().get(name).and_then(|it| it.to_str().ok());
    let head = Head {
        status: response.status().as_u16(),
        is_envoy: header("server") == Some("envoy"),
        drain_result: header("drain-result").map(str::to_owned),
        drain_clean: header("drain-clean").map(|clean| clean == "true"),
    };
    let mut body = response
        .into_body()
        .into_with_config()
        .limit(limits.body)
        .reader();
    let mut piece = [0; 4096];
    loop {
        match body.read(&mut piece) {
            Ok(0) => return Ok(head),
            Ok(length) => sink(piece.get(..length).unwrap_or_default()),
            Err(error) => return Err(ureq::Error::from(error)),
        }
    }
}

/// Does what [`exchange`] does, and returns the body as text.
///
/// # Errors
/// As [`exchange`].
pub fn fetch(
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
) -> Result<(u16, String), String> {
    fetch_from(Peer::Anyone, address, method, path, limits)
}

/// Does what [`fetch`] does, with this peer and nobody else.
///
/// # Errors
/// As [`exchange`], and when somebody else listens.
pub fn fetch_from(
    peer: Peer,
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
) -> Result<(u16, String), String> {
    fetch_while(peer, address, method, path, limits, None)
}

/// Does what [`fetch_from`] does, for as long as `goes_on` says, where it is given.
///
/// # Errors
/// As [`exchange_with`], and when `goes_on` says no.
pub fn fetch_while(
    peer: Peer,
    address: &Address,
    method: Method,
    path: &str,
    limits: ExchangeLimits,
    goes_on: GoesOn<'_>,
) -> Result<(u16, String), String> {
    let mut body = Vec::new();
    let sink = |piece: &[u8]| body.extend_from_slice(piece);
    let head = exchange_while(peer, address, method, path, limits, goes_on, sink)?;
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}

/// Connects, and sends nothing: where the process is that listens, if `peer` may.
///
/// # Errors
/// When nobody listens there; of kind `Other`, and in one line, when somebody else does.
pub fn meet(address: &Address, peer: Peer) -> io::Result<ProcessPlace> {
    transport::meet(address, peer)
}

fn explain(address: &Address, error: ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => format!("{address}: {error}"),
        ureq::Error::Timeout(_) => format!("{address}: no answer in time"),
        ureq::Error::BodyExceedsLimit(limit) => {
            format!("{address}: the answer is longer than {limit} bytes")
        }
        error => format!("{address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let tcp = |text: &str| Ok(Address::Tcp(text.into()));
        assert_eq!("127.0.0.1:9901".parse(), tcp("127.0.0.1:9901"));
        assert_eq!("[::1]:9901".parse(), tcp("[::1]:9901"));
        assert_eq!("localhost:80".parse(), tcp("localhost:80"));
        assert_eq!(
            "/admin/admin.sock".parse(),
            Ok(Address::Unix("/admin/admin.sock".into()))
        );
        assert_eq!("unix:a.sock".parse(), Ok(Address::Unix("a.sock".into())));
        assert_eq!("@name".parse(), Ok(Address::Abstract("name".into())));
        for text in [
            "",
            "@",
            "unix:",
            "9901",
            ":9901",
            "localhost",
            "localhost:http",
            "localhost:99999",
            "a b:1",
            "user@host:1",
        ] {
            assert!(
                text.parse::<Address>().unwrap_err().contains("host:port"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_nearly_an_address_is_told_as_it_should_be() {
        for (text, right) in [
            ("http://127.0.0.1:9901", "write 127.0.0.1:9901,"),
            ("http://[::1]:9901/ready", "write [::1]:9901,"),
            ("unix:@x", "write @x"),
            ("9901", "127.0.0.1:9901"),
            ("::1:9901", "[::1]:9901"),
        ] {
            let why = text.parse::<Address>().unwrap_err();
            assert!(why.contains(right), "{text}: {why}");
        }
        let long = format!("/{}", "x".repeat(UNIX_MAX));
        assert!(long.parse::<Address>().unwrap_err().contains("107 bytes"));
    }
}
