//! The API server's address: an IP address is taken as it is, only a name is looked up.

use super::tls::not_sent;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{NextTimeout, time};

/// The library asks before every request, even one on an open connection; an API server does not move that often.
const KEEP: Duration = Duration::from_secs(30);
/// glibc's resolver has large buffers on its stack.
const LOOKUP_STACK: usize = 256 * 1024;
/// The library takes no more addresses.
const ADDRESSES_MAX: usize = 16;

/// The library's own resolver starts a thread of 2 MiB for every request and panics where it cannot. In a pod the server
/// is an address, so there is nothing to look up at all.
pub(super) struct FixedHost {
    host: String,
    port: u16,
    found: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl FixedHost {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, found: Mutex::new(None) }
    }

    fn addresses(&self, timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, addresses)) = known
            && at.elapsed() < KEEP
        {
            return Ok(addresses);
        }
        // Not under the lock: other threads need not wait for a look-up that hangs.
        let addresses = look_up((self.host.clone(), self.port), timeout)?;
        if addresses.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

/// In a thread of its own, because the system's look-up knows no deadline. One that is given up ends by itself.
fn look_up(host: (String, u16), timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name("resolve".to_owned()).stack_size(LOOKUP_STACK).spawn(move || {
        let found = host.to_socket_addrs().map(|all| all.take(ADDRESSES_MAX).collect());
        // Nobody waits any more: nothing to do about it.
        let _ = sender.send(found);
    })?;
    let found = match timeout.after {
        time::Duration::Exact(wait) => receiver.recv_timeout(wait).ok(),
        time::Duration::NotHappening => receiver.recv().ok(),
    };
    Ok(found.ok_or(ureq::Error::Timeout(timeout.reason))??)
}

impl Resolver for FixedHost {
    fn resolve(&self, _: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        for address in self.addresses(timeout).map_err(not_sent)? {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

impl fmt::Debug for FixedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedHost({})", self.host)
    }
}
