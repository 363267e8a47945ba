//! Formats as patterns, each narrow enough that whatever matches is of the format.
//!
//! A checker of formats may be strict (leap years, label lengths, percent signs), so the patterns here give the
//! part of each format that no checker disputes. International variants are written in their ASCII part.
//! Sources: RFC 3339 (dates, durations), 5321 (mail), 1123 (host names), 4291 (IPv6), 3986 (URI), 4122 (UUID), 6901
//! (JSON pointer).

const DATE: &str = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
/// 29 February of the years divisible by four that end no century, or by 400.
const LEAP: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29";
const TIME: &str =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const LABEL: &str = "[A-Za-z0-9](?:-?[A-Za-z0-9]){0,30}";
const BYTE: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const PCHAR: &str = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";
const POINTER: &str = "(?:/(?:[^~]|~[01])*)?";

/// The pattern of a format, or that it says nothing about the text.
pub(super) enum Format {
    Pattern(String),
    /// Defined by no draft, hence an annotation.
    Unknown,
}

/// What `name` demands of a string.
pub(super) fn format(name: &str) -> Format {
    Format::Pattern(match name {
        "date" => format!("{DATE}|{LEAP}"),
        "time" => TIME.into(),
        "date-time" => format!("(?:{DATE}|{LEAP})T{TIME}"),
        "duration" => duration(),
        "email" | "idn-email" => {
            format!("[A-Za-z0-9](?:[._+-]?[A-Za-z0-9]){{0,30}}@{LABEL}(?:\\.{LABEL}){{0,3}}")
        }
        "hostname" | "idn-hostname" => format!("{LABEL}(?:\\.{LABEL}){{0,3}}"),
        "ipv4" => format!("(?:{BYTE}\\.){{3}}{BYTE}"),
        "ipv6" => ipv6(),
        "uri" | "iri" => uri(),
        "uri-reference" | "iri-reference" | "uri-template" => reference(),
        "uuid" => "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".into(),
        "json-pointer" => POINTER.into(),
        "relative-json-pointer" => format!("(?:0|[1-9][0-9]{{0,8}})(?:#|{POINTER})"),
        "regex" => "[A-Za-z0-9 _]*".into(),
        _ => return Format::Unknown,
    })
}

fn duration() -> String {
    let n = "[0-9]{1,9}";
    let time = format!("T(?:{n}H(?:{n}M(?:{n}S)?)?|{n}M(?:{n}S)?|{n}S)");
    let date = format!("(?:{n}Y(?:{n}M(?:{n}D)?)?|{n}M(?:{n}D)?|{n}D)");
    format!("P(?:{date}(?:{time})?|{time}|{n}W)")
}

fn ipv6() -> String {
    let h = "[0-9a-fA-F]{1,4}";
    let mut forms = vec![
        format!("(?:{h}:){{7}}{h}"),
        format!("(?:{h}:){{1,7}}:"),
        format!(":(?::{h}){{1,7}}"),
        "::".into(),
    ];
    forms.extend((1..=6).map(|n| format!("(?:{h}:){{1,{n}}}(?::{h}){{1,{}}}", 7 - n)));
    forms.join("|")
}

fn tail() -> String {
    format!("(?:\\?(?:{PCHAR}|[/?])*)?(?:#(?:{PCHAR}|[/?])*)?")
}

fn uri() -> String {
    let host = "(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*";
    let path = format!("(?:/{PCHAR}*)*");
    format!("[A-Za-z][A-Za-z0-9+.-]{{0,30}}:(?://{host}(?::[0-9]{{1,4}})?{path}|/?{PCHAR}+{path}){}", tail())
}

fn reference() -> String {
    let first = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+";
    format!("{}|/?(?:{first}(?:/{PCHAR}*)*)?{}", uri(), tail())
}
