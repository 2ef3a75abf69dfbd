//! Certificates, by Python (`tests/xds/certs.py`).

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// One of the programs in `tests/xds`.
pub fn script(name: &str) -> Command {
    python(&Path::new("tests/xds").join(name))
}

/// A program of the project's, by the Python that has the packages that the tests need.
pub fn python(path: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = env::var_os("TEST_PYTHON").map_or_else(
        || root.join("target/tools/python/bin/python3"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "no {}: run scripts/test once",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(root.join(path));
    command
}

/// `certs.py serve`, in the network namespace of the thread that started it.
pub struct Helper(Child, BufReader<ChildStdout>);

impl Helper {
    pub fn start() -> Helper {
        let mut command = script("certs.py");
        command.arg("serve").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Helper(child, out)
    }

    pub fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let Helper(child, out) = self;
        writeln!(child.stdin.as_mut().unwrap(), "{request}").unwrap();
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("an answer of certs.py");
        match answer["error"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(answer),
        }
    }

    /// The serial that is presented there to a TLS client, whose GET is answered.
    pub fn fetch(&mut self, address: SocketAddr) -> Result<String, String> {
        self.fetch_as(address, None)
    }

    /// The same for a client that shows this certificate.
    pub fn fetch_as(&mut self, address: SocketAddr, pair: Option<&Pair>) -> Result<String, String> {
        let (host, port) = (address.ip().to_string(), address.port());
        let client = pair.map(Pair::both);
        let answer =
            self.ask(&json!({ "do": "fetch", "host": host, "port": port, "client": client }))?;
        match answer["status"].as_u64() {
            Some(200) => Ok(answer["serial"].as_str().unwrap().to_owned()),
            _ => Err(answer.to_string()),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Asks the one that serves all tests.
pub fn ask(request: &Value) -> Result<Value, String> {
    static SERVER: Mutex<Option<Helper>> = Mutex::new(None);
    let mut server = SERVER.lock().unwrap_or_else(|poison| poison.into_inner());
    server.get_or_insert_with(Helper::start).ask(request)
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    /// Hex, as Envoy shows it but for leading zeros.
    pub serial: String,
}

impl Pair {
    #[track_caller]
    fn make(request: &Value) -> Pair {
        let answer = ask(request).unwrap();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        Pair {
            cert: text("cert"),
            key: text("key"),
            serial: text("serial"),
        }
    }

    /// A new CA.
    pub fn ca(name: &str) -> Pair {
        Pair::make(&json!({ "do": "ca", "name": name }))
    }

    /// A new leaf of this CA.
    pub fn leaf(&self) -> Pair {
        self.leaf_with(&json!({}))
    }

    /// A new leaf of this CA, special in something.
    pub fn leaf_with(&self, special: &Value) -> Pair {
        let mut request = json!({ "do": "leaf", "ca_cert": self.cert, "ca_key": self.key });
        for (name, value) in special.as_object().unwrap() {
            request[name] = value.clone();
        }
        Pair::make(&request)
    }

    /// What this CA has revoked, PEM, valid until so many days from now.
    pub fn crl(&self, revoked: &[&Pair], after: i32) -> String {
        let revoked: Vec<_> = revoked.iter().map(|pair| &pair.cert).collect();
        let answer = ask(
            &json!({ "do": "crl", "ca_cert": self.cert, "ca_key": self.key,
            "revoked": revoked, "before": -9, "after": after }),
        );
        answer.unwrap()["crl"].as_str().unwrap().to_owned()
    }

    /// An OCSP response of this CA for a leaf, DER, special in something.
    pub fn staple(&self, leaf: &Pair, special: &Value) -> Vec<u8> {
        let mut request = json!({ "do": "staple", "ca_cert": self.cert, "ca_key": self.key,
            "cert": leaf.cert, "before": -9 });
        for (name, value) in special.as_object().unwrap() {
            request[name] = value.clone();
        }
        let answer = ask(&request).unwrap();
        STANDARD.decode(answer["staple"].as_str().unwrap()).unwrap()
    }

    /// Both in one text, as a client's library wants it.
    pub fn both(&self) -> String {
        format!("{}{}", self.cert, self.key)
    }

    /// A server's.
    pub fn server(&self) -> Pair {
        self.leaf_with(&json!({ "name": "server", "san": "contour" }))
    }
}

/// The serial that is presented there to a TLS client.
pub fn presented(address: SocketAddr) -> Result<String, String> {
    let (host, port) = (address.ip().to_string(), address.port());
    let answer = ask(&json!({ "do": "peek", "host": host, "port": port }))?;
    Ok(answer["serial"].as_str().unwrap().to_owned())
}
