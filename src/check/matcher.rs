//! Envoy's string matchers.

use serde_json::Value;

use super::config::{items, text};

/// Whether one of these `StringMatcher`s fits; none where a regular expression decides, which is not
/// read here.
pub fn any_fits(patterns: &[Value], name: &str) -> Option<bool> {
    let mut known = Some(false);
    for pattern in patterns {
        match fits(pattern, name) {
            Some(true) => return Some(true),
            None => known = None,
            Some(false) => {}
        }
    }
    known
}

fn fits(pattern: &Value, name: &str) -> Option<bool> {
    let fold = pattern.get("ignore_case").and_then(Value::as_bool) == Some(true);
    let case = |text: &str| match fold {
        true => text.to_ascii_lowercase(),
        false => text.to_owned(),
    };
    let name = case(name);
    let of = |kind: &str| Some(case(pattern.get(kind)?.as_str()?));
    if let Some(text) = of("exact") {
        return Some(name == text);
    }
    if let Some(text) = of("prefix") {
        return Some(name.starts_with(&text));
    }
    if let Some(text) = of("suffix") {
        return Some(name.ends_with(&text));
    }
    of("contains").map(|text| name.contains(&text))
}

/// Whether a `StatsMatcher` hides this statistic; none where that cannot be told.
pub fn hides(matcher: &Value, name: &str) -> Option<bool> {
    if matcher.get("reject_all").and_then(Value::as_bool) == Some(true) {
        return Some(true);
    }
    if matcher.get("inclusion_list").is_some() {
        let shown = any_fits(items(matcher, "/inclusion_list/patterns"), name)?;
        return Some(!shown);
    }
    any_fits(items(matcher, "/exclusion_list/patterns"), name)
}

/// A regular expression of a list, for a person.
pub fn expression(patterns: &[Value]) -> Option<&str> {
    let found = patterns.iter().map(|one| text(one, "/safe_regex/regex"));
    found.into_iter().find(|regex| !regex.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_pattern_is_known_and_an_expression_is_nobodys_guess() {
        let cases = [
            (json!({ "exact": "/stats" }), "/stats?usedonly", Some(false)),
            (json!({ "exact": "/ready" }), "/ready", Some(true)),
            (json!({ "prefix": "/stats" }), "/stats?usedonly", Some(true)),
            (json!({ "suffix": "cx_active" }), "a.cx_active", Some(true)),
            (
                json!({ "contains": "LIVE", "ignore_case": true }),
                "server.live",
                Some(true),
            ),
            (json!({ "contains": "LIVE" }), "server.live", Some(false)),
            (json!({ "safe_regex": { "regex": ".*" } }), "a", None),
        ];
        for (pattern, name, fits) in cases {
            assert_eq!(
                any_fits(std::slice::from_ref(&pattern), name),
                fits,
                "{pattern}"
            );
        }
        let both = [
            json!({ "safe_regex": { "regex": "b" } }),
            json!({ "exact": "a" }),
        ];
        assert_eq!(any_fits(&both, "a"), Some(true));
        assert_eq!(any_fits(&both, "b"), None);
        assert_eq!(expression(&both), Some("b"));
    }

    #[test]
    fn a_matcher_hides_what_it_excludes_or_does_not_include() {
        let list = |kind: &str| json!({ kind: { "patterns": [{ "prefix": "http." }] } });
        for (matcher, http, udp) in [
            (json!({ "reject_all": true }), true, true),
            (json!({ "reject_all": false }), false, false),
            (list("exclusion_list"), true, false),
            (list("inclusion_list"), false, true),
            (json!({}), false, false),
        ] {
            assert_eq!(hides(&matcher, "http.x"), Some(http), "{matcher}");
            assert_eq!(hides(&matcher, "udp.x"), Some(udp), "{matcher}");
        }
    }
}
