//! What a reader of the SDS files may see.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use drainit::certificates::check::check_pair;
use drainit::certificates::publish::SdsTarget;
use drainit::certificates::read::Material;
use drainit::certificates::secret::SecretBytes;
use drainit::certificates::trust;
use drainit::certificates::usable::Age;
use serde_json::Value;

use crate::support::TempDir;
use crate::support::pki::Pair;

fn secret(text: &str) -> SecretBytes {
    SecretBytes::copy(text.as_bytes()).unwrap()
}

/// At full speed, which no Envoy and no writer has.
#[test]
fn over_a_thousand_rotations_a_reader_sees_nothing_but_whole_sets() {
    let dir = TempDir::new();
    let target = SdsTarget::contour(dir.path());
    let ca = Pair::ca("tests");
    let sets: Vec<_> = (0..8)
        .map(|_| {
            let pair = ca.leaf();
            vec![
                Material::Pair {
                    cert: secret(&pair.cert),
                    key: secret(&pair.key),
                    staple: None,
                },
                Material::Trust {
                    ca: secret(&ca.cert),
                    crl: None,
                    leaf_only: false,
                },
            ]
        })
        .collect();
    target.publish(1, &sets[0]).unwrap();
    let over = AtomicBool::new(false);
    let read = |path| -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).expect("a file that parses")
    };
    let generation = |json: &Value| -> u64 {
        let version = json["version_info"].as_str().unwrap();
        version.strip_prefix("gen-").unwrap().parse().unwrap()
    };
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let now = SystemTime::now();
            let (mut reads, mut last) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let leaf = read(&target.first.path);
                let ca = read(&target.ca.as_ref().unwrap().path);
                let tls = &leaf["resources"][0]["tls_certificate"];
                let pem = |body: &Value, name: &str| {
                    body[name]["inline_string"].as_str().unwrap().to_owned()
                };
                let cert = pem(tls, "certificate_chain");
                let pair = check_pair(cert.as_bytes(), pem(tls, "private_key").as_bytes(), now);
                assert!(pair.unwrap().matched, "another leaf's key");
                let context = &ca["resources"][0]["validation_context"];
                let bundle = pem(context, "trusted_ca");
                trust::check(bundle.as_bytes(), None, now, Age::Valid).unwrap();
                // The CA first: whoever has the new leaf can have the new CA.
                assert!(generation(&ca) >= generation(&leaf));
                assert!(generation(&leaf) >= last);
                last = generation(&leaf);
                reads += 1;
            }
            reads
        });
        for number in 2..=1000 {
            target
                .publish(number, &sets[number as usize % sets.len()])
                .unwrap();
        }
        over.store(true, Ordering::SeqCst);
        reader.join().unwrap()
    });
    println!("1000 rotations, {reads} reads");
    assert!(reads > 50, "{reads}");
}
