//! What is before Envoy: clients of each kind.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PATIENCE;
use super::http::{self, Response};
use super::upstream::{read_frame, write_frame};

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE * 3))?;
    Ok(stream)
}

/// Whether the other side has closed the connection. Data not yet read counts as open.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let closed = match stream.peek(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

/// One HTTP/1.1 connection.
pub struct HttpConnection(BufReader<TcpStream>);

impl HttpConnection {
    pub fn open(address: SocketAddr) -> io::Result<HttpConnection> {
        connect(address).map(|stream| HttpConnection(BufReader::new(stream)))
    }

    /// An idle connection: it has had one answer.
    pub fn idle(address: SocketAddr) -> HttpConnection {
        let mut connection = HttpConnection::open(address).unwrap();
        assert_eq!(connection.get("/fast").unwrap().status, 200);
        connection
    }

    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        write!(
            self.0.get_mut(),
            "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"
        )?;
        http::read_response(&mut self.0)
    }

    pub fn is_closed(&self) -> bool {
        is_closed(self.0.get_ref())
    }
}

/// A request that takes its time, on a thread of its own.
pub struct SlowRequest(JoinHandle<io::Result<Response>>);

impl SlowRequest {
    pub fn start(address: SocketAddr, time: Duration) -> SlowRequest {
        let path = format!("/slow?ms={}", time.as_millis());
        SlowRequest(thread::spawn(move || {
            HttpConnection::open(address)?.get(&path)
        }))
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub fn finish(self) -> io::Result<Response> {
        self.0.join().unwrap()
    }

    /// Its status; fails the test when it was cut.
    #[track_caller]
    pub fn status(self) -> u16 {
        self.finish().expect("the request was cut").status
    }
}

/// A session through the TCP proxy.
pub struct TcpSession(TcpStream);

impl TcpSession {
    /// A session that has carried a byte to the upstream and back.
    pub fn open(address: SocketAddr) -> TcpSession {
        let mut session = TcpSession(connect(address).unwrap());
        session.echo().unwrap();
        session
    }

    pub fn echo(&mut self) -> io::Result<()> {
        self.echo_bytes(b"x")
    }

    /// Sends these, and reads as many.
    pub fn echo_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.read_exact(&mut vec![0; bytes.len()])
    }

    pub fn is_closed(&self) -> bool {
        is_closed(&self.0)
    }

    /// Its own address, by which it is known to others.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A WebSocket session.
pub struct WebSocket(TcpStream);

impl WebSocket {
    pub fn open(address: SocketAddr) -> WebSocket {
        let mut stream = connect(address).unwrap();
        stream
            .write_all(
                b"GET /echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .unwrap();
        // A byte at a time, so as not to read into the first frame.
        let mut head = BufReader::with_capacity(1, stream.try_clone().unwrap());
        let head = http::read_head(&mut head).unwrap().unwrap();
        assert!(head[0].contains("101"), "{head:?}");
        let mut session = WebSocket(stream);
        session.echo().unwrap();
        session
    }

    pub fn echo(&mut self) -> io::Result<()> {
        write_frame(&mut self.0, b"ping", Some([1, 2, 3, 4]))?;
        match read_frame(&mut self.0)? {
            Some(answer) if answer == b"ping" => Ok(()),
            other => Err(io::Error::other(format!("not an echo: {other:?}"))),
        }
    }

    pub fn is_closed(&self) -> bool {
        is_closed(&self.0)
    }
}

/// A tunnel that a CONNECT request has opened to the TCP echo.
pub struct Tunnel(TcpSession);

impl Tunnel {
    pub fn open(address: SocketAddr) -> Tunnel {
        let mut stream = connect(address).unwrap();
        stream
            .write_all(b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n")
            .unwrap();
        let mut head = BufReader::with_capacity(1, stream.try_clone().unwrap());
        let head = http::read_head(&mut head).unwrap().unwrap();
        assert!(head[0].contains("200"), "{head:?}");
        let mut session = TcpSession(stream);
        session.echo().unwrap();
        Tunnel(session)
    }

    pub fn echo(&mut self) -> io::Result<()> {
        self.0.echo()
    }
}

/// A session through the UDP proxy.
pub struct UdpSession(UdpSocket);

impl UdpSession {
    pub fn open(address: SocketAddr) -> UdpSession {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = UdpSession(socket);
        session.echo().unwrap();
        session
    }

    pub fn echo(&self) -> io::Result<()> {
        self.0.send(b"x")?;
        self.0.recv(&mut [0]).map(drop)
    }
}
