//! The examples in scripts/examples work as they are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use drainit::options::FLAGS;
use serde_json::Value;

use crate::support::clients::SlowRequest;
use crate::support::container::{Container, Network, Spec, open_to_all, rootfs};
use crate::support::manifest::{
    documents, duration_option, example, example_path, manifests, readme,
};
use crate::support::pki::{Helper, Pair};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, wait_for};

#[test]
fn the_pods_have_time_to_drain_are_probed_have_no_hook_and_are_restricted() {
    let mut pods = 0;
    for manifest in manifests() {
        let Some(pod) = manifest.pointer("/spec/template/spec") else {
            continue;
        };
        pods += 1;
        let text = pod.to_string();
        assert!(!text.contains("preStop") && !text.contains("lifecycle"));
        let grace = pod["terminationGracePeriodSeconds"].as_f64().unwrap();
        let containers = pod["containers"].as_array().unwrap();
        let envoy = containers.iter().find(|one| one["name"] == "envoy");
        let envoy = envoy.unwrap();
        let args = envoy["args"].as_array().unwrap();
        let seconds = |name: &str| {
            let given = duration_option(args, &format!("--{name}"));
            let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap();
            let default = || drainit::duration::parse(flag.default).unwrap();
            given.unwrap_or_else(default).as_secs_f64()
        };
        let needed = seconds("drain-timeout") + seconds("kill-timeout");
        assert!(grace > needed, "{grace} s are not above {needed} s");
        for (probe, path) in [
            ("startupProbe", "/ready"),
            ("readinessProbe", "/ready"),
            ("livenessProbe", "/healthz"),
        ] {
            assert_eq!(envoy[probe]["httpGet"]["path"], path, "{probe}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let inits = pod["initContainers"].as_array().unwrap();
        for container in inits.iter().chain(containers) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
            mounts_have_volumes(pod, container);
        }
        // The key is in the SDS files: not on a disk.
        if args
            .iter()
            .any(|arg| arg == "--resources-dir=/config/resources")
        {
            let volumes = pod["volumes"].as_array().unwrap();
            let config = volumes.iter().find(|one| one["name"] == "config").unwrap();
            assert_eq!(config["emptyDir"]["medium"], "Memory");
        }
        let options: Vec<_> = args
            .iter()
            .map(|arg| arg.as_str().unwrap().into())
            .collect();
        if let Err(why) = drainit::options::parse(options, |_| None) {
            panic!("{args:?}: {why}");
        }
    }
    assert_eq!(pods, 3);
}

fn mounts_have_volumes(pod: &Value, container: &Value) {
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{mount} has no volume"
        );
    }
}

#[test]
fn the_manifests_fit_kubernetes_published_schema() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin/python");
    assert!(python.is_file(), "kubernetes-validate: run scripts/test");
    let dir = TempDir::new();
    let file = dir.join("manifests.json");
    // What is not Kubernetes' own has no schema there.
    let own: Vec<_> = manifests()
        .into_iter()
        .filter(|one| !one["apiVersion"].as_str().unwrap().contains("cert-manager"))
        .collect();
    assert!(own.len() >= 4);
    fs::write(&file, serde_json::to_string(&own).unwrap()).unwrap();
    let script = "import json, sys, kubernetes_validate as k\n\
                  for one in json.load(open(sys.argv[1])): k.validate(one, k.latest_version(), strict=True)";
    let checked = Command::new(python)
        .args(["-c", script])
        .arg(&file)
        .output();
    let checked = checked.unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}

#[test]
fn the_unit_gives_the_drain_its_time_and_the_init_scripts_parse() {
    let unit = example("envoy.service");
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    assert_eq!(setting("Type="), "notify");
    assert_eq!(setting("KillMode="), "mixed");
    assert!(setting("TimeoutStopSec=").parse::<u64>().unwrap() > 27);
    for name in ["ExecStart=", "ExecReload=", "WatchdogSec="] {
        setting(name);
    }
    // Nobody else is there to whom those who come might go.
    for name in ["envoy.service", "envoy.openrc", "envoy.procd"] {
        assert!(example(name).contains(" --min-drain 0s -- "), "{name}");
    }
    assert!(readme().contains(&format!("\nExecStart={}\n", setting("ExecStart="))));
    for name in ["envoy.openrc", "envoy.procd"] {
        let checked = Command::new("sh")
            .arg("-n")
            .arg(example_path(name))
            .status();
        assert!(checked.unwrap().success(), "{name}");
    }
}

/// What the example's Dockerfile says after this word, for ENTRYPOINT and CMD.
fn dockerfile(word: &str) -> Vec<String> {
    let text = example("Dockerfile");
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    serde_json::from_str(line.expect(word)).unwrap()
}

#[test]
fn the_compose_file_gives_the_drain_its_time_and_its_service_drains() {
    let compose = documents("docker-compose.yaml").remove(0);
    let service = &compose["services"]["envoy"];
    let grace = service["stop_grace_period"].as_str().unwrap();
    assert_eq!(service["environment"]["DRAINIT_GRACE_PERIOD"], grace);
    let grace = drainit::duration::parse(grace).unwrap();
    // All that the container of a test is, too.
    assert_eq!(service["read_only"], true);
    assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]));

    let network = Network::new();
    let upstream = network.enter(Upstream::start);
    let dir = TempDir::new();
    let config = dir.join("envoy.yaml");
    fs::write(&config, to_upstream(&example("envoy.yaml"), &upstream)).unwrap();
    let line = [dockerfile("ENTRYPOINT "), dockerfile("CMD ")].concat();
    let mut spec = Spec::new(&[]);
    spec.args = line;
    let environment = service["environment"].as_object().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let variables = environment.iter();
    spec.env = variables
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    spec.mounts = vec![(config, "/etc/envoy/envoy.yaml".into(), true)];
    let mut container = Container::start(&spec, &network);
    let health = dockerfile("HEALTHCHECK CMD ");
    let health: Vec<_> = health.iter().map(String::as_str).collect();
    wait_for("the health check to succeed", PATIENCE, || {
        container.exec(&health).0 == 0
    });
    let slow =
        network.enter(|| SlowRequest::start(([127, 0, 0, 1], 8080).into(), Duration::from_secs(2)));
    upstream.wait_in_flight(1);
    container.kill("TERM");
    assert_eq!(slow.status(), 200);
    assert_eq!(container.wait_exit(grace), 0);
    // 30 s less --kill-timeout and 3 s.
    container.log.find("draining for 25 s at the most").unwrap();
    container.log.find("drained after").unwrap();
}

/// The configuration with the upstream of a test in the place of `app`.
fn to_upstream(yaml: &str, upstream: &Upstream) -> String {
    let app = "address: app, port_value: 3000";
    assert!(yaml.contains(app));
    let (ip, port) = (upstream.http.ip(), upstream.http.port());
    yaml.replace(app, &format!("address: {ip}, port_value: {port}"))
}

#[test]
fn the_dockerfile_builds_from_the_image_that_scripts_image_made() {
    let archive = rootfs().parent().unwrap().join("drainit.tar");
    let store = TempDir::new();
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.join("root"));
        command.arg("--runroot").arg(store.join("run"));
        let output = command.args(["--storage-driver", "vfs"]).args(arguments);
        let output = output.output().expect("buildah");
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}{why}");
        told
    };
    // docker load reads this, and knows the image by the name that the examples have.
    let mut list = Command::new("tar");
    let list = list.arg("xOf").arg(&archive).arg("manifest.json").output();
    let list: Value = serde_json::from_slice(&list.unwrap().stdout).unwrap();
    let name = format!("drainit:{}", env!("CARGO_PKG_VERSION"));
    let known = list[0]["RepoTags"].as_array().unwrap();
    assert!(
        known.contains(&format!("docker.io/library/{name}").into()),
        "{known:?}"
    );

    buildah(&[
        "pull",
        "--quiet",
        &format!("docker-archive:{}", archive.display()),
    ]);
    // No registry is at hand: an empty image stands for Envoy's.
    let base = buildah(&["from", "scratch"]);
    let envoy = "docker.io/envoyproxy/envoy:distroless-v1.40.0";
    buildah(&["commit", "--quiet", &base, envoy]);
    let file = example_path("Dockerfile").display().to_string();
    let context = example_path("").display().to_string();
    buildah(&[
        "bud",
        "--quiet",
        "--pull-never",
        "--format",
        "docker",
        "--tag",
        "built",
        "-f",
        &file,
        &context,
    ]);
    let built = buildah(&["from", "--pull-never", "built"]);
    let root = buildah(&["mount", &built]);
    let copied = fs::read(Path::new(&root).join("drainit")).unwrap();
    assert!(copied == fs::read(rootfs().join("drainit")).unwrap());
    assert!(Path::new(&root).join("etc/envoy/envoy.yaml").is_file());
}

#[test]
fn every_example_names_the_images_that_scripts_image_makes() {
    let name = format!("drainit:{}", env!("CARGO_PKG_VERSION"));
    let mut named = 0;
    let examples = fs::read_dir(example_path("")).unwrap();
    let texts = examples.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    for text in texts.chain([readme()]) {
        for (at, _) in text.match_indices("drainit:") {
            let rest = &text[at..];
            if rest.as_bytes().get(8).is_some_and(u8::is_ascii_digit) {
                assert!(rest.starts_with(&name), "{}", &rest[..30.min(rest.len())]);
                named += 1;
            }
        }
    }
    assert!(named >= 6, "{named}");
}

#[test]
fn the_static_tls_listener_serves_the_certificate_that_drainit_keeps_fresh() {
    // The README's line, and the file that it links to.
    let readme = readme();
    let line = readme
        .split("\n    drainit --resources-dir ")
        .nth(1)
        .unwrap();
    let line = line.split("\n\n").next().unwrap().replace(" \\\n", " ");
    let line: Vec<_> = line.split_whitespace().collect();
    let yaml = example("tls.yaml");
    let network = Network::new();
    let dir = TempDir::new();
    let at = |name: &str| {
        let path = dir.join(name);
        fs::create_dir(&path).unwrap();
        open_to_all(&path).unwrap();
        path
    };
    let (certs, resources, config) = (at("certs"), at("resources"), at("config"));
    fs::write(config.join("envoy.yaml"), &yaml).unwrap();
    let ca = Pair::ca("readme");
    let write = |pair: &Pair| {
        fs::write(certs.join("tls.crt"), &pair.cert).unwrap();
        fs::write(certs.join("tls.key"), &pair.key).unwrap();
    };
    let first = ca.leaf();
    write(&first);
    let mut spec = Spec::new(&["/drainit", "--resources-dir"]);
    spec.args.extend(line.iter().map(|word| (*word).to_owned()));
    spec.mounts = vec![
        (certs.clone(), "/certs".into(), true),
        (resources, "/run/envoy".into(), false),
        (config.clone(), "/etc/envoy".into(), true),
    ];
    let mut container = Container::start(&spec, &network);
    let mut client = network.enter(Helper::start);
    let https = ([127, 0, 0, 1], 8443).into();
    let mut serves = |pair: &Pair| {
        wait_for("the certificate", PATIENCE, || {
            client.fetch(https).as_ref() == Ok(&pair.serial)
        });
    };
    serves(&first);
    let second = ca.leaf();
    write(&second);
    serves(&second);
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);

    // The same with certificates of the clients, by the file's option and its two other lines.
    let option = yaml
        .lines()
        .find_map(|line| line.strip_prefix("# --validation "));
    let mut both = yaml.clone();
    for line in ["require_client_", "validation_context_"] {
        assert_eq!(yaml.matches(&format!(" # {line}")).count(), 1, "{line}");
        both = both.replace(&format!(" # {line}"), &format!(" {line}"));
    }
    fs::write(config.join("envoy.yaml"), both).unwrap();
    fs::write(certs.join("clients.pem"), &ca.cert).unwrap();
    fs::write(certs.join("clients.crl"), ca.crl(&[&first], 30)).unwrap();
    spec.args
        .splice(1..1, ["--validation".into(), option.unwrap().into()]);
    let mut container = Container::start(&spec, &network);
    wait_for("a client that shows its certificate", PATIENCE, || {
        client.fetch_as(https, Some(&second)).as_ref() == Ok(&second.serial)
    });
    assert!(client.fetch(https).is_err());
    assert!(
        client.fetch_as(https, Some(&first)).is_err(),
        "it is revoked"
    );
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn what_the_readme_shows_of_a_file_is_in_it() {
    let bare = |line: &str| line.trim().trim_start_matches("- ").to_owned();
    let examples = fs::read_dir(example_path("")).unwrap();
    let files: Vec<Vec<_>> = examples
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| text.lines().map(bare).collect())
        .collect();
    let readme = readme();
    let mut shown = 0;
    for language in ["dockerfile", "yaml", "ini"] {
        let fence = format!("\n```{language}\n");
        let blocks = readme.split(&fence).skip(1);
        for block in blocks.filter_map(|rest| rest.split("\n```").next()) {
            let has_all = |file: &Vec<String>| block.lines().all(|line| file.contains(&bare(line)));
            assert!(files.iter().any(has_all), "no example has all of\n{block}");
            shown += 1;
        }
    }
    assert_eq!(shown, 3);
}
