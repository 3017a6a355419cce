//! The Authorization header, and the token file behind it that rotates.

use crate::kube::config::{Auth, Secret, read_token};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::HeaderValue;

pub(super) type Header = HeaderValue;

/// kubelet rotates a token when 80 % of its hour has gone: once a minute is often enough, and a file read costs nothing.
const REREAD: Duration = Duration::from_secs(60);

pub(super) struct Credentials(Kind);

enum Kind {
    None,
    Fixed(Header),
    File { path: PathBuf, cached: Mutex<Option<Cached>> },
}

struct Cached {
    header: Header,
    read_at: Instant,
}

impl Credentials {
    pub(super) fn new(auth: &Auth) -> Self {
        Self(match auth {
            Auth::None => Kind::None,
            // `config` let only printable ASCII through, which every header value may hold.
            Auth::Token(token) => header(token).map_or(Kind::None, Kind::Fixed),
            Auth::TokenFile(path) => Kind::File { path: path.clone(), cached: Mutex::new(None) },
        })
    }

    /// How long the header's line is about: the connection's buffer must hold it.
    pub(super) fn header_len(&self) -> usize {
        match self.current(Instant::now()) {
            Ok(Some(header)) => header.len(),
            _ => 0,
        }
    }

    /// The header to send. A token file that cannot be read any more does not matter while the last token still works.
    pub(super) fn current(&self, now: Instant) -> Result<Option<Header>, String> {
        let (path, cached) = match &self.0 {
            Kind::None => return Ok(None),
            Kind::Fixed(header) => return Ok(Some(header.clone())),
            Kind::File { path, cached } => (path, cached),
        };
        let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*cached
            && now.saturating_duration_since(last.read_at) < REREAD
        {
            return Ok(Some(last.header.clone()));
        }
        match (read(path), &mut *cached) {
            (Ok(header), _) => {
                *cached = Some(Cached { header: header.clone(), read_at: now });
                Ok(Some(header))
            }
            (Err(error), Some(last)) => {
                log::warn!("the last token is used on: {error}");
                last.read_at = now;
                Ok(Some(last.header.clone()))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// After a 401 that `used` got: the token that the file holds now, if it is another one.
    pub(super) fn renewed(&self, used: &Header, now: Instant) -> Option<Header> {
        let Kind::File { path, cached } = &self.0 else { return None };
        let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
        let header = read(path).ok()?;
        *cached = Some(Cached { header: header.clone(), read_at: now });
        (header != *used).then_some(header)
    }
}

fn read(path: &Path) -> Result<Header, String> {
    let token = read_token(path).map_err(|e| e.to_string())?;
    header(&token).ok_or_else(|| format!("{}: no token", path.display()))
}

fn header(token: &Secret) -> Option<Header> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
    // Keeps it out of every debug print.
    value.set_sensitive(true);
    Some(value)
}
