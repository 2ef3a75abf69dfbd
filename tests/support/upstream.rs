//! What is behind Envoy: an HTTP server, a TCP echo, a UDP echo.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::http;
use super::{PATIENCE, wait_for};

/// Serves `/slow?ms=N`, `/bytes?n=N`, a WebSocket echo, and `ok` on every other path. Its threads live as long
/// as the test program: they hold nothing but a port.
pub struct Upstream {
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
    in_flight: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start() -> Upstream {
        let in_flight = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&in_flight);
        Upstream {
            http: serve(move |stream| serve_http(stream, &counter)),
            tcp: serve(|mut stream| io::copy(&mut stream.try_clone()?, &mut stream).map(drop)),
            udp: serve_udp(),
            in_flight,
        }
    }

    /// Waits until this many slow requests have arrived and not been answered.
    #[track_caller]
    pub fn wait_in_flight(&self, count: usize) {
        wait_for(&format!("{count} requests in flight"), PATIENCE, || {
            self.in_flight.load(Ordering::SeqCst) == count
        });
    }
}

/// A thread for each connection.
fn serve<F>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let _ = handle(stream);
            });
        }
    });
    address
}

fn serve_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], peer);
        }
    });
    address
}

fn serve_http(mut stream: TcpStream, in_flight: &AtomicUsize) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = http::read_head(&mut reader)? {
        if http::header(&head, "upgrade").is_some() {
            // The key's answer is wrong; Envoy passes it on, and our client does not look.
            stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: none\r\n\r\n",
            )?;
            while let Some(message) = read_frame(&mut reader)? {
                write_frame(&mut stream, &message, None)?;
            }
            return Ok(());
        }
        let length = http::header(&head, "content-length").and_then(|n| n.parse().ok());
        reader.consume_exactly(length.unwrap_or(0))?;
        let path = head[0].split(' ').nth(1).unwrap_or("/");
        if let Some(delay) = path.strip_prefix("/slow?ms=") {
            in_flight.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(delay.parse().unwrap()));
            in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(length) = path.strip_prefix("/bytes?n=") {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(&vec![b'x'; length.parse().unwrap()])?;
            continue;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
    Ok(())
}

trait ConsumeExactly: BufRead {
    fn consume_exactly(&mut self, length: u64) -> io::Result<()> {
        io::copy(&mut self.take(length), &mut io::sink()).map(drop)
    }
}

impl<R: BufRead> ConsumeExactly for R {}

/// Reads a short WebSocket frame; `None` when it closes the session or the stream ends.
pub fn read_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 2];
    match reader.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        reader.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    assert!(payload.len() < 126, "the tests send short messages only");
    reader.read_exact(&mut payload)?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok((head[0] & 0x0f != 8).then_some(payload))
}

/// Writes a short WebSocket text frame; a client's is masked.
pub fn write_frame(
    writer: &mut impl Write,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0x81, length | if mask.is_some() { 0x80 } else { 0 }];
    frame.extend(mask.iter().flatten());
    let key = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    writer.write_all(&frame)
}
