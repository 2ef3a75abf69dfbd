//! What is known of an Envoy that does not run yet.

use std::ffi::OsString;
use std::fs;

use super::candidate::Candidate;
use super::config::Config;
use super::facts::{AdminSetting, Facts};
use super::host;
use super::overlay::{self, Stage};
use super::program::{self, Program};
use crate::options::{self, Options};
use crate::process::mute::leave_network;

/// Gathers the facts on the Envoy that this command line starts, and starts nothing that serves.
pub fn facts(options: Options, line: &[OsString]) -> Facts {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into(), value));
    let mut facts = Facts {
        host: host::look("self", std::process::id() == 1, &set),
        certificates: host::certificates(&options),
        strays: options::stray_variables(variables.collect()),
        args: line.iter().skip(1).cloned().collect(),
        options,
        ..Facts::default()
    };
    match program::find(line) {
        Program::Missing(why) => facts.missing = Some(why),
        Program::Other(name, what) => {
            facts.unseen.push(format!(
                "what Envoy says: {name} is {what}, and was not run; write the Envoy that it starts, \
                 with its arguments"
            ));
            read_text(&mut facts);
        }
        Program::Envoy { path, args, behind } => {
            if let Some(behind) = behind {
                facts.unseen.push(format!(
                    "what {behind} does: it was not run, Envoy itself was"
                ));
            }
            facts.args.clone_from(&args);
            try_out(&mut facts, path, args);
        }
    }
    facts
}

/// Has Envoy itself tell.
fn try_out(facts: &mut Facts, path: std::path::PathBuf, mut args: Vec<OsString>) {
    let written = facts.written();
    let stage = match Stage::set(&mut args, &written) {
        Ok(stage) => stage,
        Err(why) => return read_text_instead(facts, why),
    };
    let unmask = |text: String| match &stage {
        Some(stage) => stage.unmask(text),
        None => text,
    };
    let candidate = Candidate {
        path,
        args,
        alone: leave_network().is_ok(),
    };
    let dump = candidate.refusal().and_then(|refusal| {
        facts.refusal = refusal.map(unmask);
        if facts.refusal.is_some() {
            return Err(String::new());
        }
        facts.admin = candidate.admin()?;
        candidate.dump()
    });
    let opened = matches!(dump, Ok((_, true)));
    match dump.map(|(dump, _)| Config::of_dump(&unmask(dump))) {
        Ok(Some(mut config)) => {
            if opened {
                config.forget_path();
            }
            facts.version = config.version();
            if config.has_files() && !candidate.alone {
                facts.unseen.push(
                    "what xDS files tell: the kernel gives no network namespace to read them in"
                        .into(),
                );
            }
            facts.config = Some(config);
        }
        Ok(None) => facts.unread = Some("/config_dump has no bootstrap in it".into()),
        Err(_) if facts.refusal.is_some() => read_text(facts),
        Err(why) => read_text_instead(facts, why),
    }
}

/// Reads the text of a configuration that Envoy could not tell.
fn read_text_instead(facts: &mut Facts, why: String) {
    read_text(facts);
    if facts.config.is_some() {
        let what = format!("the configuration, as Envoy reads it: {why}");
        facts.unseen.push(what);
    } else {
        facts.unread = Some(why);
    }
}

/// Reads the configuration's text, where that is JSON.
fn read_text(facts: &mut Facts) {
    let Some(file) = overlay::config_file(&facts.args) else {
        facts
            .unseen
            .push("the configuration: no -c names a file".into());
        return;
    };
    let name = file.to_string_lossy();
    match fs::read_to_string(file).map(|text| Config::of_text(&text)) {
        Ok(Some(config)) => {
            if config.bootstrap.get("admin").is_none() && facts.refusal.is_none() {
                facts.admin = AdminSetting::Missing;
            }
            facts.config = Some(config);
        }
        Ok(None) => facts.unseen.push(format!(
            "the configuration {name}: it is YAML, which only Envoy reads"
        )),
        Err(error) => facts.unread = Some(format!("{name}: {error}")),
    }
}
