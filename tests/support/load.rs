//! Steady traffic over several instances, as a load balancer spreads it: a new connection goes to
//! an instance that is ready, and a connection that was not told to close is used again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clients::HttpConnection;
use super::http::Address;
use super::{PATIENCE, wait_for};

/// Which instances are ready, as their `/ready` has it.
struct Balancer {
    instances: RwLock<Vec<(SocketAddr, Address)>>,
    ready: RwLock<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Balancer {
    fn look(&self) {
        let instances = self.instances.read().unwrap().clone();
        let ready = instances.into_iter().filter(|(_, health)| {
            health
                .request("GET", "/ready", PATIENCE)
                .is_ok_and(|answer| answer.status == 200)
        });
        let ready = ready.map(|(address, _)| address).collect();
        *self.ready.write().unwrap() = ready;
    }

    fn pick(&self) -> Option<SocketAddr> {
        let ready = self.ready.read().unwrap();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (!ready.is_empty()).then(|| ready[next % ready.len()])
    }
}

/// Clients at work.
pub struct Load {
    balancer: Arc<Balancer>,
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// The same clients of one instance, whether or not that is ready.
    pub fn steady(address: SocketAddr, keep_alive: usize, slow: usize) -> Load {
        let mut load = Load::idle(Vec::new());
        *load.balancer.ready.write().unwrap() = vec![address];
        load.add_clients(keep_alive, slow);
        load
    }

    /// `keep_alive` clients that ask for `/fast` again and again, `slow` ones for half a second
    /// each time.
    pub fn start(instances: Vec<(SocketAddr, Address)>, keep_alive: usize, slow: usize) -> Load {
        let mut load = Load::idle(instances);
        load.balancer.look();
        let (balancer, stop) = (Arc::clone(&load.balancer), Arc::clone(&load.stop));
        load.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                balancer.look();
                thread::sleep(Duration::from_millis(20));
            }
            Vec::new()
        }));
        load.add_clients(keep_alive, slow);
        load
    }

    fn idle(instances: Vec<(SocketAddr, Address)>) -> Load {
        Load {
            balancer: Arc::new(Balancer {
                instances: RwLock::new(instances),
                ready: RwLock::default(),
                next: AtomicUsize::new(0),
            }),
            stop: Arc::default(),
            ok: Arc::default(),
            threads: Vec::new(),
        }
    }

    fn add_clients(&mut self, keep_alive: usize, slow: usize) {
        for number in 0..keep_alive + slow {
            let path = if number < keep_alive {
                "/fast"
            } else {
                "/slow?ms=500"
            };
            let balancer = Arc::clone(&self.balancer);
            let (stop, ok) = (Arc::clone(&self.stop), Arc::clone(&self.ok));
            self.threads
                .push(thread::spawn(move || client(path, &balancer, &stop, &ok)));
        }
    }

    /// Puts these instances in the place of all there were.
    pub fn route_to(&self, instances: Vec<(SocketAddr, Address)>) {
        *self.balancer.instances.write().unwrap() = instances;
    }

    pub fn answered(&self) -> usize {
        self.ok.load(Ordering::SeqCst)
    }

    /// Waits until this many more requests have been answered.
    #[track_caller]
    pub fn wait_answered(&self, more: usize) {
        let goal = self.answered() + more;
        wait_for(&format!("{more} more answers"), PATIENCE * 2, || {
            self.answered() >= goal
        });
    }

    /// Stops; how many were answered, and what went wrong with each of the others.
    pub fn finish(mut self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self
            .threads
            .drain(..)
            .flat_map(|thread| thread.join().unwrap());
        let failures = failures.collect();
        (self.answered(), failures)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// One client's life: what went wrong in it.
fn client(path: &str, balancer: &Balancer, stop: &AtomicBool, ok: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection: Option<HttpConnection> = None;
    while !stop.load(Ordering::SeqCst) {
        // A connection that the server closed while it was idle has lost nothing.
        let used = connection.take().filter(|open| !open.is_closed());
        let opened = used.map_or_else(
            || {
                let address = balancer.pick().ok_or("no instance is ready")?;
                HttpConnection::open(address).map_err(|error| format!("{address}: {error}"))
            },
            Ok,
        );
        let answer = opened.and_then(|mut open| match open.get(path) {
            Ok(answer) if answer.status == 200 => Ok((!answer.closes()).then_some(open)),
            Ok(answer) => Err(format!("{path}: {}", answer.status)),
            Err(error) => Err(format!("{path}: {error}")),
        });
        match answer {
            Ok(again) => {
                connection = again;
                ok.fetch_add(1, Ordering::SeqCst);
            }
            Err(failure) => failures.push(failure),
        }
        // Pace, not patience: enough requests for the test, and some processor left for Envoy.
        thread::sleep(Duration::from_millis(10));
    }
    failures
}
