//! What came of a check.

/// A listener's row in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// The listener's name, or else its address.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// What comes in at the listener.
    pub kind: &'static str,
    /// Whether its connections count (`--exclude-listener`).
    pub excluded: bool,
    /// How its clients are told to go.
    pub told: &'static str,
    /// What is waited for.
    pub waits: String,
    /// What is cut at the deadline.
    pub cut: &'static str,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name, for programs.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
    /// Where: listeners, clusters, options. Empty where it is all of it.
    pub places: Vec<String>,
    /// What would be right.
    pub remedy: String,
}

/// What came of the rules.
#[derive(Debug, Default)]
pub struct Report {
    /// What a SIGTERM does to each listener.
    pub prospects: Vec<Prospect>,
    /// What is wrong; each thing once, with all its places.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

impl Report {
    /// Something is wrong, at this place.
    pub fn find(&mut self, rule: &'static str, what: String, place: &str, remedy: &str) {
        let mut all = self.findings.iter_mut();
        let same = all.find(|one| one.rule == rule && one.what == what && one.remedy == remedy);
        let places = match same {
            Some(known) => &mut known.places,
            None => {
                self.findings.push(Finding {
                    rule,
                    what,
                    places: Vec::new(),
                    remedy: remedy.to_owned(),
                });
                match self.findings.last_mut() {
                    Some(new) => &mut new.places,
                    None => return,
                }
            }
        };
        if !place.is_empty() && !places.iter().any(|known| known == place) {
            places.push(place.to_owned());
        }
    }

    /// Something was not looked at.
    pub fn miss(&mut self, what: String) {
        if !self.unseen.contains(&what) {
            self.unseen.push(what);
        }
    }
}
