//! Who may have a prompt rendered and tokenised, and when.  A long prompt keeps a core busy for a second or two, so there
//! is one place a core, and half of them for one key: whoever sends many long prompts delays himself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The places for reading prompts.
#[derive(Debug)]
pub(super) struct ReadingRoom {
    places: Arc<Semaphore>,
    of_key: BTreeMap<String, Arc<Semaphore>>,
    patience: Duration,
    waiting: AtomicUsize,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct ReadingPlace {
    _of_key: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl ReadingRoom {
    pub(super) fn new<'a>(cores: usize, keys: impl Iterator<Item = &'a str>, patience: Duration) -> ReadingRoom {
        let of_one_key = (cores / 2).max(1);
        let of_key = keys.map(|name| (name.to_owned(), Arc::new(Semaphore::new(of_one_key)))).collect();
        ReadingRoom { places: Arc::new(Semaphore::new(cores)), of_key, patience, waiting: AtomicUsize::new(0) }
    }

    /// How many prompts wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a place for the holder of a key; `None` if that takes too long, or if there is no such key.
    pub(super) async fn enter(&self, key_name: Option<&str>) -> Option<ReadingPlace> {
        let of_key = Arc::clone(self.of_key.get(key_name?)?);
        let _waiting = Waiting::among(&self.waiting);
        let turn = async {
            // The key's own queue comes first: only who is at its head stands in the queue of all.
            let _of_key = of_key.acquire_owned().await.ok()?;
            let _of_all = Arc::clone(&self.places).acquire_owned().await.ok()?;
            Some(ReadingPlace { _of_key, _of_all })
        };
        timeout(self.patience, turn).await.ok().flatten()
    }
}

/// One of those who wait, until it is dropped: with a place, without one, or because the client has left.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn among(all: &AtomicUsize) -> Waiting<'_> {
        all.fetch_add(1, Ordering::Relaxed);
        Waiting(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn one_key_leaves_places_for_another() {
        for cores in [1, 2, 3, 8] {
            let room = ReadingRoom::new(cores, ["alice", "bob"].into_iter(), Duration::from_millis(20));
            let mut held = Vec::new();
            while let Some(place) = room.enter(Some("alice")).await {
                held.push(place);
            }
            assert_eq!(held.len(), (cores / 2).max(1), "{cores} cores");
            if cores > 1 {
                drop(room.enter(Some("bob")).await.unwrap());
            }
            held.pop();
            assert!(room.enter(Some("alice")).await.is_some(), "a place was not given back");
            assert!(room.enter(Some("mallory")).await.is_none() && room.enter(None).await.is_none());
        }
    }

    #[tokio::test]
    async fn who_waits_is_counted_and_nobody_else() {
        let room = Arc::new(ReadingRoom::new(1, ["alice"].into_iter(), Duration::from_secs(60)));
        let place = room.enter(Some("alice")).await.unwrap();
        assert_eq!(room.waiting(), 0);
        let enter = |room: Arc<ReadingRoom>| tokio::spawn(async move { room.enter(Some("alice")).await });
        let (second, third) = (enter(Arc::clone(&room)), enter(Arc::clone(&room)));
        tokio::task::yield_now().await;
        assert_eq!(room.waiting(), 2);
        third.abort();
        assert!(third.await.is_err());
        assert_eq!(room.waiting(), 1, "a client that left is still counted");
        drop(place);
        assert!(second.await.unwrap().is_some());
        assert_eq!(room.waiting(), 0);
    }
}
