//! The scheduler beside a naive world: a memory of plain cells, in which each token's numbers are a digest of
//! everything that they must depend on.  Whatever happens, each token is computed from the right numbers, and each
//! sequence comes out as if it were alone.

use proptest::prelude::*;

use super::*;

/// Something that happens to a scheduler.
#[derive(Debug, Clone)]
enum Event {
    /// A sequence comes.
    Enqueue { tenant: u64, scope: u64, prompt: Vec<u32>, completion: usize },
    /// A step with proposals for each sequence: so many, of which so many are right.
    Step { step_tokens: usize, drafts: Vec<(usize, usize)> },
    /// A step that fails before anything is advanced.
    Failure { step_tokens: usize },
    /// One of the sequences is not wanted any more.
    Remove { index: usize },
    /// One of the sequences reaches what its model computes differently.
    Reset { index: usize },
}

/// The first so many tokens of one of two texts, and some of its own.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    let text = |number: u32, length: u32| (0..length).map(move |token| 100 + token * number % 7);
    let own = prop::collection::vec(0..2_u32, 1..20);
    (1..3_u32, 0..70_u32, own).prop_map(move |(number, length, own)| text(number, length).chain(own).collect())
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let enqueue = (0..3_u64, 0..2_u64, prompts(), 1..120_usize)
        .prop_map(|(tenant, scope, prompt, completion)| Event::Enqueue { tenant, scope, prompt, completion });
    let drafts = prop::collection::vec((0..20_usize, 0..20_usize), 1..4);
    let step = (0..120_usize, drafts).prop_map(|(step_tokens, drafts)| Event::Step { step_tokens, drafts });
    let event = prop_oneof![
        4 => enqueue,
        12 => step,
        1 => (0..60_usize).prop_map(|step_tokens| Event::Failure { step_tokens }),
        1 => (0..20_usize).prop_map(|index| Event::Remove { index }),
        1 => (0..20_usize).prop_map(|index| Event::Reset { index }),
    ];
    prop::collection::vec(event, 1..120)
}

/// What is known of a sequence beside the scheduler.
#[derive(Debug, Clone)]
struct Known {
    tenant: u64,
    domain: Domain,
    tokens: Vec<u32>,
    limit: usize,
    computed: usize,
}

impl Known {
    /// The numbers of the last of these tokens, from nothing.
    fn numbers(&self, tokens: &[u32]) -> u64 {
        let Domain { scope, adapter, variant } = self.domain;
        let start = 1 + scope + 10 * adapter + 100 * u64::from(variant);
        tokens.iter().fold(start, |before, &token| {
            let mixed = (before ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ (mixed >> 29)
        })
    }

    /// The tokens with the next ones that the model would choose.
    fn continued(&self, count: usize) -> Vec<u32> {
        let mut tokens = self.tokens.clone();
        for _ in 0..count {
            tokens.push(choose(self.numbers(&tokens)));
        }
        tokens
    }
}

/// A model of few words, so that different sequences often say the same.
fn choose(numbers: u64) -> u32 {
    (numbers >> 40) as u32 % 2
}

struct World {
    scheduler: Scheduler,
    memory: Vec<[u64; BLOCK_TOKENS]>,
    known: BTreeMap<SequenceId, Known>,
    next_id: u64,
    plans: Vec<Vec<Work>>,
    /// How many tokens were not computed because they were there.
    skipped: u64,
}

impl World {
    fn new(limits: SchedulerLimits) -> World {
        World {
            scheduler: Scheduler::new(limits),
            memory: vec![[0; BLOCK_TOKENS]; limits.blocks as usize],
            known: BTreeMap::new(),
            next_id: 0,
            plans: Vec::new(),
            skipped: 0,
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Enqueue { tenant, scope, prompt, completion } => {
                let domain = Domain { scope: *scope, ..Domain::default() };
                self.enqueue(*tenant, domain, prompt.clone(), *completion);
            }
            Event::Step { step_tokens, drafts } => self.step(*step_tokens, drafts),
            Event::Failure { step_tokens } => {
                self.draft(&[(3, 0)]);
                self.plan(*step_tokens);
            }
            Event::Remove { index } => {
                if let Some(id) = self.pick(*index) {
                    self.scheduler.remove(id);
                    self.known.remove(&id);
                }
            }
            Event::Reset { index } => {
                if let Some(id) = self.pick(*index) {
                    self.scheduler.reset(id, 1);
                    let known = self.known.get_mut(&id).expect("it was picked");
                    (known.domain.variant, known.computed) = (1, 0);
                }
            }
        }
        self.check();
    }

    fn pick(&self, index: usize) -> Option<SequenceId> {
        self.known.keys().nth(index % self.known.len().max(1)).copied()
    }

    fn enqueue(&mut self, tenant: u64, domain: Domain, tokens: Vec<u32>, completion: usize) {
        let (id, limit) = (SequenceId(self.next_id), tokens.len() + completion);
        let queued = self.scheduler.enqueue(NewSequence { id, tenant, domain, prompt: tokens.clone(), completion });
        assert_eq!(queued.is_ok(), limit <= self.memory.len() * BLOCK_TOKENS);
        if queued.is_ok() {
            self.next_id += 1;
            self.known.insert(id, Known { tenant, domain, tokens, limit, computed: 0 });
        }
    }

    fn step(&mut self, step_tokens: usize, drafts: &[(usize, usize)]) {
        let proposed = self.draft(drafts);
        let plan = self.plan(step_tokens);
        for Work { id, positions, .. } in &plan {
            let with_drafts = positions.end.max(self.known[id].tokens.len());
            assert_eq!(self.scheduler.tokens(*id), &proposed[id][..with_drafts]);
        }
        self.compute(&plan);
        for work in &plan {
            self.advance(work);
        }
    }

    /// Proposes tokens; gives all sequences' tokens with them.
    fn draft(&mut self, drafts: &[(usize, usize)]) -> BTreeMap<SequenceId, Vec<u32>> {
        let mut proposed = BTreeMap::new();
        for ((&id, known), &(count, right)) in self.known.iter().zip(drafts.iter().cycle()) {
            let mut tokens = known.continued(count);
            tokens[known.tokens.len()..].iter_mut().skip(right).for_each(|token| *token = 1 - *token);
            self.scheduler.draft(id, &tokens[known.tokens.len()..]);
            proposed.insert(id, tokens);
        }
        proposed
    }

    /// Plans, and holds the plan against the rules.
    fn plan(&mut self, step_tokens: usize) -> Vec<Work> {
        let before = self.scheduler.running.clone();
        let plan = self.scheduler.plan(step_tokens);
        let after = &self.scheduler.running;
        assert!(after.len() <= self.scheduler.max_running);
        assert_eq!(plan.is_empty(), self.known.is_empty(), "there is work as long as there are sequences");

        // Those that were admitted last made room, never the first, and nobody was admitted past others of his tenant.
        let stayed = before.iter().zip(after).take_while(|(before, after)| before == after).count();
        assert!(stayed > 0 || before.is_empty());
        for preempted in &before[stayed..] {
            assert!(!after.contains(preempted));
            self.known.get_mut(preempted).expect("it ran").computed = 0;
        }
        for admitted in &after[stayed..] {
            let tenant = self.known[admitted].tenant;
            assert!(self.scheduler.waiting_ids().all(|id| self.known[&id].tenant != tenant || id > *admitted));
        }

        // Whoever is not last has room for all that a step may have to compute of him.
        for id in &after[..after.len().saturating_sub(1)] {
            let sequence = &self.scheduler.sequences[id];
            let least = sequence.computed() + sequence.pending().min(LEAST_PIECE);
            assert!(sequence.blocks().len() * BLOCK_TOKENS >= least);
        }

        let generates = |id: &SequenceId| self.scheduler.sequences[id].generates();
        let (steps, pieces): (Vec<&Work>, Vec<&Work>) = plan.iter().partition(|work| generates(&work.id));
        let ready = |id: &&SequenceId| self.scheduler.sequences[id].has_room();
        let expected = after.iter().filter(ready).filter(|id| generates(id));
        assert!(steps.iter().map(|work| &work.id).eq(expected), "each that generates has a part in the step");
        assert_eq!(pieces.is_empty(), after.iter().filter(ready).all(generates), "prompts advance in each step");
        let total: usize = plan.iter().map(|work| work.positions.len()).sum();
        assert!(total <= step_tokens.max(steps.len()) + LEAST_PIECE);
        assert_eq!(plan.iter().map(|work| work.id).collect::<BTreeSet<_>>().len(), plan.len());
        self.plans.push(plan.clone());
        plan
    }

    /// Computes a step in the memory: all parts at once, so that no order among them may matter.
    fn compute(&mut self, plan: &[Work]) {
        for work in plan {
            let known = &self.known[&work.id];
            assert!(known.computed <= work.positions.start, "nothing is computed twice");
            self.skipped += (work.positions.start - known.computed) as u64;
            self.check_numbers(work, work.positions.start);
        }
        for Work { id, positions, .. } in plan {
            let (tokens, blocks) = (self.scheduler.tokens(*id), self.scheduler.blocks(*id));
            for position in positions.clone() {
                let block = blocks[position / BLOCK_TOKENS];
                assert_eq!((self.scheduler.pool.users(block), self.scheduler.pool.content(block)), (1, None));
                let numbers = self.known[id].numbers(&tokens[..=position]);
                self.memory[block as usize][position % BLOCK_TOKENS] = numbers;
            }
        }
        for work in plan {
            self.check_numbers(work, work.positions.end);
        }
    }

    /// The numbers of the positions below `end` stand where the scheduler says.
    fn check_numbers(&self, work: &Work, end: usize) {
        let (tokens, blocks) = (self.scheduler.tokens(work.id), self.scheduler.blocks(work.id));
        for position in 0..end {
            let found = self.memory[blocks[position / BLOCK_TOKENS] as usize][position % BLOCK_TOKENS];
            assert_eq!(found, self.known[&work.id].numbers(&tokens[..=position]), "position {position} of {work:?}");
        }
    }

    /// Chooses tokens as long as the drafted ones are right, and ends a sequence that has all of its tokens.
    fn advance(&mut self, work: &Work) {
        let known = self.known.get_mut(&work.id).expect("what is planned is known");
        let tokens = self.scheduler.tokens(work.id)[..work.positions.end].to_vec();
        let mut chosen = Vec::new();
        for position in work.logits.clone() {
            let token = choose(known.numbers(&tokens[..=position]));
            chosen.push(token);
            if tokens.get(position + 1) != Some(&token) {
                break;
            }
        }
        assert_eq!(chosen.is_empty(), work.positions.end < known.tokens.len(), "a prompt's end chooses a token");
        let expected = known.continued(chosen.len());
        self.scheduler.advance(work.id, &chosen);
        assert_eq!(self.scheduler.tokens(work.id), expected);
        known.computed = if chosen.is_empty() { work.positions.end } else { expected.len() - 1 };
        assert_eq!(self.scheduler.sequences[&work.id].computed(), known.computed);
        known.tokens = expected;
        if known.tokens.len() == known.limit {
            self.scheduler.remove(work.id);
            self.known.remove(&work.id);
        }
    }

    fn check(&self) {
        let Scheduler { pool, sequences, running, .. } = &self.scheduler;
        pool.check();
        let mut users: BTreeMap<u32, usize> = BTreeMap::new();
        for (id, sequence) in sequences {
            sequence.check(pool);
            assert!(running.contains(id) || sequence.blocks().is_empty());
            sequence.blocks().iter().for_each(|&block| *users.entry(block).or_default() += 1);
        }
        for block in 0..pool.total() as u32 {
            assert_eq!(pool.users(block), users.get(&block).copied().unwrap_or(0), "no user is lost or counted twice");
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.waiting + stats.running, stats.blocks_used), (self.known.len(), users.len()));
        assert_eq!(self.scheduler.waiting_ids().count(), stats.waiting);
        assert!(self.skipped <= stats.tokens_found && stats.tokens_found <= stats.tokens_asked);
    }
}

/// Lets the events happen, and then all sequences end.
fn run(limits: SchedulerLimits, events: &[Event]) -> World {
    let mut world = World::new(limits);
    events.iter().for_each(|event| world.apply(event));
    // Each step gives somebody at least a token, or a piece of a prompt.
    let most = world.known.values().map(|known| known.limit).sum::<usize>() * (world.known.len() + 1);
    for _ in 0..most {
        if world.known.is_empty() {
            break;
        }
        world.apply(&Event::Step { step_tokens: 32, drafts: vec![(2, 1)] });
    }
    assert!(world.known.is_empty(), "every sequence ends");
    assert_eq!(world.scheduler.stats().blocks_used, 0);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_sequence_comes_out_as_if_it_were_alone(
        max_running in 1_usize..6,
        blocks in 2_u32..25,
        events in events(),
    ) {
        let limits = SchedulerLimits { max_running, blocks };
        let world = run(limits, &events);
        prop_assert_eq!(world.plans, run(limits, &events).plans, "the same calls give the same plans");
    }
}
