//! Reads a vocabulary from a model file. Nothing in the file is trusted.

use super::bpe::{Atoms, Bpe, decode_bytes};
use super::partition::Specials;
use super::pieces::{Index, Keys, Pieces};
use super::rules::{ENCODERS, PRES, Pre};
use super::special::{Known, SpecialIds};
use super::spm::{Spm, unescape};
use super::{Model, TokenKind, Vocab};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::gguf::{GgufFile, Metadata};
use crate::token::TokenId;
use std::sync::atomic::AtomicU8;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

impl Vocab {
    /// The vocabulary of a model file.
    /// # Errors  `BadFile`, naming file and key, for a missing, short, mistyped or contradictory part;
    /// `Unsupported` for a tokenizer or pre-tokenizer that truing does not know.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        Builder::new(file.metadata()).and_then(Builder::build).at(|| file.path().display().to_string())
    }
}

/// How token texts in the file relate to what merging sees and what is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's byte alphabet.
    Bytes,
    /// Plain text with U+2581 for blanks.
    Plain,
}

impl Spelling {
    /// Appends what merging sees for a token. False, with nothing appended, if it can never meet it.
    fn key_of(self, text: &[u8], key: &mut Vec<u8>) -> bool {
        match self {
            _ if text.is_empty() => false,
            Self::Bytes => decode_bytes(text, key),
            Self::Plain if text.contains(&b' ') => false,
            Self::Plain => {
                unescape(text, key);
                true
            }
        }
    }
}

struct Builder<'a> {
    meta: &'a Metadata,
    model_name: &'a str,
    /// For byte-pair encoding.
    pre: Option<&'static Pre>,
    spelling: Spelling,
    warnings: Vec<String>,
    ids: SpecialIds,
    eog: Vec<TokenId>,
    pieces: Pieces,
    index: Index,
}

impl<'a> Builder<'a> {
    fn new(meta: &'a Metadata) -> Result<Self> {
        let model_name = meta.require_str(MODEL)?;
        let mut warnings = Vec::new();
        let pre = match model_name {
            "llama" => None,
            "gpt2" => Some(find_pre(meta.str(PRE)?, &mut warnings)?),
            "gemma4" => Some(find_pre(Some("gemma4"), &mut warnings)?),
            other => return Err(unsupported_model(other)),
        };
        let spelling = match pre {
            Some(p) if !p.plain_text => Spelling::Bytes,
            _ => Spelling::Plain,
        };
        let n_tokens = meta.require_str_array(TOKENS)?.len();
        if n_tokens == 0 {
            return Err(meta.bad(TOKENS, "expected a vocabulary, found no token"));
        }
        if n_tokens > i32::MAX as usize {
            return Err(meta.bad(TOKENS, format!("{n_tokens} tokens; at most {} are possible", i32::MAX)));
        }
        Ok(Self {
            meta,
            model_name,
            pre,
            spelling,
            warnings,
            ids: SpecialIds::default(),
            eog: Vec::new(),
            pieces: Pieces::default(),
            index: Index::default(),
        })
    }

    fn build(mut self) -> Result<Vocab> {
        let n_tokens = self.meta.require_str_array(TOKENS)?.len();
        let mut kinds = self.kinds(n_tokens)?;
        self.special_ids(&mut kinds)?;
        let model = match self.pre {
            None => {
                let mut spm = self.scores(n_tokens)?;
                self.index = self.read_tokens(&kinds, |key| spm.note_key(key))?;
                Model::Spm(spm)
            }
            Some(pre) => {
                self.index = self.read_tokens(&kinds, |_| {})?;
                Model::Bpe(self.merges(pre)?, pre)
            }
        };
        let (add_bos, add_eos) = self.adds()?;
        let flag = |key, default| Ok::<_, Error>(self.meta.bool(key)?.unwrap_or(default));
        Ok(Vocab {
            bytes: self.byte_tokens(),
            whole: (0..n_tokens).map(|_| AtomicU8::new(0)).collect(),
            specials: self.specials(&kinds)?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix", self.pre.is_none())?,
            add_bos,
            add_eos,
            clean_spaces: self.pre.is_some_and(|p| p.clean_spaces),
            model_name: self.model_name.to_owned(),
            pre_name: self.meta.str(PRE)?.map(str::to_owned),
            pieces: self.pieces,
            index: self.index,
            model,
            ids: self.ids,
            eog: self.eog,
            warnings: self.warnings,
        })
    }

    /// The kinds as the file has them.
    fn kinds(&self, n_tokens: usize) -> Result<Vec<TokenKind>> {
        let Some(types) = self.meta.i32_array(TYPES)? else { return Ok(vec![TokenKind::Normal; n_tokens]) };
        self.check_length(TYPES, types.len(), n_tokens)?;
        Ok(types.iter().take(n_tokens).map(|t| kind_of(*t)).collect())
    }

    fn check_length(&self, key: &str, found: usize, n_tokens: usize) -> Result<()> {
        if found >= n_tokens {
            return Ok(());
        }
        let message = format!("expected length {n_tokens}, one for each token, found length {found}");
        Err(self.meta.bad(key, message))
    }

    /// Finds ids by key and by text, and corrects kinds.
    fn special_ids(&mut self, kinds: &mut [TokenKind]) -> Result<()> {
        let mut known = Known::new();
        let texts = self.meta.require_str_array(TOKENS)?;
        for (id, text) in texts.iter().enumerate() {
            known.note(id as TokenId, text);
        }
        self.ids = self.ids_by_key(kinds)?;
        let (eog, corrected) = known.resolve(&mut self.ids);
        self.eog = eog;
        for (id, kind) in corrected {
            if let Some(slot) = kinds.get_mut(id as usize) {
                *slot = kind;
            }
        }
        Ok(())
    }

    fn ids_by_key(&self, kinds: &[TokenKind]) -> Result<SpecialIds> {
        let id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = self.meta.u32(&key)? else { return Ok::<_, Error>(None) };
            if id as usize >= kinds.len() {
                let message = format!("expected a token id below {}, found {id}", kinds.len());
                return Err(self.meta.bad(&key, message));
            }
            Ok(Some(id))
        };
        // What SentencePiece files mean when they do not say; GPT-2's successors mean token 11, if anything,
        // which holds for Falcon but is ordinary text elsewhere.
        let (bos, eos, unk) = match self.pre {
            None => (Some(1), Some(2), Some(0)),
            Some(_) => (Some(11), Some(11), None),
        };
        let default = |id: Option<TokenId>| {
            let kind = kinds.get(id? as usize)?;
            id.filter(|_| self.pre.is_none() || *kind == TokenKind::Control)
        };
        let no_bos = self.pre.is_some_and(|p| p.no_bos || p.gemma);
        Ok(SpecialIds {
            bos: id("bos")?.or(default(bos).filter(|_| !no_bos)),
            eos: id("eos")?.or(default(eos)),
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?.or(default(unk)),
            sep: id("seperator")?, // the key's spelling
            pad: id("padding")?,
            mask: id("mask")?,
            fim_pre: id("prefix")?.or(id("fim_pre")?),
            fim_suf: id("suffix")?.or(id("fim_suf")?),
            fim_mid: id("middle")?.or(id("fim_mid")?),
            fim_pad: id("fim_pad")?,
            fim_rep: id("fim_rep")?,
            fim_sep: id("fim_sep")?,
        })
    }

    /// Fills `pieces`, and finds them by key; `note` sees each key.
    fn read_tokens(&mut self, kinds: &[TokenKind], mut note: impl FnMut(&[u8])) -> Result<Index> {
        let texts = self.meta.require_str_array(TOKENS)?;
        self.pieces = Pieces::with_capacity(kinds.len(), texts.total_bytes());
        let mut keys = Keys::with_capacity(kinds.len());
        let mut key = Vec::new();
        let mut n = 0;
        for (text, kind) in texts.iter().zip(kinds) {
            let id = n as TokenId; // below i32::MAX
            if *kind == TokenKind::Normal {
                // What it writes is what merging sees.
                if self.push(id, text, *kind)? {
                    note(self.pieces.get(id));
                    keys.push(id, None);
                }
            } else {
                self.push(id, text, *kind)?;
                key.clear();
                if self.spelling.key_of(text, &mut key) {
                    note(&key);
                    keys.push(id, Some(&*key).filter(|k| *k != self.pieces.get(id)));
                }
            }
            n += 1;
        }
        if n < kinds.len() {
            return Err(self.meta.bad(TOKENS, format!("expected {} texts, found {n}", kinds.len())));
        }
        Index::new(&self.pieces, keys).map_err(|(first, again)| {
            let text = texts.iter().nth(again as usize).unwrap_or_default();
            self.bad_token(again, format!("the text of token {first} again: {}", shown(text)))
        })
    }

    /// Adds what a token writes. For a normal token, answers whether merging can meet it.
    fn push(&mut self, id: TokenId, text: &[u8], kind: TokenKind) -> Result<bool> {
        let byte = match kind {
            TokenKind::Byte => Some(hex_byte(text).ok_or_else(|| {
                self.bad_token(id, format!("a byte token like <0x0A> was expected, found {}", shown(text)))
            })?),
            _ => None,
        };
        let spelling = self.spelling;
        let pushed = self.pieces.push(kind, |blob| match (kind, byte) {
            (_, Some(byte)) => {
                blob.push(byte);
                true
            }
            (TokenKind::Normal, _) => {
                let keyed = spelling.key_of(text, blob);
                match spelling {
                    _ if keyed => {}
                    Spelling::Bytes => blob.extend_from_slice(text),
                    Spelling::Plain => unescape(text, blob),
                }
                keyed
            }
            _ => {
                blob.extend_from_slice(text);
                true
            }
        });
        pushed.ok_or_else(|| self.meta.bad(TOKENS, "the tokens' texts together exceed 4 GiB"))
    }

    fn bad_token(&self, id: TokenId, message: String) -> Error {
        self.meta.bad(TOKENS, format!("token {id}: {message}"))
    }

    fn scores(&self, n_tokens: usize) -> Result<Spm> {
        let mut spm = Spm::new();
        let scores = match self.meta.f32_array(SCORES) {
            Ok(scores) => scores,
            Err(e) => match self.meta.i32_array(SCORES) {
                Ok(Some(whole)) => Some(whole.into_iter().map(|s| s as f32).collect()),
                _ => return Err(e),
            },
        };
        let scores = scores.unwrap_or_else(|| vec![0.0; n_tokens]);
        self.check_length(SCORES, scores.len(), n_tokens)?;
        for (i, score) in scores.into_iter().take(n_tokens).enumerate() {
            if score.is_nan() {
                return Err(self.meta.bad(SCORES, format!("expected a number for token {i}, found NaN")));
            }
            spm.push(score);
        }
        Ok(spm)
    }

    fn merges(&self, pre: &Pre) -> Result<Bpe> {
        let merges = self.meta.str_array(MERGES)?;
        if merges.is_none() && pre.names.contains(&"kimi-k2") {
            return Ok(Bpe::new(self.pieces.len() as u32, 0)); // its files may come without
        }
        let merges = self.meta.require_str_array(MERGES)?;
        let mut bpe = Bpe::new(self.pieces.len() as u32, merges.len());
        let mut both = Vec::new();
        for (rank, merge) in merges.iter().enumerate() {
            // A piece may begin with the separator, so the search begins after the first byte.
            let at = merge.iter().skip(1).position(|b| *b == b' ').map(|at| at + 1);
            let (left, right) =
                at.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?))).ok_or_else(|| {
                    self.meta.bad(
                        MERGES,
                        format!("merge {rank}: expected two pieces and a blank, found {}", shown(merge)),
                    )
                })?;
            both.clear();
            let keyed = self.spelling.key_of(left, &mut both);
            let split = both.len();
            if keyed && self.spelling.key_of(right, &mut both) {
                bpe.add(&self.pieces, &self.index, &both, split, rank as u32);
            }
        }
        if self.spelling == Spelling::Bytes {
            let mut atoms = Box::new([0; 256]);
            for (byte, atom) in atoms.iter_mut().enumerate() {
                *atom = bpe.piece(&self.pieces, &self.index, &[byte as u8]);
            }
            bpe.atoms = Atoms::Bytes(atoms);
        }
        Ok(bpe)
    }

    /// The token for each byte of a symbol that is none.
    fn byte_tokens(&self) -> Box<[Option<TokenId>; 256]> {
        let find = |key: &[u8]| self.index.get(&self.pieces, key);
        let mut tokens = Box::new([None; 256]);
        for (byte, token) in (0..=u8::MAX).zip(tokens.iter_mut()) {
            *token = match (self.spelling, self.pre) {
                // Looked up by the character's own byte, which only printable ASCII has in common with its text.
                (Spelling::Bytes, _) if !byte.is_ascii_graphic() => None,
                (Spelling::Bytes, _) => find(&[byte]),
                (Spelling::Plain, Some(_)) => find(format!("<0x{byte:02X}>").as_bytes()),
                (Spelling::Plain, None) => find(format!("<0x{byte:02X}>").as_bytes())
                    .or_else(|| find(&[byte]).filter(|_| byte != b' ')),
            };
        }
        tokens
    }

    fn specials(&self, kinds: &[TokenKind]) -> Result<Specials> {
        let special =
            |k: &TokenKind| matches!(k, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
        let ids: Vec<TokenId> = kinds.iter().zip(0..).filter(|(k, _)| special(k)).map(|(_, id)| id).collect();
        // The published Phi-3 tokenizer strips white space after its markers; files do not say so.
        let name = self.meta.str_lossy("general.name")?.unwrap_or_default().to_lowercase();
        let mut swallowing = Vec::new();
        if name.contains("phi-3") || name.contains("phi3") {
            let exempt =
                |id: &&TokenId| matches!(self.pieces.get(**id), b"<unk>" | b"<s>" | b"<|endoftext|>");
            swallowing.extend(ids.iter().filter(|id| !exempt(id)));
            let end = self.index.get(&self.pieces, b"</s>");
            swallowing.extend(end.filter(|id| ids.binary_search(id).is_err()));
            swallowing.sort_unstable();
        }
        Ok(Specials::new(ids, swallowing))
    }

    /// Whether begin- and end-of-text are added.
    fn adds(&mut self) -> Result<(bool, bool)> {
        let add_bos = self.meta.bool("tokenizer.ggml.add_bos_token")?;
        let add_eos = self.meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let add_bos = match self.pre {
            Some(pre) if pre.gemma => true,
            Some(pre) => add_bos.unwrap_or(pre.add_bos),
            None => add_bos.unwrap_or(true),
        };
        for (wanted, id, name) in [(add_bos, self.ids.bos, "begin"), (add_eos, self.ids.eos, "end")] {
            if wanted && id.is_none() {
                self.warnings.push(format!("no {name}-of-text token to add: texts go without"));
            }
        }
        Ok((add_bos, add_eos))
    }
}

fn kind_of(number: i32) -> TokenKind {
    match number {
        1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Undefined,
    }
}

fn find_pre(name: Option<&str>, warnings: &mut Vec<String>) -> Result<&'static Pre> {
    let name = name.filter(|n| !n.is_empty()).unwrap_or_else(|| {
        warnings.push(format!("{PRE} is missing: using the rules 'default', which may split text wrongly"));
        "default"
    });
    Pre::find(name).ok_or_else(|| {
        let why = if ENCODERS.contains(&name) { "belongs to encoders" } else { "is not known" };
        let n: usize = PRES.iter().map(|p| p.names.len()).sum();
        let message = format!("expected one of {n} pre-tokenizers, found '{}', which {why}", clip(name));
        Error::new(ErrorKind::Unsupported, message).at(PRE)
    })
}

fn unsupported_model(name: &str) -> Error {
    let what = match name {
        "bert" => " (WordPiece)",
        "t5" => " (Unigram)",
        "rwkv" => " (RWKV)",
        "no_vocab" | "none" => " (a model without vocabulary)",
        _ => "",
    };
    let message = format!("expected tokenizer 'gpt2', 'llama' or 'gemma4', found '{}'{what}", clip(name));
    Error::new(ErrorKind::Unsupported, message).at(MODEL)
}

/// The beginning of a text from a file, for a message.
fn clip(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

fn shown(text: &[u8]) -> String {
    format!("'{}'", clip(&String::from_utf8_lossy(text.get(..64).unwrap_or(text))))
}

/// The byte of a text like `<0x0A>`.
fn hex_byte(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else { return None };
    let digit = |b: &u8| (*b as char).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}
