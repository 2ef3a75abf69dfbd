use super::*;
use std::os::unix::fs::PermissionsExt;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("drainit-publish-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn contents(tag: &str) -> Contents {
    Contents {
        cert: format!("cert \"{tag}\"\r\n").into_bytes(),
        key: format!("key {tag}").into_bytes(),
        ca: Some(format!("ca {tag}").into_bytes()),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_published_is_found_again() {
    let dir = Dir::new("again");
    let mut target = Target::contour(&dir.0);
    let none = target.take_over();
    assert_eq!((none.generation, none.contents), (0, None));
    target.publish(41, &contents("x")).unwrap();
    let found = Target::contour(&dir.0).take_over();
    assert_eq!(
        (found.generation, found.contents),
        (41, Some(contents("x")))
    );
}

#[test]
fn files_are_private_and_nothing_else_is_left() {
    let dir = Dir::new("private");
    Target::contour(&dir.0).publish(1, &contents("x")).unwrap();
    let sds = dir.0.join("sds");
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
    let dir = Dir::new("shape");
    let target = Target::contour(&dir.0);
    target.publish(7, &contents("x")).unwrap();
    let leaf = json(&target.leaf.path);
    assert_eq!(leaf["version_info"], "gen-7");
    assert_eq!(leaf["resources"].as_array().unwrap().len(), 1);
    let secret = &leaf["resources"][0];
    assert_eq!(secret["name"], "contour_xds_tls_certificate");
    let certificate = &secret["tls_certificate"];
    assert_eq!(
        certificate["certificate_chain"]["inline_string"],
        "cert \"x\"\r\n"
    );
    let ca = json(&target.ca.as_ref().unwrap().path);
    let context = &ca["resources"][0]["validation_context"];
    assert_eq!(context["trusted_ca"]["inline_string"], "ca x");
    assert_eq!(
        context["match_typed_subject_alt_names"][0]["matcher"]["exact"],
        "contour"
    );
}

#[test]
fn contours_own_files_are_taken_over_with_their_matchers() {
    let dir = Dir::new("matchers");
    let mut target = Target::contour(&dir.0);
    for (secret, file) in target.by_filename("/c/tls.crt", "/c/tls.key", "/c/ca.crt") {
        replace(&secret.path, file.to_string().as_bytes(), None).unwrap();
    }
    let matchers = json!([{ "san_type": "DNS", "matcher": { "suffix": ".example" } }]);
    let ca = json!({ "resources": [{ "name": "x", "validationContext": {
        "trustedCa": { "filename": "/c/ca.crt" },
        "watchedDirectory": { "path": "/c" },
        "matchTypedSubjectAltNames": matchers,
        "trust_chain_verification": "VERIFY_TRUST_CHAIN",
    }}]});
    let path = target.ca.clone().unwrap().path;
    replace(&path, ca.to_string().as_bytes(), None).unwrap();
    let found = target.take_over();
    assert_eq!((found.generation, found.contents), (0, None));
    target.publish(1, &contents("x")).unwrap();
    assert_eq!(
        json(&path)["resources"][0]["validation_context"],
        json!({
            "trusted_ca": { "inline_string": "ca x" },
            "matchTypedSubjectAltNames": matchers,
            "trust_chain_verification": "VERIFY_TRUST_CHAIN",
        })
    );
}

#[test]
fn files_of_two_generations_are_nobodys_last_good_set() {
    let dir = Dir::new("mixed");
    let mut target = Target::contour(&dir.0);
    target.publish(3, &contents("x")).unwrap();
    let ca = target.ca.take();
    target.publish(4, &contents("y")).unwrap();
    target.ca = ca;
    let found = target.take_over();
    assert_eq!((found.generation, found.contents), (4, None));
}

#[test]
fn garbage_in_the_directory_is_as_good_as_nothing() {
    let dir = Dir::new("garbage");
    let mut target = Target::contour(&dir.0);
    for garbage in [
        "",
        "[]",
        "{\"version_info\": 3}",
        "{\"resources\": [7]}",
        "\0",
    ] {
        replace(&target.leaf.path, garbage.as_bytes(), None).unwrap();
        replace(&target.ca.clone().unwrap().path, garbage.as_bytes(), None).unwrap();
        let found = target.take_over();
        assert_eq!((found.generation, found.contents), (0, None), "{garbage}");
    }
}

#[test]
fn a_name_cannot_leave_the_directory() {
    for name in ["tls", "a.b", "A-1_b"] {
        assert_eq!(check_name(name), Ok(()));
    }
    let long = "x".repeat(201);
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        ".x",
        "a b",
        "ä",
        "a\0",
        CONTOUR_CA_FILE,
        &long,
    ] {
        assert!(check_name(name).is_err(), "{name}");
    }
}

#[test]
fn a_reader_in_a_loop_never_sees_half_a_file_or_a_mixed_pair() {
    let dir = Dir::new("loop");
    let target = Target::contour(&dir.0);
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
            let leaf = json(&target.leaf.path);
            let pair = &leaf["resources"][0]["tls_certificate"];
            let cert = pair["certificate_chain"]["inline_string"].as_str().unwrap();
            let key = pair["private_key"]["inline_string"].as_str().unwrap();
            assert_eq!(cert.split('"').nth(1), key.split(' ').nth(1));
            json(&target.ca.as_ref().unwrap().path);
        }
    });
}
