//! Which generation of a hot restart answers at an admin interface's address.

use serde_json::Value;

/// Where an Envoy tells its restart epoch that may not answer `/server_info`: in a gauge.
pub const GAUGE: &str = "/stats?type=Gauges&filter=%5Eserver%5C.hot_restart_epoch%24";

/// The restart epoch in an answer to `/server_info`.
pub fn of_info(body: &str) -> Option<u64> {
    let info: Value = serde_json::from_str(body).ok()?;
    info.pointer("/command_line_options/restart_epoch")?
        .as_u64()
}

/// The restart epoch in an answer to [`GAUGE`]; none where the statistic is hidden.
pub fn of_gauge(body: &str) -> Option<u64> {
    let told = |line: &str| {
        line.strip_prefix("server.hot_restart_epoch: ")?
            .parse()
            .ok()
    };
    body.lines().find_map(told)
}

/// Whether the generation that was told is the one of this `epoch`.
///
/// # Errors
/// One line, when another one has answered, or none that tells.
pub fn check(told: Option<u64>, epoch: u32) -> Result<(), String> {
    let not_yet =
        || format!("the envoy of restart epoch {epoch} does not answer at the admin address yet");
    let is_it = told == Some(u64::from(epoch));
    is_it.then_some(()).ok_or_else(not_yet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_told_by_either_answer_and_by_no_other() {
        let info = r#"{"command_line_options": {"restart_epoch": 3}}"#;
        let gauge = "server.hot_restart_epoch: 3\n";
        assert_eq!((of_info(info), of_gauge(gauge)), (Some(3), Some(3)));
        assert_eq!((of_info(gauge), of_gauge(info)), (None, None));
        assert!(check(Some(3), 3).is_ok());
        assert!(check(Some(2), 3).is_err() && check(None, 3).is_err());
    }
}
