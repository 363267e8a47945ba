//! Whole generations under a grammar, beside llama.cpp under the same grammar on the same model.
//!
//! `cargo run --release -p truing-benches --bin constrained -- [MODEL [REPS]]`, by default `smollm2` of the cache and 5.
//! Each engine writes greedily on one thread, plainly and under `json.gbnf`, in turns. What is counted is processor
//! time outside the model's forward passes, so that company on the machine does not matter. llama.cpp runs its
//! grammar in both of its ways: on all tokens, and as its programs do, on the token that was drawn, on all only when
//! that one is refused.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use llama_cpp_sys_2 as l;
use truing::align::{Constraints, Lexicon};
use truing::config::Profile;
use truing::model::{Context, ContextOptions, Model, ModelOptions};
use truing::sampling::{BatchItem, NextLogits, SamplingParams};
use truing::session::{self, AlignPlan, Aligned, Limits, Request, Setting};
use truing::vocab::Specials;

const GBNF: &str = include_str!("../runtime/tests/data/grammars/json.gbnf");
const PROMPTS: [&str; 4] = [
    "The data of Ada Lovelace as JSON, with name, born, died, works and friends:\n",
    "A JSON object that describes a house, its rooms and what is in them:\n",
    "JSON list of European capitals, each with country, river and population:\n",
    "The menu of a small restaurant as JSON, with prices:\n",
];
const MAX_TOKENS: usize = 160;
const N_CTX: usize = 512;

type Failure = Box<dyn std::error::Error>;

/// Processor time of this thread; the model runs on it, too.
struct Spent(Duration);

impl Spent {
    fn now() -> Self {
        Self(thread_time())
    }

    fn elapsed(&self) -> Duration {
        thread_time().saturating_sub(self.0)
    }
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every system this runs on and writes to `time`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What a generation took.
#[derive(Clone, Copy, Default)]
struct Took {
    n_tokens: usize,
    n_passes: usize,
    model: Duration,
    whole: Duration,
}

impl Took {
    fn add(&mut self, other: Self) {
        self.n_tokens += other.n_tokens;
        self.n_passes += other.n_passes;
        self.model += other.model;
        self.whole += other.whole;
    }

    fn outside_us(&self) -> f64 {
        self.whole.saturating_sub(self.model).as_secs_f64() * 1e6 / self.n_tokens.max(1) as f64
    }

    fn tok_s(&self) -> f64 {
        self.n_tokens as f64 / self.whole.as_secs_f64()
    }
}

/// A context that knows how long it took.
struct Timed {
    inner: Context,
    n_passes: usize,
    spent: Duration,
}

impl NextLogits for Timed {
    type Branch = <Context as NextLogits>::Branch;

    fn n_vocab(&self) -> usize {
        self.inner.n_vocab()
    }
    fn root(&mut self) -> truing::Result<Self::Branch> {
        self.inner.root()
    }
    fn fork(&mut self, branch: &Self::Branch) -> truing::Result<Self::Branch> {
        self.inner.fork(branch)
    }
    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> truing::Result<()> {
        self.inner.truncate(branch, len)
    }
    fn len(&self, branch: &Self::Branch) -> usize {
        self.inner.len(branch)
    }
    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> truing::Result<()> {
        let started = Spent::now();
        let done = self.inner.eval(batch);
        (self.spent, self.n_passes) = (self.spent + started.elapsed(), self.n_passes + 1);
        done
    }
    fn row(&self, i: usize) -> &[f32] {
        self.inner.row(i)
    }
    fn n_evals(&self) -> u64 {
        self.inner.n_evals()
    }
}

struct Ours {
    model: Arc<Model>,
    lexicon: Arc<Lexicon>,
    context: Timed,
}

impl Ours {
    fn open(path: &std::path::Path) -> Result<Self, Failure> {
        let model = Model::open(path, &ModelOptions::default())?;
        let options = ContextOptions { n_ctx: N_CTX, n_threads: 1, ..ContextOptions::default() };
        let inner = Context::new(&model, &options)?;
        let context = Timed { inner, n_passes: 0, spent: Duration::ZERO };
        let lexicon = session::lexicon(&model);
        lexicon.trie(); // once a model, as llama.cpp's pieces are
        Ok(Self { model, lexicon, context })
    }

    /// The plan of one request: grammars are built for each, as in llama.cpp.
    fn aligned(&self, is_constrained: bool) -> Result<Aligned, Failure> {
        if !is_constrained {
            return Ok(Aligned::default());
        }
        let profile = Profile::parse("")?;
        let shape = Some(truing::config::shape(truing::config::GrammarKind::Gbnf, GBNF)?);
        let asked = Constraints { shape, ..Constraints::default() };
        let plan = AlignPlan::new(&profile.constraints, asked, &self.lexicon)?.ok_or("a plan")?;
        Ok(plan.aligned(MAX_TOKENS + 1)?)
    }

    fn write(&mut self, prompt: &str, is_constrained: bool) -> Result<(String, Took), Failure> {
        let tokens =
            self.model.vocab().tokenize(prompt, Specials { add_bos_eos: true, parse_special: false })?.ids;
        let started = Spent::now();
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: N_CTX,
            n_parallel: 1,
            cancel: self.context.inner.cancel_flag(),
            model_id: String::new(),
        };
        (self.context.spent, self.context.n_passes) = (Duration::ZERO, 0);
        let request = Request {
            branch: self.context.root()?,
            tokens,
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            limits: Limits { max_tokens: Some(MAX_TOKENS), ignore_eos: !is_constrained, ..Limits::default() },
            keep_branch: false,
            aligned: self.aligned(is_constrained)?,
        };
        let done = session::run(&mut self.context, &setting, vec![request], &mut |_, _| {})?;
        let (_, outcome) = done.into_iter().next().ok_or("an outcome")?;
        let took = Took {
            n_tokens: outcome.ids.len(),
            n_passes: self.context.n_passes,
            model: self.context.spent,
            whole: started.elapsed(),
        };
        Ok((outcome.text, took))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Plain,
    All,
    Drawn,
}

/// llama.cpp through its C interface.
struct Llama {
    model: *mut l::llama_model,
    ctx: *mut l::llama_context,
    vocab: *const l::llama_vocab,
    n_vocab: usize,
    row: Vec<l::llama_token_data>,
}

impl Llama {
    fn open(path: &std::path::Path) -> Result<Self, Failure> {
        let path = CString::new(path.to_string_lossy().as_bytes())?;
        // SAFETY: llama.cpp's documented start-up sequence; every pointer is checked before use, and `drop` frees the
        // context before the model.
        unsafe {
            l::llama_log_set(Some(quiet), std::ptr::null_mut());
            l::llama_backend_init();
            let model = l::llama_model_load_from_file(path.as_ptr(), l::llama_model_default_params());
            if model.is_null() {
                return Err("llama.cpp did not load the model".into());
            }
            let mut params = l::llama_context_default_params();
            (params.n_ctx, params.n_batch) = (N_CTX as u32, N_CTX as u32);
            (params.n_threads, params.n_threads_batch) = (1, 1);
            let ctx = l::llama_init_from_model(model, params);
            if ctx.is_null() {
                return Err("llama.cpp did not open a context".into());
            }
            let vocab = l::llama_model_get_vocab(model);
            let n_vocab = l::llama_vocab_n_tokens(vocab) as usize;
            Ok(Self { model, ctx, vocab, n_vocab, row: Vec::with_capacity(n_vocab) })
        }
    }

    fn write(&mut self, prompt: &[u32], way: Way) -> Result<(String, Took), Failure> {
        let (grammar, root) = (CString::new(GBNF)?, c"root");
        let mut took = Took::default();
        let mut text = Vec::new();
        let started = Spent::now();
        // SAFETY: as in `open`. Batches point at `tokens`, which outlives the decode; logits are read before the next
        // one, `n_vocab` of them; the sampler is freed once.
        unsafe {
            l::llama_memory_clear(l::llama_get_memory(self.ctx), true);
            let sampler = match way {
                Way::Plain => std::ptr::null_mut(),
                _ => l::llama_sampler_init_grammar(self.vocab, grammar.as_ptr(), root.as_ptr()),
            };
            let mut tokens: Vec<i32> = prompt.iter().map(|&t| t as i32).collect();
            while took.n_tokens < MAX_TOKENS {
                let begun = Spent::now();
                let batch = l::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
                if l::llama_decode(self.ctx, batch) != 0 {
                    return Err("llama_decode".into());
                }
                let logits = std::slice::from_raw_parts(l::llama_get_logits_ith(self.ctx, -1), self.n_vocab);
                (took.model, took.n_passes) = (took.model + begun.elapsed(), took.n_passes + 1);
                let next = self.next(logits, sampler, way);
                if l::llama_vocab_is_eog(self.vocab, next) && way != Way::Plain {
                    break;
                }
                if !sampler.is_null() {
                    l::llama_sampler_accept(sampler, next);
                }
                let mut piece = [0u8; 256];
                let n = l::llama_token_to_piece(self.vocab, next, piece.as_mut_ptr().cast(), 256, 0, false);
                text.extend_from_slice(&piece[..n.max(0) as usize]);
                tokens = vec![next];
                took.n_tokens += 1;
            }
            if !sampler.is_null() {
                l::llama_sampler_free(sampler);
            }
        }
        took.whole = started.elapsed();
        Ok((String::from_utf8_lossy(&text).into_owned(), took))
    }

    /// The likeliest token that the grammar allows.
    fn next(&mut self, logits: &[f32], sampler: *mut l::llama_sampler, way: Way) -> i32 {
        if way != Way::All {
            let best = best(logits.iter().copied());
            let is_allowed = way == Way::Plain || {
                let mut one = vec![l::llama_token_data { id: best, logit: 1.0, p: 0.0 }];
                apply(sampler, &mut one);
                one[0].logit.is_finite()
            };
            if is_allowed {
                return best;
            }
        }
        self.row.clear();
        let data = |(id, &logit): (usize, &f32)| l::llama_token_data { id: id as i32, logit, p: 0.0 };
        self.row.extend(logits.iter().enumerate().map(data));
        apply(sampler, &mut self.row);
        best(self.row.iter().map(|d| d.logit))
    }
}

/// Runs a sampler over candidates.
fn apply(sampler: *mut l::llama_sampler, row: &mut [l::llama_token_data]) {
    let mut array =
        l::llama_token_data_array { data: row.as_mut_ptr(), size: row.len(), selected: -1, sorted: false };
    // SAFETY: the array holds `size` entries and outlives the call; the sampler is open.
    unsafe { l::llama_sampler_apply(sampler, &mut array) };
}

fn best(logits: impl Iterator<Item = f32>) -> i32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, x) in logits.enumerate() {
        if x > best.1 {
            best = (i as i32, x);
        }
    }
    best.0
}

unsafe extern "C" fn quiet(_: l::ggml_log_level, _: *const std::ffi::c_char, _: *mut std::ffi::c_void) {}

impl Drop for Llama {
    fn drop(&mut self) {
        // SAFETY: both were made by llama.cpp and are freed once, the context first.
        unsafe {
            l::llama_free(self.ctx);
            l::llama_model_free(self.model);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "smollm2".into());
    let reps: usize = args.next().map_or(Ok(5), |n| n.parse())?;
    let path = match truing::models::cached(&name) {
        Some(path) => path,
        None => name.clone().into(),
    };
    let (mut ours, mut llama) = (Ours::open(&path)?, Llama::open(&path)?);
    let specials = Specials { add_bos_eos: true, parse_special: false };
    let mut runs: Vec<[Took; 5]> = Vec::new();
    for rep in 0..=reps {
        let mut sums = [Took::default(); 5];
        for prompt in PROMPTS {
            let tokens = ours.model.vocab().tokenize(prompt, specials)?.ids;
            let written = [
                ours.write(prompt, false)?,
                ours.write(prompt, true)?,
                llama.write(&tokens, Way::Plain)?,
                llama.write(&tokens, Way::All)?,
                llama.write(&tokens, Way::Drawn)?,
            ];
            if written[3].0 != written[4].0 {
                return Err("llama.cpp's two ways differ".into());
            }
            if rep == 0 {
                println!("ours: {:?}\nllama.cpp: {:?}", written[1].0, written[3].0);
            }
            sums.iter_mut().zip(&written).for_each(|(sum, (_, took))| sum.add(*took));
        }
        if rep > 0 {
            runs.push(sums); // the first round warms up
        }
    }
    show(&name, &runs);
    Ok(())
}

fn show(name: &str, runs: &[[Took; 5]]) {
    let of = |i: usize, f: &dyn Fn(&Took) -> f64| median(runs.iter().map(|r| f(&r[i])).collect());
    println!("\n{name}, one thread, medians of {}:", runs.len());
    let names =
        ["truing, plain", "truing, grammar", "llama.cpp, plain", "llama.cpp, all", "llama.cpp, drawn"];
    for (i, what) in names.iter().enumerate() {
        println!(
            "  {what:<18} {:>8.1} µs a token outside the model, {:>7.1} tok/s, {:.2} passes a token",
            of(i, &Took::outside_us),
            of(i, &Took::tok_s),
            of(i, &|t| t.n_passes as f64 / t.n_tokens.max(1) as f64),
        );
    }
    let added = |i: usize, plain: usize| of(i, &Took::outside_us) - of(plain, &Took::outside_us);
    let ours = added(1, 0);
    println!(
        "  the grammar adds {ours:.1} µs a token; llama.cpp's adds {:.1} and {:.1}",
        added(3, 2),
        added(4, 2)
    );
    println!("  that is {:.1} and {:.1} times as much", added(3, 2) / ours, added(4, 2) / ours);
    println!(
        "  slow-down by the grammar: truing {:+.1} %, llama.cpp {:+.1} % and {:+.1} %",
        100.0 * (of(0, &Took::tok_s) / of(1, &Took::tok_s) - 1.0),
        100.0 * (of(2, &Took::tok_s) / of(3, &Took::tok_s) - 1.0),
        100.0 * (of(2, &Took::tok_s) / of(4, &Took::tok_s) - 1.0)
    );
}
