//! A reload is one of certificates, too.

use std::fs;
use std::path::Path;

use crate::rig::{OPTIONS, Rig};
use crate::support::envoy_config::Admin;
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, wait_for};

#[test]
fn a_reload_tells_what_came_of_the_certificates_and_waits_for_neither_with_the_other() {
    let (upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let dir = TempDir::new();
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| dir.join(name));
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let copy = |name: &str, to: &Path| {
        fs::copy(data.join(name), to).unwrap();
    };
    copy("ec.crt", &cert);
    copy("ec.key", &key);
    let secret = format!("edge={},{}", cert.display(), key.display());
    let resources = config.resources().display().to_string();
    let mut options = OPTIONS.to_vec();
    options.extend(["--secret", &secret, "--resources-dir", &resources]);
    // Nobody but a reload looks at them.
    options.extend(["--certificate-check", "1h"]);
    let rig = Rig::of(&options, config, upstream);
    wait_for("the first certificate", PATIENCE, || {
        rig.status()["certificates"][0]["last_result"] == "ok"
    });

    copy("rsa.crt", &cert);
    copy("rsa.key", &key);
    let said = rig.reload_well();
    assert!(said.contains("generation 1 is live"), "{said}");
    assert!(said.contains("edge: gen-2, serial f0000"), "{said}");

    copy("other.key", &key);
    rig.wait_alone();
    rig.reload_badly("edge: the key: is not the certificate's; but generation 2 is live");
    assert_eq!(rig.epoch(), 2);
    let edge = &rig.status()["certificates"][0];
    assert_eq!(edge["generation"], 2, "{edge}");

    // The old generation still drains; that is no matter for certificates.
    copy("other.crt", &cert);
    let (code, said) = rig.reload_with(&["--no-wait"]);
    assert_eq!(code, 0, "{said}");
    wait_for("the other certificate", PATIENCE, || {
        let status = rig.status();
        let edge = &status["certificates"][0];
        assert_eq!(status["reload_kept"], true, "{status}");
        edge["serial"] == "700" && edge["last_result"] == "ok"
    });
}
