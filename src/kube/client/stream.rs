//! One open WATCH, line by line. A line is bounded; what stands in it is the watch machine's business.

use super::Client;
use crate::kube::error::ApiError;
use crate::kube::request::Request;
use std::io::Read;

/// Longest line: one object, which etcd bounds to 1.5 MiB and JSON may write somewhat longer.
const LINE_MAX: usize = 4 * 1024 * 1024;
/// A line buffer larger than this is given back after use: most lines have 2 to 4 kB, and the daemon is small.
const LINE_KEPT: usize = 16 * 1024;
const CHUNK: usize = 4 * 1024;

pub struct WatchStream {
    client: Client,
    request: Request,
    reader: ureq::BodyReader<'static>,
    chunk: Box<[u8; CHUNK]>,
    /// The part of `chunk` that is not handed out yet.
    rest: std::ops::Range<usize>,
    line: Vec<u8>,
    ended: bool,
}

impl WatchStream {
    pub(super) fn new(client: Client, request: &Request, body: ureq::Body) -> Self {
        Self {
            client,
            request: request.clone(),
            reader: body.into_reader(),
            chunk: Box::new([0; CHUNK]),
            rest: 0..0,
            line: Vec::new(),
            ended: false,
        }
    }

    /// The next line without its line feed; `None` at the end. What stands after the last line feed is a line too: if the
    /// stream was cut there, it is no whole JSON. Blocks until there is one, the peer is silent for too long, or the
    /// client is shut down.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, ApiError> {
        self.line.clear();
        self.line.shrink_to(LINE_KEPT);
        loop {
            let rest = &self.chunk[self.rest.clone()];
            let end = rest.iter().position(|b| *b == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > LINE_MAX {
                return Err(ApiError::TooLarge { request: self.request.to_string(), limit: LINE_MAX });
            }
            self.line.extend_from_slice(part);
            if let Some(end) = end {
                self.rest.start += end + 1;
                return Ok(Some(&self.line));
            }
            self.rest = 0..0;
            if !self.ended {
                match self.reader.read(&mut self.chunk[..]) {
                    Ok(0) => self.ended = true,
                    Ok(read) => self.rest = 0..read,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(self.client.transport(&self.request, e.into())),
                }
            }
            if self.ended {
                return Ok(if self.line.is_empty() { None } else { Some(&self.line) });
            }
        }
    }
}
