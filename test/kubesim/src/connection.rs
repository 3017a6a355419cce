//! Owns one client connection: requests in, faults, answers out, the request log.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{self, Answer};
use crate::faults::Action;
use crate::http::{self, Request, Response};
use crate::hub::{Hub, RequestRecord};
use crate::route::{self, RequestInfo};
use crate::status::ApiError;
use crate::watch;

/// Longest nap of a slow answer, so that a stopping server is not held up.
const NAP: Duration = Duration::from_millis(50);

fn record(request: &Request, info: &RequestInfo) -> RequestRecord {
    RequestRecord {
        at: Instant::now(),
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.raw_query.clone(),
        verb: info.verb.clone(),
        group: info.group.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        user_agent: request.header("user-agent").to_owned(),
        content_type: request.header("content-type").to_owned(),
        accept: request.header("accept").to_owned(),
        authorization: request.header("authorization").to_owned(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
        status: 0,
    }
}

fn pause(hub: &Hub, length: Duration) {
    let until = Instant::now() + length;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        if hub.is_stopping() {
            return;
        }
        thread::sleep(left.min(NAP));
    }
}

/// The `Status` that a fault answers with, if it is of that sort.
fn planned_status(hub: &Hub, action: &Action, info: &RequestInfo) -> Option<ApiError> {
    Some(match action {
        Action::Status(error) => error.clone(),
        Action::Gone => ApiError::expired("The resourceVersion for the provided list is too old."),
        Action::InternalError => ApiError::internal("etcdserver: leader changed"),
        Action::Unavailable => ApiError::unavailable(),
        Action::Unauthorized => ApiError::unauthorized(),
        Action::Conflict => match info.id {
            Some(id) => ApiError::stale(&crate::resources::RESOURCES[id], &info.name),
            None => ApiError::new(409, "Conflict", "conflict"),
        },
        Action::ResourceVersionTooLarge => {
            let current = hub.store().rv();
            ApiError::resource_version_too_large(current + 1000, current, Some(1))
        }
        _ => return None,
    })
}

/// Serves a connection until one side closes it.
pub fn serve(hub: &Hub, socket: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    while let Some(request) = http::read_request(&mut reader)? {
        let info = route::resolve(&request);
        let number = hub.record(record(&request, &info));
        if !exchange(hub, socket, &request, &info, number)? || request.wants_close() || hub.is_stopping() {
            break;
        }
    }
    let _ = socket.shutdown(Shutdown::Both);
    Ok(())
}

/// One request and its answer; whether the connection can go on.
fn exchange(hub: &Hub, socket: &TcpStream, request: &Request, info: &RequestInfo, number: u64) -> io::Result<bool> {
    let action = hub.faults.take(info);
    let action = action.as_ref();
    if let Some(error) = action.and_then(|a| planned_status(hub, a, info)) {
        return send(hub, socket, request, api::failure(&error), number);
    }
    match action {
        Some(Action::TooManyRequests { retry_after }) => {
            // From priority and fairness, before any handler: no Status.
            let mut response = api::plain(429, "Too many requests, please try again later.");
            response.headers.push(("Retry-After", retry_after.to_string()));
            return send(hub, socket, request, response, number);
        }
        Some(Action::CutBeforeAnswer) => return Ok(false),
        Some(Action::Stall) => {
            watch::stall(hub, socket);
            return Ok(false);
        }
        Some(Action::GarbageBody) => return send(hub, socket, request, Response::json(200, "<html>not json"), number),
        Some(Action::Delay(length)) => pause(hub, *length),
        _ => {}
    }
    let response = match api::answer(hub, request, info) {
        Answer::Watch(watch) => {
            hub.answered(number, 200);
            return watch::serve(hub, *watch, socket);
        }
        Answer::Full(response) => response,
    };
    match action {
        Some(Action::ApplyThenCut) => Ok(false),
        Some(Action::ApplyThenStatus(error)) => send(hub, socket, request, api::failure(error), number),
        Some(Action::CutInBody(length)) => {
            hub.answered(number, response.status);
            let mut out = socket;
            out.write_all(response.head().as_bytes())?;
            out.write_all(&response.body[..response.body.len().min(*length)])?;
            out.flush()?;
            Ok(false)
        }
        Some(Action::Drip(pace)) => {
            hub.answered(number, response.status);
            let mut out = socket;
            for byte in response.head().as_bytes().iter().chain(&response.body) {
                if hub.is_stopping() {
                    return Ok(false);
                }
                out.write_all(&[*byte])?;
                pause(hub, *pace);
            }
            Ok(true)
        }
        _ => send(hub, socket, request, response, number),
    }
}

fn send(hub: &Hub, socket: &TcpStream, request: &Request, response: Response, number: u64) -> io::Result<bool> {
    // Before the bytes: a test that has read the answer must find it in the log.
    hub.answered(number, response.status);
    let mut out = io::BufWriter::new(socket);
    if request.method == "HEAD" {
        out.write_all(response.head().as_bytes())?;
        out.flush()?;
    } else {
        response.write(&mut out)?;
    }
    Ok(true)
}
