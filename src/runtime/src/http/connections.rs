//! Keeps one client from holding what all need: how many connections one address may have, how long a connection may
//! live on which nothing is asked (THREATS C39), and which one gives way where there are few.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
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

/// Places for connections where a new one is always welcome: when all are taken, the oldest connection that is not busy
/// is ended.  For a listener without addresses by which to tell a flood from its victims.
#[derive(Debug)]
pub(super) struct YieldingPlaces {
    places: Arc<Semaphore>,
    taken: VecDeque<(AbortHandle, Busy)>,
    turned_idle: Arc<Notify>,
}

/// Whether a request is being carried out on a connection.
#[derive(Debug, Clone)]
pub(super) struct Busy {
    state: Arc<AtomicU8>,
    turned_idle: Arc<Notify>,
}

const IDLE: u8 = 0;
const BUSY: u8 = 1;
/// It is about to be ended, so that no request may begin on it.
const GIVEN_UP: u8 = 2;

/// The connection is busy until this is dropped.
#[derive(Debug)]
pub(super) struct BusyUntilDropped(Busy);

impl YieldingPlaces {
    pub(super) fn new(count: usize) -> YieldingPlaces {
        YieldingPlaces { places: Arc::new(Semaphore::new(count)), taken: VecDeque::new(), turned_idle: Arc::default() }
    }

    /// The mark of a connection, idle as yet.
    pub(super) fn mark(&self) -> Busy {
        Busy { state: Arc::default(), turned_idle: Arc::clone(&self.turned_idle) }
    }

    /// A place for a new connection.  Waits only while all others are busy.
    pub(super) async fn take(&mut self) -> OwnedSemaphorePermit {
        let mut ended = false;
        loop {
            self.taken.retain(|(task, _)| !task.is_finished());
            if self.places.available_permits() == 0
                && !ended
                && let Some(idle) = self.taken.iter().position(|(_, busy)| busy.give_up())
                && let Some((task, _)) = self.taken.remove(idle)
            {
                // The place comes back with what the task holds.
                task.abort();
                ended = true;
            }
            tokio::select! {
                place = Arc::clone(&self.places).acquire_owned() => return place.expect("nobody closes this semaphore"),
                () = self.turned_idle.notified() => {}
            }
        }
    }

    /// Remembers who holds the place that was taken last.
    pub(super) fn is_taken_by(&mut self, task: AbortHandle, busy: Busy) {
        self.taken.push_back((task, busy));
    }
}

impl Busy {
    /// Marks a request as begun; `None` when the connection has just been given up.
    pub(super) fn begin(self) -> Option<BusyUntilDropped> {
        let begun = self.state.compare_exchange(IDLE, BUSY, Ordering::Relaxed, Ordering::Relaxed);
        begun.is_ok().then_some(BusyUntilDropped(self))
    }

    /// Whether it was idle, and may be ended now.
    fn give_up(&self) -> bool {
        self.state.compare_exchange(IDLE, GIVEN_UP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for BusyUntilDropped {
    fn drop(&mut self) {
        self.0.state.store(IDLE, Ordering::Relaxed);
        self.0.turned_idle.notify_one();
    }
}

/// The requests that are open on one HTTP/2 connection.
///
/// hyper limits how long an HTTP/1 connection may wait for a request or for its client to read. It has neither for
/// HTTP/2: a client that only answers pings, or never opens its window, would keep its connection for ever.
#[derive(Debug, Clone)]
pub(super) struct OpenRequests(Arc<watch::Sender<Progress>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    /// Requests on which the next move is ours: an answer is being made, or a piece of it.
    working: usize,
    /// Pieces of answers that were handed over.
    pieces: u64,
}

/// One open request, for as long as the next move is ours.
#[derive(Debug)]
struct Working(OpenRequests);

impl OpenRequests {
    pub(super) fn none() -> OpenRequests {
        OpenRequests(Arc::default())
    }

    /// Waits for the answer of a request that has just begun, and goes on counting while the answer is written.
    pub(super) async fn track(self, answer: impl Future<Output = Response>) -> Response {
        let working = self.working();
        let answer = answer.await;
        drop(working);
        answer.map(|body| Body::new(PacedBody { body, rest: Bytes::new(), working: None, requests: self }))
    }

    /// Completes when for `limit` it was the client's turn: to ask, or to take what it asked for.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut progress = self.0.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = progress.wait_for(|progress| progress.working == 0).await;
            progress.mark_unchanged();
            if timeout_at(Instant::now() + limit, progress.changed()).await.is_err() {
                return;
            }
        }
    }

    fn working(&self) -> Working {
        self.0.send_modify(|progress| progress.working += 1);
        Working(self.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.send_modify(|progress| progress.working -= 1);
    }
}

/// The longest piece of an answer that is handed to hyper at once, which sends no next one before the client's window
/// has room again. With the whole answer as one piece nobody could tell how much of it the client has taken.
const PIECE_BYTES: usize = 16 << 10;

/// An answer in pieces. While hyper asks for the next one the move is ours, and while it does not, the client's.
struct PacedBody {
    body: Body,
    rest: Bytes,
    working: Option<Working>,
    requests: OpenRequests,
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.working.is_none() {
            self.working = Some(self.requests.working());
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        self.requests.0.send_modify(|progress| progress.pieces += 1);
        self.working = None;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.rest.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + ahead);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http_body_util::BodyExt;
    use tokio::task::JoinHandle;

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

    /// A connection that stays until it is sent away.
    async fn enter(places: &mut YieldingPlaces, busy: &Busy) -> JoinHandle<()> {
        let place = places.take().await;
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(place);
        });
        places.is_taken_by(task.abort_handle(), busy.clone());
        task
    }

    #[tokio::test]
    async fn c39_the_oldest_connection_that_asks_for_nothing_gives_way() {
        let mut places = YieldingPlaces::new(2);
        let marks: Vec<Busy> = (0..5).map(|_| places.mark()).collect();
        let _working = marks[0].clone().begin().unwrap();
        let first = enter(&mut places, &marks[0]).await;
        let second = enter(&mut places, &marks[1]).await;
        let third = enter(&mut places, &marks[2]).await;
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(marks[1].clone().begin().is_none(), "a request begins on a connection that was given up");
        let fourth = enter(&mut places, &marks[3]).await;
        assert!(third.await.unwrap_err().is_cancelled());
        assert!(!first.is_finished() && !fourth.is_finished());
        // Nobody is sent away in the middle of a request, so a new one waits: until one of them is done.
        let also = marks[3].clone().begin().unwrap();
        let done = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(also);
        });
        enter(&mut places, &marks[4]).await;
        assert!(done.is_finished() && fourth.await.unwrap_err().is_cancelled() && !first.is_finished());
    }

    #[tokio::test]
    async fn c39_a_connection_is_idle_only_while_it_is_the_clients_turn() {
        let requests = OpenRequests::none();
        let (limit, patience) = (Duration::from_millis(20), Duration::from_millis(200));
        let begun = Instant::now();
        requests.idle_for(limit).await;
        assert!(begun.elapsed() >= limit);

        let begun = Instant::now();
        let answer = requests.clone().track(async move {
            tokio::time::sleep(patience).await;
            Response::new(Body::from(vec![0; 3 * PIECE_BYTES]))
        });
        let answer = tokio::spawn(answer);
        tokio::task::yield_now().await;
        requests.idle_for(limit).await;
        assert!(begun.elapsed() >= patience, "the answer was still being made");

        // Taken slowly, but taken: no pause is as long as the limit.
        let mut body = answer.await.unwrap().into_body();
        let reader = tokio::spawn(async move {
            let mut sizes = Vec::new();
            while let Some(frame) = body.frame().await {
                sizes.push(frame.unwrap().into_data().unwrap().len());
                tokio::time::sleep(patience / 2).await;
            }
            sizes
        });
        let begun = Instant::now();
        tokio::task::yield_now().await;
        requests.idle_for(patience).await;
        assert!(begun.elapsed() >= patience + patience / 2);
        assert_eq!(reader.await.unwrap(), [PIECE_BYTES; 3]);
    }
}
