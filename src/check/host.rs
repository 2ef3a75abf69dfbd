//! What machine, container and files say. May hang where a file system does: it is nobody's pid 1
//! that looks here.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::facts::{Host, Orchestrator};
use crate::certificates::check;
use crate::certificates::many::LIMITS;
use crate::certificates::read::{Files, Refusal, Source};
use crate::certificates::usable::Age;
use crate::options::{ORCHESTRATOR, Options};
use crate::pulse::Pulse;

/// Looks at the machine for the process with this `/proc` entry (`self`) and its environment.
/// `first`: drainit, or the check in its place, is pid 1.
pub fn look(process: &str, first: bool, env: &dyn Fn(&str) -> bool) -> Host {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let root = format!("/proc/{process}/root");
    let has = |file: &str| Path::new(&root).join(file).exists();
    let orchestrator = match () {
        () if env(ORCHESTRATOR) => Orchestrator::Kubernetes,
        () if !has(".dockerenv") && !has("run/.containerenv") => Orchestrator::Unknown,
        () if first => Orchestrator::Docker,
        () => Orchestrator::PerhapsDocker,
    };
    let watches = LIMITS.into_iter().find_map(|file| {
        let most = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        let name = match file.ends_with("max_user_instances") {
            true => "fs.inotify.max_user_instances",
            false => "user.max_inotify_instances",
        };
        Some((most, name))
    });
    Host {
        orchestrator,
        descriptors: open_files(&limits),
        watches,
        no_shared_memory: shared_memory(Path::new(&root).join("dev/shm").as_path()).err(),
    }
}

/// `Max open files            1024                 524288               files`
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    soft.parse().ok()
}

fn shared_memory(dir: &Path) -> Result<(), String> {
    let at = statvfs(dir).map_err(|error| error.to_string())?;
    if at.flags().contains(FsFlags::ST_RDONLY) {
        return Err("it is read-only".into());
    }
    access(dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| error.to_string())
}

/// Certificates that cannot be used: the option that names them, and why.
pub fn certificates(options: &Options) -> Vec<(String, String)> {
    let mut refused = Vec::new();
    let mut judge = |place: String, source: Source| {
        let now = SystemTime::now();
        let judge_all = || -> Result<(), Refusal> {
            let files = Files(vec![source]);
            let (contents, _) = files.read(&Pulse::default())?;
            for material in &contents {
                if let Some(lacks) = check::check(material, None, now, Age::Valid)?.lacks {
                    return Err(lacks);
                }
            }
            Ok(())
        };
        if let Err(refusal) = judge_all() {
            refused.push((place, refusal.to_string()));
        }
    };
    if let (Some(cert), Some(key)) = (options.cert_file.clone(), options.key_file.clone()) {
        let staple = None;
        judge(
            "--envoy-cert-file".into(),
            Source::Pair { cert, key, staple },
        );
    }
    if let Some(ca) = options.ca_file.clone() {
        judge("--envoy-cafile".into(), Source::Trust { ca, crl: None });
    }
    for (option, all) in [
        ("--secret", &options.secrets),
        ("--validation", &options.validations),
    ] {
        for (name, source) in all {
            judge(format!("{option} {name}"), source.clone());
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files  unlimited  unlimited  files\n"),
            None
        );
        let here = look("self", true, &|_| true);
        assert_eq!(here.orchestrator, Orchestrator::Kubernetes);
        assert!(here.descriptors.is_some());
        assert!(shared_memory(Path::new("/nowhere")).is_err());
    }
}
