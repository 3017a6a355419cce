//! Owns the test that 30,000 volumes are no trouble.

use std::time::{Duration, Instant};

use kubesim::Server;

use crate::client::{Client, PV, volume};

#[test]
fn thirty_thousand_volumes_are_listed_in_pages_and_watched() {
    const COUNT: usize = 30_000;
    let server = Server::start().unwrap();
    server.configure(|s| s.binder = false);
    let started = Instant::now();
    for i in 0..COUNT {
        server.create("pv", volume(&format!("pv-{i:05}"), "1Gi")).unwrap();
    }
    let created = started.elapsed();
    let mut client = Client::new(&server);
    let mut token = String::new();
    let mut seen = 0;
    loop {
        let page = client.get(&format!("{PV}?limit=500&continue={token}")).json();
        seen += page["items"].as_array().unwrap().len();
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, COUNT);
    let mut stream = Client::new(&server).watch(&format!("{PV}?watch=1&resourceVersion=0")).unwrap();
    for i in 0..COUNT {
        assert_eq!(stream.short().1, format!("pv-{i:05}"));
    }
    // Unoptimised and on a busy machine; far from what would hurt.
    assert!(started.elapsed() < Duration::from_secs(60), "{created:?} to create, {:?} in all", started.elapsed());
}
