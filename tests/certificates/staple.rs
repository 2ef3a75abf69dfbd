//! A listener's OCSP staple.

use std::fs;

use serde_json::{Value, json};

use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::pki::{Pair, presented};
use crate::support::scene;
use crate::support::xds::secret;
use crate::support::{PATIENCE, wait_for};

#[test]
fn a_staple_is_loaded_when_it_comes_and_a_bad_one_harms_neither_it_nor_the_certificate() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let ca = Pair::ca("edge");
    let path = |name: &str| config.dir.join(name).display().to_string();
    let leaf = ca.leaf();
    fs::write(path("edge.pem"), leaf.both()).unwrap();
    let option = format!("edge={0},{0},ocsp={1}", path("edge.pem"), path("edge.ocsp"));
    let resources = config.resources().display().to_string();
    let options = ["--secret", &option, "--resources-dir", &resources];
    let drainit = Drainit::ready(
        &[
            options,
            ["--certificate-check", "100ms", "--log-level", "debug"],
        ]
        .concat(),
        &config,
    );
    // None is there: the certificate does not wait for it.
    assert_eq!(presented(config.http).as_ref(), Ok(&leaf.serial));
    let told = |drainit: &Drainit| secret(drainit, "edge");
    wait_for("the confirmation", PATIENCE, || {
        told(&drainit)["last_result"] == "ok"
    });
    let why = told(&drainit)["last_error"].as_str().unwrap().to_owned();
    assert!(why.ends_with("edge.ocsp: is missing"), "{why}");
    assert_eq!(told(&drainit)["stale"], true);
    assert!(stapled(&config, &leaf).is_null());

    let staple = |bytes: &[u8]| fs::write(path("edge.ocsp"), bytes).unwrap();
    let well = || {
        let told = told(&drainit);
        told["last_result"] == "ok" && told["stale"] == false
    };
    staple(&ca.staple(&leaf, &json!({})));
    wait_for("the staple", PATIENCE, || {
        !stapled(&config, &leaf).is_null()
    });
    wait_for("its confirmation", PATIENCE, well);
    let has = stapled(&config, &leaf);
    for (bad, why) in [
        (
            ca.staple(&leaf, &json!({ "status": "REVOKED" })),
            "says that the certificate is revoked",
        ),
        (ca.staple(&leaf, &json!({ "after": -1 })), "expired at"),
        (ca.staple(&ca.leaf(), &json!({})), "is of serial"),
        (b"garbage".to_vec(), "is no OCSP response: "),
    ] {
        staple(&bad);
        drainit.wait_log(&format!("edge: refused: the OCSP staple: {why}"));
        assert_eq!(stapled(&config, &leaf), has);
    }
    // The next certificate waits for no staple of its own either.
    let next = ca.leaf();
    fs::write(path("edge.pem"), next.both()).unwrap();
    wait_for("the next certificate", PATIENCE, || {
        presented(config.http).as_ref() == Ok(&next.serial)
    });
    assert!(stapled(&config, &next).is_null());
    staple(&ca.staple(&next, &json!({})));
    wait_for("its staple", PATIENCE, || {
        !stapled(&config, &next).is_null()
    });
    wait_for("the confirmation", PATIENCE, well);

    // One that Envoy refuses without a staple waits for it.
    let demanding = ca.leaf_with(&json!({ "demand_staple": true }));
    fs::write(path("edge.pem"), demanding.both()).unwrap();
    drainit.wait_log("edge: refused: the OCSP staple: is of serial");
    wait_for("the refusal", PATIENCE, || {
        told(&drainit)["last_result"] == "refused"
    });
    assert_eq!(presented(config.http).as_ref(), Ok(&next.serial));
    staple(&ca.staple(&demanding, &json!({})));
    wait_for("the one that demands it", PATIENCE, || {
        presented(config.http).as_ref() == Ok(&demanding.serial)
    });
    wait_for("the confirmation", PATIENCE, well);
}

/// What Envoy staples to this certificate, as its list of certificates has it.
fn stapled(config: &EnvoyConfig, leaf: &Pair) -> Value {
    let admin = config.admin.as_ref().unwrap();
    let page = admin.request("GET", "/certs", PATIENCE).unwrap().body;
    let page: Value = serde_json::from_str(&page).unwrap();
    let contexts = page["certificates"].as_array().unwrap();
    let leaves = contexts
        .iter()
        .filter_map(|context| context["cert_chain"].as_array());
    let mut leaves = leaves.flatten().filter(|one| {
        let serial = one["serial_number"].as_str().unwrap();
        serial.trim_start_matches('0') == leaf.serial
    });
    leaves
        .next()
        .map_or(Value::Null, |leaf| leaf["ocsp_details"].clone())
}
