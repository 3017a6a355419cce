//! Owns HTTP/1.1 on a plain socket: reading requests, writing whole answers and chunked streams. It knows
//! nothing of Kubernetes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// The real server's limit for a request body.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
const MAX_LINE: u64 = 64 * 1024;

/// A request, read whole.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub raw_query: String,
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body was longer than [`MAX_BODY`] and was thrown away; the connection closes.
    pub too_large: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }

    pub fn param(&self, name: &str) -> &str {
        self.query.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }

    pub fn has_param(&self, name: &str) -> bool {
        self.query.iter().any(|(n, _)| n == name)
    }

    /// Go's `strconv.ParseBool` after the conversion of query parameters: present and not false.
    pub fn flag(&self, name: &str) -> bool {
        self.has_param(name) && !matches!(self.param(name).to_lowercase().as_str(), "false" | "0")
    }

    pub fn wants_close(&self) -> bool {
        self.too_large || self.header("connection").eq_ignore_ascii_case("close")
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type", "application/json".to_owned())], body: body.into() }
    }

    pub fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        head
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(self.head().as_bytes())?;
        out.write_all(&self.body)?;
        out.flush()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// Percent-decoding; `+` is a space in queries only.
pub fn decode(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 2;
            }
            (b'+', _) if query => out.push(b' '),
            (b, _) => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.by_ref().take(MAX_LINE).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The next request of a connection; `None` when the client closed it.
pub fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let Some(first) = line(reader)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(broken("request line")) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        raw_query: query.to_owned(),
        query: query
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(k, v)| (decode(k, true), decode(v, true)))
            .collect(),
        ..Request::default()
    };
    loop {
        let Some(header) = line(reader)? else { return Err(broken("end inside the headers")) };
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| broken("header"))?;
        request.headers.push((name.trim().to_lowercase(), value.trim().to_owned()));
    }
    if request.header("expect").eq_ignore_ascii_case("100-continue") {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        read_chunked(reader, &mut request)?;
    } else {
        let length = match request.header("content-length") {
            "" => 0,
            text => text.parse::<usize>().map_err(|_| broken("Content-Length"))?,
        };
        request.too_large = length > MAX_BODY;
        if request.too_large {
            // Read and forgotten, or the client is cut off while it still writes and never sees the answer.
            io::copy(&mut reader.by_ref().take(length as u64), &mut io::sink())?;
        } else {
            request.body = vec![0; length];
            reader.read_exact(&mut request.body)?;
        }
    }
    Ok(Some(request))
}

fn read_chunked(reader: &mut BufReader<TcpStream>, request: &mut Request) -> io::Result<()> {
    loop {
        let size = line(reader)?.ok_or_else(|| broken("end inside the body"))?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16).map_err(|_| broken("chunk size"))?;
        if request.body.len() + size > MAX_BODY {
            request.too_large = true;
            return Ok(());
        }
        let start = request.body.len();
        request.body.resize(start + size, 0);
        reader.read_exact(&mut request.body[start..])?;
        line(reader)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// The head of a chunked answer.
pub fn write_stream_head(out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    out.flush()
}

/// One chunk; the caller flushes.
pub fn write_chunk(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    out.write_all(format!("{:x}\r\n", data.len()).as_bytes())?;
    out.write_all(data)?;
    out.write_all(b"\r\n")
}

/// The orderly end of a chunked answer.
pub fn write_stream_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"0\r\n\r\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_knows_plus_in_queries() {
        assert_eq!(decode("a%20b+c%2", true), "a b c%2");
        assert_eq!(decode("a+b", false), "a+b");
    }
}
