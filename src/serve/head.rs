//! Reads the head of a request, complete and at most 8 KiB: pure, bytes in and a request or a refusal out.
//! It takes GET and HEAD without a body; everything else is refused with the status that says why.
//! Header lines are judged by tiny_http's own parser.

use std::str::FromStr;
use tiny_http::{HTTPVersion, Header, Method};

/// Requests of Prometheus and the kubelet stay below 1 KiB; the limit bounds what sixteen clients can make us hold.
pub const HEAD_LIMIT: usize = 8 * 1024;

/// What is left of a request once the head is judged.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The path without the query; absolute-form reduced to its path.
    pub path: String,
    /// What follows the path's `?`, as it came; empty without one.
    pub query: String,
    /// HEAD: the same head as GET, no body.
    pub head_only: bool,
    /// 1.0 or 1.1.
    pub version: HTTPVersion,
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub why: &'static str,
}

const fn refuse(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

/// Where a head stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    Request(Request),
    Refused(Refusal),
}

/// Looks at all bytes received so far. What follows the head (a pipelined request, a body) is not looked at.
pub fn parse(bytes: &[u8]) -> Parsed {
    // Empty lines before the request line are ignored, as RFC 9112 section 2.2 asks.
    let skipped = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    match end_of_head(&bytes[skipped..]) {
        Some(end) if skipped + end <= HEAD_LIMIT => match read(&bytes[skipped..skipped + end]) {
            Ok(request) => Parsed::Request(request),
            Err(refusal) => Parsed::Refused(refusal),
        },
        None if bytes.len() < HEAD_LIMIT => Parsed::Incomplete,
        _ => Parsed::Refused(refuse(431, "the head of the request is larger than 8 KiB")),
    }
}

/// Index after the empty line; a bare LF ends a line too.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line_start = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' {
            if matches!(&bytes[line_start..i], b"" | b"\r") {
                return Some(i + 1);
            }
            line_start = i + 1;
        }
    }
    None
}

fn read(head: &[u8]) -> Result<Request, Refusal> {
    let text = std::str::from_utf8(head).map_err(|_| refuse(400, "the head is not text"))?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t')) {
        return Err(refuse(400, "the head has control characters"));
    }
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let (method, (path, query), version) = read_request_line(lines.next().unwrap_or_default())?;

    let mut length: Option<u64> = None;
    let mut encoded = false;
    for line in lines.take_while(|line| !line.is_empty()) {
        // A CR within a line would make two readers see different lines.
        if line.contains('\r') {
            return Err(refuse(400, "a header line has a bare CR"));
        }
        let header = Header::from_str(line).map_err(|()| refuse(400, "a header line cannot be read"))?;
        if header.field.as_str().is_empty() {
            return Err(refuse(400, "a header line has no name"));
        }
        if header.field.equiv("Transfer-Encoding") {
            encoded = true;
        } else if header.field.equiv("Content-Length") {
            let value = header.value.as_str();
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            match value.parse() {
                Ok(n) if digits && length.is_none_or(|known| known == n) => length = Some(n),
                _ => return Err(refuse(400, "Content-Length cannot be read")),
            }
        }
    }
    let head_only = match method {
        Method::Get => false,
        Method::Head => true,
        _ => return Err(refuse(405, "only GET and HEAD are served")),
    };
    if encoded || length.unwrap_or(0) > 0 {
        return Err(refuse(413, "a request here has no body"));
    }
    Ok(Request { path, query, head_only, version })
}

fn read_request_line(line: &str) -> Result<(Method, (String, String), HTTPVersion), Refusal> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(refuse(400, "the request line is not method, target, version"));
    };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if method.is_empty() || !method.bytes().all(token) {
        return Err(refuse(400, "the method cannot be read"));
    }
    let version = match version {
        "HTTP/1.0" => HTTPVersion(1, 0),
        "HTTP/1.1" => HTTPVersion(1, 1),
        other if other.starts_with("HTTP/") => return Err(refuse(505, "only HTTP/1.0 and HTTP/1.1 are served")),
        _ => return Err(refuse(400, "the version cannot be read")),
    };
    let method = Method::from_str(method).map_err(|()| refuse(400, "the method cannot be read"))?;
    Ok((method, path_and_query(target)?, version))
}

/// The path and the query of an origin-form or absolute-form target.
fn path_and_query(target: &str) -> Result<(String, String), Refusal> {
    if !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse(400, "the target cannot be read"));
    }
    let path = if target.starts_with('/') {
        target
    } else {
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| match target.get(..scheme.len()) {
                Some(start) if start.eq_ignore_ascii_case(scheme) => target.get(scheme.len()..),
                _ => None,
            })
            .ok_or(refuse(400, "the target is neither a path nor a URL"))?;
        // Without a path (`http://host?query`) it is the root.
        match rest.find(['/', '?', '#']) {
            Some(at) => &rest[at..],
            None => "",
        }
    };
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path = if path.is_empty() { "/" } else { path };
    Ok((path.to_owned(), query.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> u16 {
        match parse(bytes) {
            Parsed::Incomplete => 0,
            Parsed::Request(_) => 200,
            Parsed::Refused(refusal) => refusal.status,
        }
    }

    fn path(bytes: &str) -> String {
        match parse(bytes.as_bytes()) {
            Parsed::Request(request) => request.path,
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    #[test]
    fn a_head_is_read_in_every_form_that_clients_send() {
        assert_eq!(path("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), "/metrics");
        assert_eq!(path("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), "/metrics");
        assert_eq!(path("\r\nGET / HTTP/1.1\r\n\r\n"), "/");
        assert_eq!(path("GET /healthz HTTP/1.1\n\n"), "/healthz");
        assert_eq!(path("GET http://node:8080/metrics?a HTTP/1.1\r\n\r\n"), "/metrics");
        assert_eq!(path("GET HTTP://node HTTP/1.1\r\n\r\n"), "/");
        assert_eq!(path("GET http://node?x HTTP/1.1\r\n\r\n"), "/");
        assert_eq!(path("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"), "/a");
        assert_eq!(path("GET /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), "/a");
    }

    #[test]
    fn the_query_is_kept_as_it_came() {
        for (target, want) in [
            ("/ready", ""),
            ("/ready?", ""),
            ("/ready?verbose&exclude=a", "verbose&exclude=a"),
            ("/ready?a?b#c?d", "a?b"),
            ("/ready#a?b", ""),
            ("http://node?x", "x"),
        ] {
            let Parsed::Request(request) = parse(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()) else {
                panic!("{target}")
            };
            assert_eq!(request.query, want, "{target}");
        }
    }

    #[test]
    fn a_head_is_incomplete_until_its_empty_line() {
        let head = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), Parsed::Incomplete, "{end}");
        }
        assert_eq!(status(head), 200);
    }

    #[test]
    fn what_is_not_a_plain_read_is_refused_with_its_status() {
        for (bytes, want) in [
            ("POST / HTTP/1.1\r\n\r\n", 405),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 405),
            ("BREW / HTTP/1.1\r\n\r\n", 405),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 413),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
            ("GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: +0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nName : x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: x\ry\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: ä\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/1.9\r\n\r\n", 505),
            ("GET /\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\n\r\n", 400),
            ("GET node:8080 HTTP/1.1\r\n\r\n", 400),
            ("GET /ä HTTP/1.1\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\n\r\n", 400),
            ("x\r\n\r\n", 400),
        ] {
            assert_eq!(status(bytes.as_bytes()), want, "{bytes:?}");
        }
        assert_eq!(status(b"\xff\xfe\xfd / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 400, "a TLS hello");
    }

    #[test]
    fn the_limit_of_the_head_is_exact() {
        let of = |total: usize| {
            let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
            head.resize(total - 4, b'a');
            head.extend_from_slice(b"\r\n\r\n");
            head
        };
        assert_eq!(status(&of(HEAD_LIMIT)), 200);
        assert_eq!(status(&of(HEAD_LIMIT + 1)), 431);
        assert_eq!(status(&vec![b'a'; HEAD_LIMIT]), 431);
        assert_eq!(status(&vec![b'\n'; HEAD_LIMIT]), 431);
    }
}
