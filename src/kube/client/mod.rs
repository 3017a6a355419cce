//! Sends requests and reads watch streams: the only user of the HTTP library. Decides nothing: what an answer means is
//! judged in `answer`, what to do next is the caller's.
//!
//! Blocking; one call is one request (and one more after a 401 with a token that has changed since). No redirects are
//! followed and no proxy variables are looked at: a node reaches its API server directly, and a stray `HTTPS_PROXY`
//! must not take the agent's token elsewhere.

mod auth;
mod resolve;
mod stream;
mod tls;

pub use stream::WatchStream;

use self::auth::Credentials;
use self::resolve::FixedHost;
use super::answer::{self, Answer};
use super::config::Config;
use super::error::ApiError;
use super::objects::{List, Object};
use super::request::{Request, Resource, Target, Verb};
use super::watch::PAGE_LIMIT;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderName, Response};
use ureq::{Agent, Timeout};

/// Name lookup, TCP and TLS together. A control plane answers within milliseconds or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole call but a watch. The API server itself gives up after 60 s, most answers take 10 ms; a thread that waits
/// longer than this is better used to try again.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence in a watch. The API server sends a bookmark about once a minute: after two that did not come the
/// peer is taken for dead. Without bookmarks this costs one request each time.
const WATCH_IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// How much longer than it was asked to a watch may last before it is cut from here.
const WATCH_GRACE: Duration = Duration::from_secs(60);
/// Largest answer read into memory: a page of 100 PVs has about 250 kB, a ConfigMap at most 1 MiB.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// A large answer's memory is not reserved on the word of its Content-Length alone.
const BODY_RESERVE_MAX: usize = 256 * 1024;
/// Of an error answer only the head is of interest.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// The API server's answers have 500 bytes of headers.
const HEADERS_MAX: usize = 8 * 1024;
/// Each connection has these buffers twice under TLS, and they stay for its life: small on purpose.
const INPUT_BUFFER: usize = HEADERS_MAX;
/// One header line must fit: the token is added to this.
const OUTPUT_BUFFER: usize = 2 * 1024;
/// Connections kept open between calls. `execute` has a few threads; a burst opens more and closes them again.
const IDLE_CONNECTIONS: usize = 2;
/// Shorter than any load balancer's own idle limit that is in use (AWS: 60 s by default).
const IDLE_AGE: Duration = Duration::from_secs(50);

/// What this program calls itself to the API server, which counts and limits by it.
pub const USER_AGENT: &str = concat!("local-pv-provisioner/", env!("CARGO_PKG_VERSION"));

/// How long the server is waited for. The defaults are what the agent uses; tests are less patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub call: Duration,
    pub watch_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: CONNECT_TIMEOUT, call: CALL_TIMEOUT, watch_idle: WATCH_IDLE_TIMEOUT }
    }
}

/// How a request ended, as the metrics label it: the HTTP code, or a word where there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    Http(u16),
    Timeout,
    Connection,
    BadAnswer,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Http(code) => write!(f, "{code}"),
            Code::Timeout => f.write_str("timeout"),
            Code::Connection => f.write_str("connection_error"),
            Code::BadAnswer => f.write_str("bad_answer"),
        }
    }
}

/// One request that was made, for the metrics. Of a watch: until its headers came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestSample {
    pub verb: Verb,
    pub resource: Resource,
    pub code: Code,
    pub seconds: f64,
}

type Observer = Arc<dyn Fn(RequestSample) + Send + Sync>;

/// A client of one API server. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

struct Shared {
    /// Every request's URL starts with it.
    server: String,
    credentials: Credentials,
    tls: Option<Arc<rustls::ClientConfig>>,
    server_name: Option<rustls::pki_types::ServerName<'static>>,
    address: (String, u16),
    user_agent: String,
    observer: Observer,
    timeouts: Timeouts,
}

impl Client {
    /// Makes no connection yet. `observer` is called after each request, on the thread that made it.
    pub fn new(
        config: &Config,
        user_agent: &str,
        observer: impl Fn(RequestSample) + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        Self::with_timeouts(config, user_agent, Timeouts::default(), observer)
    }

    /// As [`Client::new`], with other patience.
    pub fn with_timeouts(
        config: &Config,
        user_agent: &str,
        timeouts: Timeouts,
        observer: impl Fn(RequestSample) + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let tls = if config.server.https { Some(tls::client_config(&config.trust)?) } else { None };
        let server_name = match &config.trust.server_name {
            Some(name) => Some(tls::server_name(name)?),
            None if config.server.https => Some(tls::server_name(&config.server.host)?),
            None => None,
        };
        let shared = Shared {
            server: config.server.url(),
            credentials: Credentials::new(&config.auth),
            tls,
            server_name,
            address: (config.server.host.clone(), config.server.port),
            user_agent: user_agent.to_owned(),
            observer: Arc::new(observer),
            timeouts,
        };
        Ok(Self::connected(Arc::new(shared)))
    }

    fn connected(shared: Arc<Shared>) -> Self {
        let token = shared.credentials.header_len();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(&shared.user_agent)
            .timeout_global(Some(shared.timeouts.call))
            .timeout_resolve(Some(shared.timeouts.connect))
            .timeout_connect(Some(shared.timeouts.connect))
            .max_response_header_size(HEADERS_MAX)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER + token + token / 4)
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_idle_age(IDLE_AGE)
            .build();
        let connector = tls::connector(shared.tls.clone(), shared.server_name.clone());
        let resolver = FixedHost::new(&shared.address.0, shared.address.1);
        Self {
            agent: Agent::with_parts(config, connector, resolver),
            shared,
            stopped: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The same client with connections of its own, so that [`Client::shutdown`] of one leaves the other alone.
    pub fn fork(&self) -> Self {
        Self::connected(self.shared.clone())
    }

    /// The API server's URL, for people.
    pub fn server(&self) -> &str {
        &self.shared.server
    }

    /// Ends what is under way in any thread and refuses what comes after. A connection that is just being made ends by
    /// itself, after 5 s at most.
    pub fn shutdown(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.agent.clone().shutdown();
    }

    /// One request and its answer.
    pub fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ApiError> {
        self.authorized(request, |authorization, seen| {
            let (parts, body) = self.send(request, authorization)?;
            let code = parts.status.as_u16();
            seen.set(code);
            let limit = if (200..300).contains(&code) { BODY_MAX } else { ERROR_BODY_MAX };
            let bytes = match read_body(body, limit) {
                Ok(Some(bytes)) => bytes,
                // The code of an error says enough, whatever stands below the head of its body.
                Ok(None) if limit == ERROR_BODY_MAX => Vec::new(),
                Ok(None) => return Err(ApiError::TooLarge { request: request.to_string(), limit }),
                Err(error) => return Err(self.transport(request, error)),
            };
            answer::judge(request, describe(code, &parts.headers, &bytes))
        })
    }

    /// LISTs all of `target`, page by page, and hands each object over as it comes: what is not kept costs no memory.
    /// After an error (410: the pages took too long) everything has to be listed again from the start.
    pub fn list<T: Object>(&self, target: &Target<T>, mut each: impl FnMut(T)) -> Result<(), ApiError> {
        let mut token = None;
        loop {
            let request = target.list(PAGE_LIMIT, token.as_deref());
            let page: List<T> = self.call(&request)?;
            page.items.into_iter().for_each(&mut each);
            let next = Some(page.metadata.continue_token).filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(());
            }
            if next == token {
                let what = "the list's continue token leads to itself".to_owned();
                return Err(ApiError::BadAnswer { request: request.to_string(), code: 200, what, retry_after: None });
            }
            token = next;
        }
    }

    /// Begins a WATCH. The stream ends by itself after the time that `request` asks for.
    pub fn watch(&self, request: &Request) -> Result<WatchStream, ApiError> {
        self.authorized(request, |authorization, seen| {
            let (parts, body) = self.send(request, authorization)?;
            let code = parts.status.as_u16();
            seen.set(code);
            if code == 200 {
                answer::check_stream(request, describe(code, &parts.headers, b""))?;
                return Ok(WatchStream::new(self.clone(), request, body));
            }
            let bytes = match read_body(body, ERROR_BODY_MAX) {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) => return Err(self.transport(request, error)),
            };
            Err(answer::failure(request, describe(code, &parts.headers, &bytes)))
        })
    }

    /// Runs `attempt` with the authorization header, and once more if the server refused it (401, so nothing was done)
    /// and the token is another one by now.
    fn authorized<T>(
        &self,
        request: &Request,
        attempt: impl Fn(Option<&auth::Header>, &Cell<u16>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let unsendable = |what| ApiError::Unsendable { request: request.to_string(), what };
        let header = self.shared.credentials.current(Instant::now()).map_err(unsendable)?;
        let result = self.observed(request, |seen| attempt(header.as_ref(), seen));
        match (&result, header) {
            (Err(error), Some(used)) if error.code() == Some(401) => {
                match self.shared.credentials.renewed(&used, Instant::now()) {
                    Some(renewed) => self.observed(request, |seen| attempt(Some(&renewed), seen)),
                    None => result,
                }
            }
            _ => result,
        }
    }

    /// Runs one attempt, which notes the HTTP code that it saw, and reports it.
    fn observed<T>(
        &self,
        request: &Request,
        run: impl FnOnce(&Cell<u16>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (start, seen) = (Instant::now(), Cell::new(0));
        let result = run(&seen);
        let code = match &result {
            // Not a request's end: it was never made, or was cut because the process ends.
            Err(ApiError::Unsendable { .. } | ApiError::ShutDown { .. }) => None,
            Err(ApiError::TimedOut { .. }) => Some(Code::Timeout),
            Err(ApiError::Connection { .. }) => Some(Code::Connection),
            // A code that says success, but the answer is of no use.
            Err(ApiError::BadAnswer { .. } | ApiError::TooLarge { .. }) if seen.get() < 300 => Some(Code::BadAnswer),
            _ => Some(Code::Http(seen.get())),
        };
        if let Some(code) = code {
            let seconds = start.elapsed().as_secs_f64();
            (self.shared.observer)(RequestSample { verb: request.verb, resource: request.resource, code, seconds });
        }
        result
    }

    fn send(
        &self,
        request: &Request,
        authorization: Option<&auth::Header>,
    ) -> Result<(ureq::http::response::Parts, ureq::Body), ApiError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(ApiError::ShutDown { request: request.to_string(), unsent: true });
        }
        let mut builder = ureq::http::Request::builder()
            .method(request.verb.method())
            .uri(format!("{}{}", self.shared.server, request.target()))
            .header(ACCEPT, "application/json");
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        let answer = match &request.body {
            Some(body) => {
                let built = builder.header(CONTENT_TYPE, body.content_type).body(body.json.as_str());
                self.run(request, built)
            }
            None => self.run(request, builder.body(())),
        };
        answer.map(Response::into_parts)
    }

    fn run<B: ureq::AsSendBody>(
        &self,
        request: &Request,
        built: Result<ureq::http::Request<B>, ureq::http::Error>,
    ) -> Result<Response<ureq::Body>, ApiError> {
        let built = built
            .map_err(|e| ApiError::Unsendable { request: request.to_string(), what: format!("its URL is bad: {e}") })?;
        let built = match request.watch_timeout {
            Some(timeout) => self
                .agent
                .configure_request(built)
                .timeout_global(None)
                .timeout_send_request(Some(self.shared.timeouts.call))
                .timeout_recv_response(Some(self.shared.timeouts.call))
                .timeout_per_read(Some(self.shared.timeouts.watch_idle))
                .timeout_recv_body(Some(timeout + WATCH_GRACE))
                .build(),
            None => built,
        };
        self.agent.run(built).map_err(|e| self.transport(request, e))
    }

    /// What the HTTP library says, in our words.
    fn transport(&self, request: &Request, error: ureq::Error) -> ApiError {
        let request = request.to_string();
        let unsent = tls::before_sending(&error);
        if self.stopped.load(Ordering::SeqCst) {
            return ApiError::ShutDown { request, unsent };
        }
        let error = tls::unwrapped(error);
        match error {
            ureq::Error::Timeout(timeout) => ApiError::TimedOut { request, phase: phase(timeout), unsent },
            ureq::Error::Protocol(e) => {
                let what = format!("no HTTP: {e}");
                ApiError::BadAnswer { request, code: 0, what, retry_after: None }
            }
            ureq::Error::LargeResponseHeader(..) => ApiError::TooLarge { request, limit: HEADERS_MAX },
            ureq::Error::HostNotFound => {
                let source = format!("host {} has no address", self.shared.address.0).into();
                ApiError::Connection { request, unsent, source }
            }
            ureq::Error::Io(e) => ApiError::Connection { request, unsent, source: e.into() },
            other => ApiError::Connection { request, unsent, source: other.into() },
        }
    }
}

fn phase(timeout: Timeout) -> &'static str {
    match timeout {
        Timeout::Resolve => "looking up its name",
        Timeout::Connect => "connecting",
        Timeout::PerRead => "silent for too long",
        Timeout::RecvBody => "the stream did not end after its time",
        _ => "no whole answer",
    }
}

fn describe<'a>(code: u16, headers: &'a HeaderMap, body: &'a [u8]) -> Answer<'a> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    Answer {
        code,
        content_type: text(CONTENT_TYPE),
        retry_after: text(RETRY_AFTER).and_then(|v| answer::retry_after(v, now)),
        location: text(LOCATION),
        body,
    }
}

/// The body, or `None` if it has more than `limit` bytes. Reads to the end, so that the connection can be used again.
fn read_body(body: ureq::Body, limit: usize) -> Result<Option<Vec<u8>>, ureq::Error> {
    let expected = body.content_length().unwrap_or(0).min(BODY_RESERVE_MAX as u64) as usize;
    let mut bytes = Vec::with_capacity(expected.min(limit) + 1);
    body.into_reader().take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// The configuration cannot be made into a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("TLS to the API server cannot be set up: {what}")]
    Tls { what: String },
}

#[cfg(test)]
mod tests;
