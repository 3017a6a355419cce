//! The API server's address: an IP address is taken as it is, only a name is looked up.

use super::tls::not_sent;
use std::net::{IpAddr, SocketAddr};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The library's own resolver starts a thread for each look-up with a deadline, even before a request on an open
/// connection. In a pod the server is an address, so there is nothing to look up.
#[derive(Debug)]
pub(super) struct FixedHost {
    address: Option<SocketAddr>,
    names: DefaultResolver,
}

impl FixedHost {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let address = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        Self { address, names: DefaultResolver::default() }
    }
}

impl Resolver for FixedHost {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        match self.address {
            Some(address) => {
                let mut addresses = self.empty();
                addresses.push(address);
                Ok(addresses)
            }
            None => self.names.resolve(uri, config, timeout).map_err(not_sent),
        }
    }
}
