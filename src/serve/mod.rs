//! What the node shows over HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, and `/ready` where discovery directories
//! are served.
//! It only reads what others publish ([`Board`], [`Metrics`]); no request changes anything or reaches a device.

mod api_metrics;
mod cleanup_metrics;
pub mod discovery_metrics;
pub mod front;
mod head;
pub mod health;
mod listen;
pub mod metrics;
mod process;
mod ready;

pub use api_metrics::ApiMetrics;
pub use cleanup_metrics::CleanupMetrics;
pub use discovery_metrics::{DeleteType, DiscoveryMetrics};
pub use health::{BEAT_EVERY, Board};
pub use listen::Address;
pub use metrics::Metrics;

use front::Answer;
use head::Request;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where the metrics are always served. Another path can be had beside it.
pub const METRICS_PATH: &str = "/metrics";

/// Stack of the one thread. Untouched pages cost address space only; debug builds need most of it.
const STACK: usize = 256 * 1024;

/// Why the node cannot be seen over HTTP.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("'{addr}' is not an address: {why}; use ':8080', 'host:port' or '[::1]:8080'")]
    Address { addr: String, why: &'static str },
    #[error("cannot listen on '{addr}'")]
    Bind { addr: String, source: std::io::Error },
    #[error("'{path}' is another page already; choose another path for --metrics-path (LP_METRICS_PATH)")]
    MetricsPath { path: String },
    #[error("cannot start the HTTP server's thread")]
    Start { source: std::io::Error },
}

/// The HTTP server: one thread, named `http`.
pub struct Server;

impl Server {
    /// Serves the agent's pages. The metrics are also at `metrics_path`, if that is not [`METRICS_PATH`] anyway.
    ///
    /// # Errors
    /// As of [`Server::spawn_with`], and a path that is taken.
    pub fn spawn(
        addr: &str,
        metrics_path: &str,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
    ) -> Result<Handle, ServeError> {
        if PAGES.iter().chain(&DISCOVERY_PAGES).any(|(page, _)| *page == metrics_path) {
            return Err(ServeError::MetricsPath { path: metrics_path.to_owned() });
        }
        let site = Site { metrics_path: metrics_path.to_owned(), metrics, board };
        Server::spawn_with(addr, move |request| site.answer(request))
    }

    /// Serves `node-cleanup`'s pages, the figures at `metrics_path`.
    ///
    /// # Errors
    /// As of [`Server::spawn_with`].
    pub fn spawn_cleanup(
        addr: &str,
        metrics_path: String,
        metrics: Arc<CleanupMetrics>,
        board: Arc<Board>,
    ) -> Result<Handle, ServeError> {
        Server::spawn_with(addr, move |request| match request.path.as_str() {
            "/" => Answer::text(200, CLEANUP_INDEX.replace("/metrics", &metrics_path)),
            path if path == metrics_path => figures(metrics.render()),
            path => common(path, &board),
        })
    }

    /// Listens on `addr` (see [`Address`]) and serves until the handle is stopped.
    ///
    /// # Errors
    /// An address that cannot be read or had.
    fn spawn_with(addr: &str, answer: impl Fn(&Request) -> Answer + Send + 'static) -> Result<Handle, ServeError> {
        let listeners = Address::parse(addr)?.bind(addr)?;
        let Some(first) = listeners.first() else {
            return Ok(Handle { addr: None, running: None });
        };
        let start = |source| ServeError::Start { source };
        let local = first.local_addr().map_err(start)?;
        for listener in &listeners {
            listener.set_nonblocking(true).map_err(start)?;
        }
        let (wake, woken) = UnixStream::pair().map_err(start)?;
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .stack_size(STACK)
            .spawn(move || front::run(&listeners, &woken, &answer))
            .map_err(start)?;
        log::info!("serving metrics and health on {local}");
        Ok(Handle { addr: Some(local), running: Some((wake, thread)) })
    }
}

/// A running server; dropping it stops it.
pub struct Handle {
    addr: Option<SocketAddr>,
    running: Option<(UnixStream, JoinHandle<()>)>,
}

impl Handle {
    /// Where it listens, with the port that was drawn for `:0`; `None` if it is switched off.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Closes every connection and waits for the thread, which takes as long as one answer at most.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some((wake, thread)) = self.running.take() {
            let _ = wake.shutdown(Shutdown::Both);
            if thread.join().is_err() {
                log::error!("the HTTP server's thread ended in a panic");
            }
        }
    }
}

/// Beside the metrics, on every node.
const PAGES: [(&str, &str); 3] = [
    ("/healthz", "is the loop turning"),
    ("/readyz", "is the node's state known"),
    ("/status", "each device, its state and why (JSON)"),
];

const CLEANUP_INDEX: &str = "local-pv-provisioner node-cleanup
/metrics  figures for Prometheus
/healthz  is the loop turning
/readyz   does it act or stand by
/status   what waits for its end, what is left alone and why (JSON)";

/// Where discovery directories are served.
const DISCOVERY_PAGES: [(&str, &str); 2] =
    [(ready::PAGE, "are the discovery directories served"), (ready::CHECK_PAGE, "the same, as one check")];

/// What the pages are made from.
struct Site {
    metrics_path: String,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
}

impl Site {
    fn answer(&self, request: &Request) -> Answer {
        let path = request.path.as_str();
        if path == METRICS_PATH || path == self.metrics_path {
            return figures(self.metrics.render());
        }
        match (path, self.board.discovery_ready()) {
            ("/", _) => Answer::plain(200, self.index()),
            (ready::PAGE, Some(ready)) => ready::page(&request.query, ready),
            (ready::CHECK_PAGE, Some(ready)) => ready::check_page(ready),
            _ => common(path, &self.board),
        }
    }

    fn index(&self) -> String {
        let mut pages = vec![(METRICS_PATH, "figures for Prometheus")];
        if self.metrics_path != METRICS_PATH {
            pages.push((&self.metrics_path, "the same, where --metrics-path wants them"));
        }
        pages.extend(PAGES);
        if self.board.discovery_ready().is_some() {
            pages.extend(DISCOVERY_PAGES);
        }
        let width = pages.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
        let lines = pages.iter().map(|(path, what)| format!("{path:width$}  {what}\n"));
        std::iter::once("local-pv-provisioner\n".to_owned()).chain(lines).collect()
    }
}

fn figures(rendered: prometheus::Result<Vec<u8>>) -> Answer {
    match rendered {
        Ok(body) => Answer { status: 200, content_type: metrics::CONTENT_TYPE, body },
        Err(error) => Answer::text(500, format!("the metrics cannot be written: {error}")),
    }
}

/// The pages of the board.
fn common(path: &str, board: &Board) -> Answer {
    match path {
        "/healthz" => match board.health() {
            Ok(()) => Answer::text(200, "ok"),
            Err(why) => Answer::text(503, why),
        },
        "/readyz" => match board.awaited() {
            None => Answer::text(200, "ok"),
            Some(awaited) => Answer::text(503, format!("awaited: {awaited}")),
        },
        "/status" => match board.status() {
            Ok(body) => Answer { status: 200, content_type: "application/json", body },
            Err(error) => Answer::text(500, format!("the status cannot be written: {error}")),
        },
        _ => Answer::text(404, "not found; / lists what there is"),
    }
}
