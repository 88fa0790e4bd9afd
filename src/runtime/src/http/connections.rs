//! Keeps one client from holding what all need: how many connections one address may have, and how long a connection
//! may live on which nothing is asked (THREATS C39).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The connections of each client.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limit: usize,
}

/// One connection's place among those of its client, given back on drop.
#[derive(Debug)]
pub(super) struct PeerPlace {
    peers: Peers,
    client: IpAddr,
}

impl Peers {
    pub(super) fn new(limit: usize) -> Peers {
        Peers { counts: Arc::default(), limit }
    }

    /// A place for one more connection from `address`; `None` when its client has as many as it may have.
    pub(super) fn enter(&self, address: IpAddr) -> Option<PeerPlace> {
        let client = client_of(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(PeerPlace { peers: self.clone(), client })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Who an address stands for: a client of IPv6 has a whole /64 to choose its addresses from.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

/// The requests that are open on one connection.
#[derive(Debug, Clone)]
pub(super) struct OpenRequests(Arc<watch::Sender<usize>>);

/// One open request, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct OpenRequest(OpenRequests);

impl OpenRequests {
    pub(super) fn none() -> OpenRequests {
        OpenRequests(Arc::new(watch::Sender::new(0)))
    }

    pub(super) fn begin(&self) -> OpenRequest {
        self.0.send_modify(|count| *count += 1);
        OpenRequest(self.clone())
    }

    /// Completes when no request was open for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = count.wait_for(|count| *count == 0).await;
            count.mark_unchanged();
            if timeout_at(Instant::now() + limit, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn c39_one_client_cannot_take_all_places() {
        let peers = Peers::new(2);
        let enter = |address: &str| peers.enter(address.parse().unwrap());
        let (first, second) = (enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap());
        assert!(enter("10.0.0.1").is_none());
        let (_other, _sixth, _seventh) =
            (enter("10.0.0.2").unwrap(), enter("fd00::1").unwrap(), enter("fd00::2:1").unwrap());
        assert!(enter("fd00::3").is_none() && enter("fd00:0:0:1::3").is_some());
        drop((first, second));
        assert!(enter("10.0.0.1").is_some());
        assert_eq!(peers.counts.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn c39_a_connection_is_idle_only_without_requests() {
        let requests = OpenRequests::none();
        let (limit, answer) = (Duration::from_millis(20), Duration::from_millis(200));
        let begun = Instant::now();
        requests.idle_for(limit).await;
        assert!(begun.elapsed() >= limit);

        let (begun, open) = (Instant::now(), requests.begin());
        let ended = tokio::spawn(async move {
            tokio::time::sleep(answer).await;
            drop(open);
        });
        requests.idle_for(limit).await;
        assert!(begun.elapsed() >= answer + limit);
        ended.await.unwrap();
    }
}
