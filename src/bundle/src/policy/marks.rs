//! The high-water marks: the highest of everything that must never go back.  Each operation can only raise them, so that
//! no order of events and no mistake of a caller makes an installation forget that it has seen something newer.

use std::collections::BTreeMap;

use crate::names::{BundleName, Counter, Epoch};
use crate::timestamp::Timestamp;

/// What an installation has taken into use so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HighWaterMarks {
    counters: BTreeMap<(BundleName, Epoch), Counter>,
    trust_root: u64,
    revocation: u64,
    time: Option<Timestamp>,
}

impl HighWaterMarks {
    /// Nothing was taken into use yet.
    #[must_use]
    pub fn none() -> Self {
        Self { counters: BTreeMap::new(), trust_root: 0, revocation: 0, time: None }
    }

    /// Notes that this counter was accepted; a lower one than noted changes nothing.
    pub fn accept(&mut self, name: &BundleName, epoch: Epoch, counter: Counter) {
        let highest = self.counters.entry((name.clone(), epoch)).or_insert(counter);
        *highest = counter.max(*highest);
    }

    /// Notes that a trust root of this version was used.
    pub fn see_trust_root(&mut self, version: u64) {
        self.trust_root = self.trust_root.max(version);
    }

    /// Notes that a revocation list of this version was used; 0 is no list.
    pub fn see_revocation_list(&mut self, version: u64) {
        self.revocation = self.revocation.max(version);
    }

    /// Notes that it is at least this late.
    pub fn see_time(&mut self, time: Timestamp) {
        self.time = self.time.max(Some(time));
    }

    /// Raises each mark to that of `other` where that is higher.
    pub fn raise(&mut self, other: &Self) {
        for (name, epoch, counter) in other.counters() {
            self.accept(name, epoch, counter);
        }
        self.see_trust_root(other.trust_root);
        self.see_revocation_list(other.revocation);
        if let Some(time) = other.time {
            self.see_time(time);
        }
    }

    /// These marks without any counter: what a bundle shows about trust and time whatever becomes of it.
    #[must_use]
    pub fn without_counters(&self) -> Self {
        Self { counters: BTreeMap::new(), ..self.clone() }
    }

    /// The highest epoch of `name` in which anything was accepted, with its highest counter.
    #[must_use]
    pub fn latest(&self, name: &BundleName) -> Option<(Epoch, Counter)> {
        self.counters
            .range((name.clone(), Epoch(0))..=(name.clone(), Epoch(u32::MAX)))
            .next_back()
            .map(|((_, epoch), counter)| (*epoch, *counter))
    }

    /// All counters that were accepted, sorted.
    pub fn counters(&self) -> impl Iterator<Item = (&BundleName, Epoch, Counter)> {
        self.counters.iter().map(|((name, epoch), counter)| (name, *epoch, *counter))
    }

    /// The highest version of a trust root; 0 when none was used.
    #[must_use]
    pub fn trust_root(&self) -> u64 {
        self.trust_root
    }

    /// The highest version of a revocation list; 0 when there was none.
    #[must_use]
    pub fn revocation(&self) -> u64 {
        self.revocation
    }

    /// The latest time that was seen.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// One thing that can happen to the marks.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Accept(bool, u32, u64),
        Root(u64),
        List(u64),
        Time(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (any::<bool>(), 0..3_u32, 0..5_u64).prop_map(|(name, epoch, counter)| Event::Accept(name, epoch, counter)),
            (0..5_u64).prop_map(Event::Root),
            (0..5_u64).prop_map(Event::List),
            (0..24_u8).prop_map(Event::Time),
        ]
    }

    fn apply(marks: &mut HighWaterMarks, event: Event) {
        match event {
            Event::Accept(name, epoch, counter) => {
                let name = if name { "one" } else { "two" };
                marks.accept(&name.parse().unwrap(), Epoch(epoch), Counter(counter));
            }
            Event::Root(version) => marks.see_trust_root(version),
            Event::List(version) => marks.see_revocation_list(version),
            Event::Time(hour) => marks.see_time(format!("2026-01-01T{hour:02}:00:00Z").parse().unwrap()),
        }
    }

    /// Whether raising `low` to `high` gives `high`: then no mark of `low` is above that of `high`.
    fn is_below(low: &HighWaterMarks, high: &HighWaterMarks) -> bool {
        let mut raised = low.clone();
        raised.raise(high);
        raised == *high
    }

    proptest! {
        #[test]
        fn c16_c18_no_event_lowers_a_mark_and_their_order_does_not_matter(
            events in prop::collection::vec(event(), 0..12),
            split in 0..12_usize,
        ) {
            let mut marks = HighWaterMarks::none();
            for &event in &events {
                let before = marks.clone();
                apply(&mut marks, event);
                prop_assert!(is_below(&before, &marks), "{event:?} lowers {before:?}");
            }
            let mut backwards = HighWaterMarks::none();
            events.iter().rev().for_each(|&event| apply(&mut backwards, event));
            prop_assert_eq!(&backwards, &marks);
            // Two halves that were kept apart say together what the whole says.
            let (left, right) = events.split_at(split.min(events.len()));
            let [mut joined, other] = [left, right].map(|half| {
                let mut marks = HighWaterMarks::none();
                half.iter().for_each(|&event| apply(&mut marks, event));
                marks
            });
            joined.raise(&other);
            prop_assert_eq!(joined, marks);
        }
    }
}
