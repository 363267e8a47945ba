//! The pre-tokenizer rule sets as data.
//!
//! A set is a list of stages. Each stage cuts every piece of the stage before at its matches, and what lies
//! between matches stays as pieces of their own. The rules are those of the models' published
//! `tokenizer.json` files in the form that llama.cpp gives them, down to its simplifications, since
//! converted files are tested against that.

use super::chars::*;

/// What a stage does to a piece.
pub(super) enum Stage {
    /// Finds matches of the first alternative that fits, leftmost first.
    Find(&'static [&'static [Item]]),
    /// Runs of `\n` against everything else.
    Newlines,
    /// White space at the end of the piece.
    TrailingSpace,
    /// Cuts runs of numbers so that groups of three end at the run's end. What precedes a run stays with its
    /// first group.
    Thousands,
    /// Cuts runs of `0-9` before each group of three counted from the run's end.
    AsciiThousands,
}

/// A part of an alternative. Runs are greedy and give back.
pub(super) enum Item {
    /// `min..=max` characters of a class; with `ranges`, only those inside them, or only those outside.
    Run { class: Class, ranges: &'static [(char, char)], inside: bool, min: usize, max: usize },
    /// This text.
    Literal(&'static str),
    /// `'s 't 'm 'd 're 've 'll`.
    Contraction { any_case: bool, optional: bool },
    /// White space up to and with the last line break of its run.
    LineBreaks,
    /// Letters with their marks, words joined by single blanks.
    JoinedWords,
    /// Nothing, before white space or the end.
    BeforeSpace,
}

use Item::{BeforeSpace, Contraction, LineBreaks, Literal};
use Stage::Find;

const MANY: usize = usize::MAX;

pub(super) const fn run(class: Class, min: usize, max: usize) -> Item {
    Item::Run { class, ranges: &[], inside: true, min, max }
}

/// One or more characters with a property of `any`.
pub(super) const fn some(any: u16) -> Item {
    run(Class::of(any), 1, MANY)
}

/// At most one character with a property of `any`.
pub(super) const fn maybe(any: u16) -> Item {
    run(Class::of(any), 0, 1)
}

/// Any number of characters with a property of `any`.
pub(super) const fn any(any: u16) -> Item {
    run(Class::of(any), 0, MANY)
}

/// One or more characters with no property of `none`.
pub(super) const fn others(none: u16) -> Item {
    run(Class::not(none), 1, MANY)
}

/// At most one character that may lead a word: not one of `none`, not a line break.
pub(super) const fn lead(none: u16) -> Item {
    run(Class::not(BREAK | none), 0, 1)
}

/// One or more characters inside `ranges`, none of them white space.
pub(super) const fn within(ranges: &'static [(char, char)]) -> Item {
    Item::Run { class: Class::not(SPACE), ranges, inside: true, min: 1, max: MANY }
}

/// One or more characters of `class` outside `ranges`.
pub(super) const fn outside(class: Class, ranges: &'static [(char, char)]) -> Item {
    Item::Run { class, ranges, inside: false, min: 1, max: MANY }
}

const CONTRACTION: Item = Contraction { any_case: false, optional: false };
pub(super) const ANY_CASE: Item = Contraction { any_case: true, optional: false };
pub(super) const SUFFIX: Item = Contraction { any_case: true, optional: true };

// Shared alternatives.
pub(super) const WORD: &[Item] = &[lead(LETTER | NUMBER), some(LETTER)];
pub(super) const MARKED_WORD: &[Item] = &[lead(LETTER | NUMBER), some(LETTER | MARK)];
pub(super) const DIGIT_EACH: &[Item] = &[run(Class::of(NUMBER), 1, 1)];
pub(super) const DIGITS_3: &[Item] = &[run(Class::of(NUMBER), 1, 3)];
pub(super) const SYMBOLS: &[Item] = &[maybe(BLANK), others(SPACE | LETTER | NUMBER), any(BREAK)];
pub(super) const SYMBOLS_SLASH: &[Item] =
    &[maybe(BLANK), others(SPACE | LETTER | NUMBER), any(BREAK | SLASH)];
pub(super) const LINES: &[Item] = &[LineBreaks];
/// All but the last white space before a word.
pub(super) const GAP: &[Item] = &[some(SPACE), BeforeSpace];
pub(super) const SPACES: &[Item] = &[some(SPACE)];

pub(super) const GPT2: Stage = Find(&[
    &[CONTRACTION],
    &[maybe(BLANK), some(LETTER)],
    &[maybe(BLANK), some(NUMBER)],
    &[maybe(BLANK), others(SPACE | LETTER | NUMBER)],
    GAP,
    SPACES,
]);
pub(super) const LLAMA3: Stage = Find(&[&[ANY_CASE], WORD, DIGITS_3, SYMBOLS, LINES, GAP, SPACES]);
pub(super) const QWEN2: Stage = Find(&[&[ANY_CASE], WORD, DIGIT_EACH, SYMBOLS, LINES, GAP, SPACES]);
pub(super) const EACH_DIGIT: Stage = Find(&[DIGIT_EACH]);
pub(super) const GROUPS_3: Stage = Find(&[DIGITS_3]);
pub(super) const EACH_BREAK: Stage = Find(&[&[run(Class::of(BREAK), 1, 1)]]);
/// Three ASCII digits.
pub(super) const ASCII_3: Stage = Find(&[&[run(Class::of(DIGIT), 3, 3)]]);
/// Punctuation with a word glued to it, words, punctuation: the last stage of DeepSeek V3 and its kin.
pub(super) const PUNCTUATED: &[Item] = &[run(Class::of(ASCII_MARK), 1, 1), some(LOWER | UPPER)];
pub(super) const BARE_WORD: &[Item] = &[lead(LETTER | PUNCTUATION | SYMBOL), some(LETTER | MARK)];
const MARKS: &[Item] = &[maybe(BLANK), some(PUNCTUATION | SYMBOL), any(BREAK)];
pub(super) const DEEPSEEK3: Stage = Find(&[PUNCTUATED, BARE_WORD, MARKS, LINES, GAP, SPACES]);
pub(super) const CJK: &[Item] = &[within(&[('\u{4e00}', '\u{9fa5}'), ('\u{3040}', '\u{30ff}')])];
pub(super) const CJK_KANA: Stage = Find(&[CJK]);
pub(super) const CJK_HANGUL: Stage = Find(&[&[within(&[('\u{800}', '\u{9fa5}'), ('\u{ac00}', '\u{d7ff}')])]]);

/// Letters a word may begin with where case matters: all but `a-z`, then all but `A-Z`.
const HEAD: Class = Class::of(LETTER).but(LOWER);
const TAIL: Class = Class::of(LETTER).but(UPPER);
const MARKED_HEAD: Class = Class::of(LETTER | MARK).but(LOWER);
const MARKED_TAIL: Class = Class::of(LETTER | MARK).but(UPPER);

pub(super) const TEKKEN: Stage = Find(&[
    &[lead(LETTER | NUMBER), run(HEAD, 0, MANY), run(TAIL, 1, MANY)],
    &[lead(LETTER | NUMBER), run(HEAD, 1, MANY), run(TAIL, 0, MANY)],
    DIGIT_EACH,
    SYMBOLS_SLASH,
    LINES,
    GAP,
    SPACES,
]);
pub(super) const GPT4O: Stage = Find(&[
    &[lead(LETTER | NUMBER), run(HEAD, 0, MANY), run(TAIL, 1, MANY), SUFFIX],
    &[lead(LETTER | NUMBER), run(HEAD, 1, MANY), run(TAIL, 0, MANY), SUFFIX],
    DIGITS_3,
    SYMBOLS_SLASH,
    LINES,
    GAP,
    SPACES,
]);
pub(super) const GRANITE_MULTI: Stage = Find(&[
    &[lead(LETTER | NUMBER), run(MARKED_HEAD, 0, MANY), run(MARKED_TAIL, 1, MANY), SUFFIX],
    &[lead(LETTER | NUMBER), run(MARKED_HEAD, 1, MANY), run(MARKED_TAIL, 0, MANY), SUFFIX],
    DIGITS_3,
    SYMBOLS_SLASH,
    LINES,
    GAP,
    SPACES,
]);

const fn spaces_before_space(n: usize, least: usize) -> [Item; 2] {
    [run(Class::of(SPACE), least, n), BeforeSpace]
}

pub(super) const JAIS2: Stage = Find(&[
    &[ANY_CASE],
    WORD,
    DIGITS_3,
    SYMBOLS,
    LINES,
    &spaces_before_space(512, 512),
    &spaces_before_space(256, 256),
    &spaces_before_space(128, 128),
    &spaces_before_space(64, 64),
    &spaces_before_space(32, 32),
    &spaces_before_space(16, 16),
    &spaces_before_space(8, 8),
    &spaces_before_space(4, 4),
    &spaces_before_space(2, 1),
    &[run(Class::of(SPACE), 1, 1)],
]);

/// What ends a word in Bloom's rule, beside white space.
#[rustfmt::skip]
const BLOOM_ENDS: &[(char, char)] = &[
    ('(', ')'), (',', ','), ('.', '.'), ('!', '!'), ('?', '?'), ('|', '|'),
    ('\u{2026}', '\u{2026}'), ('\u{3001}', '\u{3002}'), ('\u{ff0c}', '\u{ff0c}'), ('\u{964}', '\u{964}'),
    ('\u{6d4}', '\u{6d4}'), ('\u{60c}', '\u{60c}'),
];
pub(super) const BLOOM: Stage = Find(&[&[maybe(BLANK), outside(Class::not(SPACE), BLOOM_ENDS)]]);

pub(super) const CHAMELEON: [Stage; 6] = [
    Find(&[&[Literal("<sentinel:"), some(DIGIT), Literal(">")]]),
    Find(&[&[
        Literal("IMGIMG"),
        Item::Run { class: Class::of(UPPER), ranges: &[('A', 'I')], inside: true, min: 1, max: 4 },
        Literal("Z"),
    ]]),
    Find(&[&[run(Class::of(TAB_OR_LF), 1, 1)], &[Literal("    ")], &[Literal("  ")]]),
    EACH_DIGIT,
    Find(&[&[run(Class::of(PUNCTUATION | ASCII_MARK), 1, 1)]]),
    GPT2,
];

const HAN: &[(char, char)] = &[
    ('\u{4e00}', '\u{9fff}'),
    ('\u{3400}', '\u{4dbf}'),
    ('\u{20000}', '\u{2a6df}'),
    ('\u{2a700}', '\u{2ebef}'),
    ('\u{f900}', '\u{faff}'),
    ('\u{2f800}', '\u{2fa1f}'),
];

pub(super) const KIMI: Stage = Find(&[
    &[within(HAN)],
    &[lead(LETTER | NUMBER), outside(Class::of(LETTER), HAN), SUFFIX],
    DIGITS_3,
    SYMBOLS,
    LINES,
    GAP,
    SPACES,
]);

/// Letters of scripts with case, as DeepSeek LLM lists them.
#[rustfmt::skip]
pub(super) const CASED: &[(char, char)] = &[
    ('\u{41}', '\u{5a}'), ('\u{61}', '\u{7a}'), ('\u{b5}', '\u{b5}'), ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'), ('\u{f8}', '\u{1ba}'), ('\u{1bc}', '\u{1bf}'), ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'), ('\u{370}', '\u{373}'), ('\u{376}', '\u{376}'), ('\u{377}', '\u{377}'),
    ('\u{37b}', '\u{37d}'), ('\u{37f}', '\u{37f}'), ('\u{386}', '\u{386}'), ('\u{388}', '\u{38a}'),
    ('\u{38c}', '\u{38c}'), ('\u{38e}', '\u{3a1}'), ('\u{3a3}', '\u{3f5}'), ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'), ('\u{531}', '\u{556}'), ('\u{10a0}', '\u{10c5}'), ('\u{13a0}', '\u{13f5}'),
    ('\u{13f8}', '\u{13fd}'), ('\u{1c90}', '\u{1cba}'), ('\u{1cbd}', '\u{1cbf}'), ('\u{1d00}', '\u{1d2b}'),
    ('\u{1d6b}', '\u{1d77}'), ('\u{1d79}', '\u{1d9a}'), ('\u{1e00}', '\u{1f15}'), ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'), ('\u{1f48}', '\u{1f4d}'), ('\u{1f50}', '\u{1f57}'), ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'), ('\u{1f5d}', '\u{1f5d}'), ('\u{1f5f}', '\u{1f7d}'), ('\u{1f80}', '\u{1fb4}'),
    ('\u{1fb6}', '\u{1fbc}'), ('\u{1fbe}', '\u{1fbe}'), ('\u{1fc2}', '\u{1fc4}'), ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'), ('\u{1fd6}', '\u{1fdb}'), ('\u{1fe0}', '\u{1fec}'), ('\u{1ff2}', '\u{1ff4}'),
    ('\u{1ff6}', '\u{1ffc}'), ('\u{2102}', '\u{2102}'), ('\u{2107}', '\u{2107}'), ('\u{210a}', '\u{2113}'),
    ('\u{2115}', '\u{2115}'), ('\u{2119}', '\u{211d}'), ('\u{2124}', '\u{2124}'), ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'), ('\u{212a}', '\u{212d}'), ('\u{212f}', '\u{2134}'), ('\u{2139}', '\u{2139}'),
    ('\u{213c}', '\u{213f}'), ('\u{2145}', '\u{2149}'), ('\u{214e}', '\u{214e}'), ('\u{2183}', '\u{2183}'),
    ('\u{2184}', '\u{2184}'), ('\u{2c00}', '\u{2c7b}'), ('\u{2c7e}', '\u{2ce4}'), ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf2}'), ('\u{2cf3}', '\u{2cf3}'), ('\u{a640}', '\u{a66d}'), ('\u{a680}', '\u{a69b}'),
    ('\u{a722}', '\u{a76f}'), ('\u{a771}', '\u{a787}'), ('\u{a78b}', '\u{a78e}'), ('\u{ab70}', '\u{abbf}'),
    ('\u{fb00}', '\u{fb06}'), ('\u{fb13}', '\u{fb17}'), ('\u{ff21}', '\u{ff3a}'), ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'), ('\u{104b0}', '\u{104d3}'), ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'), ('\u{10cc0}', '\u{10cf2}'), ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
];

/// ASCII from `!` on without digits, and full-width punctuation, as DeepSeek LLM lists them.
#[rustfmt::skip]
pub(super) const WIDE_MARKS: &[(char, char)] = &[
    ('\u{21}', '\u{2f}'), ('\u{3a}', '\u{7e}'), ('\u{ff01}', '\u{ff0f}'), ('\u{ff1a}', '\u{ff5e}'),
    ('\u{2018}', '\u{201f}'), ('\u{3000}', '\u{3002}'),
];

/// Scripts written without blanks, as AFMoE lists them.
#[rustfmt::skip]
pub(super) const ASIAN: &[(char, char)] = &[
    ('\u{4e00}', '\u{9fff}'), ('\u{3400}', '\u{4dbf}'), ('\u{8c48}', '\u{faff}'), ('\u{3040}', '\u{309f}'),
    ('\u{30a0}', '\u{30ff}'), ('\u{ff65}', '\u{ff9f}'), ('\u{2f00}', '\u{2fdf}'), ('\u{e40}', '\u{e7f}'),
    ('\u{e80}', '\u{eff}'), ('\u{1780}', '\u{17ff}'), ('\u{1000}', '\u{109f}'), ('\u{aa60}', '\u{aa7f}'),
    ('\u{a9e0}', '\u{a9ff}'), ('\u{ac00}', '\u{d7af}'), ('\u{1100}', '\u{11ff}'),
];

/// Hangul, as Youtu lists it.
#[rustfmt::skip]
pub(super) const HANGUL: &[(char, char)] = &[
    ('\u{ac00}', '\u{d7a3}'), ('\u{3131}', '\u{318e}'),
];

/// CJK punctuation, as Youtu lists it.
#[rustfmt::skip]
pub(super) const CJK_MARKS: &[(char, char)] = &[
    ('\u{ff01}', '\u{ff01}'), ('\u{2026}', '\u{2026}'), ('\u{201c}', '\u{201c}'), ('\u{201d}', '\u{201d}'),
    ('\u{2018}', '\u{2018}'), ('\u{2019}', '\u{2019}'), ('\u{2014}', '\u{2014}'), ('\u{ff1a}', '\u{ff1a}'),
    ('\u{ff1b}', '\u{ff1b}'), ('\u{ff0c}', '\u{ff0c}'), ('\u{3001}', '\u{303f}'), ('\u{fe30}', '\u{fe4f}'),
];

/// Bopomofo.
#[rustfmt::skip]
pub(super) const BOPOMOFO: &[(char, char)] = &[
    ('\u{3105}', '\u{312f}'),
];
