//! Random programs over an executor whose logits are hashes of all it should have seen, compared with
//! plain vectors of tokens. A wrong page, position, cut, copy or neighbour changes the hash.

use super::*;
use crate::model::PAGE_TOKENS;
use std::sync::Mutex;

const N_HASHED: usize = 16;
const SHAPE: ModelShape = ModelShape { n_vocab: 40, n_embd: 2, n_layer: 3 };

fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The state of one cell.
fn cell_state(before: u64, token: TokenId, pos: usize) -> u64 {
    mix(mix(before, u64::from(token) + 1), pos as u64 + 1)
}

/// What a row sees: every cell of its past, in order.
fn seen(cells: impl Iterator<Item = u64>) -> u64 {
    cells.fold(7, mix)
}

fn logits_of(seen: u64) -> Vec<f32> {
    let hashed = |i: usize| (mix(seen, i as u64) >> 40) as f32 / 1000.0;
    (0..SHAPE.n_vocab).map(|i| if i < N_HASHED { hashed(i) } else { 0.0 }).collect()
}

fn hidden_of(seen: u64, layer: u32) -> [f32; 2] {
    let h = mix(seen, 1000 + u64::from(layer));
    [(h >> 40) as f32, (h & 0xFFFF) as f32]
}

/// When the next forward passes fail, shared with the test.
#[derive(Default)]
struct Plan {
    /// Forward passes until one fails; `None`: never.
    fail_in: Option<(usize, ErrorKind)>,
    fail_copy: bool,
    n_forwards: usize,
}

/// Hash language model: oracle O2 of the test plan.
struct HashExecutor {
    cells: Vec<u64>,
    max_rows: usize,
    plan: Arc<Mutex<Plan>>,
}

impl HashExecutor {
    fn cell(pages: &[u32], pos: usize) -> usize {
        pages[pos / PAGE_TOKENS] as usize * PAGE_TOKENS + pos % PAGE_TOKENS
    }

    fn span(&mut self, step: &Step<'_>, span: &Span<'_>, spoil: bool) {
        for i in 0..span.n_rows {
            let pos = span.first_pos + i;
            let before = if pos == 0 { 0 } else { self.cells[Self::cell(span.pages, pos - 1)] };
            let state = cell_state(before, step.tokens[span.first_row + i], pos);
            self.cells[Self::cell(span.pages, pos)] = if spoil { !state } else { state };
        }
    }
}

impl Executor for HashExecutor {
    fn n_pages(&self) -> usize {
        self.cells.len() / PAGE_TOKENS
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn forward(&mut self, step: &Step<'_>, _: &CancelFlag, out: &mut StepOut) -> Result<()> {
        let mut plan = self.plan.lock().expect("plan");
        plan.n_forwards += 1;
        let fails = plan.fail_in.take().and_then(|(n, kind)| {
            plan.fail_in = (n > 0).then(|| (n - 1, kind));
            (n == 0).then_some(kind)
        });
        drop(plan);
        assert!((1..=self.max_rows).contains(&step.tokens.len()));
        let rows: Vec<usize> = step.spans.iter().flat_map(|s| s.first_row..s.first_row + s.n_rows).collect();
        assert_eq!(rows, (0..step.tokens.len()).collect::<Vec<_>>());
        step.spans.iter().for_each(|s| self.span(step, s, fails.is_some()));
        out.logits.clear();
        out.hidden.clear();
        if let Some(kind) = fails {
            return Err(Error::new(kind, "as planned"));
        }
        let mut states = Vec::new();
        for row in step.outputs.iter().map(|r| *r as usize) {
            let span = step.spans.iter().rfind(|s| s.first_row <= row).expect("span");
            let len = span.first_pos + row - span.first_row + 1;
            states.push(seen((0..len).map(|p| self.cells[Self::cell(span.pages, p)])));
        }
        states.iter().for_each(|s| out.logits.extend(logits_of(*s)));
        for tap in step.taps {
            states.iter().for_each(|s| out.hidden.extend(hidden_of(*s, *tap)));
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32, n_cells: usize) -> Result<()> {
        if self.plan.lock().expect("plan").fail_copy {
            return Err(Error::new(ErrorKind::Backend, "as planned"));
        }
        assert!((1..PAGE_TOKENS).contains(&n_cells) && from != to);
        for i in 0..n_cells {
            self.cells[to as usize * PAGE_TOKENS + i] = self.cells[from as usize * PAGE_TOKENS + i];
        }
        Ok(())
    }

    fn memory_bytes(&self) -> (usize, usize) {
        (self.cells.len() * 8, 0)
    }
}

fn context(n_pages: usize, max_rows: usize, n_ctx: usize) -> (Context, Arc<Mutex<Plan>>) {
    let plan = Arc::<Mutex<Plan>>::default();
    let cells = vec![0xBAD; n_pages * PAGE_TOKENS];
    let executor = HashExecutor { cells, max_rows, plan: Arc::clone(&plan) };
    (Context::with_executor(Box::new(executor), SHAPE, n_ctx).expect("context"), plan)
}

/// What the row after `tokens` saw.
fn naive(tokens: &[TokenId]) -> u64 {
    let mut state = 0;
    seen(tokens.iter().enumerate().map(|(pos, t)| {
        state = cell_state(state, *t, pos);
        state
    }))
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix(self.0, 3) % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One random program: the context under test and the same branches as plain vectors.
struct Program {
    rng: Rng,
    ctx: Context,
    plan: Arc<Mutex<Plan>>,
    branches: Vec<(Branch, Vec<TokenId>)>,
    taps: Vec<u32>,
    n_exhausted: usize,
    n_failed: usize,
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let (n_pages, max_rows) = (1 + rng.below(14), 1 + rng.below(48));
        let n_ctx = 1 + rng.below(4 * PAGE_TOKENS);
        let (ctx, plan) = context(n_pages, max_rows, n_ctx);
        Self { rng, ctx, plan, branches: Vec::new(), taps: Vec::new(), n_exhausted: 0, n_failed: 0 }
    }

    fn run(mut self) -> (usize, usize) {
        for _ in 0..8 + self.rng.below(40) {
            match self.rng.below(10) {
                0 => self.root(),
                1 | 2 => self.fork(),
                3 => self.truncate(),
                4 => self.free(),
                5 => self.tap(),
                _ => self.eval(),
            }
            self.ctx.books.audit();
        }
        self.branches.clear();
        let (all, free) = self.ctx.pages();
        assert_eq!(all, free, "pages come back");
        self.ctx.books.audit();
        (self.n_exhausted, self.n_failed)
    }

    fn root(&mut self) {
        self.branches.push((self.ctx.root().expect("root"), Vec::new()));
    }

    fn fork(&mut self) {
        if let Some(i) = self.pick() {
            let branch = self.ctx.fork(&self.branches[i].0).expect("fork");
            self.branches.push((branch, self.branches[i].1.clone()));
        }
    }

    fn truncate(&mut self) {
        if let Some(i) = self.pick() {
            let (branch, tokens) = &mut self.branches[i];
            let len = self.rng.below(tokens.len() + 1);
            assert!(self.ctx.truncate(branch, tokens.len() + 1).is_err());
            self.ctx.truncate(branch, len).expect("truncate");
            tokens.truncate(len);
        }
    }

    fn free(&mut self) {
        if let Some(i) = self.pick() {
            self.branches.swap_remove(i);
        }
    }

    fn tap(&mut self) {
        self.taps = (0..3).filter(|_| self.rng.one_in(2)).collect();
        self.ctx.set_taps(&self.taps).expect("taps");
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.branches.is_empty()).then(|| self.rng.below(self.branches.len()))
    }

    /// A batch over some of the branches, which may fail.
    fn eval(&mut self) {
        let all = self.rng.one_in(3);
        let chosen: Vec<usize> = (0..self.branches.len()).filter(|_| all || self.rng.one_in(3)).collect();
        let long = self.rng.one_in(3);
        let tokens: Vec<Vec<TokenId>> = chosen
            .iter()
            .map(|_| {
                let n = 1 + self.rng.below(if long { 40 } else { 4 });
                (0..n).map(|_| self.rng.below(SHAPE.n_vocab) as TokenId).collect()
            })
            .collect();
        let wants: Vec<Want> =
            chosen.iter().map(|_| [Want::Nothing, Want::Last, Want::All][self.rng.below(3)]).collect();
        let planned = self.plan_failure();
        let before = self.ctx.pages();
        let items: Vec<_> = (chosen.iter().zip(&tokens).zip(&wants))
            .map(|((i, tokens), want)| BatchItem { branch: &self.branches[*i].0, tokens, want: *want })
            .collect();
        let done = self.ctx.eval(&items);
        drop(items);
        *self.plan.lock().expect("plan") = Plan::default();
        match done {
            Ok(()) => {
                self.check_rows(&chosen, &tokens, &wants);
                chosen.iter().zip(&tokens).for_each(|(i, t)| self.branches[*i].1.extend(t));
            }
            Err(e) => {
                assert_eq!(self.ctx.pages(), before, "a failed batch gives its pages back");
                self.check_error(e.kind(), &chosen, &tokens, planned);
            }
        }
        for (branch, tokens) in &self.branches {
            assert_eq!(self.ctx.len(branch), tokens.len());
        }
    }

    fn plan_failure(&mut self) -> Option<ErrorKind> {
        let kind = match self.rng.below(8) {
            0 => ErrorKind::Cancelled,
            1 => ErrorKind::Backend,
            _ => return None,
        };
        let mut plan = self.plan.lock().expect("plan");
        plan.fail_copy = kind == ErrorKind::Backend && self.rng.one_in(2);
        plan.fail_in = (!plan.fail_copy).then(|| (self.rng.below(3), kind));
        Some(kind)
    }

    fn check_error(
        &mut self,
        kind: ErrorKind,
        chosen: &[usize],
        tokens: &[Vec<TokenId>],
        planned: Option<ErrorKind>,
    ) {
        let len = |i: &usize| self.branches[*i].1.len();
        let after = || chosen.iter().zip(tokens).map(|(i, t)| len(i) + t.len());
        match kind {
            ErrorKind::InvalidArgument => assert!(chosen.is_empty()),
            ErrorKind::ContextFull => assert!(after().any(|n| n > self.ctx.n_ctx())),
            ErrorKind::KvExhausted => {
                // If nothing were shared, and every growing branch needed a spare copy, would it fit?
                let held: usize = self.branches.iter().map(|b| b.1.len().div_ceil(PAGE_TOKENS)).sum();
                let grown: usize = after().map(|n| n.div_ceil(PAGE_TOKENS)).sum();
                assert!(held + grown > self.ctx.pages().0, "exhausted with pages to spare");
                self.n_exhausted += 1;
            }
            other => {
                assert_eq!(Some(other), planned);
                self.n_failed += 1;
            }
        }
    }

    fn check_rows(&self, chosen: &[usize], tokens: &[Vec<TokenId>], wants: &[Want]) {
        let mut row = 0;
        for ((i, added), want) in chosen.iter().zip(tokens).zip(wants) {
            let mut all = self.branches[*i].1.clone();
            for (k, t) in added.iter().enumerate() {
                all.push(*t);
                let wanted = *want == Want::All || *want == Want::Last && k + 1 == added.len();
                if wanted {
                    let saw = naive(&all);
                    assert_eq!(self.ctx.row(row), logits_of(saw));
                    for (j, tap) in self.taps.iter().enumerate() {
                        assert_eq!(self.ctx.hidden(j, row), Some(&hidden_of(saw, *tap)[..]));
                    }
                    row += 1;
                }
            }
        }
        assert_eq!(self.ctx.n_rows(), row);
        assert_eq!(self.ctx.hidden(self.taps.len(), 0), None);
    }
}

#[test]
fn random_programs_agree_with_plain_vectors() {
    let n: u64 = std::env::var("TRUING_PROGRAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let (mut n_exhausted, mut n_failed) = (0, 0);
    for seed in 0..n {
        let (exhausted, failed) = Program::new(seed).run();
        n_exhausted += exhausted;
        n_failed += failed;
    }
    assert!(n_exhausted > 1000 && n_failed > 1000, "{n_exhausted} exhausted, {n_failed} failed");
}

fn eval(ctx: &mut Context, branch: &Branch, tokens: &[TokenId]) -> Result<()> {
    ctx.eval(&[BatchItem { branch, tokens, want: Want::Last }])
}

#[test]
fn bad_batches_are_refused_whole() {
    let (mut ctx, _) = context(4, 8, 10);
    let (mut other, _) = context(4, 8, 10);
    let (a, b, foreign) = (ctx.root().expect("a"), ctx.root().expect("b"), other.root().expect("c"));
    let item = |branch, tokens| BatchItem { branch, tokens, want: Want::Last };
    let cases: [(&str, Vec<BatchItem<'_, Branch>>, ErrorKind); 6] = [
        ("no items", vec![], ErrorKind::InvalidArgument),
        ("no tokens", vec![item(&a, &[1]), item(&b, &[])], ErrorKind::InvalidArgument),
        ("twice", vec![item(&a, &[1]), item(&a, &[2])], ErrorKind::InvalidArgument),
        ("foreign", vec![item(&a, &[1]), item(&foreign, &[2])], ErrorKind::InvalidArgument),
        ("no such token", vec![item(&a, &[1]), item(&b, &[40])], ErrorKind::InvalidArgument),
        ("too long", vec![item(&a, &[1]), item(&b, &[0; 11])], ErrorKind::ContextFull),
    ];
    for (name, batch, kind) in cases {
        let e = ctx.eval(&batch).expect_err(name);
        assert_eq!((e.kind(), ctx.len(&a), ctx.len(&b), ctx.n_rows()), (kind, 0, 0, 0), "{name}");
        assert!(e.to_string().contains("expected"), "{e}");
    }
    assert!(ctx.fork(&foreign).is_err() && ctx.truncate(&foreign, 0).is_err());
    assert_eq!(ctx.len(&foreign), 0);
    eval(&mut ctx, &a, &[0; 10]).expect("exactly full");
    assert_eq!(ctx.n_evals(), 10);
}

#[test]
fn a_cancelled_context_computes_nothing_until_reset() {
    let (mut ctx, plan) = context(4, 8, 100);
    let a = ctx.root().expect("root");
    ctx.cancel_flag().cancel();
    assert_eq!(eval(&mut ctx, &a, &[1]).expect_err("cancelled").kind(), ErrorKind::Cancelled);
    assert_eq!((plan.lock().expect("plan").n_forwards, ctx.len(&a)), (0, 0));
    ctx.cancel_flag().reset();
    eval(&mut ctx, &a, &[1]).expect("again");
}

#[test]
fn long_prompts_take_several_steps_and_short_ones_share_one() {
    let (mut ctx, plan) = context(16, 8, 100);
    let branches: Vec<_> = (0..4).map(|_| ctx.root().expect("root")).collect();
    let items: Vec<_> =
        branches.iter().map(|branch| BatchItem { branch, tokens: &[1, 2], want: Want::All }).collect();
    ctx.eval(&items).expect("packed");
    assert_eq!((plan.lock().expect("plan").n_forwards, ctx.n_rows()), (1, 8));
    eval(&mut ctx, &branches[0], &[3; 20]).expect("split");
    assert_eq!((plan.lock().expect("plan").n_forwards, ctx.n_rows()), (4, 1));
}

#[test]
fn branches_may_outlive_their_context_and_die_on_another_thread() {
    let (mut ctx, _) = context(4, 8, 100);
    let (a, b) = (ctx.root().expect("a"), ctx.root().expect("b"));
    eval(&mut ctx, &a, &[1; 70]).expect("eval");
    std::thread::spawn(move || drop(a)).join().expect("thread");
    assert_eq!(ctx.pages(), (4, 4));
    drop(ctx);
    drop(b);
}

#[test]
fn taps_must_ascend_and_exist() {
    let (mut ctx, _) = context(4, 8, 100);
    for bad in [&[3][..], &[1, 0], &[1, 1]] {
        assert_eq!(ctx.set_taps(bad).expect_err("bad").kind(), ErrorKind::InvalidArgument);
    }
    ctx.set_taps(&[0, 2]).expect("good");
}

#[test]
fn a_context_without_room_is_refused() {
    for (n_pages, max_rows, n_ctx) in [(0, 8, 8), (1, 0, 8), (1, 8, 0)] {
        let plan = Arc::default();
        let executor = HashExecutor { cells: vec![0; n_pages * PAGE_TOKENS], max_rows, plan };
        assert!(Context::with_executor(Box::new(executor), SHAPE, n_ctx).is_err());
    }
}
