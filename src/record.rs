//! Kubernetes Events: what a person must know about a device or the node. Best effort: nothing waits for them and
//! nothing rests on them. What was said lately is not said again, only counted.

use crate::kube::client::Client;
use crate::kube::objects::{Event, EventSource, ObjectMeta, ObjectReference};
use crate::kube::request;
use crate::model::reason::Reason;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Notes that wait for the API server; beyond it they are dropped, the log has them.
const QUEUE: usize = 256;
/// How many of the last Events are remembered for counting: each device of a large node once.
const REMEMBERED: usize = 256;
/// The API server keeps Events for an hour; after it a repeated one is a new one.
const MEMORY: Duration = Duration::from_secs(3600);
/// A repeated Event is counted at most so often.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// The API server's limit on `message`.
const MESSAGE_MAX: usize = 1024;
const STACK_SIZE: usize = 256 << 10;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub about: About,
    pub reason: Reason,
    pub warning: bool,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Node { name: String, uid: String },
    PersistentVolume { name: String, uid: String },
    PersistentVolumeClaim { namespace: String, name: String, uid: String },
}

impl About {
    fn reference(&self) -> ObjectReference {
        let (kind, name, uid) = match self {
            // kubelet names a Node by its name in place of the UID, and `kubectl describe node` looks for that.
            About::Node { name, .. } => ("Node", name, name),
            About::PersistentVolume { name, uid } => ("PersistentVolume", name, uid),
            About::PersistentVolumeClaim { name, uid, .. } => ("PersistentVolumeClaim", name, uid),
        };
        ObjectReference {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            name: name.clone(),
            uid: uid.clone(),
            namespace: match self {
                About::PersistentVolumeClaim { namespace, .. } => namespace.clone(),
                About::Node { .. } | About::PersistentVolume { .. } => String::new(),
            },
            ..ObjectReference::default()
        }
    }

    /// Where the Event has to be.
    fn event_namespace(&self) -> &str {
        match self {
            About::PersistentVolumeClaim { namespace, .. } => namespace,
            About::Node { .. } | About::PersistentVolume { .. } => Event::CLUSTER_NAMESPACE,
        }
    }
}

/// Who speaks: the Events' `source`.
#[derive(Debug, Clone)]
pub struct Speaker {
    pub component: &'static str,
    /// A node's name, or a pod's.
    pub host: String,
}

pub struct Recorder {
    notes: Option<Sender<Note>>,
    client: Client,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// `written` is told each Event's reason.
    pub fn spawn(
        client: &Client,
        speaker: Speaker,
        written: impl Fn(&str) + Send + 'static,
    ) -> std::io::Result<Recorder> {
        let (notes, receiver) = bounded(QUEUE);
        let client = client.fork();
        let mut book = Book { client: client.clone(), speaker, said: VecDeque::new(), serial: 0 };
        let thread = Builder::new().name("record".to_owned()).stack_size(STACK_SIZE).spawn(move || {
            book.serve(&receiver, &written);
        })?;
        Ok(Recorder { notes: Some(notes), client, thread: Some(thread) })
    }

    pub fn note(&self, note: Note) {
        if let Some(Err(TrySendError::Full(note))) = self.notes.as_ref().map(|notes| notes.try_send(note)) {
            log::warn!("too many Events wait for the API server; not sent: {} {}", note.reason.as_str(), note.message);
        }
    }

    pub fn stop(mut self) {
        self.notes = None;
        self.client.shutdown();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that writes Events panicked");
        }
    }
}

/// An Event that was written.
struct Said {
    note: Note,
    name: String,
    count: u32,
    at: Instant,
}

struct Book {
    client: Client,
    speaker: Speaker,
    said: VecDeque<Said>,
    serial: u64,
}

impl Book {
    fn serve(&mut self, notes: &Receiver<Note>, written: &dyn Fn(&str)) {
        for mut note in notes {
            truncate(&mut note.message);
            let reason = note.reason;
            if self.say(note) {
                written(reason.as_str());
            }
        }
    }

    fn say(&mut self, note: Note) -> bool {
        self.said.retain(|said| said.at.elapsed() < MEMORY);
        let now = wall_seconds();
        let request = match self.said.iter_mut().find(|said| said.note == note) {
            Some(said) if said.at.elapsed() < COUNT_EVERY => return false,
            Some(said) => {
                said.count += 1;
                said.at = Instant::now();
                request::patch_event(note.about.event_namespace(), &said.name, said.count, &now, &note.message)
            }
            None => {
                let event = self.event(&note, now);
                if self.said.len() >= REMEMBERED {
                    self.said.pop_front();
                }
                let name = event.metadata.name.clone();
                self.said.push_back(Said { note, name, count: 1, at: Instant::now() });
                request::create_event(&event)
            }
        };
        match self.client.call::<serde_json::Value>(&request) {
            Ok(_) => true,
            Err(error) => {
                log::warn!("an Event was not written: {}", error.chain());
                false
            }
        }
    }

    fn event(&mut self, note: &Note, now: String) -> Event {
        self.serial += 1;
        let reference = note.about.reference();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // As client-go names them: the object and a number that does not come again.
        let suffix = format!(".{:x}{:04x}", since.as_nanos(), self.serial & 0xffff);
        let name: String = reference.name.chars().take(253 - suffix.len()).collect();
        Event {
            metadata: ObjectMeta {
                name: format!("{}{suffix}", name.trim_end_matches(['-', '.'])),
                namespace: note.about.event_namespace().to_owned(),
                ..ObjectMeta::default()
            },
            involved_object: reference,
            reason: note.reason.as_str().to_owned(),
            message: note.message.clone(),
            event_type: if note.warning { "Warning" } else { "Normal" }.to_owned(),
            source: EventSource { component: self.speaker.component.to_owned(), host: self.speaker.host.clone() },
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: 1,
            reporting_component: self.speaker.component.to_owned(),
            reporting_instance: self.speaker.host.clone(),
        }
    }
}

fn wall_seconds() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn truncate(message: &mut String) {
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let mut message = "ü".repeat(1000);
        truncate(&mut message);
        assert!(message.len() <= MESSAGE_MAX && message.ends_with("..."));
    }
}
