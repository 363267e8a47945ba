//! Guards on the production loop, with models whose words and hidden states are known.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::align::{HoldBack, Phrase};
use crate::config::Recovery;
use crate::gguf::{GgufFile, GgufWriter};
use crate::guard::{
    Action, Alarm, Direction, Guard, PhraseGuard, Policy, Position, Probe, ProbeGuard, Quality, States,
    Thresholds, Watch,
};
use crate::oracles::{Law, Toy, paged};
use crate::sampling::{Purpose, Random};
use std::sync::Arc;

const EOS: TokenId = 2;
/// The token of byte 0.
const BYTES: TokenId = 3;
const WORDS: [&str; 4] = ["ab", "X!", "no", "sorry"];
const N_VOCAB: usize = 3 + 256 + WORDS.len();
/// Ends a turn and opens the assistant's.
const HEADER: [TokenId; 2] = [1, 0];
const PROMPT: [TokenId; 3] = [50, 51, 52];

fn vocab() -> Vocab {
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    texts.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    texts.extend(WORDS.map(String::from));
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).chain([1; WORDS.len()]).collect();
    let scores = vec![0f32; texts.len()];
    let mut w = GgufWriter::new();
    w.set("tokenizer.ggml.model", "llama").unwrap();
    w.set("tokenizer.ggml.tokens", &texts).unwrap();
    w.set("tokenizer.ggml.token_type", &kinds).unwrap();
    w.set("tokenizer.ggml.scores", &scores).unwrap();
    w.set("tokenizer.ggml.eos_token_id", &EOS).unwrap();
    Vocab::from_gguf(&GgufFile::from_bytes("toy", &w.to_bytes()).unwrap()).unwrap()
}

fn ids(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| BYTES + TokenId::from(b)).collect()
}

/// Says a script byte by byte, whatever it said before; after a header, another one. Bytes of `X` and `!` are harm:
/// their hidden states lie on one side of a direction, those of all others on the other side.
#[derive(Clone)]
struct Talker {
    script: Vec<TokenId>,
    after_header: Vec<TokenId>,
    /// Harm of the prompt's last token.
    prompt: f32,
    noise: f32,
}

impl Talker {
    fn new(script: &str) -> Self {
        Self { script: ids(script), after_header: ids("no."), prompt: -4.0, noise: 1.0 }
    }

    /// What it says after this text.
    fn next(&self, prefix: &[TokenId]) -> TokenId {
        let header = prefix.windows(2).rposition(|w| w == HEADER);
        let (script, said) = match header {
            Some(at) => (&self.after_header, prefix.len() - at - 2),
            None => (&self.script, prefix.len().saturating_sub(PROMPT.len())),
        };
        let token = script.get(said).copied().unwrap_or(EOS);
        // once it was turned aside it means no harm
        let turned = prefix.contains(&(BYTES + TokenId::from(b'z')));
        if turned && is_harm(token) { BYTES + TokenId::from(b'b') } else { token }
    }
}

fn is_harm(token: TokenId) -> bool {
    [b'X', b'!'].iter().any(|b| token == BYTES + TokenId::from(*b)) || token == BYTES + 256 + 1
}

impl Law for Talker {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }
    fn eos(&self) -> TokenId {
        EOS
    }
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        // every past gives other odds, so that a wrong past shows in the log-probability
        let past = prefix.iter().fold(7u64, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x0100_0000_01B3));
        let best = 0.5 + 0.4 * Random::new(past).uniform(0, Purpose::Search);
        out.fill((1.0 - best) / 2.0 / (out.len() - 2) as f64);
        out[(BYTES + TokenId::from(b'z')) as usize] = (1.0 - best) / 2.0; // the second best
        out[self.next(prefix) as usize] = best;
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
    fn n_embd(&self) -> usize {
        8
    }
    fn hidden(&self, prefix: &[TokenId], layer: u32, out: &mut [f32]) {
        let Some(&last) = prefix.last() else { return };
        let harm = match prefix.len() == PROMPT.len() {
            true => self.prompt,
            false if is_harm(last) => 4.0,
            false => -4.0,
        };
        let past = prefix.iter().fold(u64::from(layer), |h, t| (h ^ u64::from(*t)).wrapping_mul(0x9E37_79B9));
        let random = Random::new(past);
        for (i, h) in out.iter_mut().enumerate() {
            *h = self.noise * (random.uniform(i as u64, Purpose::Search) as f32 - 0.5);
        }
        out[0] += harm;
    }
}

fn probe(position: Position) -> Arc<Probe> {
    let direction = |layer| Direction {
        layer,
        weight: (0..8).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect(),
        mean: vec![0.0; 8],
        inv_std: vec![1.0; 8],
        bias: 0.0,
    };
    let thresholds = Thresholds { lo: -1.0, hi: 1.0 };
    Arc::new(Probe::new(position, vec![direction(2), direction(5)], thresholds, Quality::default()).unwrap())
}

fn policy(recovery: Recovery) -> Policy {
    Policy {
        recovery,
        refusal: "sorry".into(),
        refusal_ids: ids("sorry").into(),
        refusal_after: ids("\n\nsorry").into(),
        header: HEADER.into(),
        ..Policy::default()
    }
}

fn reading(position: Position, action: Action, recovery: Recovery) -> Watch {
    let guard = ProbeGuard::new("probe".into(), action, probe(position), None);
    Watch::new(vec![Box::new(guard)], policy(recovery).into())
}

/// What a caller saw, piece by piece, and what came of it.
struct Seen {
    pieces: Vec<String>,
    outcome: Outcome,
}

impl Seen {
    fn text(&self) -> &str {
        &self.outcome.text
    }
    fn guard(&self) -> &crate::guard::GuardReport {
        self.outcome.report.guard.as_ref().unwrap()
    }
}

fn answer<L: NextLogits>(lm: &mut L, watch: Option<Watch>, prefix: &[TokenId], max_tokens: usize) -> Seen {
    let aligned = Aligned { watch, prefix: prefix.to_vec(), ..Aligned::default() };
    ask(lm, aligned, max_tokens)
}

fn ask<L: NextLogits>(lm: &mut L, aligned: Aligned, max_tokens: usize) -> Seen {
    let vocab = vocab();
    let setting = Setting {
        vocab: &vocab,
        n_ctx: 2048,
        n_parallel: 1,
        cancel: CancelFlag::default(),
        model_id: String::new(),
    };
    let request = Request {
        branch: lm.root().unwrap(),
        tokens: PROMPT.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::plain(3) },
        limits: Limits { max_tokens: Some(max_tokens), ..Limits::default() },
        keep_branch: false,
        aligned,
    };
    let mut pieces = Vec::new();
    let mut sink = |_: usize, event: Event<'_>| {
        if let Event::Text(text) = event {
            pieces.push(text.to_owned());
        }
    };
    let done = run(lm, &setting, vec![request], &mut sink).unwrap();
    let outcome = done.into_iter().next().unwrap().1;
    assert_eq!(pieces.concat(), outcome.text, "what is shown is the text");
    Seen { pieces, outcome }
}

mod harm;
mod shown;
