//! What is otherwise where there are many secrets: the log of a start, and the kernel's limit.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{Level, log, warn};

use super::rotation::Rotation;
use crate::pulse::Pulse;

/// The most secrets of which each has its own log lines at a start: with more, they would hide all
/// other lines.
const MANY: usize = 10;

/// How long after its start Envoy may take to load all secrets before the log tells which ones
/// failed. Envoy may be without its control plane for hours.
const LOADING: Duration = Duration::from_secs(60);

/// The most secrets that a line names.
const NAMED: usize = 5;

/// How many inotify instances a user may have, in the whole system and in the user namespace
/// (inotify(7), and namespaces of users in Linux's kernel/ucount.c).
pub const LIMITS: [&str; 2] = [
    "/proc/sys/fs/inotify/max_user_instances",
    "/proc/sys/user/max_inotify_instances",
];

/// Warns where Envoy cannot watch so many SDS files: it aborts (SIGABRT) where the kernel gives it
/// no inotify instance, and Envoy 1.36 to 1.40 take one for each SDS file that they use. Whether one
/// is left for drainit, as far as is known.
pub fn leaves_inotify(files: usize, pulse: &Pulse) -> bool {
    for limit in LIMITS.map(Path::new) {
        let text = pulse.during(limit, || fs::read_to_string(limit));
        let most = text.ok().and_then(|text| text.trim().parse().ok());
        if let Some(line) = most.and_then(|most| too_many(files, most, limit)) {
            warn!("{line}");
            return false;
        }
    }
    true
}

fn too_many(files: usize, most: usize, limit: &Path) -> Option<String> {
    // The last one may be somebody else's of the same user.
    let name = limit.strip_prefix("/proc/sys/").ok()?.display().to_string();
    let name = name.replace('/', ".");
    (files >= most).then(|| {
        format!(
            "Envoy takes an inotify instance for each of these {files} SDS files that it uses, and \
             aborts where the kernel gives it none: a user may have {most}; set the host's sysctl \
             {name} to {} or more",
            files.saturating_mul(2)
        )
    })
}

/// The log of a start with many secrets.
#[derive(Debug)]
pub struct Start {
    phase: StartPhase,
}

#[derive(Debug, PartialEq, Eq)]
enum StartPhase {
    /// The sets are read and published.
    Publishing,
    /// Envoy is asked whether it has them, since then.
    Loading(Instant),
    /// Envoy takes long to have them all. Each has its own warnings from here on.
    Late,
    /// Each has its own lines from here on.
    Over,
}

impl Start {
    /// Where there are many, their own lines are for debugging only, so far.
    pub fn of(rotations: &mut [Rotation]) -> Start {
        let many = rotations.len() > MANY;
        if many {
            tell_each(rotations, Level::Error);
        }
        let phase = if many {
            StartPhase::Publishing
        } else {
            StartPhase::Over
        };
        Start { phase }
    }

    /// Tells how far all of them are, once for each step. `ready`: Envoy may be started.
    pub fn tell(&mut self, rotations: &mut [Rotation], ready: bool) {
        for (level, line) in self.lines(rotations, ready) {
            log!(level, "{line}");
        }
    }

    fn lines(&mut self, rotations: &mut [Rotation], ready: bool) -> Vec<(Level, String)> {
        let error = |rotation: &Rotation| rotation.decision.record.error().map(str::to_owned);
        let mut lines = Vec::new();
        if self.phase == StartPhase::Publishing && ready {
            self.phase = StartPhase::Loading(Instant::now());
            lines.push(progress("published", rotations, |rotation| {
                let vacant = !rotation.decision.has_set();
                vacant.then(|| {
                    rotation
                        .decision
                        .waiting_for()
                        .unwrap_or_else(|| "its files were not read yet".into())
                })
            }));
        }
        let late = match self.phase {
            StartPhase::Publishing | StartPhase::Over => return lines,
            StartPhase::Loading(since) => since.elapsed() >= LOADING,
            StartPhase::Late => false,
        };
        if rotations.iter().all(|it| it.decision.is_through()) {
            self.phase = StartPhase::Over;
            lines.push(progress("loaded by Envoy", rotations, error));
            tell_each(rotations, Level::Info);
        } else if late {
            self.phase = StartPhase::Late;
            // What went wrong so far is told here. What does from here on has a line of its own.
            let line = progress("without an error so far", rotations, error);
            lines.extend(Some(line).filter(|(level, _)| *level == Level::Warn));
            tell_each(rotations, Level::Warn);
        }
        lines
    }
}

/// Has so much told of each set alone.
fn tell_each(rotations: &mut [Rotation], told: Level) {
    for rotation in rotations {
        rotation.decision.record.told = told;
    }
}

/// How many are through a step, and why the others are not.
fn progress(
    step: &str,
    rotations: &[Rotation],
    why: impl Fn(&Rotation) -> Option<String>,
) -> (Level, String) {
    let name = |rotation: &Rotation| {
        let secret = rotation.decision.record.status().first();
        secret.map_or(String::new(), |secret| secret.secret.clone())
    };
    let others = rotations
        .iter()
        .filter_map(|rotation| Some((name(rotation), why(rotation)?)));
    let others: Vec<_> = others.collect();
    let (all, left) = (rotations.len(), others.len());
    let line = format!("certificates: {} of {all} sets {step}", all - left);
    if others.is_empty() {
        return (Level::Info, line);
    }
    let named = others.iter().take(NAMED);
    let named: Vec<_> = named.map(|(name, why)| format!("{name}: {why}")).collect();
    let more = match left.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let line = format!("{line}; the others: {}{more}", named.join("; "));
    (Level::Warn, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::CheckTimes;
    use crate::certificates::duty::Duty;
    use crate::certificates::publish::SdsTarget;
    use crate::certificates::read::{Files, Source};
    use crate::certificates::record::ChangeOutcome;
    use crate::certificates::sds::SecretKind;

    #[test]
    fn a_warning_of_one_secret_is_told_though_envoy_takes_long_to_start() {
        let none = Path::new("/none");
        let pair = Source::Pair {
            cert: none.into(),
            key: none.into(),
            staple: None,
        };
        let check = CheckTimes {
            every: LOADING,
            given: true,
        };
        let now = Instant::now();
        let mut rotations: Vec<_> = (0..=MANY)
            .map(|number| {
                let target = SdsTarget::listener(none, "web", SecretKind::Certificate);
                let (files, pulse) = (Files(vec![pair.clone()]), Pulse::default());
                Rotation::new(number, files, target, Duty::Listener, &check, now, &pulse)
            })
            .collect();
        let mut start = Start::of(&mut rotations);
        let told = |start: &mut Start, rotations: &mut [Rotation]| {
            let lines = start.lines(rotations, true);
            let record = &rotations[0].decision.record;
            let levels = [Level::Warn, Level::Info].map(|level| record.level(level));
            (lines, levels)
        };
        let (lines, levels) = told(&mut start, &mut rotations);
        assert_eq!(levels, [Level::Debug, Level::Debug]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        // What was refused in the first minute was told for debugging only.
        let record = &mut rotations[0].decision.record;
        record.add(ChangeOutcome::Refused, Some("the key: is empty"));
        assert_eq!(told(&mut start, &mut rotations).0, []);
        start.phase = StartPhase::Loading(now.checked_sub(LOADING).unwrap());
        let (lines, levels) = told(&mut start, &mut rotations);
        assert_eq!(levels, [Level::Warn, Level::Debug]);
        let line = "certificates: 10 of 11 sets without an error so far; the others: web: the key: is empty";
        assert_eq!(lines, [(Level::Warn, line.to_owned())]);
        assert_eq!(told(&mut start, &mut rotations).0, [], "once");
    }

    #[test]
    fn too_small_a_limit_is_told_with_its_name_and_what_would_do() {
        let [system, namespace] = LIMITS.map(Path::new);
        assert_eq!(too_many(127, 128, system), None);
        let line = too_many(128, 128, system).unwrap();
        assert!(
            line.contains("fs.inotify.max_user_instances to 256"),
            "{line}"
        );
        let line = too_many(9, 1, namespace).unwrap();
        assert!(line.contains("user.max_inotify_instances"), "{line}");
    }
}
