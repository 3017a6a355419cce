//! The watch machine against a model of an API server that forgets, cuts, lies and is late.

use super::*;
use crate::kube::objects::{ConfigMap, ListMeta, ObjectMeta};
use std::collections::BTreeMap;

const T0: Duration = Duration::ZERO;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn object(name: &str, version: u64, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: name.into(), resource_version: version.to_string(), ..Default::default() },
        data: BTreeMap::from([("v".to_owned(), value.to_owned())]),
    }
}

fn page(version: u64, items: Vec<ConfigMap>, next: &str) -> List<ConfigMap> {
    List { metadata: ListMeta { resource_version: version.to_string(), continue_token: next.into() }, items }
}

fn event(word: &str, object: &ConfigMap) -> String {
    let mut json = serde_json::json!(object);
    json["kind"] = "ConfigMap".into();
    serde_json::json!({"type": word, "object": json}).to_string()
}

fn bookmark(version: u64) -> String {
    let meta = serde_json::json!({"resourceVersion": version.to_string()});
    serde_json::json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": meta}}).to_string()
}

fn status(code: u16, reason: &str) -> Status {
    Status { code, reason: reason.into(), ..Default::default() }
}

fn answered(code: u16, reason: &str) -> ApiError {
    stream_status("test", status(code, reason))
}

fn too_new() -> serde_json::Value {
    serde_json::json!({"kind": "Status", "status": "Failure", "code": 504, "reason": "Timeout",
        "message": "Too large resource version: 99, current: 7",
        "details": {"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge"}]}})
}

fn broken() -> ApiError {
    ApiError::Connection { request: "test".into(), unsent: false, source: "cut".into() }
}

fn machine() -> WatchMachine<ConfigMap> {
    WatchMachine::new(7, "ConfigMap")
}

/// A machine that has listed `a` at version 5 and has its stream open.
fn watching() -> WatchMachine<ConfigMap> {
    let mut m = machine();
    assert_eq!(m.step(T0), Step::List { limit: PAGE_LIMIT, continue_token: None });
    assert!(
        matches!(m.page(T0, page(5, vec![object("a", 3, "x")], "")), Some(WatchUpdate::Replaced(all)) if all.len() == 1)
    );
    assert_eq!(watch_version(&mut m, T0), "5");
    assert_eq!(m.opened(T0), None);
    m
}

fn watch_version(m: &mut WatchMachine<ConfigMap>, now: Duration) -> String {
    match m.step(now) {
        Step::Watch { resource_version, timeout } => {
            assert!(timeout >= WATCH_MIN && timeout <= WATCH_MAX, "{timeout:?}");
            resource_version
        }
        other => panic!("expected a watch, got {other:?}"),
    }
}

fn wait(m: &mut WatchMachine<ConfigMap>, now: Duration) -> Duration {
    match m.step(now) {
        Step::WaitUntil(until) => until - now,
        other => panic!("expected a wait, got {other:?}"),
    }
}

fn after(m: &mut WatchMachine<ConfigMap>, now: Duration) -> Step {
    let wait = wait(m, now);
    m.step(now + wait)
}

#[test]
fn pages_are_put_together_before_anything_is_said() {
    let mut m = machine();
    assert_eq!(m.page(T0, page(9, vec![object("a", 1, "")], "next")), None);
    assert_eq!(m.step(T0), Step::List { limit: PAGE_LIMIT, continue_token: Some("next".into()) });
    let update = m.page(T0, page(9, vec![object("b", 2, "")], ""));
    assert!(matches!(update, Some(WatchUpdate::Replaced(all)) if all.len() == 2));
    assert_eq!(watch_version(&mut m, T0), "9");
}

#[test]
fn events_and_bookmarks_move_the_version_on() {
    let mut m = watching();
    let b = object("b", 6, "y");
    assert_eq!(m.line(T0, event("ADDED", &b).as_bytes()), Line::Go(Some(WatchUpdate::Applied(b))));
    assert_eq!(m.line(T0, bookmark(8).as_bytes()), Line::Go(None));
    assert_eq!(m.line(T0, b"  "), Line::Go(None));
    let gone = object("a", 10, "x");
    assert_eq!(m.line(T0, event("DELETED", &gone).as_bytes()), Line::Go(Some(WatchUpdate::Deleted(gone))));
    assert_eq!(m.ended(secs(400)), None);
    assert_eq!(watch_version(&mut m, secs(400)), "10");
    assert_eq!(m.restarts(), 0);
}

#[test]
fn gone_means_listing_anew_as_http_status_as_error_event_and_as_bare_status() {
    let error = serde_json::json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}});
    let bare = serde_json::json!({"kind": "Status", "code": 410, "reason": "Gone"});
    for line in [error, bare] {
        let mut m = watching();
        assert_eq!(m.line(T0, line.to_string().as_bytes()), Line::Stop(None));
        assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
        assert_eq!(m.restarts(), 1);
    }
    let mut m = watching();
    assert_eq!(m.watch_failed(T0, &answered(410, "Gone")), None);
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
}

#[test]
fn a_version_that_the_server_does_not_have_yet_is_waited_for() {
    let mut m = watching();
    let error = serde_json::json!({"type": "ERROR", "object": too_new()}).to_string();
    assert_eq!(m.line(T0, error.as_bytes()), Line::Stop(None));
    assert!(wait(&mut m, T0) >= secs(1));
    assert!(matches!(after(&mut m, T0), Step::Watch { resource_version, .. } if resource_version == "5"));
    // A server restored from a backup never gets there.
    for _ in 0..RELIST_AFTER {
        let status: Status = serde_json::from_value(too_new()).unwrap();
        let error = stream_status("watch", status);
        assert!(error.is_resource_version_too_large());
        m.watch_failed(T0, &error);
    }
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
}

#[test]
fn an_expired_continue_token_lists_from_the_start_and_forgets_the_first_pages() {
    let mut m = machine();
    m.page(T0, page(9, vec![object("old", 1, "")], "next"));
    m.list_failed(T0, &answered(410, "Expired"));
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
    let update = m.page(secs(1), page(12, vec![object("new", 11, "")], ""));
    assert!(matches!(update, Some(WatchUpdate::Replaced(all)) if all.len() == 1 && all[0].metadata.name == "new"));
}

#[test]
fn a_page_that_broke_is_asked_for_again() {
    let mut m = machine();
    m.page(T0, page(9, vec![object("a", 1, "")], "next"));
    m.list_failed(T0, &broken());
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: Some(t), .. } if t == "next"));
}

#[test]
fn pages_that_are_too_large_get_smaller() {
    let mut m = machine();
    let large = ApiError::TooLarge { request: String::new(), limit: 1 };
    for expected in [50, 25, 12, 6, 3, 1, 1] {
        m.list_failed(T0, &large);
        assert!(matches!(after(&mut m, T0), Step::List { limit, .. } if limit == expected));
    }
}

#[test]
fn a_line_that_cannot_be_read_ends_the_stream_and_loses_nothing() {
    let whole = event("MODIFIED", &object("a", 6, "y"));
    let no_name = event("ADDED", &object("", 6, "y"));
    for line in [&whole[..whole.len() - 1], "<html>", "{}", "[]", "null", r#"{"type":"NEW"}"#, &no_name, "\u{1b}[2J"] {
        let mut m = watching();
        assert!(matches!(m.line(T0, line.as_bytes()), Line::Stop(None)), "{line}");
        assert!(matches!(after(&mut m, T0), Step::Watch { resource_version, .. } if resource_version == "5"), "{line}");
    }
}

#[test]
fn an_event_of_another_kind_is_not_taken() {
    let mut m = watching();
    let line = r#"{"type":"DELETED","object":{"kind":"Secret","metadata":{"name":"a","resourceVersion":"6"}}}"#;
    assert!(matches!(m.line(T0, line.as_bytes()), Line::Stop(_)));
}

#[test]
fn waits_grow_from_a_fast_retry_to_half_a_minute_and_differ_between_nodes() {
    let mut m = watching();
    let mut all = Vec::new();
    for _ in 0..12 {
        m.watch_failed(T0, &broken());
        all.push(wait(&mut m, T0));
    }
    assert!(all[0] >= FIRST_RETRY / 2 && all[0] <= FIRST_RETRY);
    assert!(all[1] >= BACKOFF_BASE / 2 && all[1] <= BACKOFF_BASE);
    for late in &all[7..] {
        assert!(*late >= BACKOFF_MAX / 2 && *late <= BACKOFF_MAX, "{late:?}");
    }
    let mut other = WatchMachine::<ConfigMap>::new(8, "ConfigMap");
    other.list_failed(T0, &broken());
    assert_ne!(wait(&mut other, T0), all[0]);
}

#[test]
fn progress_makes_the_next_retry_a_fast_one_again() {
    let mut m = watching();
    for _ in 0..6 {
        m.watch_failed(T0, &broken());
    }
    m.opened(T0);
    m.line(T0, bookmark(6).as_bytes());
    m.watch_failed(T0, &broken());
    assert!(wait(&mut m, T0) <= FIRST_RETRY);
}

#[test]
fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_tight_loop() {
    let mut m = watching();
    let mut now = T0;
    for _ in 0..20 {
        if let Step::WaitUntil(until) = m.step(now) {
            now = until;
        }
        match m.step(now) {
            Step::List { .. } => drop(m.page(now, page(5, vec![], ""))),
            _ => {
                m.opened(now);
                m.ended(now);
            }
        }
    }
    assert!(now > secs(60), "{now:?}");
}

#[test]
fn retry_after_is_honoured_even_when_it_is_longer_than_the_back_off() {
    let mut m = watching();
    let mut busy = status(429, "TooManyRequests");
    busy.details.retry_after_seconds = 60;
    m.watch_failed(T0, &stream_status("watch", busy));
    let wait = wait(&mut m, T0);
    assert!(wait >= secs(60) && wait < secs(70), "{wait:?}");
}

#[test]
fn the_owner_is_told_once_when_the_cache_may_be_old_and_when_it_is_good_again() {
    let mut m = watching();
    assert_eq!(m.watch_failed(T0, &broken()), None, "the quick retry is not worth a word");
    assert!(matches!(m.watch_failed(T0, &broken()), Some(WatchUpdate::Unsynced { reason }) if reason.contains("cut")));
    assert_eq!(m.watch_failed(T0, &broken()), None, "the same reason again");
    assert!(matches!(m.watch_failed(T0, &answered(403, "Forbidden")), Some(WatchUpdate::Unsynced { .. })));
    assert_eq!(m.opened(T0), Some(WatchUpdate::Resumed));
    assert_eq!(m.opened(T0), None);
}

#[test]
fn before_the_first_list_every_failure_is_told() {
    let mut m = machine();
    assert!(matches!(m.list_failed(T0, &broken()), Some(WatchUpdate::Unsynced { .. })));
}

#[test]
fn pages_that_lead_to_themselves_are_not_collected_for_ever() {
    let mut m = machine();
    assert_eq!(m.page(T0, page(9, vec![], "next")), None);
    assert!(matches!(m.page(T0, page(9, vec![], "next")), Some(WatchUpdate::Unsynced { .. })));
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
}

#[test]
fn damaged_lines_are_survived_whatever_they_are() {
    let whole = event("MODIFIED", &object("a", 6, "y"));
    let mut rng = Jitter::new(3);
    let mut draw = |below: usize| rng.between(T0, Duration::from_micros(below as u64)).as_micros() as usize % below;
    for _ in 0..5000 {
        let mut line = whole.clone().into_bytes();
        for _ in 0..=draw(3) {
            let at = draw(line.len());
            match draw(3) {
                0 => line[at] = draw(256) as u8,
                1 => line.truncate(at + 1),
                _ => line.insert(at, b"{}[]\",:0\\"[draw(9)]),
            }
        }
        let mut m = watching();
        match m.line(T0, &line) {
            Line::Go(Some(WatchUpdate::Applied(o))) => assert!(!o.metadata.name.is_empty()),
            Line::Go(_) => {}
            Line::Stop(_) => assert!(matches!(m.step(T0), Step::WaitUntil(_))),
        }
    }
}

#[test]
fn a_mute_stream_is_not_believed_but_one_with_bookmarks_is() {
    for idle in [true, false] {
        let mut m = watching();
        let now = MUTE_STREAM + secs(30);
        let timed_out = ApiError::TimedOut { request: String::new(), phase: "", unsent: false };
        assert_eq!(if idle { m.watch_failed(now, &timed_out) } else { m.ended(now) }, None);
        assert!(matches!(m.step(now + secs(1)), Step::List { continue_token: None, .. }));
        let mut m = watching();
        m.line(T0, bookmark(5).as_bytes());
        assert_eq!(m.ended(now), None);
        assert_eq!(watch_version(&mut m, now), "5");
    }
}

#[test]
fn a_history_that_goes_back_is_another_one() {
    for line in [bookmark(4), event("MODIFIED", &object("a", 4, "y"))] {
        let mut m = watching();
        assert_eq!(m.line(T0, line.as_bytes()), Line::Stop(None));
        assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
    }
}

#[test]
fn a_list_without_a_version_is_not_believed() {
    let mut m = machine();
    let list = List { metadata: ListMeta::default(), items: vec![object("a", 1, "")] };
    assert!(matches!(m.page(T0, list), Some(WatchUpdate::Unsynced { .. })));
    assert!(matches!(after(&mut m, T0), Step::List { continue_token: None, .. }));
}

/// A model of an API server with a history, and a list of ways to misbehave.
struct Server {
    rng: Jitter,
    version: u64,
    objects: BTreeMap<String, ConfigMap>,
    history: Vec<(u64, &'static str, ConfigMap)>,
    /// Versions up to here are forgotten.
    compacted: u64,
    snapshots: Vec<(u64, Vec<ConfigMap>)>,
    /// In percent.
    faults: u64,
}

impl Server {
    fn new(seed: u64) -> Self {
        Self {
            rng: Jitter::new(seed),
            version: 1,
            objects: BTreeMap::new(),
            history: Vec::new(),
            compacted: 0,
            snapshots: Vec::new(),
            faults: 30,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.between(Duration::ZERO, Duration::from_nanos(below * 1000)).as_nanos() as u64 / 1000 % below
    }

    fn fault(&mut self) -> bool {
        self.draw(100) < self.faults
    }

    fn change(&mut self) {
        self.version += 1;
        let name = format!("o{}", self.draw(6));
        let version = self.version;
        if self.objects.contains_key(&name) && self.draw(3) == 0 {
            let mut last = self.objects.remove(&name).unwrap();
            last.metadata.resource_version = version.to_string();
            self.history.push((version, "DELETED", last));
        } else {
            let object = object(&name, version, &format!("<{version}>\u{e9}"));
            let word = if self.objects.contains_key(&name) { "MODIFIED" } else { "ADDED" };
            self.objects.insert(name, object.clone());
            self.history.push((version, word, object));
        }
        if self.draw(20) == 0 {
            self.compacted = self.version - self.draw(3).min(self.version);
        }
    }

    fn list(&mut self, limit: u32, token: Option<&str>) -> Result<List<ConfigMap>, ApiError> {
        if self.fault() {
            return Err(match self.draw(5) {
                0 => broken(),
                1 => answered(410, "Expired"),
                2 => answered(429, "TooManyRequests"),
                3 => ApiError::TooLarge { request: String::new(), limit: 1 },
                _ => answered(500, "InternalError"),
            });
        }
        let (snapshot, offset) = match token {
            None => {
                self.snapshots.push((self.version, self.objects.values().cloned().collect()));
                (self.snapshots.len() - 1, 0)
            }
            Some(token) => {
                let (snapshot, offset) = token.split_once('/').unwrap();
                (snapshot.parse().unwrap(), offset.parse().unwrap())
            }
        };
        let (version, all) = &self.snapshots[snapshot];
        let size = (limit as usize).min(2);
        let end = (offset + size).min(all.len());
        let next = if end < all.len() { format!("{snapshot}/{end}") } else { String::new() };
        Ok(page(*version, all[offset..end].to_vec(), &next))
    }

    fn watch(&mut self, from: u64) -> Result<Vec<u8>, ApiError> {
        if from < self.compacted {
            if self.draw(2) == 0 {
                return Err(answered(410, "Gone"));
            }
            let gone = serde_json::json!({"kind": "Status", "code": 410, "reason": "Expired"});
            return Ok(format!("{}\n", serde_json::json!({"type": "ERROR", "object": gone})).into_bytes());
        }
        if self.fault() {
            match self.draw(4) {
                0 => return Err(broken()),
                1 => return Err(answered(503, "ServiceUnavailable")),
                2 => return Err(stream_status("watch", serde_json::from_value(too_new()).unwrap())),
                _ => {}
            }
        }
        for _ in 0..self.draw(4) {
            if self.faults > 0 {
                self.change();
            }
        }
        let mut stream = String::new();
        for (version, word, object) in self.history.clone() {
            if version > from {
                let line = event(word, &object);
                // A damaged line: what it said must come again.
                let damaged = self.fault() && self.draw(8) == 0;
                stream.push_str(if damaged { line.split_at(line.len() / 3).0 } else { &line });
                stream.push('\n');
                if self.draw(4) == 0 {
                    stream.push_str(&bookmark(version));
                    stream.push('\n');
                }
                if self.fault() && self.draw(4) == 0 {
                    stream.push_str(
                        [
                            "<html>502</html>\n",
                            "\n",
                            "{\"kind\":\"Status\",\"code\":500}\n",
                            "{\"type\":\"ERROR\",\"object\":null}\n",
                        ][self.draw(4) as usize],
                    );
                }
            }
        }
        let mut stream = stream.into_bytes();
        if self.fault() && !stream.is_empty() {
            let cut = self.draw(stream.len() as u64) as usize;
            stream.truncate(cut);
        }
        Ok(stream)
    }
}

fn tell(cache: &mut Option<BTreeMap<String, ConfigMap>>, update: Option<WatchUpdate<ConfigMap>>) {
    match update {
        Some(WatchUpdate::Replaced(all)) => {
            *cache = Some(all.into_iter().map(|o| (o.metadata.name.clone(), o)).collect());
        }
        Some(WatchUpdate::Applied(o)) => {
            cache.as_mut().expect("a change before the first list").insert(o.metadata.name.clone(), o);
        }
        Some(WatchUpdate::Deleted(o)) => {
            let had = cache.as_mut().expect("a change before the first list").remove(&o.metadata.name);
            assert!(had.is_some_and(|had| had.data == o.data), "DELETED must carry the last state");
        }
        Some(WatchUpdate::Unsynced { reason }) => assert!(!reason.is_empty()),
        Some(WatchUpdate::Resumed) | None => {}
    }
}

/// One random life: faults for a while, then a good server. The cache must end as what the server has.
fn live(seed: u64) {
    let mut server = Server::new(seed);
    let mut m = WatchMachine::<ConfigMap>::new(seed, "ConfigMap");
    let mut cache = None;
    let mut now = T0;
    for turn in 0..120 {
        if turn == 80 {
            server.faults = 0;
        } else if turn < 80 && server.draw(3) == 0 {
            server.change();
        }
        match m.step(now) {
            Step::WaitUntil(until) => {
                assert!(until > now && until - now <= secs(400), "{until:?} at {now:?}");
                now = until;
            }
            Step::List { limit, continue_token } => {
                let update = match server.list(limit, continue_token.as_deref()) {
                    Ok(page) => m.page(now, page),
                    Err(error) => m.list_failed(now, &error),
                };
                tell(&mut cache, update);
            }
            Step::Watch { resource_version, .. } => {
                let stream = match server.watch(resource_version.parse().unwrap()) {
                    Ok(stream) => stream,
                    Err(error) => {
                        tell(&mut cache, m.watch_failed(now, &error));
                        continue;
                    }
                };
                tell(&mut cache, m.opened(now));
                let mut lines: Vec<&[u8]> = stream.split(|b| *b == b'\n').collect();
                // What stands after the last line feed is a line only if there is something.
                if lines.last().is_some_and(|l| l.is_empty()) {
                    lines.pop();
                }
                let stopped = lines.into_iter().any(|line| match m.line(now, line) {
                    Line::Go(update) => {
                        tell(&mut cache, update);
                        false
                    }
                    Line::Stop(update) => {
                        tell(&mut cache, update);
                        true
                    }
                });
                if !stopped {
                    now += secs(server.draw(20));
                    let update = if server.fault() { m.watch_failed(now, &broken()) } else { m.ended(now) };
                    tell(&mut cache, update);
                }
            }
        }
    }
    assert_eq!(cache.as_ref(), Some(&server.objects), "seed {seed}");
}

#[test]
fn random_lives_converge_on_what_the_server_has() {
    for seed in 0..500 {
        live(seed);
    }
}
