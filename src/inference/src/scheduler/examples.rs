//! What the scheduler does, by examples.

use super::*;

/// What stands in for a model: it always chooses the same token.
const CHOSEN: u32 = 7;
const ROOMY: SchedulerLimits = SchedulerLimits { max_running: 8, blocks: 100 };

/// A sequence with tokens of its own.
fn new(id: u64, prompt: usize, completion: usize) -> NewSequence {
    let prompt = (0..prompt as u32).map(|token| 1000 * id as u32 + token).collect();
    NewSequence { id: SequenceId(id), tenant: 0, domain: Domain::default(), prompt, completion }
}

fn scheduler(limits: SchedulerLimits, sequences: impl IntoIterator<Item = NewSequence>) -> Scheduler {
    let mut scheduler = Scheduler::new(limits);
    sequences.into_iter().for_each(|new| scheduler.enqueue(new).expect("it fits"));
    scheduler
}

/// A piece of a prompt.
fn piece(id: u64, positions: Range<usize>) -> Work {
    let logits = positions.end..positions.end;
    Work { id: SequenceId(id), positions, logits }
}

/// A last piece of a prompt, or a token that was chosen.
fn last(id: u64, positions: Range<usize>) -> Work {
    let logits = positions.end - 1..positions.end;
    Work { id: SequenceId(id), positions, logits }
}

/// A token that was chosen, and drafted ones.
fn drafted(id: u64, positions: Range<usize>) -> Work {
    Work { id: SequenceId(id), positions: positions.clone(), logits: positions }
}

/// Plans a step and carries it out; no draft is right.
fn step(scheduler: &mut Scheduler, step_tokens: usize) -> Vec<Work> {
    let plan = scheduler.plan(step_tokens);
    for Work { id, logits, .. } in &plan {
        scheduler.advance(*id, if logits.is_empty() { &[] } else { &[CHOSEN] });
    }
    plan
}

#[test]
fn a_prompt_is_computed_in_pieces_and_then_generates() {
    let mut scheduler = scheduler(ROOMY, [new(1, 45, 5)]);
    assert_eq!(step(&mut scheduler, 20), [piece(1, 0..20)]);
    assert_eq!(step(&mut scheduler, 20), [piece(1, 20..40)]);
    assert_eq!(step(&mut scheduler, 20), [last(1, 40..45)]);
    assert_eq!(step(&mut scheduler, 20), [last(1, 45..46)]);
    assert_eq!(scheduler.tokens(SequenceId(1))[44..], [1044, CHOSEN, CHOSEN]);
    scheduler.remove(SequenceId(1));
    assert_eq!(step(&mut scheduler, 20), []);
    assert_eq!((scheduler.stats().blocks_used, scheduler.stats().blocks_cached), (0, 2));
}

#[test]
fn a_long_prompt_does_not_stall_those_that_generate() {
    let mut scheduler = scheduler(ROOMY, [new(1, 3, 20)]);
    step(&mut scheduler, 64);
    scheduler.enqueue(new(2, 150, 5)).expect("it fits");
    assert_eq!(step(&mut scheduler, 64), [last(1, 3..4), piece(2, 0..63)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 4..5), piece(2, 63..126)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 5..6), last(2, 126..150)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 6..7), last(2, 150..151)]);
}

#[test]
fn prompts_take_turns_and_the_last_of_a_step_gets_what_is_left() {
    let mut scheduler = scheduler(ROOMY, [new(1, 100, 9), new(2, 30, 9), new(3, 100, 9)]);
    assert_eq!(step(&mut scheduler, 60), [piece(1, 0..60)]);
    assert_eq!(step(&mut scheduler, 60), [last(2, 0..30), piece(3, 0..30)]);
    // The next to be served is the first, although the second was admitted before the third.
    assert_eq!(step(&mut scheduler, 60), [last(2, 30..31), last(1, 60..100), piece(3, 30..49)]);
}

#[test]
fn a_piece_is_no_smaller_than_is_worth_while_however_small_the_step() {
    let mut scheduler = scheduler(ROOMY, [new(1, 30, 9), new(2, 30, 9), new(3, 5, 9)]);
    assert_eq!(step(&mut scheduler, 0), [piece(1, 0..16)]);
    // Beside the second's piece there is room for six tokens, which would be too few of the third if it had more.
    assert_eq!(step(&mut scheduler, 22), [piece(2, 0..16 + 6)]);
    assert_eq!(step(&mut scheduler, 22), [last(3, 0..5), last(1, 16..30)]);
}

#[test]
fn drafted_tokens_share_what_a_step_has_room_for() {
    let mut scheduler = scheduler(ROOMY, [new(1, 4, 90), new(2, 4, 90)]);
    step(&mut scheduler, 64);
    scheduler.draft(SequenceId(1), &[1, 2, 3, 4, 5, 6]);
    scheduler.draft(SequenceId(2), &[1, 2]);
    assert_eq!(scheduler.plan(8), [drafted(1, 4..8), drafted(2, 4..7)]);
    assert_eq!(scheduler.tokens(SequenceId(1))[4..], [CHOSEN, 1, 2, 3]);
    // Two drafts of the first were right, all of the second: the token after them was chosen, too.
    scheduler.advance(SequenceId(1), &[1, 2, 9]);
    scheduler.advance(SequenceId(2), &[1, 2, 9]);
    assert_eq!(scheduler.tokens(SequenceId(1))[4..], [CHOSEN, 1, 2, 9]);
    // Drafts are good for one step.
    assert_eq!(step(&mut scheduler, 8), [last(1, 7..8), last(2, 7..8)]);
}

#[test]
fn a_prompt_has_nothing_to_draft_after() {
    let mut scheduler = scheduler(ROOMY, [new(1, 20, 9)]);
    scheduler.draft(SequenceId(1), &[1, 2]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 0..20)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 20..21)]);
}

#[test]
fn wrong_drafts_give_their_place_back_and_are_not_shared() {
    let mut scheduler = scheduler(ROOMY, [new(1, 15, 60)]);
    step(&mut scheduler, 64);
    scheduler.draft(SequenceId(1), &[1; 20]);
    assert_eq!(scheduler.plan(64), [drafted(1, 15..36)]);
    assert_eq!(scheduler.blocks(SequenceId(1)), [0, 1, 2]);
    scheduler.advance(SequenceId(1), &[1, 1, 9]);
    assert_eq!(scheduler.blocks(SequenceId(1)), [0, 1]);
    // The positions of the wrong ones are computed again.
    assert_eq!(step(&mut scheduler, 64), [last(1, 18..19)]);
    // The first block was filled by the fifteen of the prompt and the chosen one, which others may begin with.
    let mut other = new(1, 15, 1);
    other.id = SequenceId(2);
    other.prompt.extend([CHOSEN, 1]);
    scheduler.enqueue(other).expect("it fits");
    assert_eq!(step(&mut scheduler, 64), [last(1, 19..20), last(2, 16..17)]);
}

#[test]
fn no_more_is_drafted_than_may_be_chosen() {
    let mut scheduler = scheduler(ROOMY, [new(1, 4, 4)]);
    step(&mut scheduler, 64);
    scheduler.draft(SequenceId(1), &[1; 20]);
    assert_eq!(scheduler.plan(64), [drafted(1, 4..7)]);
    scheduler.advance(SequenceId(1), &[1, 1, 9]);
    assert_eq!(scheduler.tokens(SequenceId(1)).len(), 8);
}

#[test]
fn a_prompt_that_begins_as_an_earlier_one_is_computed_from_where_it_differs() {
    let mut scheduler = scheduler(ROOMY, [new(1, 40, 1)]);
    step(&mut scheduler, 64);
    scheduler.remove(SequenceId(1));
    // The very same: the last token is computed for its logits, and with it the block that it stands in.
    let same = |id, length| NewSequence { id: SequenceId(id), ..new(1, length, 1) };
    scheduler.enqueue(same(2, 40)).expect("it fits");
    scheduler.enqueue(same(3, 32)).expect("it fits");
    scheduler.enqueue(same(4, 100)).expect("it fits");
    assert_eq!(step(&mut scheduler, 120), [last(2, 32..40), last(3, 16..32), last(4, 32..100)]);
    assert_eq!(scheduler.stats().tokens_found, 32 + 16 + 32);
    // The third filled a block that was there, and uses that one now.
    assert_eq!(scheduler.blocks(SequenceId(2))[..2], *scheduler.blocks(SequenceId(3)));
}

#[test]
fn those_who_begin_alike_at_the_same_time_compute_it_once() {
    let alike = |id| NewSequence { id: SequenceId(id), ..new(1, 70, 9) };
    let mut scheduler = scheduler(ROOMY, [alike(1), alike(2), alike(3)]);
    assert_eq!(step(&mut scheduler, 100), [last(1, 0..70)]);
    assert_eq!(step(&mut scheduler, 100), [last(1, 70..71), last(2, 64..70), last(3, 64..70)]);
    let stats = scheduler.stats();
    assert_eq!((stats.tokens_asked, stats.tokens_found, stats.blocks_used), (210, 128, 4 + 3));
}

#[test]
fn what_is_in_use_needs_no_room_a_second_time() {
    let limits = SchedulerLimits { max_running: 8, blocks: 8 };
    let mut scheduler = scheduler(limits, [new(1, 65, 9)]);
    step(&mut scheduler, 99);
    scheduler.enqueue(NewSequence { id: SequenceId(2), ..new(1, 65, 9) }).expect("it fits");
    assert_eq!(step(&mut scheduler, 99), [last(1, 65..66), last(2, 64..65)][..]);
}

#[test]
fn nobody_waits_for_a_twin_that_has_no_room() {
    let alike = |id| NewSequence { id: SequenceId(id), ..new(2, 70, 9) };
    let limits = SchedulerLimits { max_running: 3, blocks: 15 };
    let mut scheduler = scheduler(limits, [new(1, 15, 200)]);
    step(&mut scheduler, 64);
    scheduler.enqueue(alike(2)).expect("it fits");
    scheduler.enqueue(alike(3)).expect("it fits");
    // So many drafts are right that the first sequence fills the memory, but for what the second one needs next.
    scheduler.draft(SequenceId(1), &[CHOSEN; 170]);
    assert_eq!(scheduler.plan(191), [drafted(1, 15..186), piece(2, 0..20)]);
    scheduler.advance(SequenceId(1), &[CHOSEN; 171]);
    scheduler.advance(SequenceId(2), &[]);
    // It is the third one's turn, which has none; both stand before the same block.
    assert_eq!(step(&mut scheduler, 0), [last(1, 186..187), piece(2, 20..36)]);
    assert_eq!((scheduler.stats().running, scheduler.stats().blocks_used), (3, 15));
}

#[test]
fn nothing_is_shared_beyond_a_domain() {
    let other = |id, domain| NewSequence { id: SequenceId(id), domain, ..new(1, 40, 1) };
    let mut scheduler = scheduler(ROOMY, [new(1, 40, 1)]);
    step(&mut scheduler, 64);
    scheduler.remove(SequenceId(1));
    scheduler.enqueue(other(2, Domain { scope: 1, ..Domain::default() })).expect("it fits");
    scheduler.enqueue(other(3, Domain { adapter: 1, ..Domain::default() })).expect("it fits");
    scheduler.enqueue(other(4, Domain { variant: 1, ..Domain::default() })).expect("it fits");
    assert_eq!(step(&mut scheduler, 120), [last(2, 0..40), last(3, 0..40), last(4, 0..40)]);
}

#[test]
fn a_reset_sequence_is_computed_anew_with_all_its_tokens() {
    let mut scheduler = scheduler(ROOMY, [new(1, 31, 9)]);
    (0..3).for_each(|_| drop(step(&mut scheduler, 64)));
    scheduler.reset(SequenceId(1), 1);
    assert_eq!(step(&mut scheduler, 64), [last(1, 0..34)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 34..35)]);
    assert_eq!(scheduler.stats().tokens_found, 0);
}

#[test]
fn who_was_admitted_last_waits_again_when_memory_is_short() {
    let limits = SchedulerLimits { max_running: 3, blocks: 5 };
    let mut scheduler = scheduler(limits, [new(1, 16, 60), new(2, 15, 60), new(3, 40, 1)]);
    assert_eq!(step(&mut scheduler, 64), [last(1, 0..16), last(2, 0..15)]);
    // The third is next but does not fit.
    assert_eq!((scheduler.stats().running, scheduler.stats().waiting), (2, 1));
    (0..17).for_each(|_| drop(step(&mut scheduler, 64)));
    // The second needs a third block.  There is none, and nobody was admitted after it, so it misses steps;
    assert_eq!(step(&mut scheduler, 64), [last(1, 33..34)]);
    assert_eq!((scheduler.stats().running, scheduler.stats().blocks_used), (2, 5));
    (0..14).for_each(|_| drop(step(&mut scheduler, 64)));
    // until the first needs a fourth block: then it gives up its two, and waits before the third, which came later.
    assert_eq!(step(&mut scheduler, 64), [last(1, 48..49)]);
    assert_eq!((scheduler.stats().running, scheduler.stats().preemptions), (1, 1));
    assert_eq!(scheduler.waiting_ids().collect::<Vec<_>>(), [2, 3].map(SequenceId));
    scheduler.remove(SequenceId(1));
    // What it had chosen is kept, and its first block was not needed otherwise.
    assert_eq!(step(&mut scheduler, 64), [last(2, 16..33)]);
    assert_eq!(step(&mut scheduler, 64), [last(2, 33..34)]);
}

#[test]
fn nobody_overtakes_who_waits_for_room() {
    let limits = SchedulerLimits { max_running: 8, blocks: 10 };
    let mut scheduler = scheduler(limits, [new(1, 80, 10), new(2, 80, 10), new(3, 2, 2)]);
    assert_eq!(step(&mut scheduler, 99), [last(1, 0..80)]);
    assert_eq!((scheduler.stats().running, scheduler.stats().waiting), (1, 2));
    scheduler.remove(SequenceId(1));
    assert_eq!(step(&mut scheduler, 99), [last(2, 0..80), last(3, 0..2)]);
}

#[test]
fn one_tenants_flood_does_not_stand_before_anothers_request() {
    let of = |tenant, new| NewSequence { tenant, ..new };
    let limits = SchedulerLimits { max_running: 2, blocks: 100 };
    let mut scheduler = scheduler(limits, (1..=1000).map(|id| of(1, new(id, 20, 9))));
    assert_eq!(step(&mut scheduler, 64), [last(1, 0..20), last(2, 0..20)]);
    scheduler.enqueue(of(2, new(2000, 20, 9))).expect("it fits");
    scheduler.remove(SequenceId(1));
    assert_eq!(step(&mut scheduler, 64), [last(2, 20..21), last(2000, 0..20)]);
}

#[test]
fn what_can_never_run_is_not_queued() {
    let mut scheduler = Scheduler::new(SchedulerLimits { max_running: 1, blocks: 2 });
    assert_eq!(scheduler.enqueue(new(1, 30, 3)), Err(NeverFits { tokens: 33, limit: 32 }));
    assert_eq!(scheduler.enqueue(new(1, 30, 2)), Ok(()));
    assert_eq!(step(&mut scheduler, 64), [last(1, 0..30)]);
}

#[test]
fn whoever_waits_or_runs_can_be_removed() {
    let limits = SchedulerLimits { max_running: 1, blocks: 10 };
    let mut scheduler = scheduler(limits, [new(1, 20, 5), new(2, 20, 5)]);
    step(&mut scheduler, 64);
    for id in [2, 1, 7] {
        scheduler.remove(SequenceId(id));
    }
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
}

#[test]
fn a_step_that_failed_is_planned_again() {
    let mut scheduler = scheduler(ROOMY, [new(1, 40, 5)]);
    let plan = scheduler.plan(64);
    assert_eq!(scheduler.plan(64), plan);
    scheduler.advance(SequenceId(1), &[CHOSEN]);
    scheduler.draft(SequenceId(1), &[1, 2]);
    assert_eq!(scheduler.plan(64), [drafted(1, 40..43)]);
    assert_eq!(scheduler.plan(64), [last(1, 40..41)]);
}
