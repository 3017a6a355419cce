//! Judges an HTTP answer: is it what the request asked for, the API server's own error, or something else that happened
//! to be in the way (a proxy's page, a load balancer, a cut body). Pure; the client hands over code, headers and body.

use super::error::ApiError;
use super::objects::Status;
use super::request::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How much of a wrong answer is shown in the error: enough to recognise a proxy's page.
const EXCERPT_CHARS: usize = 160;

/// What came back, with its body read.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub code: u16,
    pub content_type: Option<&'a str>,
    /// `Retry-After`, already in seconds from now.
    pub retry_after: Option<Duration>,
    /// `Location`, for the error text of a refused redirect.
    pub location: Option<&'a str>,
    pub body: &'a [u8],
}

/// The part of any object that says what it is.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    kind: Option<String>,
}

/// The object that `request` asked for.
pub fn judge<T: DeserializeOwned>(request: &Request, answer: Answer<'_>) -> Result<T, ApiError> {
    if !(200..300).contains(&answer.code) {
        return Err(failure(request, answer));
    }
    check_json(request, answer)?;
    let head: Head = serde_json::from_slice(answer.body).map_err(|e| not_json(request, answer, &e))?;
    let kind = head.kind.unwrap_or_default();
    match &request.expects {
        Some(expected) if kind != *expected => {
            if kind == "Status"
                && let Some(error) = status_error(request, answer)
            {
                return Err(error);
            }
            let what = format!("expected kind {expected}, got {}", excerpt(answer.body));
            return Err(bad(request, answer, what));
        }
        // A DELETE answers with a Status or with the object; `{}` is neither.
        None if kind.is_empty() => {
            return Err(bad(request, answer, format!("an object without a kind: {}", excerpt(answer.body))));
        }
        _ => {}
    }
    serde_json::from_slice(answer.body).map_err(|e| bad(request, answer, format!("{kind}: {e}")))
}

/// Whether a WATCH was accepted: 200 and JSON. The body is still to come.
pub fn check_stream(request: &Request, answer: Answer<'_>) -> Result<(), ApiError> {
    check_json(request, answer)
}

/// The error that an answer outside 2xx stands for.
pub fn failure(request: &Request, answer: Answer<'_>) -> ApiError {
    if (300..400).contains(&answer.code) {
        let what = format!("a redirect to {}, which is not followed", answer.location.unwrap_or("nowhere"));
        return bad(request, answer, what);
    }
    match status_error(request, answer) {
        Some(error) => error,
        None => bad(request, answer, excerpt(answer.body)),
    }
}

/// The error of a `Status` object found in a stream (an ERROR event's object, or a bare line).
pub fn stream_status(request: &str, status: Status) -> ApiError {
    ApiError::Status { request: request.to_owned(), status: Box::new(status), names_object: false }
}

fn status_error(request: &Request, answer: Answer<'_>) -> Option<ApiError> {
    if serde_json::from_slice::<Head>(answer.body).ok()?.kind.as_deref() != Some("Status") {
        return None;
    }
    let mut status: Status = serde_json::from_slice(answer.body).ok()?;
    // The HTTP code is what proxies and the server's own filters act on; the body repeats it, or leaves it out.
    if !(200..300).contains(&answer.code) {
        status.code = answer.code;
    }
    if let Some(wait) = answer.retry_after {
        status.details.retry_after_seconds = status.details.retry_after_seconds.max(wait.as_secs());
    }
    let names_object = request.name.as_ref().is_some_and(|name| *name == status.details.name);
    Some(ApiError::Status { request: request.to_string(), status: Box::new(status), names_object })
}

fn check_json(request: &Request, answer: Answer<'_>) -> Result<(), ApiError> {
    let essence = answer.content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let what = match essence {
        "" => format!("no Content-Type: {}", excerpt(answer.body)),
        other => format!("Content-Type {}: {}", excerpt(other.as_bytes()), excerpt(answer.body)),
    };
    Err(bad(request, answer, what))
}

fn not_json(request: &Request, answer: Answer<'_>, error: &serde_json::Error) -> ApiError {
    bad(request, answer, format!("no JSON ({error}): {}", excerpt(answer.body)))
}

fn bad(request: &Request, answer: Answer<'_>, what: String) -> ApiError {
    ApiError::BadAnswer { request: request.to_string(), code: answer.code, what, retry_after: answer.retry_after }
}

/// The head of a body, on one line, without control characters: it goes to logs and terminals.
pub fn excerpt(body: &[u8]) -> String {
    if body.is_empty() {
        return "an empty body".to_owned();
    }
    // A character has at most 4 bytes; the rest of a large body need not be looked at.
    let head = &body[..body.len().min(EXCERPT_CHARS * 4)];
    let text = String::from_utf8_lossy(head);
    let mut line = String::from("`");
    let mut count = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        if line.len() > 1 {
            line.push(' ');
        }
        for c in word.chars() {
            line.push(c);
            count += 1;
            if count >= EXCERPT_CHARS {
                line.push_str("...`");
                return line;
            }
        }
        count += 1;
    }
    line.push('`');
    line
}

/// `Retry-After`: seconds, or an HTTP date (IMF-fixdate, as in `Sun, 06 Nov 1994 08:49:37 GMT`).
/// `now` is the wall clock in seconds since 1970.
pub fn retry_after(value: &str, now: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::from_secs(http_date(value)?.saturating_sub(now)))
}

fn http_date(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = value.split_once(", ")?;
    let mut words = date.split(' ');
    let day = words.next()?;
    let month = words.next()?;
    let year = words.next()?;
    let time = words.next()?;
    if words.next()? != "GMT" || words.next().is_some() {
        return None;
    }
    let month = MONTHS.iter().position(|m| *m == month)? + 1;
    let rfc3339 = format!("{year}-{month:02}-{day}T{time}Z");
    let at = humantime::parse_rfc3339(&rfc3339).ok()?;
    at.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{List, PersistentVolume};
    use crate::kube::request::{Target, delete_persistent_volume, get_persistent_volume};
    use serde::de::IgnoredAny;

    fn answer(code: u16, body: &str) -> Answer<'_> {
        Answer {
            code,
            content_type: Some("application/json; charset=utf-8"),
            retry_after: None,
            location: None,
            body: body.as_bytes(),
        }
    }

    fn get(code: u16, body: &str) -> Result<PersistentVolume, ApiError> {
        judge(&get_persistent_volume("p"), answer(code, body))
    }

    #[test]
    fn a_good_answer_is_read() {
        let pv = get(200, r#"{"kind":"PersistentVolume","apiVersion":"v1","metadata":{"name":"p"}}"#).unwrap();
        assert_eq!(pv.metadata.name, "p");
    }

    #[test]
    fn an_object_without_the_expected_kind_is_never_taken_for_one() {
        for body in ["{}", r#"{"kind":"Pod"}"#, "[]", "null", "1", r#""PersistentVolume""#, r#"{"status":"ok"}"#] {
            assert!(matches!(get(200, body), Err(ApiError::BadAnswer { .. })), "{body}");
        }
        let list = judge::<List<PersistentVolume>>(&Target::all_persistent_volumes().list(1, None), answer(200, "{}"));
        assert!(matches!(list, Err(ApiError::BadAnswer { .. })));
        let no_version = r#"{"kind":"PersistentVolumeList","metadata":{},"items":[]}"#;
        let list =
            judge::<List<PersistentVolume>>(&Target::all_persistent_volumes().list(1, None), answer(200, no_version));
        assert!(matches!(list, Err(ApiError::BadAnswer { .. })));
    }

    #[test]
    fn null_items_are_an_empty_list() {
        let body = r#"{"kind":"PersistentVolumeList","metadata":{"resourceVersion":"5"},"items":null}"#;
        let list: List<PersistentVolume> =
            judge(&Target::all_persistent_volumes().list(1, None), answer(200, body)).unwrap();
        assert_eq!((list.items.len(), list.metadata.continue_token.as_str()), (0, ""));
    }

    #[test]
    fn not_found_must_be_the_servers_own_word_about_this_object() {
        let named = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"details":{"name":"p","kind":"persistentvolumes"}}"#;
        assert!(get(404, named).unwrap_err().is_not_found());
        let path = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"details":{},"message":"the server could not find the requested resource"}"#;
        assert!(!get(404, path).unwrap_err().is_not_found());
        let page = get(404, "<html>default backend - 404</html>").unwrap_err();
        assert!(!page.is_not_found() && !page.is_definite());
        assert!(page.to_string().contains("default backend"), "{page}");
    }

    #[test]
    fn html_with_code_200_is_refused_with_an_excerpt() {
        let html = Answer { content_type: Some("text/html"), ..answer(200, "<html>\n  <h1>Sign in\x1b[31m</h1>") };
        let error = judge::<PersistentVolume>(&get_persistent_volume("p"), html).unwrap_err().to_string();
        assert!(error.contains("text/html") && error.contains("<html> <h1>Sign in [31m</h1>"), "{error}");
    }

    #[test]
    fn a_redirect_is_refused_and_named() {
        let redirect = Answer { location: Some("https://login.example/"), ..answer(302, "") };
        let error = judge::<PersistentVolume>(&get_persistent_volume("p"), redirect).unwrap_err();
        assert!(error.to_string().contains("https://login.example/"), "{error}");
        assert!(!error.is_definite());
    }

    #[test]
    fn retry_after_comes_from_header_or_body() {
        let body = r#"{"kind":"Status","status":"Failure","code":429,"details":{"retryAfterSeconds":3}}"#;
        assert_eq!(get(429, body).unwrap_err().retry_after(), Some(Duration::from_secs(3)));
        let header = Answer { retry_after: Some(Duration::from_secs(7)), ..answer(429, body) };
        let error = judge::<PersistentVolume>(&get_persistent_volume("p"), header).unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        let page = Answer { retry_after: Some(Duration::from_secs(9)), ..answer(503, "busy") };
        let error = judge::<PersistentVolume>(&get_persistent_volume("p"), page).unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    }

    #[test]
    fn delete_is_answered_by_a_status_or_the_object() {
        let delete = delete_persistent_volume("p", "u", "1");
        for body in [r#"{"kind":"Status","status":"Success"}"#, r#"{"kind":"PersistentVolume","metadata":{}}"#] {
            judge::<IgnoredAny>(&delete, answer(200, body)).unwrap();
        }
        assert!(judge::<IgnoredAny>(&delete, answer(200, "{}")).is_err());
    }

    #[test]
    fn http_dates_and_seconds_are_understood() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        let at = 784_111_777;
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", at - 30), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", at + 30), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        let long = "x".repeat(100_000);
        assert!(excerpt(long.as_bytes()).len() < 200);
        assert_eq!(excerpt(b"\xff\x00a\nb"), "`\u{fffd} a b`");
    }
}
