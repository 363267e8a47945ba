//! The names that `tokenizer.ggml.pre` gives to rule sets, and what else a name decides.
//!
//! The names and their flags are llama.cpp's, since its converter writes them into the files.

use super::chars::*;
use super::rule_sets::Item::JoinedWords;
use super::rule_sets::Stage::{AsciiThousands, Find, Newlines, Thousands, TrailingSpace};
use super::rule_sets::*;

/// The rule set that a name stands for, and what else the name decides.
pub(super) struct Pre {
    pub names: &'static [&'static str],
    pub stages: &'static [Stage],
    /// A word that is a token is that token, whatever its merges would make.
    pub ignore_merges: bool,
    /// Begin-of-text is added unless the file says otherwise.
    pub add_bos: bool,
    /// The published decoder drops blanks before punctuation.
    pub clean_spaces: bool,
    /// Token texts are not GPT-2's byte characters but plain text with U+2581 for a blank.
    pub plain_text: bool,
    /// There is no begin-of-text token unless the file names one.
    pub no_bos: bool,
    /// Gemma 4: runs of line breaks are tokens without merges, and begin-of-text is added whatever the file says.
    pub gemma: bool,
}

const fn pre(names: &'static [&'static str], stages: &'static [Stage]) -> Pre {
    Pre {
        names,
        stages,
        ignore_merges: false,
        add_bos: false,
        clean_spaces: false,
        plain_text: false,
        no_bos: false,
        gemma: false,
    }
}

impl Pre {
    const fn cleaned(self) -> Self {
        Self { clean_spaces: true, ..self }
    }
    const fn whole_words(self) -> Self {
        Self { ignore_merges: true, ..self }
    }
    const fn with_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }
    const fn plain(self) -> Self {
        Self { plain_text: true, ..self }
    }
    const fn gemma(self) -> Self {
        Self { gemma: true, ..self }
    }
    const fn without_bos(self) -> Self {
        Self { no_bos: true, ..self }
    }

    /// The entry for a name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        PRES.iter().find(|p| p.names.contains(&name))
    }
}

/// Names that llama.cpp knows and this table leaves out: tokenizers of encoders, which do not generate.
pub(super) const ENCODERS: &[&str] = &["mmbert", "whitespace"];

/// All names, sorted by rule set. The first entry is for a file that names none.
pub(super) static PRES: &[Pre] = &[
    pre(&["default"], &[Find(&[&[some(PUNCTUATION | MATHS)]]), GPT2, Find(&[&[some(NUMBER)]]), ASCII_3])
        .cleaned(),
    pre(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
        ],
        &[GPT2],
    )
    .cleaned(),
    pre(&["trillion", "granite-docling"], &[GPT2]),
    pre(&["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], &[EACH_DIGIT, GPT2])
        .cleaned(),
    pre(&["smollm", "command-r"], &[EACH_DIGIT, GPT2]),
    pre(
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )
    .cleaned()
    .whole_words()
    .with_bos(),
    pre(&["dbrx", "smaug-bpe"], &[LLAMA3]).cleaned(),
    pre(&["chatglm-bpe"], &[LLAMA3]).cleaned().without_bos(),
    pre(&["glm4", "glm5"], &[LLAMA3]).cleaned().without_bos().whole_words(),
    pre(&["jais-2"], &[JAIS2]).cleaned(),
    pre(&["stablelm2"], &[QWEN2]).cleaned(),
    pre(&["megrez"], &[QWEN2]).cleaned(),
    pre(&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"], &[QWEN2]),
    pre(&["laguna"], &[Newlines, QWEN2]),
    pre(&["ufakzeka"], &[Find(&[WORD, DIGIT_EACH, SYMBOLS, LINES, GAP, SPACES])]),
    pre(
        &["qwen35"],
        &[Find(&[
            &[ANY_CASE],
            MARKED_WORD,
            DIGIT_EACH,
            &[maybe(BLANK), others(SPACE | LETTER | MARK | NUMBER), any(BREAK)],
            LINES,
            GAP,
            SPACES,
        ])],
    ),
    pre(&["minicpm5"], &[GROUPS_3, Find(&[&[ANY_CASE], WORD, &[some(NUMBER)], SYMBOLS, LINES, GAP, SPACES])])
        .cleaned()
        .whole_words(),
    pre(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[QWEN2], // its rule differs only in how it spells the same set
    ),
    pre(
        &["seed-coder"],
        &[Find(&[
            &[ANY_CASE],
            WORD,
            DIGIT_EACH,
            &[maybe(BLANK), others(SPACE | LETTER | NUMBER)],
            LINES,
            GAP,
            SPACES,
        ])],
    ),
    pre(
        &["exaone-moe"],
        &[Find(&[
            &[ANY_CASE],
            &[lead(LETTER | NUMBER), JoinedWords],
            DIGIT_EACH,
            &[maybe(BLANK), others(SPACE | LETTER | NUMBER), maybe(BREAK | SLASH)],
            LINES,
            GAP,
            SPACES,
        ])],
    )
    .cleaned(),
    pre(&["tekken"], &[TEKKEN]).whole_words().with_bos(),
    pre(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    pre(&["granite-embed-multi-97m"], &[GRANITE_MULTI]).whole_words(),
    pre(&["kimi-k2"], &[KIMI]),
    pre(
        &["tiny_aya", "cohere2moe"],
        &[
            Thousands,
            Find(&[
                &[lead(LETTER | NUMBER), some(LETTER | MARK), SUFFIX],
                DIGITS_3,
                SYMBOLS_SLASH,
                LINES,
                GAP,
                SPACES,
            ]),
        ],
    ),
    pre(
        &["youtu"],
        &[
            Find(&[&[within(HANGUL)], &[within(CJK_MARKS)], &[within(BOPOMOFO)], CJK]),
            Find(&[
                &[lead(LETTER | NUMBER), some(LETTER | MARK), SUFFIX],
                DIGIT_EACH,
                SYMBOLS_SLASH,
                LINES,
                GAP,
                SPACES,
            ]),
        ],
    )
    .whole_words(),
    pre(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[GROUPS_3, CJK_KANA, DEEPSEEK3]),
    pre(
        &["spark2_5"],
        &[
            GROUPS_3,
            CJK_KANA,
            Find(&[
                PUNCTUATED,
                BARE_WORD,
                &[maybe(BLANK), some(PUNCTUATION | SYMBOL)],
                &[run(Class::of(BREAK), 1, 1)],
                GAP,
                SPACES,
            ]),
            EACH_DIGIT,
        ],
    ),
    pre(&["afmoe"], &[Thousands, Find(&[&[within(ASIAN)]]), DEEPSEEK3]),
    pre(
        &["deepseek-llm"],
        &[
            EACH_BREAK,
            Find(&[&[maybe(SPACE), within(CASED)]]),
            Find(&[&[maybe(SPACE), within(WIDE_MARKS)]]),
            TrailingSpace,
            CJK_HANGUL,
            Find(&[&[some(NUMBER)]]),
        ],
    ),
    pre(
        &["deepseek-coder"],
        &[
            EACH_BREAK,
            Find(&[&[maybe(SPACE), some(LETTER)]]),
            Find(&[&[maybe(SPACE), some(PUNCTUATION)]]),
            CJK_HANGUL,
            EACH_DIGIT,
        ],
    ),
    pre(&["falcon"], &[Find(&[&[some(PUNCTUATION | MATHS | BACKTICK)]]), GPT2, ASCII_3]).cleaned(),
    pre(&["bloom", "gpt3-finnish"], &[BLOOM]).cleaned(),
    pre(&["poro-chat"], &[BLOOM]),
    pre(&["viking"], &[BLOOM, EACH_DIGIT]),
    pre(&["chameleon"], &CHAMELEON).with_bos(),
    pre(&["superbpe"], &[Find(&[&[some(NUMBER)]]), AsciiThousands]),
    pre(&["gemma4", "granite-embed-multi-311m"], &[Newlines]).cleaned().plain().gemma(),
    pre(&["sarvam-moe"], &[Newlines]).plain(),
];
