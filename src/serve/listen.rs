//! The address forms of `--metrics-addr` and the sockets that they become.
//! It refuses what it cannot understand in one line; it never picks another address than the one asked for.

use super::ServeError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// What `--metrics-addr` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `0`: no server at all, as controller-runtime programs understand it.
    Off,
    /// `:8080` and `[::]:8080`: every address of the machine, IPv4 and IPv6.
    All { port: u16 },
    /// `host:port`, `127.0.0.1:0`, `[::1]:9090`.
    One { host: String, port: u16 },
}

impl Address {
    /// Reads the flag's value. The error says what is wrong; the flag's name is the caller's.
    pub fn parse(text: &str) -> Result<Address, ServeError> {
        let refuse = |why: &'static str| ServeError::Address { addr: text.to_owned(), why };
        if text == "0" {
            return Ok(Address::Off);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| refuse("the bracket is not closed"))?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err(refuse("what stands in brackets is not an IPv6 address"));
                }
                (host, rest.strip_prefix(':').ok_or_else(|| refuse("it has no port"))?)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("it has no port"))?;
                if host.contains(':') {
                    return Err(refuse("an IPv6 address needs brackets, and a URL is not an address"));
                }
                (host, port)
            }
        };
        // `u16::from_str` would take `+80`.
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse("the port is not a number"));
        }
        let port = port.parse().map_err(|_| refuse("the port is above 65535"))?;
        if host.is_empty() || host == "::" {
            return Ok(Address::All { port });
        }
        if host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(refuse("the host is not a name or an address"));
        }
        Ok(Address::One { host: host.to_owned(), port })
    }

    /// Opens the sockets: one, or two where `:port` cannot be had as one dual-stack socket.
    pub(super) fn bind(&self, text: &str) -> Result<Vec<TcpListener>, ServeError> {
        let failed = |source| ServeError::Bind { addr: text.to_owned(), source };
        match self {
            Address::Off => Ok(Vec::new()),
            Address::All { port } => bind_all(*port).map_err(failed),
            Address::One { host, port } => {
                let all = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect::<Vec<_>>();
                Ok(vec![TcpListener::bind(all.as_slice()).map_err(failed)?])
            }
        }
    }
}

/// Every address: a dual-stack socket on `[::]` unless the kernel is set to keep the families apart
/// (`net.ipv6.bindv6only`, then one socket for each) or has no IPv6 (then IPv4 alone).
/// Setting IPV6_V6ONLY ourselves would take another dependency; the kernel's default is all that it would change.
fn bind_all(port: u16) -> std::io::Result<Vec<TcpListener>> {
    let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let v6 = match TcpListener::bind(any6) {
        Ok(listener) => listener,
        // The port is taken, or may not be had: IPv4 alone would hide it from half of the clients.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied) => {
            return Err(e);
        }
        Err(no_ipv6) => {
            log::debug!("no IPv6 ({no_ipv6}): listening on IPv4 only");
            return Ok(vec![TcpListener::bind(any4)?]);
        }
    };
    let apart = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|v| v.trim() == "1");
    if !apart {
        return Ok(vec![v6]);
    }
    // Port 0 has been drawn by now; both sockets must carry the same.
    let port = v6.local_addr()?.port();
    let v4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    Ok(vec![v6, v4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_flag_are_understood() {
        let one = |host: &str, port| Address::One { host: host.to_owned(), port };
        for (text, want) in [
            (":8080", Address::All { port: 8080 }),
            ("[::]:8080", Address::All { port: 8080 }),
            ("0", Address::Off),
            ("127.0.0.1:0", one("127.0.0.1", 0)),
            ("0.0.0.0:80", one("0.0.0.0", 80)),
            ("[::1]:9090", one("::1", 9090)),
            ("localhost:8080", one("localhost", 8080)),
        ] {
            assert_eq!(Address::parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_in_one_line_that_shows_it() {
        for text in
            ["", "8080", "::1:8080", "[::1]", "[::1:80", "[x]:80", ":", ":x", ":+80", ":65536", "a b:80", "http://a:80"]
        {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}'")) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
