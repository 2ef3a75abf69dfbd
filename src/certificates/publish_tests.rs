use super::*;
use crate::testing::TempDir;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn contents(tag: &str) -> Contents {
    let pem =
        |label: &str, what: &str| SecretBytes::copy(block(label, what, tag).as_bytes()).unwrap();
    vec![
        Material::Pair {
            cert: pem("CERTIFICATE", "cert"),
            key: pem("PRIVATE KEY", "key"),
            staple: None,
        },
        Material::Trust {
            ca: pem("CERTIFICATE", "ca"),
            crl: None,
            leaf_only: false,
        },
    ]
}

/// A block of these four letters and digits.
fn block(label: &str, what: &str, tag: &str) -> String {
    let text = format!("{what}{tag:0>4}");
    let text = format!("{text:0<8}");
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_published_is_found_again() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    let none = target.take_over().unwrap();
    assert_eq!((none.generation, none.contents), (0, None));
    target.publish(41, &contents("x")).unwrap();
    let found = SdsTarget::contour(&dir).take_over().unwrap();
    assert_eq!(
        (found.generation, found.contents),
        (41, Some(contents("x")))
    );
}

#[test]
fn files_are_private_and_nothing_else_is_left() {
    let dir = TempDir::new();
    SdsTarget::contour(&dir).publish(1, &contents("x")).unwrap();
    let sds = dir.join("sds");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&sds), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&sds).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(
        names,
        ["xds-tls-certificate.json", "xds-validation-context.json"]
    );
}

#[test]
fn the_shape_is_a_response_with_one_inline_secret() {
    let dir = TempDir::new();
    let target = SdsTarget::contour(&dir);
    target.publish(7, &contents("x")).unwrap();
    let leaf = json(&target.first.path);
    assert_eq!(leaf["version_info"], "gen-7");
    assert_eq!(leaf["resources"].as_array().unwrap().len(), 1);
    let secret = &leaf["resources"][0];
    assert_eq!(secret["name"], "contour_xds_tls_certificate");
    let certificate = &secret["tls_certificate"];
    assert_eq!(
        certificate["certificate_chain"]["inline_string"],
        block("CERTIFICATE", "cert", "x")
    );
    let ca = json(&target.ca.as_ref().unwrap().path);
    let context = &ca["resources"][0]["validation_context"];
    assert_eq!(
        context["trusted_ca"]["inline_string"],
        block("CERTIFICATE", "ca", "x")
    );
    assert_eq!(
        context["match_typed_subject_alt_names"][0]["matcher"]["exact"],
        "contour"
    );
}

#[test]
fn contours_own_files_are_taken_over_with_their_matchers() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    for (secret, file) in target.by_filename("/c/tls.crt", "/c/tls.key", "/c/ca.crt") {
        target.write(secret, &file).unwrap();
        let mode = fs::metadata(&secret.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }
    let matchers = json!([{ "san_type": "DNS", "matcher": { "suffix": ".example" } }]);
    let ca = json!({ "resources": [{ "name": "x", "validationContext": {
        "trustedCa": { "filename": "/c/ca.crt" },
        "watchedDirectory": { "path": "/c" },
        "matchTypedSubjectAltNames": matchers,
        "trust_chain_verification": "VERIFY_TRUST_CHAIN",
    }}]});
    let path = target.ca.clone().unwrap().path;
    write(&path, &ca.to_string());
    let found = target.take_over().unwrap();
    assert_eq!((found.generation, found.contents), (0, None));
    target.publish(1, &contents("x")).unwrap();
    assert_eq!(
        json(&path)["resources"][0]["validation_context"],
        json!({
            "trusted_ca": { "inline_string": block("CERTIFICATE", "ca", "x") },
            "matchTypedSubjectAltNames": matchers,
            "trust_chain_verification": "VERIFY_TRUST_CHAIN",
        })
    );
}

#[test]
fn staples_and_revocation_lists_are_published_and_found_again() {
    let dir = TempDir::new();
    let pem = |label, what| SecretBytes::copy(block(label, what, "x").as_bytes()).unwrap();
    let pair = vec![Material::Pair {
        cert: pem("CERTIFICATE", "cert"),
        key: pem("PRIVATE KEY", "key"),
        staple: Some(Ok(SecretBytes::copy(b"\0\xff").unwrap())),
    }];
    let trust = |crl, leaf_only| {
        vec![Material::Trust {
            ca: pem("CERTIFICATE", "ca"),
            crl,
            leaf_only,
        }]
    };
    let web = SdsTarget::listener(&dir, "web", SecretKind::Certificate);
    web.publish(1, &pair).unwrap();
    let one = &json(&web.first.path)["resources"][0]["tls_certificate"];
    assert_eq!(one["ocsp_staple"], json!({ "inline_bytes": "AP8=" }));
    let found = web.clone().take_over().unwrap();
    assert_eq!(found.contents, Some(pair));
    // Another kind of the same name is nothing to go on with.
    let mut other = SdsTarget::listener(&dir, "web", SecretKind::Validation);
    let found = other.take_over().unwrap();
    assert_eq!((found.generation, found.contents), (1, None));

    let mut clients = SdsTarget::listener(&dir, "clients", SecretKind::Validation);
    let matcher = json!([{ "san_type": "DNS", "matcher": { "exact": "web" } }]);
    let theirs = json!({ "match_typed_subject_alt_names": matcher });
    write(
        &clients.first.path,
        &json!({ "resources": [{ "validation_context": theirs }] }).to_string(),
    );
    clients.take_over().unwrap();
    for (crl, leaf_only) in [(Some(pem("X509 CRL", "crl")), true), (None, false)] {
        let (listed, set) = (crl.is_some(), trust(crl, leaf_only));
        clients.publish(2, &set).unwrap();
        let context = &json(&clients.first.path)["resources"][0]["validation_context"];
        assert_eq!(context["match_typed_subject_alt_names"], matcher);
        assert_eq!(context.get("crl").is_some(), listed);
        assert_eq!(context.get(LEAF_ONLY).is_some(), leaf_only);
    }
    assert_eq!(
        clients.take_over().unwrap().contents,
        Some(trust(None, false))
    );
}

#[test]
fn files_of_two_generations_are_nobodys_last_good_set() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    target.publish(3, &contents("x")).unwrap();
    let ca = target.ca.take();
    target.publish(4, &contents("y")).unwrap();
    target.ca = ca;
    let found = target.take_over().unwrap();
    assert_eq!((found.generation, found.contents), (4, None));
}

#[test]
fn garbage_in_the_directory_is_as_good_as_nothing() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    for garbage in [
        "",
        "[]",
        "{\"version_info\": 3}",
        "{\"resources\": [7]}",
        "\0",
    ] {
        write(&target.first.path, garbage);
        write(&target.ca.clone().unwrap().path, garbage);
        let found = target.take_over().unwrap();
        assert_eq!((found.generation, found.contents), (0, None), "{garbage}");
    }
}

#[test]
fn a_set_that_was_published_with_more_than_it_needs_is_published_anew() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    target.publish(3, &contents("x")).unwrap();
    let key = block("PRIVATE KEY", "key", "x").replace('\n', "\\n");
    let text = fs::read_to_string(&target.first.path).unwrap();
    let chain = "\"certificate_chain\":{\"inline_string\":\"";
    write(
        &target.first.path,
        &text.replace(chain, &format!("{chain}{key}")),
    );
    let found = target.take_over().unwrap();
    assert_eq!((found.generation, found.contents), (3, None));
}

#[test]
fn what_is_no_file_or_no_json_of_ours_is_replaced() {
    let dir = TempDir::new();
    let mut target = SdsTarget::contour(&dir);
    let path = target.first.path.clone();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = target.take_over().unwrap();
    assert_eq!((found.generation, found.contents), (0, None));
    target.publish(1, &contents("x")).unwrap();
    assert_eq!(json(&path)["version_info"], "gen-1");
}

#[test]
fn what_a_killed_one_left_is_removed() {
    let dir = TempDir::new();
    let target = SdsTarget::contour(&dir);
    target.publish(1, &contents("x")).unwrap();
    let sds = dir.join("sds");
    for left in [".web.candidate.json", ".web.json.tmp"] {
        fs::write(sds.join(left), "a key").unwrap();
    }
    SdsTarget::sweep(&dir).unwrap();
    assert_eq!(fs::read_dir(&sds).unwrap().count(), 2);
}

#[test]
fn a_reader_in_a_loop_never_sees_half_a_file_or_a_mixed_pair() {
    let dir = TempDir::new();
    let target = SdsTarget::contour(&dir);
    target.publish(1, &contents("0")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=1000 {
                target
                    .publish(number, &contents(&number.to_string()))
                    .unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let leaf = json(&target.first.path);
            let pair = &leaf["resources"][0]["tls_certificate"];
            let cert = pair["certificate_chain"]["inline_string"].as_str().unwrap();
            let key = pair["private_key"]["inline_string"].as_str().unwrap();
            let tag = |text: &str, what: &str| {
                let line = text.lines().nth(1).unwrap().to_owned();
                line.strip_prefix(what).unwrap()[..4].to_owned()
            };
            assert_eq!(tag(cert, "cert"), tag(key, "key"));
            json(&target.ca.as_ref().unwrap().path);
        }
    });
}
