//! Reading a request's head.

use super::reply::Reply;

/// The longest head that is read, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// The most headers that a head may have.
const MAX_HEADERS: usize = 64;

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMethod {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// Any method but GET, HEAD and POST.
    Other,
}

/// A request, as far as anybody here looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The request's method.
    pub method: RequestMethod,
    /// The request's path, without the query.
    pub path: String,
    /// What follows the question mark; empty where there is none.
    pub query: String,
    /// Whether a browser sent it for a page, and not because a person typed the address: it has an
    /// `Origin`, or a `Sec-Fetch-Site` other than `none` (Fetch Metadata Request Headers, W3C).
    pub from_page: bool,
}

/// What some bytes at the beginning of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedHead {
    /// The beginning of a head, which has not all come yet.
    Partial,
    /// A whole head; whatever follows it is of no interest.
    Whole(Request),
    /// Bytes that cannot become a head, and the answer to them.
    Bad(Reply),
}

/// Reads `bytes`, all that has come so far.
pub fn parse(bytes: &[u8]) -> ParsedHead {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    // What is beyond the limit may be a body already, and a part of it at that.
    let head = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => (),
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return ParsedHead::Partial,
        Ok(httparse::Status::Partial) => {
            let text = format!("a request head has at most {MAX_HEAD} bytes");
            return ParsedHead::Bad(Reply::text(431, text));
        }
        Err(httparse::Error::TooManyHeaders) => {
            let text = format!("a request has at most {MAX_HEADERS} headers");
            return ParsedHead::Bad(Reply::text(431, text));
        }
        Err(error) => return ParsedHead::Bad(Reply::text(400, format!("bad request: {error}"))),
    }
    let target = origin_form(request.path.unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let from_page = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("origin")
            || header.name.eq_ignore_ascii_case("sec-fetch-site")
                && !header.value.trim_ascii().eq_ignore_ascii_case(b"none")
    });
    ParsedHead::Whole(Request {
        from_page,
        method: match request.method {
            Some("GET") => RequestMethod::Get,
            Some("HEAD") => RequestMethod::Head,
            Some("POST") => RequestMethod::Post,
            _ => RequestMethod::Other,
        },
        path: path.to_owned(),
        query: query.to_owned(),
    })
}

/// A target without scheme and host, which a proxy may send (RFC 9112, 3.2.2).
fn origin_form(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Request {
        match parse(bytes) {
            ParsedHead::Whole(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn status(bytes: &[u8]) -> u16 {
        match parse(bytes) {
            ParsedHead::Bad(reply) => {
                assert!(!reply.body.contains('\n'));
                reply.status
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_its_method_and_its_path() {
        let request = whole(b"GET /ready?verbose=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            (request.method, &*request.path),
            (RequestMethod::Get, "/ready")
        );
        let request = whole(b"POST /shutdown HTTP/1.0\n\nbody");
        assert_eq!(
            (request.method, &*request.path),
            (RequestMethod::Post, "/shutdown")
        );
        let request = whole(b"get / HTTP/1.1\r\n\r\nGET /pipelined HTTP/1.1\r\n\r\n");
        assert_eq!(
            (request.method, &*request.path),
            (RequestMethod::Other, "/")
        );
        assert_eq!(
            whole(b"HEAD * HTTP/1.1\r\n\r\n").method,
            RequestMethod::Head
        );
        let request = whole(b"GET http://a:8090/status?now HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((&*request.path, &*request.query), ("/status", "now"));
        assert_eq!(whole(b"GET http://a HTTP/1.1\r\n\r\n").path, "/");
    }

    #[test]
    fn what_a_browser_sends_for_a_page_is_known_by_its_headers() {
        for (header, from_page) in [
            ("Origin: http://a", true),
            ("ORIGIN: null", true),
            ("Sec-Fetch-Site: cross-site", true),
            ("sec-fetch-site: same-origin", true),
            ("Sec-Fetch-Site:", true),
            ("Sec-Fetch-Site:  none ", false),
            ("Referer: http://a", false),
            ("X-Origin: a", false),
        ] {
            let request = whole(format!("GET / HTTP/1.1\r\n{header}\r\n\r\n").as_bytes());
            assert_eq!(request.from_page, from_page, "{header}");
        }
        let both = b"GET / HTTP/1.1\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: same-site\r\n\r\n";
        assert!(whole(both).from_page);
    }

    #[test]
    fn a_head_that_has_not_ended_is_partial_at_every_byte() {
        let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), ParsedHead::Partial, "{end}");
        }
        assert_eq!(whole(head).path, "/healthz");
    }

    #[test]
    fn what_is_no_request_is_refused_in_one_line() {
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00"), 400);
        assert_eq!(status(b"GET /\0 HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"), 400);
        assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
        assert_eq!(status(b"GET /\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\n folded: a\r\n\r\n"), 400);
    }

    #[test]
    fn a_head_over_the_limit_is_refused_and_one_at_it_is_not() {
        let padded = |length: usize| {
            let (start, end) = ("GET / HTTP/1.1\r\nA: ", "\r\n\r\n");
            let fill = "a".repeat(length - start.len() - end.len());
            format!("{start}{fill}{end}").into_bytes()
        };
        assert_eq!(whole(&padded(MAX_HEAD)).path, "/");
        assert_eq!(status(&padded(MAX_HEAD + 1)), 431);
        assert_eq!(status(&[b'A'; MAX_HEAD]), 431);
        let mut with_body = padded(MAX_HEAD);
        with_body.extend([0; 9_000]);
        assert_eq!(whole(&with_body).path, "/");
        let headers = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()),
            431
        );
    }
}
