//! Decides what the next forward step computes.  A pure state machine: it knows sequences by number and by their
//! lengths, no tensors, no threads and no time.
//!
//! The rules:
//! - First come, first admitted, when a place and the token budget allow it.  Nobody overtakes: a large request at the
//!   head of the queue waits for room, and the others behind it, so that it cannot starve.
//! - A sequence reserves prompt and longest possible completion at admission, so it never has to be thrown out.
//! - Every sequence that generates gets its one token in every step.
//! - Prompts are computed in fixed pieces, and what is left of a step goes to prompts in turn, a piece each.  At least
//!   one piece is computed per step, so that prompts advance beside any number of generating sequences.

use std::collections::VecDeque;
use std::ops::Range;

/// A sequence's number; never used twice by one scheduler's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// The limits a scheduler keeps; see [`crate::EngineConfig`] for their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// How many sequences may run at once; at least 1.
    pub max_running: usize,
    /// How many tokens running sequences may reserve together.
    pub token_budget: usize,
    /// The length of the pieces in which prompts are computed; at least 1.
    pub prefill_chunk: usize,
    /// How many prompt tokens one step may compute; at least one piece is computed whatever this says.
    pub step_tokens: usize,
}

/// What one sequence does in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Whose work.
    pub id: SequenceId,
    /// What is computed.
    pub part: Part,
}

/// The tokens that a sequence puts into a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A piece of the prompt, after which more prompt follows.
    Prompt(Range<usize>),
    /// The last piece of the prompt: its logits choose the first token.
    LastOfPrompt(Range<usize>),
    /// The token that was chosen last.
    Generated,
}

impl Part {
    /// How many prompt tokens this part computes.
    pub fn prompt_tokens(&self) -> usize {
        match self {
            Part::Prompt(range) | Part::LastOfPrompt(range) => range.len(),
            Part::Generated => 0,
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    waiting: VecDeque<Entry>,
    running: Vec<Entry>,
    /// The running sequences whose prompt is not complete, the next to be served first.
    prompts: VecDeque<SequenceId>,
    tokens_held: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    id: SequenceId,
    prompt: usize,
    reserved: usize,
    computed: usize,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: SchedulerLimits) -> Scheduler {
        let at_least_one = SchedulerLimits {
            max_running: limits.max_running.max(1),
            prefill_chunk: limits.prefill_chunk.max(1),
            ..limits
        };
        let (waiting, running, prompts) = Default::default();
        Scheduler { limits: at_least_one, waiting, running, prompts, tokens_held: 0 }
    }

    /// Queues a sequence of `prompt` tokens that generates up to `completion` tokens.  What exceeds the whole token
    /// budget is reserved as the whole budget: the caller limits the completion to what fits.
    pub fn enqueue(&mut self, id: SequenceId, prompt: usize, completion: usize) {
        let reserved = prompt.saturating_add(completion).min(self.limits.token_budget);
        self.waiting.push_back(Entry { id, prompt, reserved, computed: 0 });
    }

    /// Takes a sequence out, wherever it stands: it finished, failed or was cancelled.
    pub fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|entry| entry.id != id);
        self.prompts.retain(|&prompt| prompt != id);
        if let Some(place) = self.running.iter().position(|entry| entry.id == id) {
            self.tokens_held -= self.running.remove(place).reserved;
        }
    }

    /// Admits what may be admitted and says what the next step computes; empty if nothing runs.
    ///
    /// The plan counts as carried out: a sequence whose step failed must be removed.
    pub fn plan(&mut self) -> Vec<Work> {
        self.admit();
        let prompt_work = self.plan_prompts();
        let generating = self.running.iter().filter(|entry| entry.computed > entry.prompt);
        let mut plan: Vec<Work> = generating.map(|entry| Work { id: entry.id, part: Part::Generated }).collect();
        plan.extend(prompt_work);
        // From the next step on, a complete prompt's sequence generates.
        for entry in self.running.iter_mut().filter(|entry| entry.computed == entry.prompt) {
            entry.computed += 1;
        }
        plan
    }

    /// How many sequences wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The sequences that wait, the next to be admitted first.
    pub fn waiting_ids(&self) -> impl Iterator<Item = SequenceId> {
        self.waiting.iter().map(|entry| entry.id)
    }

    /// How many sequences run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many tokens running sequences have reserved.
    pub fn tokens_held(&self) -> usize {
        self.tokens_held
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.max_running {
            let room = self.limits.token_budget - self.tokens_held;
            let Some(next) = self.waiting.pop_front_if(|next| next.reserved <= room) else { return };
            self.tokens_held += next.reserved;
            self.prompts.push_back(next.id);
            self.running.push(next);
        }
    }

    fn plan_prompts(&mut self) -> Vec<Work> {
        let mut plan = Vec::new();
        let mut computed = 0;
        // Each prompt gets at most one piece per step: the pieces of one sequence follow each other.
        for _ in 0..self.prompts.len() {
            let Some(&id) = self.prompts.front() else { break };
            let Some(entry) = self.running.iter_mut().find(|entry| entry.id == id) else { break };
            let piece = entry.computed..entry.prompt.min(entry.computed + self.limits.prefill_chunk);
            if computed > 0 && computed + piece.len() > self.limits.step_tokens {
                break;
            }
            computed += piece.len();
            entry.computed = piece.end;
            self.prompts.pop_front();
            let part = if piece.end < entry.prompt {
                self.prompts.push_back(id);
                Part::Prompt(piece)
            } else {
                Part::LastOfPrompt(piece)
            };
            plan.push(Work { id, part });
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: SchedulerLimits =
        SchedulerLimits { max_running: 3, token_budget: 100, prefill_chunk: 10, step_tokens: 20 };

    fn scheduler(sequences: &[(u64, usize, usize)]) -> Scheduler {
        let mut scheduler = Scheduler::new(LIMITS);
        for &(id, prompt, completion) in sequences {
            scheduler.enqueue(SequenceId(id), prompt, completion);
        }
        scheduler
    }

    fn prompt(id: u64, range: Range<usize>) -> Work {
        Work { id: SequenceId(id), part: Part::Prompt(range) }
    }

    fn last(id: u64, range: Range<usize>) -> Work {
        Work { id: SequenceId(id), part: Part::LastOfPrompt(range) }
    }

    fn generated(id: u64) -> Work {
        Work { id: SequenceId(id), part: Part::Generated }
    }

    #[test]
    fn a_prompt_is_computed_in_fixed_pieces_and_then_generates() {
        let mut scheduler = scheduler(&[(1, 25, 5)]);
        assert_eq!(scheduler.plan(), [prompt(1, 0..10)]);
        assert_eq!(scheduler.plan(), [prompt(1, 10..20)]);
        assert_eq!(scheduler.plan(), [last(1, 20..25)]);
        assert_eq!(scheduler.plan(), [generated(1)]);
        assert_eq!(scheduler.plan(), [generated(1)]);
        scheduler.remove(SequenceId(1));
        assert_eq!(scheduler.plan(), []);
        assert_eq!(scheduler.tokens_held(), 0);
    }

    #[test]
    fn a_long_prompt_does_not_stall_those_that_generate() {
        let mut scheduler = scheduler(&[(1, 3, 20)]);
        assert_eq!(scheduler.plan(), [last(1, 0..3)]);
        scheduler.enqueue(SequenceId(2), 60, 5);
        for piece in 0..5 {
            assert_eq!(scheduler.plan(), [generated(1), prompt(2, piece * 10..piece * 10 + 10)]);
        }
        assert_eq!(scheduler.plan(), [generated(1), last(2, 50..60)]);
        assert_eq!(scheduler.plan(), [generated(1), generated(2)]);
    }

    #[test]
    fn prompts_take_turns() {
        let mut scheduler = scheduler(&[(1, 30, 1), (2, 30, 1), (3, 30, 1)]);
        assert_eq!(scheduler.plan(), [prompt(1, 0..10), prompt(2, 0..10)]);
        assert_eq!(scheduler.plan(), [prompt(3, 0..10), prompt(1, 10..20)]);
        assert_eq!(scheduler.plan(), [prompt(2, 10..20), prompt(3, 10..20)]);
    }

    #[test]
    fn admission_keeps_the_budget_and_the_order() {
        let mut scheduler = scheduler(&[(1, 40, 20), (2, 40, 20), (3, 1, 1)]);
        assert_eq!(scheduler.plan(), [prompt(1, 0..10)]);
        // The third would fit, but must not overtake the second.
        assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.tokens_held()), (1, 2, 60));
        scheduler.remove(SequenceId(1));
        assert_eq!(scheduler.plan(), [prompt(2, 0..10), last(3, 0..1)]);
        assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.tokens_held()), (2, 0, 62));
    }

    #[test]
    fn no_more_than_max_running_run() {
        let mut scheduler = scheduler(&[(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]);
        scheduler.plan();
        assert_eq!((scheduler.running(), scheduler.waiting()), (3, 1));
        scheduler.remove(SequenceId(2));
        assert_eq!(scheduler.plan(), [generated(1), generated(3), last(4, 0..1)]);
    }

    #[test]
    fn a_waiting_sequence_can_be_cancelled() {
        let mut scheduler = scheduler(&[(1, 90, 10), (2, 5, 5)]);
        scheduler.plan();
        scheduler.remove(SequenceId(2));
        scheduler.remove(SequenceId(7));
        assert_eq!((scheduler.running(), scheduler.waiting()), (1, 0));
    }

    proptest! {
        #[test]
        fn everything_is_computed_once_and_in_order(
            sequences in prop::collection::vec((1usize..50, 1usize..10), 1..12),
            max_running in 1usize..5,
            step_tokens in 0usize..40,
        ) {
            let limits = SchedulerLimits { max_running, step_tokens, ..LIMITS };
            let mut scheduler = Scheduler::new(limits);
            for (id, &(prompt, completion)) in (0..).zip(&sequences) {
                scheduler.enqueue(SequenceId(id), prompt, completion);
            }
            let mut computed: BTreeMap<SequenceId, (usize, usize)> = BTreeMap::new();
            let mut finished = 0;
            for _ in 0..10_000 {
                let plan = scheduler.plan();
                prop_assert!(scheduler.tokens_held() <= limits.token_budget);
                prop_assert!(scheduler.running() <= max_running);
                if plan.is_empty() {
                    break;
                }
                for Work { id, part } in plan {
                    let (prompt, tokens) = computed.entry(id).or_default();
                    let (length, completion) = sequences[id.0 as usize];
                    match part {
                        Part::Prompt(range) | Part::LastOfPrompt(range) => {
                            prop_assert_eq!(range.start, *prompt);
                            prop_assert_eq!(range.start % limits.prefill_chunk, 0);
                            *prompt = range.end;
                            *tokens += usize::from(range.end == length);
                        }
                        Part::Generated => {
                            prop_assert_eq!(*prompt, length);
                            *tokens += 1;
                        }
                    }
                    if *tokens == completion {
                        scheduler.remove(id);
                        finished += 1;
                    }
                }
            }
            prop_assert_eq!(finished, sequences.len());
            prop_assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.tokens_held()), (0, 0, 0));
        }
    }
}
