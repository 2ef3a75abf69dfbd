//! An Envoy of which only the admin interface is there: its answers, by a few numbers.

use std::sync::{Arc, Mutex};

use super::drainit::Drainit;
use super::fake_admin::{Answer, Call, FakeAdmin};
use super::http::Address;

/// What the interface says when nothing is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Connections on the HTTP listener.
    pub http: usize,
    /// Requests in flight on it.
    pub requests: usize,
    /// Connections on the TCP listener.
    pub tcp: usize,
    pub udp: usize,
    pub health_failed: bool,
    pub initializing: bool,
}

/// A model that a test and an interface share.
#[derive(Clone, Default)]
pub struct SharedModel(Arc<Mutex<Model>>);

impl SharedModel {
    pub fn new(model: Model) -> SharedModel {
        SharedModel(Arc::new(Mutex::new(model)))
    }

    pub fn change(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.0.lock().unwrap());
    }

    /// The gauges, as `/stats` gives them.
    pub fn stats(&self) -> String {
        let model = self.0.lock().unwrap();
        format!(
            "http.admin.downstream_cx_active: 1\n\
             http.admin.downstream_rq_active: 1\n\
             http.ingress.downstream_cx_active: {http}\n\
             http.ingress.downstream_rq_active: {requests}\n\
             listener.0.0.0.0_8080.downstream_cx_active: {http}\n\
             listener.0.0.0.0_8080.downstream_pre_cx_active: 0\n\
             listener.0.0.0.0_8080.worker_0.downstream_cx_active: {http}\n\
             listener.0.0.0.0_9000.downstream_cx_active: {tcp}\n\
             listener.0.0.0.0_9000.downstream_pre_cx_active: 0\n\
             listener.0.0.0.0_9000.worker_0.downstream_cx_active: {tcp}\n\
             listener.admin.downstream_cx_active: 1\n\
             listener.admin.downstream_pre_cx_active: 0\n\
             listener.admin.main_thread.downstream_cx_active: 1\n\
             listener_manager.total_listeners_active: 2\n\
             server.live: {live}\n\
             udp.service.downstream_sess_active: {udp}\n",
            http = model.http,
            requests = model.requests,
            tcp = model.tcp,
            udp = model.udp,
            live = u8::from(!model.health_failed),
        )
    }

    /// What a sound Envoy would answer.
    pub fn answer(&self, call: &Call) -> Answer {
        match call.name().as_str() {
            "GET /ready" => {
                let model = self.0.lock().unwrap();
                match (model.initializing, model.health_failed) {
                    (true, _) => Answer::Status(503, "INITIALIZING\n".into()),
                    (_, true) => Answer::Status(503, "DRAINING\n".into()),
                    _ => Answer::Ok("LIVE\n".into()),
                }
            }
            "POST /healthcheck/fail" => {
                self.change(|model| model.health_failed = true);
                Answer::Ok("OK\n".into())
            }
            "POST /drain_listeners" => Answer::Ok("OK\n".into()),
            "GET /stats" => Answer::Ok(self.stats()),
            "GET /listeners" => Answer::Ok("http::0.0.0.0:8080\ntcp::0.0.0.0:9000\n".to_owned()),
            "GET /server_info" => Answer::Ok(
                "{\"version\": \"0/1.40.0/Clean/RELEASE/BoringSSL\", \"state\": \"LIVE\"}".into(),
            ),
            name if name.starts_with("GET ") => Answer::Status(404, String::new()),
            _ => Answer::Status(405, String::new()),
        }
    }

    /// An interface that answers by it.
    pub fn admin(&self) -> FakeAdmin {
        let model = self.clone();
        FakeAdmin::unix(move |call| model.answer(call))
    }
}

/// A child that exits with 0 on SIGTERM, as Envoy does.
pub fn child() -> Vec<String> {
    shell("trap 'kill $!; exit 0' TERM; sleep 1000 & wait $!")
}

/// A child that does what this script says.
pub fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}

/// `drainit` over such a child, with the admin interface at this address.
pub fn start(options: &[&str], admin: &Address) -> Drainit {
    start_with(options, admin, &child())
}

/// The same over another child.
pub fn start_with(options: &[&str], admin: &Address, child: &[String]) -> Drainit {
    let admin = admin.text();
    let mut all = vec!["--envoy-flags", "keep", "--admin-address", &admin];
    all.extend(options);
    Drainit::start(&all, child)
}
