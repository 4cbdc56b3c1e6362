//! Objects that are drawn from bytes by their schema: well formed, and odd. And whether an API server would take one.

use arbitrary::Unstructured;
use serde_json::{Map, Value, json};

/// Deeper than any of the schemas is.
const DEEPEST: usize = 16;

/// Texts that do something, or are too much, or nothing.
const ODD: [&str; 14] = [
    "",
    " ",
    "a\nb",
    "\r\n{\"schema\":1}",
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "\u{9b}31m",
    "a\u{2028}b\u{2029}c",
    "\u{202e}dlo\u{2066}",
    "\u{0}",
    "\u{85}\u{7f}\u{8}",
    "ünïcödé 𝟚 e\u{301}\u{200d}",
    "spec.duration: | <b>&\"'",
    "-1",
    "null",
];

/// Texts that some field understands.
const KNOWN: [&str; 40] = [
    "30s",
    "2m",
    "1h30m",
    "168h",
    "169h",
    "0s",
    "99999999999999999999s",
    "@daily",
    "@hourly",
    "30 9 * * 1-5 Europe/Berlin",
    "0 0 29 2 *",
    "*/5 * * * *",
    "2026-11-26T12:00:00Z",
    "2026-11-26T12:10:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "-009999-01-02T01:59:59Z",
    "09:00",
    "17:00",
    "23:59",
    "Europe/Berlin",
    "Mars/Base",
    "Mon",
    "sunday",
    "tcp",
    "udp",
    "icmp",
    "192.0.2.7",
    "2001:db8::1",
    "10.0.0.0/8",
    "2001:db8::/32",
    "any:53/udp",
    "10.0.0.0/8:80-90/tcp",
    "eth0",
    "pod-network-loss",
    "random",
    "gilbert",
    "gemodel",
    "state",
    "uid/1",
];

/// Numbers at the ends of ranges.
const NUMBERS: [f64; 14] = [0.0, -0.0, 1e-300, 0.001, 1.0, 4.0, 10.0, 39.999, 40.0, 40.001, 100.0, 100.001, 1e300, -1e300];

/// Whole numbers at the ends of ranges.
const WHOLE: [i128; 14] =
    [0, 1, 2, 3, 10, 100, 101, 65_535, i32::MAX as i128, u32::MAX as i128, i64::MAX as i128, i64::MAX as i128 + 1, u64::MAX as i128, -1];

/// One in so many; never where no bytes are left.
pub fn seldom(bytes: &mut Unstructured<'_>, one_in: u8) -> bool {
    bytes.int_in_range(0..=one_in - 1).unwrap_or(0) == one_in - 1
}

/// One of these.
pub fn pick<'a, T>(bytes: &mut Unstructured<'_>, of: &'a [T]) -> &'a T {
    bytes.choose(of).unwrap_or(&of[0])
}

/// A text that may be any.
pub fn text(bytes: &mut Unstructured<'_>) -> String {
    match bytes.int_in_range(0..=7_u8).unwrap_or(0) {
        0..=3 => (*pick(bytes, &KNOWN)).to_owned(),
        4 | 5 => (*pick(bytes, &ODD)).to_owned(),
        6 => pick(bytes, &ODD).repeat(usize::from(bytes.arbitrary::<u16>().unwrap_or(0)) % 3000),
        _ => String::from_utf8_lossy(bytes.arbitrary::<&[u8]>().unwrap_or_default()).into_owned(),
    }
}

/// A value of anything.
fn anything(bytes: &mut Unstructured<'_>) -> Value {
    match bytes.int_in_range(0..=6_u8).unwrap_or(0) {
        0 => Value::Null,
        1 => json!(seldom(bytes, 2)),
        2 => json!(*pick(bytes, &NUMBERS)),
        3 => whole(bytes),
        4 => json!([text(bytes)]),
        5 => json!({ text(bytes): text(bytes) }),
        _ => json!(text(bytes)),
    }
}

/// The end of a range, or what is just beyond it.
#[allow(clippy::cast_possible_truncation, reason = "the ends of ranges are whole numbers")]
fn edge(of: &Value, bytes: &mut Unstructured<'_>) -> Value {
    let end = of[*pick(bytes, &["minimum", "maximum"])].as_f64().unwrap_or_default();
    json!((end + *pick(bytes, &[0.0, 1.0, -1.0])) as i64)
}

fn whole(bytes: &mut Unstructured<'_>) -> Value {
    let number = *pick(bytes, &WHOLE);
    u64::try_from(number).map_or_else(|_| json!(i64::try_from(number).unwrap_or_default()), |number| json!(number))
}

/// A value that the schema `of`, a part of `root`, asks for; seldom one that it does not.
pub fn value(root: &Value, of: &Value, bytes: &mut Unstructured<'_>) -> Value {
    drawn(root, of, bytes, 0)
}

fn drawn(root: &Value, of: &Value, bytes: &mut Unstructured<'_>, depth: usize) -> Value {
    if depth > DEEPEST || seldom(bytes, 64) {
        return anything(bytes);
    }
    if let Some(only) = of.get("const") {
        return only.clone();
    }
    if let Some(names) = of["enum"].as_array().filter(|names| !names.is_empty()) {
        return pick(bytes, names).clone();
    }
    let mut parts: Vec<&Value> = vec![of];
    if let Some(name) = of["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        parts.extend(root.pointer(name));
    }
    for of_these in ["oneOf", "anyOf"] {
        parts.extend(of[of_these].as_array().filter(|branches| !branches.is_empty()).map(|branches| pick(bytes, branches)));
    }
    if parts.iter().any(|part| part["properties"].is_object()) {
        return object(root, &parts, bytes, depth);
    }
    if let Some(other) = parts.get(1..).and_then(<[_]>::last) {
        return drawn(root, other, bytes, depth + 1);
    }
    match kind(of) {
        Some("string") => json!(text(bytes)),
        Some("boolean") => json!(!seldom(bytes, 2)),
        Some("integer") if of.get("minimum").is_none() || seldom(bytes, 8) => whole(bytes),
        Some("integer" | "number") if seldom(bytes, 4) => edge(of, bytes),
        Some("integer") => json!(bytes.int_in_range(0..=120_u8).unwrap_or(1)),
        Some("number") if seldom(bytes, 2) => json!(f64::from(bytes.arbitrary::<u16>().unwrap_or(10)) / 100.0),
        Some("number") => json!(*pick(bytes, &NUMBERS)),
        Some("array") => {
            let length = bytes.int_in_range(0..=4_u8).unwrap_or(0);
            (0..length).map(|_| drawn(root, &of["items"], bytes, depth + 1)).collect()
        }
        Some("object") => {
            let labels = [("app", "web"), ("tier", "a"), ("app.kubernetes.io/name", "x_y-z.1"), ("", ""), ("a\nb", "c,d"), ("a b", "c")];
            let count = bytes.int_in_range(1..=3_u8).unwrap_or(1);
            let mut fields = Map::new();
            for _ in 0..count {
                let (key, value) = if seldom(bytes, 4) { *pick(bytes, &labels) } else { labels[0] };
                fields.insert(key.to_owned(), json!(value));
            }
            Value::Object(fields)
        }
        Some("null") => Value::Null,
        _ => anything(bytes),
    }
}

/// The first that is named beside null.
fn kind(of: &Value) -> Option<&str> {
    match &of["type"] {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

fn object(root: &Value, parts: &[&Value], bytes: &mut Unstructured<'_>, depth: usize) -> Value {
    let mut fields = Map::new();
    // Schemas that are referred to may refer to others beside their fields.
    let referred: Vec<Value> = parts[1..]
        .iter()
        .filter(|part| part.get("$ref").is_some() || part.get("oneOf").is_some())
        .map(|part| drawn(root, part, bytes, depth + 1))
        .collect();
    for more in referred {
        if let Value::Object(more) = more {
            fields.extend(more);
        }
    }
    for part in parts {
        let required: Vec<&str> = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, schema) in part["properties"].as_object().into_iter().flatten() {
            let is_wanted = if required.contains(&name.as_str()) { !seldom(bytes, 64) } else { seldom(bytes, 3) };
            if is_wanted {
                fields.insert(name.clone(), drawn(root, schema, bytes, depth + 1));
            }
        }
    }
    if seldom(bytes, 32) {
        fields.insert(text(bytes), anything(bytes));
    }
    Value::Object(fields)
}

/// Whether a count or a number is within the limits that the schema has for it.
fn within(of: &Value, least: &str, most: &str, number: f64) -> bool {
    of[least].as_f64().is_none_or(|least| number >= least) && of[most].as_f64().is_none_or(|most| number <= most)
}

/// Why an API server would not take the value for one of this schema; nothing where it would. Rules and patterns are not looked at, but for times.
pub fn complaint(of: &Value, value: &Value) -> Option<String> {
    let no =
        |why: &str| Some(format!("{why}: {value} is not {}", json!({ "type": of["type"], "format": of["format"], "enum": of["enum"] })));
    let fits = match value {
        Value::String(text) => within(of, "minLength", "maxLength", text.chars().count() as f64),
        Value::Array(values) => within(of, "minItems", "maxItems", values.len() as f64),
        Value::Object(fields) => within(of, "minProperties", "maxProperties", fields.len() as f64),
        Value::Number(number) => within(of, "minimum", "maximum", number.as_f64().unwrap_or_default()),
        Value::Null | Value::Bool(_) => true,
    };
    if !fits {
        return no("out of range");
    }
    if of.get("enum").and_then(Value::as_array).is_some_and(|names| !names.contains(value)) {
        return no("another name");
    }
    match (kind(of), value) {
        (Some("object"), Value::Object(fields)) => {
            let required = of["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(missing) = { required }.find(|name| !fields.contains_key(*name)) {
                return no(&format!("{missing} is missing"));
            }
            let known = |name: &String| of["properties"].get(name).or(of.get("additionalProperties"));
            fields.iter().find_map(|(name, value)| match known(name) {
                Some(schema) => complaint(schema, value).map(|why| format!("{name}: {why}")),
                None if of.get("properties").is_some() => Some(format!("{name}: it would be dropped")),
                None => None,
            })
        }
        (Some("array"), Value::Array(values)) => values.iter().find_map(|value| complaint(&of["items"], value)),
        (Some("string"), Value::String(text)) if of["format"] == "date-time" => {
            let is_time = text.len() >= 20 && text.as_bytes()[0].is_ascii_digit() && text.parse::<jiff::Timestamp>().is_ok();
            if is_time { None } else { no("no time") }
        }
        (None, _) | (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (Some("number"), Value::Number(_)) => None,
        (Some("integer"), Value::Number(number)) => match number.as_i64() {
            Some(small) if of["format"] != "int32" || i32::try_from(small).is_ok() => None,
            _ => no("too large"),
        },
        _ => no("another type"),
    }
}
