//! As much HTTP/1.1 as the tests need.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The head's lines, in lower case.
    pub head: Vec<String>,
    pub body: String,
}

impl Response {
    /// Whether the server closes the connection after it.
    pub fn closes(&self) -> bool {
        self.head.iter().any(|line| line == "connection: close")
    }
}

/// Reads a request's or an answer's head: its lines, in lower case but for the first. `None` at a
/// clean end.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return match lines.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(lines));
        }
        lines.push(match lines.is_empty() {
            true => line.to_owned(),
            false => line.to_ascii_lowercase(),
        });
    }
}

pub fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    head.iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one answer.
pub fn read_response(reader: &mut impl BufRead) -> io::Result<Response> {
    let head = read_head(reader)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed unanswered"))?;
    let status = head[0]
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid("no status"))?;
    let mut body = Vec::new();
    if header(&head, "transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| invalid("chunk"))?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            reader.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header(&head, "content-length") {
        body.resize(length.parse().map_err(|_| invalid("length"))?, 0);
        reader.read_exact(&mut body)?;
    } else if status >= 200 {
        reader.read_to_end(&mut body)?;
    }
    Ok(Response {
        status,
        head,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// As `--admin-address` and `--listen` spell it, without `unix:`.
    pub fn text(&self) -> String {
        match self {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, patience: Duration) -> io::Result<Response> {
        match self {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, patience)?;
                stream.set_read_timeout(Some(patience))?;
                exchange(stream, method, path)
            }
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(patience))?;
                exchange(stream, method, path)
            }
        }
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<Response> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    read_response(&mut BufReader::new(stream))
}
