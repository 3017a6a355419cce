//! What can go wrong with one API request, in the words that decisions need: was it carried out, may it be tried again.
//! Knows nothing of the HTTP library.

use super::objects::Status;
use std::time::Duration;

/// Longest wait that a server may ask for: a `Retry-After` of a year must not stop the agent for a year.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// One failed request. `request` is its description, as in `delete persistentvolumes "local-n1-sdb"`.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server's own answer: a `Status` object. HTML or text with the same HTTP code is `BadAnswer`, because a
    /// proxy's 404 does not mean that an object does not exist.
    #[error("{request}: the API server answered {} {}: {}", status.code, status.reason, status.message)]
    Status {
        request: String,
        /// `code` and `details.retryAfterSeconds` are completed from the HTTP answer where the body leaves them out.
        status: Box<Status>,
        /// Whether `details.name` names the object that was asked for.
        names_object: bool,
    },
    /// The connection could not be made, or broke.
    #[error("{request}: {}", if *unsent { "no connection to the API server" } else { "the connection to the API server broke" })]
    Connection {
        request: String,
        /// The request cannot have reached the server: making the connection failed.
        unsent: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{request}: the API server did not answer in time ({phase})")]
    TimedOut { request: String, phase: &'static str, unsent: bool },
    /// Something answered, but not as a Kubernetes API server does.
    #[error("{request}: not an answer of a Kubernetes API server (HTTP {code}): {what}")]
    BadAnswer { request: String, code: u16, what: String, retry_after: Option<Duration> },
    /// The answer, or one line of a watch, is larger than what is read into memory.
    #[error("{request}: the answer is larger than {limit} bytes")]
    TooLarge { request: String, limit: usize },
    /// The request could not be put together, as when the token cannot be read.
    #[error("{request}: cannot be sent: {what}")]
    Unsendable { request: String, what: String },
    /// [`Client::shutdown`](super::client::Client::shutdown) was called.
    #[error("{request}: the client was shut down")]
    ShutDown { request: String, unsent: bool },
}

impl ApiError {
    /// True when the server certainly did not carry the request out, so that a POST cannot have made an object.
    /// False whenever it may have: time-outs, broken connections, 5xx, answers that are no `Status`. 408 and 499 are
    /// a proxy's words for a time-out, and 429 may come from behind an intermediary: counted as "may have", since
    /// being wrong this way costs one GET.
    pub fn is_definite(&self) -> bool {
        match self {
            ApiError::Status { status, .. } => {
                (400..500).contains(&status.code) && !matches!(status.code, 408 | 429 | 499)
            }
            ApiError::Connection { unsent, .. }
            | ApiError::TimedOut { unsent, .. }
            | ApiError::ShutDown { unsent, .. } => *unsent,
            ApiError::Unsendable { .. } => true,
            ApiError::BadAnswer { .. } | ApiError::TooLarge { .. } => false,
        }
    }

    /// The named object does not exist: a `Status` with reason `NotFound` that names the object asked for. An API
    /// server that does not know the path (yet) says `NotFound` too, without a name: that is no permission to act.
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Status { status, names_object: true, .. }
            if status.code == 404 && status.reason == "NotFound")
    }

    /// The precondition (UID or resourceVersion) did not hold.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ApiError::Status { status, .. } if status.code == 409 && status.reason == "Conflict")
    }

    pub fn is_already_exists(&self) -> bool {
        matches!(self, ApiError::Status { status, .. } if status.code == 409 && status.reason == "AlreadyExists")
    }

    /// The resourceVersion or continue token is too old: LIST again.
    pub fn is_gone(&self) -> bool {
        matches!(self, ApiError::Status { status, .. }
            if status.code == 410 || status.reason == "Expired" || status.reason == "Gone")
    }

    /// The server has not seen this resourceVersion yet (a replica behind): wait, keep it.
    pub fn is_resource_version_too_large(&self) -> bool {
        matches!(self, ApiError::Status { status, .. }
            if status.details.causes.iter().any(|c| c.reason == "ResourceVersionTooLarge")
                || (status.code == 504 && status.message.contains("Too large resource version")))
    }

    /// How long the server asks to wait, bounded by [`RETRY_AFTER_MAX`].
    pub fn retry_after(&self) -> Option<Duration> {
        let asked = match self {
            ApiError::Status { status, .. } => match status.details.retry_after_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            ApiError::BadAnswer { retry_after, .. } => *retry_after,
            _ => None,
        };
        asked.map(|wait| wait.min(RETRY_AFTER_MAX))
    }

    /// The HTTP status code, where there was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            ApiError::Status { status, .. } => Some(status.code),
            ApiError::BadAnswer { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The error with its causes on one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str) -> ApiError {
        ApiError::Status {
            request: String::new(),
            status: Box::new(Status { code, reason: reason.into(), ..Default::default() }),
            names_object: true,
        }
    }

    #[test]
    fn only_what_certainly_did_not_happen_is_definite() {
        for code in [400, 401, 403, 404, 409, 410, 422] {
            assert!(status(code, "").is_definite(), "{code}");
        }
        for code in [200, 301, 408, 429, 499, 500, 502, 503, 504] {
            assert!(!status(code, "").is_definite(), "{code}");
        }
        let broken = |unsent| ApiError::Connection { request: String::new(), unsent, source: "x".into() };
        assert!(broken(true).is_definite());
        assert!(!broken(false).is_definite());
        assert!(!ApiError::TimedOut { request: String::new(), phase: "", unsent: false }.is_definite());
        assert!(
            !ApiError::BadAnswer { request: String::new(), code: 404, what: String::new(), retry_after: None }
                .is_definite()
        );
    }

    #[test]
    fn the_words_of_a_status_are_told_apart() {
        assert!(status(404, "NotFound").is_not_found());
        assert!(status(409, "Conflict").is_conflict());
        assert!(!status(409, "Conflict").is_already_exists());
        assert!(status(409, "AlreadyExists").is_already_exists());
        assert!(status(410, "Expired").is_gone());
        assert!(status(410, "Gone").is_gone());
    }

    #[test]
    fn a_year_of_retry_after_is_cut() {
        let mut error = status(429, "TooManyRequests");
        if let ApiError::Status { status, .. } = &mut error {
            status.details.retry_after_seconds = u64::MAX;
        }
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX));
    }
}
