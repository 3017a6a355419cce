//! One thread that takes and renews the Lease, and the answer to "may I act?" that is good at any moment.
//! Who may take it is `election`'s business; what follows from it is the loop's.

use super::election::{Election, Timing, Verdict};
use crate::kube::client::Client;
use crate::kube::error::ApiError;
use crate::kube::objects::Lease;
use crate::kube::request::cleanup::{create_lease, get_lease, patch_lease};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// As of the other threads that speak to the API server.
const STACK_SIZE: usize = 256 << 10;

/// What the loop is told. Each is said when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadEvent {
    /// This replica acts from now on. Nobody has watched for so long.
    Acquired { unwatched: Duration },
    /// Another replica acts.
    StandingBy { holder: String },
    /// The Lease cannot be read or written.
    Trouble { reason: String },
    /// This replica must not act any more.
    Lost { reason: String },
}

/// Until when this replica may act. Asked before each request that destroys something: a thread that was held up must
/// not act on what was true when it began.
#[derive(Debug)]
pub struct Lead {
    start: Instant,
    until: AtomicU64,
}

impl Lead {
    /// Not held yet.
    pub fn idle() -> Lead {
        Lead { start: Instant::now(), until: AtomicU64::new(0) }
    }

    /// Where there is no election.
    pub fn for_ever() -> Lead {
        Lead { until: AtomicU64::new(u64::MAX), ..Lead::idle() }
    }

    pub fn holds(&self) -> bool {
        millis(self.start.elapsed()) < self.until.load(Ordering::SeqCst)
    }

    fn extend(&self, until: Instant) {
        self.until.store(millis(until.duration_since(self.start)), Ordering::SeqCst);
    }

    fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The running thread.
pub struct Elector {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Elector {
    /// `client` must be impatient: an answer that comes after the renew deadline is of no use.
    pub fn spawn(
        client: Client,
        identity: String,
        namespace: String,
        name: String,
        timing: Timing,
        lead: Arc<Lead>,
        sink: impl Fn(LeadEvent) + Send + 'static,
    ) -> std::io::Result<Elector> {
        let (stop, stopped) = bounded(0);
        let election = Election::new(identity, timing);
        let mut run = Run { client, election, namespace, name, timing, lead, held: None, leads: false, said: None };
        let thread =
            Builder::new().name("lease".to_owned()).stack_size(STACK_SIZE).spawn(move || run.run(&stopped, &sink))?;
        Ok(Elector { stop: Some(stop), thread: Some(thread) })
    }

    /// Gives the Lease back and waits for the thread. Only after everything that acts under it has ended.
    pub fn stop(mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that keeps the Lease panicked");
        }
    }
}

struct Run {
    client: Client,
    election: Election,
    namespace: String,
    name: String,
    timing: Timing,
    lead: Arc<Lead>,
    /// As it was last written by us.
    held: Option<Lease>,
    leads: bool,
    said: Option<LeadEvent>,
}

impl Run {
    fn run(&mut self, stopped: &Receiver<()>, sink: &dyn Fn(LeadEvent)) {
        loop {
            let event = self.round();
            if let Some(event) = event.filter(|event| self.said.as_ref() != Some(event)) {
                self.said = Some(event.clone());
                let lost = matches!(event, LeadEvent::Lost { .. });
                sink(event);
                if lost {
                    return;
                }
            }
            if !matches!(stopped.recv_timeout(self.timing.retry_period), Err(RecvTimeoutError::Timeout)) {
                return self.give_back();
            }
        }
    }

    /// One try to take or renew it.
    fn round(&mut self) -> Option<LeadEvent> {
        let mut answer = self.try_once();
        if self.leads && answer.as_ref().is_err_and(overtaken) {
            // Somebody wrote something into it: look at once, the deadline runs.
            answer = self.try_once();
        }
        match answer {
            Ok(Some(event)) => Some(event),
            Ok(None) => None,
            Err(error) if self.leads && !self.lead.holds() => {
                self.leads = false;
                Some(LeadEvent::Lost { reason: error.chain() })
            }
            Err(error) if self.leads => {
                log::warn!("the Lease was not renewed: {}", error.chain());
                None
            }
            // Another standby was faster.
            Err(error) if overtaken(&error) => None,
            Err(error) => {
                let event = LeadEvent::Trouble { reason: error.chain() };
                if self.said.as_ref() != Some(&event) {
                    log::warn!(
                        "{}; needed are get, create and patch of leases in namespace {} (or --leader-elect=false, if \
                         there is never a second replica)",
                        error.chain(),
                        self.namespace
                    );
                }
                Some(event)
            }
        }
    }

    fn try_once(&mut self) -> Result<Option<LeadEvent>, ApiError> {
        let read = match self.held.take() {
            Some(held) => Some(held),
            None => self.read()?,
        };
        let verdict = self.election.judge(self.lead.start.elapsed(), SystemTime::now(), read.as_ref());
        let (spec, unwatched) = match verdict {
            Verdict::Write { spec, unwatched } => (spec, unwatched),
            Verdict::HeldBy(holder) if self.leads => {
                self.lead.end();
                self.leads = false;
                return Ok(Some(LeadEvent::Lost { reason: format!("{holder} has taken it") }));
            }
            Verdict::HeldBy(holder) => return Ok(Some(LeadEvent::StandingBy { holder })),
        };
        let request = match &read {
            Some(read) => patch_lease(&self.namespace, read, &spec),
            None => create_lease(&self.namespace, &self.name, &spec),
        };
        // From before the request: others count from when the server wrote it, which is later.
        let sent = Instant::now();
        match self.client.call::<Lease>(&request) {
            Ok(written) => {
                self.held = Some(written);
                self.lead.extend(sent + self.timing.renew_deadline);
                let first = !std::mem::replace(&mut self.leads, true);
                Ok(first.then_some(LeadEvent::Acquired { unwatched }))
            }
            Err(error) => {
                // What is certainly unchanged need not be read again.
                self.held = read.filter(|_| self.leads && !overtaken(&error));
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<Option<Lease>, ApiError> {
        match self.client.call::<Lease>(&get_lease(&self.namespace, &self.name)) {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn give_back(&mut self) {
        self.lead.end();
        let Some(held) = self.held.take() else { return };
        let spec = self.election.release(SystemTime::now(), &held.spec);
        match self.client.call::<Lease>(&patch_lease(&self.namespace, &held, &spec)) {
            Ok(_) => log::info!("the Lease is given back"),
            Err(error) => log::warn!("the Lease is not given back, it runs out: {}", error.chain()),
        }
    }
}

/// The record is another one than was thought.
fn overtaken(error: &ApiError) -> bool {
    error.is_conflict() || error.is_already_exists() || error.is_not_found()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lead_ends_by_itself_when_it_is_not_extended() {
        let lead = Lead::idle();
        assert!(!lead.holds(), "nothing is held before it is taken");
        lead.extend(Instant::now() + Duration::from_millis(100));
        assert!(lead.holds());
        std::thread::sleep(Duration::from_millis(150));
        assert!(!lead.holds());
        assert!(Lead::for_ever().holds());
    }
}
