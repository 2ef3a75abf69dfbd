//! An admin interface that does what a test tells it, and a child to go with it.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::http::{self, Address};
use super::{PATIENCE, TempDir, wait_for};

/// A request the interface got.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// With the query.
    pub target: String,
    pub at: Instant,
}

impl Call {
    /// `POST /healthcheck/fail`, without the query.
    pub fn name(&self) -> String {
        let path = self.target.split('?').next().unwrap();
        format!("{} {path}", self.method)
    }
}

/// How it answers one.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 and this.
    Ok(String),
    Status(u16, String),
    /// 200 and this, but late.
    Late(Duration, String),
    /// Nothing, and the connection stays open.
    Hang,
    /// 200 and this, a byte each time.
    Drip(Duration, String),
    /// A reset.
    Reset,
    /// No HTTP.
    Garbage,
    /// 200 and so many bytes.
    Huge(usize),
    /// 200 and an empty body.
    Empty,
    /// The connection ends unanswered.
    Close,
    /// 200 and the first half of what the length promises.
    Cut(String),
}

type Script = Box<dyn Fn(&Call) -> Answer + Send>;

/// The interface. What it answers can be changed at any time.
pub struct FakeAdmin {
    pub address: Address,
    _dir: TempDir,
    state: Arc<State>,
}

struct State {
    calls: Mutex<Vec<Call>>,
    script: Mutex<Script>,
    stop: AtomicBool,
}

impl FakeAdmin {
    /// On a unix socket.
    pub fn unix(script: impl Fn(&Call) -> Answer + Send + 'static) -> FakeAdmin {
        let dir = TempDir::new();
        let path = dir.join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let accept = move || listener.accept().map(|(stream, _)| Stream::Unix(stream));
        FakeAdmin::serve(Address::Unix(path), dir, accept, Box::new(script))
    }

    /// On a TCP port.
    pub fn tcp(script: impl Fn(&Call) -> Answer + Send + 'static) -> FakeAdmin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let accept = move || listener.accept().map(|(stream, _)| Stream::Tcp(stream));
        FakeAdmin::serve(address, TempDir::new(), accept, Box::new(script))
    }

    fn serve<A>(address: Address, dir: TempDir, accept: A, script: Script) -> FakeAdmin
    where
        A: Fn() -> io::Result<Stream> + Send + 'static,
    {
        let state = Arc::new(State {
            calls: Mutex::default(),
            script: Mutex::new(script),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while !shared.stop.load(Ordering::SeqCst) {
                match accept() {
                    Ok(stream) => {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || shared.converse(stream));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        FakeAdmin {
            address,
            _dir: dir,
            state,
        }
    }

    /// Answers otherwise from now on.
    pub fn script(&self, script: impl Fn(&Call) -> Answer + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Refuses connections from now on; a unix socket's file stays, as Envoy's does.
    pub fn refuse(&self) {
        self.state.stop.store(true, Ordering::SeqCst);
        wait_for("the admin address to refuse", PATIENCE, || {
            match &self.address {
                Address::Tcp(address) => TcpStream::connect(address).is_err(),
                Address::Unix(path) => UnixStream::connect(path).is_err(),
            }
        });
    }

    /// All requests so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// When the requests of this name came.
    pub fn times(&self, name: &str) -> Vec<Instant> {
        let calls = self.calls().into_iter();
        calls
            .filter(|call| call.name() == name)
            .map(|call| call.at)
            .collect()
    }

    /// Waits until a request of this name has come so many times: long, as some may have to time
    /// out and be waited for before.
    #[track_caller]
    pub fn wait_call(&self, name: &str, times: usize) {
        wait_for(&format!("{times} x {name}"), PATIENCE * 3, || {
            self.times(name).len() >= times
        });
    }
}

impl Drop for FakeAdmin {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
    }
}

impl State {
    fn converse(&self, stream: Stream) {
        let _ = stream.blocking();
        let mut reader = BufReader::new(stream);
        while let Ok(Some(head)) = http::read_head(&mut reader) {
            let mut words = head[0].split(' ').map(str::to_owned);
            let call = Call {
                method: words.next().unwrap_or_default(),
                target: words.next().unwrap_or_default(),
                at: Instant::now(),
            };
            self.calls.lock().unwrap().push(call.clone());
            let answer = (self.script.lock().unwrap())(&call);
            let asked_to_close = head.iter().any(|line| line == "connection: close");
            let goes_on = self.answer(reader.get_mut(), answer).unwrap_or(false);
            if !goes_on || asked_to_close {
                return;
            }
        }
    }

    /// Answers; whether the connection goes on.
    fn answer(&self, stream: &mut Stream, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::Ok(body) => stream
                .write_all(response(200, &body).as_bytes())
                .map(|()| true),
            Answer::Empty => stream
                .write_all(response(200, "").as_bytes())
                .map(|()| true),
            Answer::Status(status, body) => stream
                .write_all(response(status, &body).as_bytes())
                .map(|()| true),
            Answer::Late(delay, body) => {
                thread::sleep(delay);
                stream
                    .write_all(response(200, &body).as_bytes())
                    .map(|()| true)
            }
            Answer::Hang => {
                // Until the caller has enough.
                let _ = stream.read(&mut [0]);
                Ok(false)
            }
            Answer::Drip(pause, body) => {
                for byte in response(200, &body).bytes() {
                    if self.stop.load(Ordering::SeqCst) {
                        return Ok(false);
                    }
                    stream.write_all(&[byte])?;
                    thread::sleep(pause);
                }
                Ok(true)
            }
            Answer::Reset => stream.reset().map(|()| false),
            Answer::Garbage => stream
                .write_all(&[0xff, 0, b'\r', b'\n'].repeat(64))
                .map(|()| false),
            Answer::Huge(size) => {
                let line = "listener.127.0.0.1_80.downstream_cx_active: 0\n";
                stream.write_all(response(200, &line.repeat(size / line.len())).as_bytes())?;
                Ok(true)
            }
            Answer::Close => Ok(false),
            Answer::Cut(body) => {
                let whole = response(200, &body);
                stream.write_all(&whole.as_bytes()[..whole.len() - body.len() / 2])?;
                Ok(false)
            }
        }
    }
}

fn response(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} Status\r\nServer: envoy\r\nContent-Length: {length}\r\n\r\n{body}")
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn blocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(false),
            Stream::Unix(stream) => stream.set_nonblocking(false),
        }
    }

    /// A reset over TCP; a unix socket knows an end only.
    fn reset(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                let linger = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(stream, sockopt::Linger, &linger).map_err(Into::into)
            }
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
