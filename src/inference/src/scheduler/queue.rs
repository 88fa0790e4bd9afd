//! Who is admitted next.  Tenants share the appliance by tokens, and within a tenant it is first come, first served.
//!
//! Each tenant has an account of the tokens that were admitted for it, and the tenant with the lowest one is next.  Who
//! comes anew, or again, begins where the one who is next stands: neither behind what others had in his absence, nor
//! with claims from it.  This is start-time fair queuing: over any time two waiting tenants get the same to within one
//! request each, with no quantum to choose, and whoever waits for his first request has at most one of each other
//! tenant before him.

use std::collections::{BTreeMap, BTreeSet};

use super::SequenceId;

/// Where a sequence belongs in the queue, which stays the same if it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tenant: u64,
    /// The number of its arrival.
    pub(super) arrival: u64,
    /// How many tokens its admission costs.
    pub(super) cost: u64,
}

/// The sequences that wait.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    tenants: BTreeMap<u64, Tenant>,
    /// The order of the tenants: by account, then by the arrival of whoever is first among their sequences.
    turns: BTreeSet<(u64, u64, u64)>,
    /// The account of the tenant who was next when it was asked last.
    now: u64,
    arrivals: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    account: u64,
    waiting: BTreeMap<u64, SequenceId>,
}

impl Tenant {
    fn turn(&self, tenant: u64) -> (u64, u64, u64) {
        let first = self.waiting.keys().next().copied();
        (self.account, first.unwrap_or(u64::MAX), tenant)
    }
}

impl FairQueue {
    /// Queues a sequence behind the others of its tenant.
    pub(super) fn push(&mut self, id: SequenceId, tenant: u64, cost: u64) -> Place {
        self.arrivals += 1;
        let place = Place { tenant, arrival: self.arrivals, cost };
        let now = self.now;
        self.change(tenant, |tenant| {
            if tenant.waiting.is_empty() {
                tenant.account = tenant.account.max(now);
            }
            tenant.waiting.insert(place.arrival, id);
        });
        place
    }

    /// Takes an admitted sequence back into its old place, and what it cost off its tenant's account.
    pub(super) fn put_back(&mut self, id: SequenceId, place: Place) {
        let now = self.now;
        let known = self.tenants.contains_key(&place.tenant);
        self.change(place.tenant, |tenant| {
            let account = if known { tenant.account } else { now };
            tenant.account = account.saturating_sub(place.cost);
            tenant.waiting.insert(place.arrival, id);
        });
    }

    /// The sequence to be admitted next.  It stays the next one until it is admitted or removed, or one is put back.
    pub(super) fn next(&mut self) -> Option<SequenceId> {
        while let Some(&(account, first, tenant)) = self.turns.first() {
            self.now = self.now.max(account);
            let waiting = self.tenants.get(&tenant).and_then(|tenant| tenant.waiting.get(&first));
            if waiting.is_some() {
                return waiting.copied();
            }
            // An account that is not above anybody's who waits tells nothing any more.
            self.turns.pop_first();
            self.tenants.remove(&tenant);
        }
        None
    }

    /// Takes out the sequence at this place, which was admitted.
    pub(super) fn admit(&mut self, place: Place) {
        self.change(place.tenant, |tenant| {
            tenant.waiting.remove(&place.arrival);
            tenant.account = tenant.account.saturating_add(place.cost);
        });
    }

    /// Takes what a sequence that was admitted at this place did not use off its tenant's account.
    pub(super) fn settle(&mut self, place: Place, unused: u64) {
        if self.tenants.contains_key(&place.tenant) {
            self.change(place.tenant, |tenant| tenant.account = tenant.account.saturating_sub(unused));
        }
    }

    /// Takes out the sequence at this place, which nobody wants any more.
    pub(super) fn remove(&mut self, place: Place) {
        self.change(place.tenant, |tenant| {
            tenant.waiting.remove(&place.arrival);
        });
    }

    /// Those who wait: tenant by tenant, and of each in the order of their arrival.
    pub(super) fn ids(&self) -> impl Iterator<Item = SequenceId> {
        self.tenants.values().flat_map(|tenant| tenant.waiting.values().copied())
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut Tenant)) {
        let tenant = self.tenants.entry(number).or_default();
        self.turns.remove(&tenant.turn(number));
        change(tenant);
        self.turns.insert(tenant.turn(number));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A queue that remembers the places for the test.
    #[derive(Default)]
    struct Line {
        queue: FairQueue,
        places: BTreeMap<SequenceId, Place>,
    }

    impl Line {
        fn push(&mut self, id: u64, tenant: u64, cost: u64) {
            let place = self.queue.push(SequenceId(id), tenant, cost);
            self.places.insert(SequenceId(id), place);
        }

        fn admit(&mut self) -> u64 {
            let next = self.queue.next().expect("somebody waits");
            self.queue.admit(self.places[&next]);
            next.0
        }
    }

    #[test]
    fn within_a_tenant_it_is_first_come_first_served() {
        let mut line = Line::default();
        (1..=3).for_each(|id| line.push(id, 1, 10 * id));
        assert_eq!([line.admit(), line.admit(), line.admit()], [1, 2, 3]);
        assert_eq!(line.queue.next(), None);
    }

    #[test]
    fn a_thousand_requests_of_one_tenant_do_not_stand_before_anothers_first() {
        let mut line = Line::default();
        (1..=1000).for_each(|id| line.push(id, 1, 50));
        assert_eq!([line.admit(), line.admit()], [1, 2]);
        line.push(2001, 2, 50);
        line.push(2002, 2, 50);
        line.push(3001, 3, 50);
        // Two and three begin where one stood when it was admitted last, so they come before its next request.
        assert_eq!([line.admit(), line.admit()], [2001, 3001]);
        assert_eq!([line.admit(), line.admit(), line.admit()], [3, 2002, 4]);
    }

    #[test]
    fn tokens_are_shared_and_not_requests() {
        let mut line = Line::default();
        (1..=10).for_each(|id| line.push(id, 1, 100));
        (11..=100).for_each(|id| line.push(id, 2, 10));
        let admitted: Vec<u64> = (0..44).map(|_| line.admit()).collect();
        assert_eq!(admitted.iter().filter(|&&id| id <= 10).count(), 4);
    }

    #[test]
    fn whoever_is_next_stays_next_while_others_come() {
        let mut line = Line::default();
        line.push(1, 9, 1000);
        assert_eq!(line.queue.next(), Some(SequenceId(1)));
        line.push(2, 1, 1);
        assert_eq!([line.admit(), line.admit()], [1, 2]);
    }

    #[test]
    fn a_tenant_who_was_away_has_no_claims_and_no_debts() {
        let mut line = Line::default();
        line.push(1, 1, 1000);
        (2..=9).for_each(|id| line.push(id, 2, 10));
        // The first tenant had much and pays for it while the other one waits,
        assert_eq!([line.admit(), line.admit(), line.admit()], [1, 2, 3]);
        line.push(10, 1, 10);
        assert_eq!([line.admit(), line.admit()], [4, 5]);
        // but not for a time in which nobody waited.
        assert_eq!([line.admit(), line.admit(), line.admit(), line.admit(), line.admit()], [6, 7, 8, 9, 10]);
        assert_eq!(line.queue.next(), None);
        assert!(line.queue.tenants.is_empty() && line.queue.turns.is_empty());
        line.push(11, 2, 10);
        line.push(12, 1, 10);
        assert_eq!([line.admit(), line.admit()], [11, 12]);
    }

    #[test]
    fn what_is_put_back_is_next_again_and_costs_nothing_twice() {
        let mut line = Line::default();
        for (id, tenant) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
            line.push(id, tenant, 10);
        }
        assert_eq!([line.admit(), line.admit(), line.admit()], [1, 3, 2]);
        line.queue.put_back(SequenceId(2), line.places[&SequenceId(2)]);
        assert_eq!(line.queue.ids().collect::<Vec<_>>(), [2, 4].map(SequenceId));
        assert_eq!([line.admit(), line.admit()], [2, 4]);
        // Nobody waited, so all accounts are closed.  Who is put back now comes first, and then he is even with the
        // others.
        assert_eq!(line.queue.next(), None);
        line.queue.put_back(SequenceId(1), line.places[&SequenceId(1)]);
        line.push(5, 3, 5);
        line.push(6, 1, 10);
        line.push(7, 3, 10);
        assert_eq!([line.admit(), line.admit(), line.admit(), line.admit()], [1, 5, 6, 7]);
    }

    #[test]
    fn those_who_leave_hold_up_nobody() {
        let mut line = Line::default();
        (1..=3).for_each(|id| line.push(id, 1, 10));
        line.queue.remove(line.places[&SequenceId(1)]);
        line.queue.remove(line.places[&SequenceId(2)]);
        assert_eq!((line.admit(), line.queue.next()), (3, None));
    }

    proptest! {
        /// Over any time in which two tenants wait, neither gets more than the other by more than a request of each.
        #[test]
        fn tenants_that_wait_get_equal_shares(
            pushes in prop::collection::vec((0..4_u64, 1..100_u64, 0..3_usize), 1..200),
        ) {
            let mut line = Line::default();
            // What each of a pair was admitted since both wait.
            let mut shares: BTreeMap<(u64, u64), [u64; 2]> = BTreeMap::new();
            let mut waiting = [0; 4];
            for (id, (tenant, cost, admissions)) in (0..).zip(pushes) {
                line.push(id, tenant, cost);
                waiting[tenant as usize] += 1;
                for _ in 0..admissions {
                    let Some(next) = line.queue.next() else { break };
                    let Place { tenant, cost, .. } = line.places[&next];
                    prop_assert_eq!(line.admit(), next.0);
                    for other in (0..4).filter(|&other| other != tenant) {
                        let pair = (tenant.min(other), tenant.max(other));
                        let share = shares.entry(pair).or_default();
                        share[usize::from(tenant > other)] += cost;
                        if waiting[other as usize] == 0 {
                            shares.remove(&pair);
                        } else {
                            prop_assert!(share[0].abs_diff(share[1]) < 200, "{pair:?} had {share:?}");
                        }
                    }
                    waiting[tenant as usize] -= 1;
                    if waiting[tenant as usize] == 0 {
                        shares.retain(|pair, _| pair.0 != tenant && pair.1 != tenant);
                    }
                }
            }
        }
    }
}
