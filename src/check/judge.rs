//! Every rule, held against what is known.

use super::facts::Facts;
use super::report::Report;
use super::{listener, prospect, rules, rules_bargain, rules_listener};

/// Holds every rule against these facts.
pub fn judge(facts: &Facts) -> Report {
    let mut report = Report {
        unseen: facts.unseen.clone(),
        ..Report::default()
    };
    for rule in rules_bargain::ALL {
        rule(facts, &mut report);
    }
    let Some(config) = &facts.config else {
        return report;
    };
    for rule in rules::ALL {
        rule(facts, config, &mut report);
    }
    let listeners = listener::all(config);
    if config.lacks_listeners() {
        report.miss("listeners: they come from an xDS source that has told none here".into());
    } else {
        for word in &facts.options.exclude_listeners {
            let word = std::slice::from_ref(word);
            if !listeners.iter().any(|one| one.is_called(word)) {
                let what = format!("--exclude-listener {} fits no listener", word.concat());
                let remedy = "a listener's name, its stat_prefix, address:port or :port";
                report.find("exclude", what, "", remedy);
            }
        }
    }
    for listener in listeners.iter().filter(|one| !one.is_internal()) {
        report.prospects.push(prospect::of(listener, facts));
        if !listener.is_called(&facts.options.exclude_listeners) {
            for rule in rules_listener::ALL {
                rule(facts, listener, &mut report);
            }
        }
    }
    report
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
