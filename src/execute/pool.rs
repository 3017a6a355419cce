//! A few threads that take jobs for the API server from one queue. What a job is and what comes of it is the caller's.

use crate::kube::client::Client;
use crossbeam_channel::{Sender, unbounded};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// A TLS handshake needs most of it; only what is touched costs memory.
const STACK_SIZE: usize = 256 << 10;

/// The running threads. They end when it is stopped or dropped, and what was begun is answered.
pub struct Pool<T> {
    jobs: Option<Sender<T>>,
    client: Client,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Pool<T> {
    /// `name` and a number name each thread (Linux shows 15 characters). `work` does one job, over connections of the
    /// pool's own.
    pub fn spawn(
        name: &str,
        threads: usize,
        client: &Client,
        work: impl Fn(&Client, T) + Send + Sync + 'static,
    ) -> std::io::Result<Pool<T>> {
        let (sender, receiver) = unbounded::<T>();
        let work = Arc::new(work);
        let client = client.fork();
        let threads = (0..threads)
            .map(|number| {
                let (client, receiver, work) = (client.clone(), receiver.clone(), work.clone());
                Builder::new()
                    .name(format!("{name}-{number}"))
                    .stack_size(STACK_SIZE)
                    .spawn(move || receiver.into_iter().for_each(|job| work(&client, job)))
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok(Pool { jobs: Some(sender), client, threads })
    }

    pub fn submit(&self, job: T) {
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_err()
        {
            log::error!("the threads that write to the API server have ended");
        }
    }

    /// Ends requests under way at once and waits for the threads.
    pub fn stop(mut self) {
        self.jobs = None;
        self.client.shutdown();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread that writes to the API server panicked");
            }
        }
    }
}
