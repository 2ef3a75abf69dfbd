//! Something that is asked again and again, and what went wrong.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::clients::HttpConnection;
use super::http::Address;

/// A watch that goes on until it is finished.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What a watch saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub looks: usize,
    pub failures: Vec<String>,
    /// The longest time from the last good look to the next one, with a bad one in between.
    pub outage: Duration,
}

impl Watch {
    pub fn start(mut look: impl FnMut() -> Result<(), String> + Send + 'static) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            let (mut good, mut bad) = (Instant::now(), false);
            while !stopped.load(Ordering::SeqCst) {
                seen.looks += 1;
                match look() {
                    Ok(()) => {
                        if std::mem::take(&mut bad) {
                            seen.outage = seen.outage.max(good.elapsed());
                        }
                        good = Instant::now();
                    }
                    Err(why) => {
                        bad = true;
                        seen.failures.push(why);
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Watch { stop, thread }
    }

    /// New connections, one after the other.
    pub fn connections(address: SocketAddr) -> Watch {
        Watch::start(move || {
            let text = |error: io::Error| error.to_string();
            drop(TcpStream::connect(address).map_err(text)?);
            let mut open = HttpConnection::open(address).map_err(text)?;
            let answer = open.get("/fast").map_err(text)?;
            (answer.status == 200)
                .then_some(())
                .ok_or_else(|| answer.status.to_string())
        })
    }

    /// `/ready` of a drainit, which never says no.
    pub fn ready(health: &Address) -> Watch {
        let health = health.clone();
        Watch::start(move || {
            let answer = health.request("GET", "/ready", PATIENCE);
            match answer {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{}: {}", answer.status, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
