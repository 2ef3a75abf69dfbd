//! As much of a kubelet as a pod of the examples needs: its volumes, its init containers one after
//! the other, its probes, and its end.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::container::{Container, Network, Spec, open_to_all, writable_file};
use super::http::{Address, Response};
use super::{TempDir, wait_for};

/// The worst of what the default seccomp profile of container runtimes refuses.
const REFUSED: [&str; 12] = [
    "add_key",
    "bpf",
    "init_module",
    "kexec_load",
    "keyctl",
    "mount",
    "perf_event_open",
    "pivot_root",
    "ptrace",
    "reboot",
    "swapon",
    "umount2",
];

/// Writes a Secret's volume anew: the files are links through `..data`, which is swapped, and what
/// it led to is removed.
pub fn write_volume(volume: &Path, version: &str, files: &[(&str, String)]) {
    let data = volume.join("..data");
    let old = fs::read_link(&data);
    let new = format!("..{version}");
    fs::create_dir(volume.join(&new)).unwrap();
    for (name, text) in files {
        fs::write(volume.join(&new).join(name), text).unwrap();
    }
    symlink(&new, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), &data).unwrap();
    for (name, _) in files {
        if fs::read_link(volume.join(name)).is_err() {
            symlink(Path::new("..data").join(name), volume.join("link")).unwrap();
            fs::rename(volume.join("link"), volume.join(name)).unwrap();
        }
    }
    if let Ok(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    }
}

/// A pod, and where its volumes are.
pub struct Pod {
    pub network: Network,
    spec: Value,
    name: String,
    namespace: String,
    dir: TempDir,
}

impl Pod {
    /// The pod of a Deployment's or DaemonSet's template. `files` is what ConfigMaps and Secrets
    /// hold: the volume's name, the file's name, the text.
    pub fn new(manifest: &Value, network: Network, files: &[(&str, &str, &str)]) -> Pod {
        let spec = manifest["spec"]["template"]["spec"].clone();
        let namespace = manifest["metadata"]["namespace"].as_str();
        let pod = Pod {
            network,
            name: format!("{}-0", manifest["metadata"]["name"].as_str().unwrap()),
            namespace: namespace.unwrap_or("default").to_owned(),
            dir: TempDir::new(),
            spec,
        };
        for volume in pod.spec["volumes"].as_array().unwrap() {
            let dir = pod.volume(&volume["name"]);
            fs::create_dir(&dir).unwrap();
            if volume["emptyDir"].is_object() {
                open_to_all(&dir).unwrap();
            }
        }
        for volume in pod.spec["volumes"].as_array().unwrap() {
            let name = volume["name"].as_str().unwrap();
            let of_this = files.iter().filter(|(of, ..)| *of == name);
            let own: Vec<_> = of_this
                .map(|(_, file, text)| (*file, (*text).to_owned()))
                .collect();
            if !own.is_empty() {
                pod.write(name, "first", &own);
            }
        }
        writable_file(&pod.termination_log());
        pod
    }

    /// Writes what a ConfigMap or a Secret holds: as root's, of the pod's group, with the mode
    /// that the volume asks for.
    pub fn write(&self, volume: &str, version: &str, files: &[(&str, String)]) {
        let dir = self.volume(&volume.into());
        write_volume(&dir, version, files);
        let volumes = self.spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|one| one["name"] == volume).unwrap();
        let group = self.spec["securityContext"]["fsGroup"].as_u64();
        let group = group.map(|group| u32::try_from(group).unwrap());
        for (name, _) in files {
            let file = dir.join(name);
            chown(&file, Some(0), group).unwrap();
            if let Some(mode) = volume["secret"]["defaultMode"].as_u64() {
                let mode = u32::try_from(mode).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }

    /// Where this volume is on the host.
    pub fn volume(&self, name: &Value) -> PathBuf {
        self.dir.join(name.as_str().unwrap())
    }

    pub fn termination_log(&self) -> PathBuf {
        self.dir.join("termination-log")
    }

    pub fn grace_period(&self) -> Duration {
        Duration::from_secs(self.spec["terminationGracePeriodSeconds"].as_u64().unwrap())
    }

    fn only_container(&self) -> &Value {
        let containers = self.spec["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "no sidecar");
        &containers[0]
    }

    /// Runs this init container to its end.
    #[track_caller]
    pub fn run_init(&self, name: &str) {
        let inits = self.spec["initContainers"].as_array().unwrap();
        let init = inits.iter().find(|init| init["name"] == name).unwrap();
        let (code, log) = Container::run(&self.container(init), &self.network);
        assert_eq!(code, 0, "{name}: {log:?}");
    }

    /// Runs the init containers, and starts the container.
    #[track_caller]
    pub fn start(&self) -> Container {
        for init in self.spec["initContainers"].as_array().unwrap() {
            self.run_init(init["name"].as_str().unwrap());
        }
        let container = Container::start(&self.container(self.only_container()), &self.network);
        let limit = self.only_container()["startupProbe"]["failureThreshold"].as_u64();
        wait_for(
            "the startup probe",
            Duration::from_secs(limit.unwrap()),
            || self.probe("startupProbe"),
        );
        container
    }

    /// One probe, as the kubelet makes it: from outside of loopback, and with a second's patience.
    pub fn probe(&self, kind: &str) -> bool {
        let get = &self.only_container()[kind]["httpGet"];
        let path = get["path"].as_str().unwrap();
        self.get(self.port(&get["port"]), path)
            .is_some_and(|answer| (200..400).contains(&answer.status))
    }

    /// The answer to a GET from outside of loopback.
    pub fn get(&self, port: u16, path: &str) -> Option<Response> {
        let address = Address::Tcp(self.address(port));
        let patience = Duration::from_secs(1);
        self.network
            .enter(|| address.request("GET", path, patience))
            .ok()
    }

    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Network::POD_IP.parse().unwrap(), port)
    }

    /// A port, by its number or its name.
    pub fn port(&self, port: &Value) -> u16 {
        let ports = self.only_container()["ports"].as_array().unwrap();
        let named = ports.iter().find(|one| one["name"] == *port);
        let number = named.map_or(port, |one| &one["containerPort"]).as_u64();
        u16::try_from(number.unwrap()).unwrap()
    }

    /// Sends SIGTERM, as there is no preStop hook, and waits for the end: exit code and time.
    #[track_caller]
    pub fn end(&self, container: &mut Container, meanwhile: impl FnOnce()) -> (i32, Duration) {
        let start = Instant::now();
        container.kill("TERM");
        meanwhile();
        let left = self.grace_period().saturating_sub(start.elapsed());
        (container.wait_exit(left), start.elapsed())
    }

    fn container(&self, one: &Value) -> Spec {
        let texts = |value: &Value| {
            let texts = value.as_array().into_iter().flatten();
            texts
                .map(|text| text.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let env: Vec<_> = one["env"].as_array().into_iter().flatten().collect();
        let mut env: Vec<_> = env.iter().map(|one| self.variable(one)).collect();
        // Of the cluster's own Service, which every pod is told.
        env.push(("KUBERNETES_SERVICE_HOST".into(), "10.96.0.1".into()));
        let args = texts(&one["command"])
            .into_iter()
            .chain(texts(&one["args"]));
        let args = args.map(|arg| {
            env.iter().fold(arg, |arg, (name, value)| {
                arg.replace(&format!("$({name})"), value)
            })
        });
        let (pod, own) = (&self.spec["securityContext"], &one["securityContext"]);
        // What the container sets up holds always, so that it must be asked for.
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert_eq!(own["capabilities"]["drop"][0], "ALL");
        let id = |name: &str| u32::try_from(pod[name].as_u64().unwrap()).unwrap();
        let mounts = one["volumeMounts"].as_array().unwrap().iter().map(|mount| {
            let to = mount["mountPath"].as_str().unwrap();
            let read_only = mount["readOnly"] == true;
            (self.volume(&mount["name"]), to.into(), read_only)
        });
        let mut mounts: Vec<_> = mounts.collect();
        mounts.push((self.termination_log(), "/dev/termination-log".into(), false));
        let drainits_own = one["image"].as_str().unwrap().starts_with("drainit:");
        Spec {
            args: args.collect(),
            user: (id("runAsUser"), id("runAsGroup")),
            mounts,
            read_only: own["readOnlyRootFilesystem"] == true,
            shared_memory: false,
            only_drainit: drainits_own,
            terminal: false,
            pid_namespace: None,
            without_drainit: !drainits_own,
            refused: match pod["seccompProfile"]["type"] == "RuntimeDefault" {
                true => REFUSED.to_vec(),
                false => Vec::new(),
            },
            without_netlink: false,
            memory: one["resources"]["limits"]["memory"].as_str().map(bytes),
            env,
        }
    }

    fn variable(&self, one: &Value) -> (String, String) {
        let field = &one["valueFrom"]["fieldRef"]["fieldPath"];
        let value = match field.as_str() {
            Some("metadata.name") => &self.name,
            Some("metadata.namespace") => &self.namespace,
            _ => one["value"].as_str().unwrap(),
        };
        (one["name"].as_str().unwrap().into(), value.into())
    }
}

/// `512Mi` in bytes.
fn bytes(quantity: &str) -> i64 {
    let (number, factor) = match quantity.strip_suffix("Mi") {
        Some(number) => (number, 1 << 20),
        None => (quantity.strip_suffix("Gi").unwrap(), 1 << 30),
    };
    number.parse::<i64>().unwrap() * factor
}
