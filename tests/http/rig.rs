//! A server on sockets of its own, the supervisor's side of it, and clients.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use drainit::drain::{Loss, Outcome, Readiness};
use drainit::http::{self, BoundSockets, Listen, Wish};
use drainit::mailbox::{Inbox, Mailbox, Waker, Wakeups};
use drainit::status::{DrainEnd, DrainStatus, EnvoyStatus, SharedSnapshot, Snapshot, State};

/// Nothing here may take longer than this.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server under test. Dropping it lets Envoy be gone and expects the server to end in time.
pub struct Rig {
    pub address: SocketAddr,
    pub control: String,
    pub board: SharedSnapshot,
    pub wishes: Inbox<Wish>,
    pub mailbox: Mailbox<Wish>,
    listeners: Arc<Mutex<BoundSockets>>,
    wakeups: Arc<Wakeups>,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Rig {
    /// A server with a live Envoy, which lets `networks` shut down.
    pub fn start(networks: &[&str]) -> Rig {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let control = format!("drainit-http-{}-{count}", std::process::id());
        let public = "127.0.0.1:0".parse().unwrap();
        let listeners = BoundSockets::new([public, Listen::Abstract(control.clone())]);
        let Some(Listen::Tcp(address)) = listeners.addresses().next().cloned() else {
            panic!("{listeners:?}")
        };
        let (reader, wakeups) = Waker::new().unwrap();
        let (mailbox, wishes) = Mailbox::new(None);
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        snapshot.state = State::Live;
        snapshot.envoy = Some(EnvoyStatus {
            pid: 2,
            version: None,
            started: now,
        });
        let mut rig = Rig {
            address,
            control,
            board: SharedSnapshot::new(snapshot, reader),
            wishes,
            mailbox,
            listeners: Arc::new(Mutex::new(listeners)),
            wakeups: Arc::new(wakeups),
            server: None,
        };
        rig.serve(networks);
        rig
    }

    /// Starts to serve, again if it has ended.
    pub fn serve(&mut self, networks: &[&str]) {
        let networks: Vec<_> = networks.iter().map(|text| text.parse().unwrap()).collect();
        let (listeners, wakeups) = (self.listeners.clone(), self.wakeups.clone());
        let (board, mailbox) = (self.board.clone(), self.mailbox.clone());
        let server = std::thread::Builder::new().name(self.thread());
        let serve = move || {
            let listeners = &mut listeners.lock().unwrap();
            let wish = |wish| mailbox.send(wish);
            http::serve(listeners, &board, &wakeups, &wish, &networks)
        };
        self.server = Some(server.spawn(serve).unwrap());
    }

    /// The name of the server's thread, 15 bytes at the most.
    fn thread(&self) -> String {
        format!("http {}", self.address.port())
    }

    /// How often the server's thread went to sleep so far.
    pub fn sleeps(&self) -> u64 {
        let name = self.thread();
        let mut task = None;
        // A thread gives itself its name, a moment after it began.
        wait_for("the thread", || {
            task = std::fs::read_dir("/proc/self/task")
                .unwrap()
                .map(|task| task.unwrap().path())
                .find(|task| {
                    let found = std::fs::read_to_string(task.join("comm"));
                    found.is_ok_and(|found| found.trim_end() == name)
                });
            task.is_some()
        });
        let status = std::fs::read_to_string(task.unwrap().join("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    }

    /// Lets Envoy be gone; returns how long the server took to end.
    pub fn end(&mut self) -> Duration {
        let start = Instant::now();
        self.board.update(|snapshot| snapshot.state = State::Gone);
        if let Some(server) = self.server.take() {
            wait_for("the server's end", || server.is_finished());
            server.join().unwrap().unwrap();
        }
        start.elapsed()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn connect_control(&self) -> UnixStream {
        let address = UnixAddr::from_abstract_name(&self.control).unwrap();
        let stream = UnixStream::connect_addr(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Asks, and does not wait for the answer.
    pub fn ask(&self, method: &str, path: &str) -> TcpStream {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stream
    }

    pub fn request(&self, method: &str, path: &str) -> Answer {
        answer(self.ask(method, path))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    /// Sends `bytes` and reads to the end.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        answer(stream)
    }

    /// Waits for a `/shutdown` to reach the supervisor; who it came from.
    pub fn shutdown_event(&self) -> String {
        loop {
            match self.wishes.wait(PATIENCE).unwrap() {
                Wish::Shutdown(peer) => return peer,
                _ => continue,
            }
        }
    }

    pub fn probe_event(&self) {
        let wish = self.wishes.wait(PATIENCE).unwrap();
        assert!(matches!(wish, Wish::Probe), "{wish:?}");
    }

    /// What the admin interface says, from now on.
    pub fn observe(&self, ready: Result<Readiness, &str>) {
        let ready = ready.map_err(str::to_owned);
        self.board
            .update(|snapshot| snapshot.admin.ready = Some((Instant::now(), ready)));
    }

    pub fn drain(&self, ended: Option<Outcome>) {
        let now = Instant::now();
        self.board.update(|snapshot| {
            snapshot.state = if ended.is_some() {
                State::Drained
            } else {
                State::Draining
            };
            snapshot.drain = Some(DrainStatus {
                cause: "/shutdown".into(),
                started: now,
                deadline: now + Duration::from_secs(25),
                stops: false,
                health_failed: None,
                listeners_draining: None,
                last_connection: None,
                came: None,
                lost: Loss::None,
                first: None,
                ended: ended.map(|outcome| DrainEnd {
                    at: now,
                    outcome,
                    is_cut: !outcome.is_clean(),
                    verdict: String::new(),
                }),
            });
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let took = self.end();
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0 when nothing came.
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn says(&self) -> (u16, &str) {
        (self.status, &self.body)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Reads an answer to the connection's end.
pub fn answer(mut stream: impl Read) -> Answer {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "the server hangs");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Says that nothing more will be asked.
pub fn half_close(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Waits until `holds` does.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// xorshift64*: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }
}
