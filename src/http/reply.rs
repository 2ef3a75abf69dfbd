//! An answer, and its bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use tiny_http::{HTTPVersion, Header, Response};

use crate::status::OrderResult;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// The methods that would have been right, in an answer with 405.
    pub allow: Option<&'static str>,
    /// How the drain went, in the answer to `/shutdown`; how the hold or the resume did, in theirs.
    pub order_result: Option<OrderResult>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// An answer of one line of text.
    pub fn text(status: u16, body: impl Into<String>) -> Reply {
        Reply {
            status,
            content_type: "text/plain; charset=utf-8",
            allow: None,
            order_result: None,
            body: body.into(),
        }
    }

    /// The answer as it goes over the wire; `head_only` leaves the body out but not its length.
    pub fn into_bytes(self, head_only: bool) -> Vec<u8> {
        let headers = [
            ("Server", Some("drainit")),
            ("Date", date_of_a_broken_clock()),
            ("Content-Type", Some(self.content_type)),
            ("Allow", self.allow),
            ("Drain-Result", self.order_result.map(|it| it.name)),
            (
                "Drain-Clean",
                self.order_result
                    .map(|it| if it.is_clean { "true" } else { "false" }),
            ),
        ];
        let mut response = Response::from_data(self.body)
            .with_status_code(self.status)
            // All lengths are known: nothing is ever sent in chunks.
            .with_chunked_threshold(usize::MAX);
        for (name, value) in headers {
            if let Some(header) = value.and_then(|value| Header::from_bytes(name, value).ok()) {
                response.add_header(header);
            }
        }
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _ = response.raw_print(&mut bytes, HTTPVersion(1, 1), &[], head_only, None);
        say_close(&mut bytes);
        bytes
    }
}

/// `Response` drops the `Connection` headers that it is given, so that this one is put in after
/// the status line.
fn say_close(bytes: &mut Vec<u8>) {
    if let Some(line) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        bytes.splice(line..line, *b"\r\nConnection: close");
    }
}

/// `Response` adds the date by itself, but panics when the clock shows a year that HTTP cannot
/// write.
fn date_of_a_broken_clock() -> Option<&'static str> {
    const YEAR_10000: u64 = 253_402_300_800;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    match since_epoch {
        Ok(since_epoch) if since_epoch.as_secs() < YEAR_10000 => None,
        _ => Some("Thu, 01 Jan 1970 00:00:00 GMT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_length_says_close_and_is_never_chunked() {
        let body = "x".repeat(100_000);
        let whole = String::from_utf8(Reply::text(200, &body).into_bytes(false)).unwrap();
        let (head, sent) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(sent, body);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
        for header in [
            "Content-Length: 100000",
            "Server: drainit",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert_eq!(head.matches(header).count(), 1, "{head}");
        }
        assert_eq!(head.matches("\r\nDate: ").count(), 1);
        assert!(!head.contains("chunked"));
    }

    #[test]
    fn the_answer_to_head_is_the_answer_to_get_without_its_body() {
        let mut reply = Reply::text(405, "no");
        reply.allow = Some("GET, HEAD");
        let whole = reply.clone().into_bytes(false);
        let head = reply.into_bytes(true);
        let without_date = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let lines = text.lines().filter(|line| !line.starts_with("Date:"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(without_date(&whole).contains(&"Allow: GET, HEAD".to_owned()));
        assert_eq!(without_date(&whole[..whole.len() - 2]), without_date(&head));
    }
}
