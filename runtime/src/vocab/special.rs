//! Tokens known by their text: ends of turns and messages, fill-in-the-middle markers.
//!
//! Files often store a wrong type for these, or no id, so llama.cpp recognises about sixty texts and corrects
//! the type. Tokenisation depends on it (a control token is not matched in plain text), so truing has the same
//! list, kept as one table. Where several texts of one role are present, the first of the list wins.

use super::TokenKind;
use crate::token::TokenId;
use hashbrown::HashMap;

/// Ids of tokens with a role. `None` where the model has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialIds {
    /// Begin of text.
    pub bos: Option<TokenId>,
    /// End of text.
    pub eos: Option<TokenId>,
    /// End of turn.
    pub eot: Option<TokenId>,
    /// End of message (a tool call follows).
    pub eom: Option<TokenId>,
    /// Unknown text.
    pub unk: Option<TokenId>,
    /// Separator of texts.
    pub sep: Option<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Mask.
    pub mask: Option<TokenId>,
    /// Fill in the middle: what precedes.
    pub fim_pre: Option<TokenId>,
    /// Fill in the middle: what follows.
    pub fim_suf: Option<TokenId>,
    /// Fill in the middle: what is asked for.
    pub fim_mid: Option<TokenId>,
    /// Fill in the middle: padding.
    pub fim_pad: Option<TokenId>,
    /// Fill in the middle: name of a repository.
    pub fim_rep: Option<TokenId>,
    /// Fill in the middle: name of a file.
    pub fim_sep: Option<TokenId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Eot,
    Eom,
    FimPre,
    FimSuf,
    FimMid,
    FimPad,
    FimRep,
    FimSep,
    /// Ends generation, without another role.
    End,
    /// Is shown and always matched (markers of the Harmony format).
    Shown,
    /// Tells tokenizers apart.
    Hint,
}
use Role::*;

/// Texts by role. All of `Eot`, `Eom` and `End` end generation.
const TEXTS: &[(Role, &[&str])] = &[
    (
        Eot,
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    (Eom, &["<|eom_id|>"]),
    (
        FimPre,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        FimSuf,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        FimMid,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (FimPad, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (FimRep, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (FimSep, &["<|file_sep|>"]),
    (End, &[RETURN, CALL, FLUSH, CALLS, CLOSE_S, "[EOS]", "<eos>", "<turn|>", TOOL_RESPONSE, "[e~["]),
    (Shown, &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]),
    (Hint, &[PLAMO_EOS]),
];

const END: &str = "<|end|>";
const RETURN: &str = "<|return|>";
const CALL: &str = "<|call|>";
const CALLS: &str = "<|calls|>";
const FLUSH: &str = "<|flush|>";
const CLOSE_S: &str = "</s>";
const TOOL_RESPONSE: &str = "<|tool_response>";
const PLAMO_EOS: &str = "<|plamo:eos|>";

/// The tokens whose texts are in the table.
pub(super) struct Known {
    table: HashMap<&'static [u8], (Role, &'static str)>,
    found: Vec<(Role, &'static str, TokenId)>,
}

impl Known {
    pub(super) fn new() -> Self {
        let texts = TEXTS.iter().flat_map(|(role, texts)| texts.iter().map(move |t| (*role, *t)));
        let table = texts.map(|(role, text)| (text.as_bytes(), (role, text))).collect();
        Self { table, found: Vec::new() }
    }

    /// Takes note of a token.
    pub(super) fn note(&mut self, id: TokenId, text: &[u8]) {
        let may_be = matches!(text.first(), Some(b'<' | b'[' | b'_' | 0xe2)); // all in the table do
        if let Some((role, text)) = may_be.then(|| self.table.get(text)).flatten() {
            self.found.push((*role, text, id));
        }
    }

    fn id(&self, text: &str) -> Option<TokenId> {
        self.found.iter().find(|k| k.1 == text).map(|k| k.2)
    }

    /// The token of a role whose text comes first in the table.
    fn first(&self, role: Role) -> Option<TokenId> {
        let texts = TEXTS.iter().filter(|t| t.0 == role).flat_map(|t| t.1);
        texts.into_iter().find_map(|t| self.id(t))
    }

    /// Fills roles that the file left open.
    fn complete(&self, ids: &mut SpecialIds) -> Vec<TokenId> {
        let mut found = Vec::new();
        for (slot, role) in [
            (&mut ids.eot, Eot),
            (&mut ids.eom, Eom),
            (&mut ids.fim_pre, FimPre),
            (&mut ids.fim_suf, FimSuf),
            (&mut ids.fim_mid, FimMid),
            (&mut ids.fim_pad, FimPad),
            (&mut ids.fim_rep, FimRep),
            (&mut ids.fim_sep, FimSep),
        ] {
            if slot.is_none() {
                *slot = self.first(role);
                found.extend(*slot);
            }
        }
        found
    }

    /// Fills roles that the file left open; answers the ids that end generation, ascending, and the kinds to
    /// correct.
    pub(super) fn resolve(&self, ids: &mut SpecialIds) -> (Vec<TokenId>, Vec<(TokenId, TokenKind)>) {
        let mut control = self.complete(ids);
        let mut ends: Vec<TokenId> = [ids.fim_pad, ids.fim_rep, ids.fim_sep].into_iter().flatten().collect();
        for (_, _, id) in self.found.iter().filter(|k| matches!(k.0, Eot | Eom | End)) {
            ends.push(*id);
            control.push(*id);
        }
        ends.extend([ids.eos, ids.eot, ids.eom].into_iter().flatten());
        let mut kinds: Vec<_> = control.into_iter().map(|id| (id, TokenKind::Control)).collect();
        kinds.extend(self.found.iter().filter(|k| k.0 == Shown).map(|k| (k.2, TokenKind::UserDefined)));

        let ends_with = |text| self.id(text).is_some_and(|id| ends.contains(&id));
        let mut no_end = Vec::new();
        // In these families `<|end|>` ends a message, and more follows.
        if (ends_with(CALL) || ends_with(CALLS)) && (ends_with(RETURN) || ends_with(FLUSH)) {
            no_end.extend(self.id(END).map(|id| (id, TokenKind::UserDefined)));
        }
        // In these families `</s>` is ordinary text.
        if ends_with(TOOL_RESPONSE) || ends_with(PLAMO_EOS) {
            no_end.extend(self.id(CLOSE_S).map(|id| (id, TokenKind::Normal)));
        }
        ends.retain(|id| no_end.iter().all(|n| n.0 != *id));
        ends.sort_unstable();
        ends.dedup();
        kinds.extend(no_end);
        (ends, kinds)
    }
}
