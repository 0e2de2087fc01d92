//! A request's body: JSON in, statements out.
//!
//! Decides what is well-formed and which numbers are exact. One pass over the
//! body; values that need no unescaping are slices of it.

use crate::api::{Params, Statement};
use crate::error::ApiError;
use base_ha_core::changeset::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

/// A request's body, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What to run, in order; at least one.
    pub statements: Vec<Statement>,
    /// The body was an array: one transaction, answered as `results`.
    pub many: bool,
}

/// Reads the body of `POST /query`. Texts and blobs of the result may share
/// the body's memory.
///
/// # Errors
/// 400 `bad_json` (where and why), 400 `no_queries`, 413
/// `too_many_statements`, 422 `bad_value` (which parameter and why).
pub fn parse_request(body: &Bytes, statements_max: usize) -> Result<Parsed, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|e| bad_json(format!("The body is not UTF-8 from byte {} on.", e.valid_up_to())))?;
    if text.trim_ascii().is_empty() {
        return Err(no_queries());
    }
    let context = Context { body, statements_max, error: RefCell::new(None) };
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = BodySeed(&context).deserialize(&mut json).and_then(|parsed| json.end().map(|()| parsed));
    let parsed = match (parsed, context.error.into_inner()) {
        (_, Some(error)) => return Err(error),
        (Err(error), None) => return Err(bad_json(format!("The body is not a query in JSON: {error}."))),
        (Ok(parsed), None) => parsed,
    };
    if parsed.statements.is_empty() {
        return Err(no_queries());
    }
    Ok(parsed)
}

fn bad_json(message: String) -> ApiError {
    ApiError::new(400, "bad_json", message)
}

fn no_queries() -> ApiError {
    ApiError::new(
        400,
        "no_queries",
        "no queries found: send {\"sql\":\"...\",\"params\":[...]} or an array of such objects",
    )
}

/// What every level of the body needs. An error that has a code of its own is
/// left in `error`; serde is then told to stop with a message nobody reads.
struct Context<'b> {
    body: &'b Bytes,
    statements_max: usize,
    error: RefCell<Option<ApiError>>,
}

impl Context<'_> {
    fn stop<E: serde::de::Error>(&self, error: ApiError) -> E {
        *self.error.borrow_mut() = Some(error);
        E::custom("stopped")
    }

    /// A text that stands in the body as it is, without a copy.
    fn share(&self, text: &str) -> Bytes {
        self.body.slice_ref(text.as_bytes())
    }
}

struct BodySeed<'c, 'b>(&'c Context<'b>);

impl<'de> DeserializeSeed<'de> for BodySeed<'_, '_> {
    type Value = Parsed;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Parsed, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_, '_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"sql\" and \"params\", or an array of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parsed, A::Error> {
        let statement = StatementSeed(self.0).visit_map(map)?;
        Ok(Parsed { statements: vec![statement], many: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parsed, A::Error> {
        let mut statements = Vec::new();
        while let Some(statement) = seq.next_element_seed(StatementSeed(self.0))? {
            if statements.len() == self.0.statements_max {
                return Err(self.0.stop(ApiError::new(
                    413,
                    "too_many_statements",
                    format!(
                        "One request holds at most {} statements; nothing was done. Send several requests.",
                        self.0.statements_max
                    ),
                )));
            }
            statements.push(statement);
        }
        Ok(Parsed { statements, many: true })
    }
}

struct StatementSeed<'c, 'b>(&'c Context<'b>);

impl<'de> DeserializeSeed<'de> for StatementSeed<'_, '_> {
    type Value = Statement;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Statement, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StatementSeed<'_, '_> {
    type Value = Statement;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"sql\" and \"params\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Statement, A::Error> {
        let mut sql: Option<String> = None;
        let mut params: Option<Params> = None;
        while let Some(TextOf(name)) = map.next_key::<TextOf<'de>>()? {
            match name.as_ref() {
                "sql" if sql.is_none() => sql = Some(map.next_value()?),
                "params" if params.is_none() => params = Some(map.next_value_seed(ParamsSeed(self.0))?),
                "sql" | "params" => return Err(A::Error::custom(format!("the field \"{name}\" is there twice"))),
                _ => {
                    return Err(A::Error::custom(format!("unknown field \"{name}\", expected \"sql\" or \"params\"")));
                }
            }
        }
        let Some(sql) = sql.filter(|sql| !sql.trim_ascii().is_empty()) else {
            return Err(self.0.stop(no_queries()));
        };
        // SQLite takes a NUL for the end of the text: what follows would be
        // dropped without a word.
        if sql.as_bytes().contains(&0) {
            return Err(self.0.stop(ApiError::new(400, "bad_sql", "The SQL text holds a NUL character.")));
        }
        Ok(Statement { sql, params: params.unwrap_or_default() })
    }
}

struct ParamsSeed<'c, 'b>(&'c Context<'b>);

impl<'de> DeserializeSeed<'de> for ParamsSeed<'_, '_> {
    type Value = Params;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Params, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ParamsSeed<'_, '_> {
    type Value = Params;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, an array or null as \"params\"")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Params, E> {
        Ok(Params::None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Params, A::Error> {
        let mut values = Vec::new();
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            let value = value(self.0, raw.get())
                .map_err(|why| self.0.stop::<A::Error>(why.into_error(&format_args!("number {}", values.len() + 1))))?;
            values.push(value);
        }
        Ok(if values.is_empty() { Params::None } else { Params::Positional(values) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
        let mut values = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let raw: &'de RawValue = map.next_value()?;
            let value = value(self.0, raw.get())
                .map_err(|why| self.0.stop::<A::Error>(why.into_error(&format_args!("\"{name}\""))))?;
            values.push((name, value));
        }
        Ok(if values.is_empty() { Params::None } else { Params::Named(values) })
    }
}

/// A string, borrowed where it holds no escapes.
struct TextOf<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for TextOf<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = TextOf<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<TextOf<'de>, E> {
                Ok(TextOf(Cow::Borrowed(text)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TextOf<'de>, E> {
                Ok(TextOf(Cow::Owned(text.to_owned())))
            }
        }
        json.deserialize_str(TextVisitor)
    }
}

/// Why a parameter's JSON is no SQL value.
enum Bad {
    /// Well-formed, but no value: 422.
    Value(String),
    /// A string that JSON does not allow (a lone surrogate): 400.
    Json(String),
}

impl Bad {
    fn into_error(self, which: &dyn fmt::Display) -> ApiError {
        match self {
            Self::Value(why) => ApiError::new(422, "bad_value", format!("Parameter {which}: {why}")),
            Self::Json(why) => bad_json(format!("Parameter {which} is not JSON: {why}.")),
        }
    }
}

/// The value that a scalar or a tagged object stands for. It is taken from
/// its text because a JSON number's type is in its spelling: `1` and `1.0`
/// are different values here, and 2^63 must not become a rounded double.
fn value(context: &Context<'_>, raw: &str) -> Result<Value, Bad> {
    match raw.as_bytes().first() {
        Some(b'n') => Ok(Value::Null),
        Some(b't') => Ok(Value::Integer(1)),
        Some(b'f') => Ok(Value::Integer(0)),
        Some(b'"') => match text(raw)? {
            Cow::Borrowed(text) => Ok(Value::Text(context.share(text))),
            Cow::Owned(text) => Ok(Value::Text(Bytes::from(text))),
        },
        Some(b'{') => tagged(raw),
        Some(b'[') => Err(Bad::Value("an array is no SQL value; send it as a string of JSON.".into())),
        _ => number(raw),
    }
}

/// Unescapes a JSON string, quotes included. The text was checked by the
/// parser already, except for what its escapes mean.
fn text(raw: &str) -> Result<Cow<'_, str>, Bad> {
    let inner = &raw[1..raw.len() - 1];
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str(raw).map(Cow::Owned).map_err(|e| Bad::Json(e.to_string()))
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

fn number(raw: &str) -> Result<Value, Bad> {
    if raw.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        return real(raw);
    }
    raw.parse().map(Value::Integer).map_err(|_| {
        Bad::Value(format!("{} is outside the integers of SQLite, -2^63 to 2^63-1. Send it as text.", shorten(raw)))
    })
}

fn real(text: &str) -> Result<Value, Bad> {
    let real: f64 = text.parse().map_err(|_| Bad::Value(format!("\"{}\" is no decimal number.", shorten(text))))?;
    if real.is_infinite() {
        return Err(Bad::Value(format!("{} is larger than any double; send {{\"$real\":\"inf\"}}.", shorten(text))));
    }
    Ok(Value::Real(real))
}

fn shorten(text: &str) -> Cow<'_, str> {
    if text.chars().count() <= 40 {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().take(40).chain("...".chars()).collect())
}

fn tagged(raw: &str) -> Result<Value, Bad> {
    let tags = "{\"$blob\":\"base64\"}, {\"$text_base64\":\"base64\"} or {\"$real\":\"inf\"}";
    let Ok(Tagged { tag, content }) = serde_json::from_str::<Tagged<'_>>(raw) else {
        return Err(Bad::Value(format!("an object is no SQL value, unless it is {tags}.")));
    };
    let bytes = |what: &str| {
        STANDARD.decode(content.as_bytes()).map(Bytes::from).map_err(|e| Bad::Value(format!("{what}: {e}.")))
    };
    match tag.as_ref() {
        "$blob" => bytes("the blob is not base64").map(Value::Blob),
        "$text_base64" => bytes("the text is not base64").map(Value::Text),
        "$real" => match content.as_ref() {
            "inf" => Ok(Value::Real(f64::INFINITY)),
            "-inf" => Ok(Value::Real(f64::NEG_INFINITY)),
            "nan" => Err(Bad::Value("SQLite has no NaN, it would store NULL; send null.".into())),
            decimal if decimal.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) => {
                real(decimal)
            }
            other => Err(Bad::Value(format!("\"{}\" is no decimal number.", shorten(other)))),
        },
        tag => Err(Bad::Value(format!("\"{}\" is no known tag; use {tags}.", shorten(tag)))),
    }
}

/// An object with one member that is a string.
struct Tagged<'de> {
    tag: Cow<'de, str>,
    content: Cow<'de, str>,
}

impl<'de> serde::Deserialize<'de> for Tagged<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct TaggedVisitor;
        impl<'de> Visitor<'de> for TaggedVisitor {
            type Value = Tagged<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one tag")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tagged<'de>, A::Error> {
                let Some((TextOf(tag), TextOf(content))) = map.next_entry()? else {
                    return Err(A::Error::custom("no tag"));
                };
                if map.next_key::<TextOf<'de>>()?.is_some() {
                    return Err(A::Error::custom("more than one tag"));
                }
                Ok(Tagged { tag, content })
            }
        }
        json.deserialize_map(TaggedVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Parsed, ApiError> {
        parse_request(&Bytes::copy_from_slice(body.as_bytes()), 3)
    }

    fn params(body: &str) -> Params {
        parse(body).expect("well-formed").statements.remove(0).params
    }

    fn one(json: &str) -> Result<Value, ApiError> {
        let mut parsed = parse(&format!("{{\"sql\":\"SELECT ?\",\"params\":[{json}]}}"))?;
        match parsed.statements.remove(0).params {
            Params::Positional(mut values) if values.len() == 1 => Ok(values.remove(0)),
            other => panic!("one value, not {other:?}"),
        }
    }

    fn refused(body: &str) -> (u16, &'static str, String) {
        let error = parse(body).expect_err("to be refused");
        (error.status, error.code, error.message)
    }

    fn text(t: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(t.as_bytes()))
    }

    #[test]
    fn an_object_is_one_statement_and_an_array_is_many() {
        let parsed = parse(r#" {"params":{":a":1,"b":"x"},"sql":"SELECT :a, :b"} "#).expect("well-formed");
        assert!(!parsed.many);
        assert_eq!(parsed.statements.len(), 1);
        assert_eq!(parsed.statements[0].sql, "SELECT :a, :b");
        assert_eq!(
            parsed.statements[0].params,
            Params::Named(vec![(":a".into(), Value::Integer(1)), ("b".into(), text("x"))])
        );
        let parsed = parse(r#"[{"sql":"SELECT 1"},{"sql":"SELECT ?","params":[null]}]"#).expect("well-formed");
        assert!(parsed.many);
        assert_eq!(parsed.statements[0].params, Params::None);
        assert_eq!(parsed.statements[1].params, Params::Positional(vec![Value::Null]));
        assert!(parse(r#"[{"sql":"SELECT 1"}]"#).expect("well-formed").many);
    }

    #[test]
    fn no_parameters_in_any_form_are_none() {
        for form in ["", r#","params":null"#, r#","params":[]"#, r#","params":{}"#] {
            assert_eq!(params(&format!("{{\"sql\":\"SELECT 1\"{form}}}")), Params::None);
        }
    }

    #[test]
    fn type_matrix_roundtrip() {
        let blob = |b: &[u8]| Value::Blob(Bytes::copy_from_slice(b));
        let matrix = [
            ("null", Value::Null),
            ("true", Value::Integer(1)),
            ("false", Value::Integer(0)),
            ("0", Value::Integer(0)),
            ("-0", Value::Integer(0)),
            ("9007199254740993", Value::Integer(9_007_199_254_740_993)),
            ("9223372036854775807", Value::Integer(i64::MAX)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            ("1.0", Value::Real(1.0)),
            ("-0.0", Value::Real(-0.0)),
            ("1e2", Value::Real(100.0)),
            ("5e-324", Value::Real(5e-324)),
            ("1.7976931348623157e308", Value::Real(f64::MAX)),
            (r#""""#, text("")),
            (r#""a\"b\\c\u0000d\ud83d\ude00é""#, text("a\"b\\c\0d😀é")),
            (r#"{"$blob":""}"#, blob(b"")),
            (r#"{"$blob":"AP+A"}"#, blob(&[0, 255, 128])),
            (r#"{"$text_base64":"/w=="}"#, Value::Text(Bytes::from_static(&[255]))),
            (r#"{"$real":"inf"}"#, Value::Real(f64::INFINITY)),
            (r#"{"$real":"-inf"}"#, Value::Real(f64::NEG_INFINITY)),
            (r#"{"$real":"-0.0"}"#, Value::Real(-0.0)),
            (r#"{"$real":"3"}"#, Value::Real(3.0)),
        ];
        for (json, value) in matrix {
            assert_eq!(one(json).expect(json), value, "{json}");
        }
    }

    #[test]
    fn what_can_not_be_kept_exactly_is_refused() {
        for json in [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "1E400000000",
            "[1]",
            "{}",
            r#"{"a":1}"#,
            r#"{"$blob":1}"#,
            r#"{"$blob":"!"}"#,
            r#"{"$blob":"AA"}"#,
            r#"{"$blob":"","$real":"1"}"#,
            r#"{"$real":"nan"}"#,
            r#"{"$real":"infinity"}"#,
            r#"{"$real":""}"#,
            r#"{"$real":"1e999"}"#,
            r#"{"$other":"x"}"#,
        ] {
            let error = one(json).expect_err(json);
            assert_eq!((error.status, error.code), (422, "bad_value"), "{json}");
            assert!(error.message.starts_with("Parameter number 1:"), "{}", error.message);
        }
        let (_, code, message) = refused(r#"{"sql":"SELECT :x","params":{"x":[]}}"#);
        assert_eq!(code, "bad_value");
        assert!(message.contains("\"x\""), "{message}");
    }

    #[test]
    fn what_is_not_a_query_is_refused_with_its_place() {
        for body in [
            "{",
            "SELECT 1",
            "1",
            "null",
            r#"{"sql":1}"#,
            r#"{"sql":"SELECT 1"} x"#,
            r#"{"sql":"SELECT 1","params":5}"#,
            r#"{"sql":"SELECT 1","params":[01]}"#,
            r#"{"sql":"SELECT 1","params":[NaN]}"#,
            r#"{"sql":"SELECT 1","params":["\ud800"]}"#,
            r#"[["SELECT 1"]]"#,
            "{\"sql\":\"SELECT\n1\"}",
        ] {
            let (status, code, _) = refused(body);
            assert_eq!((status, code), (400, "bad_json"), "{body}");
        }
        let (_, code, message) = refused(r#"{"sql":"SELECT 1","parms":[]}"#);
        assert_eq!(code, "bad_json");
        assert!(message.contains("\"parms\"") && message.contains("line 1"), "{message}");
        let (_, _, message) = refused(r#"{"sql":"SELECT 1","sql":"SELECT 2"}"#);
        assert!(message.contains("twice"), "{message}");
        let error = parse_request(&Bytes::from_static(b"{\"sql\":\"\xff\"}"), 3).expect_err("to be refused");
        assert_eq!((error.status, error.code), (400, "bad_json"));
    }

    #[test]
    fn nothing_to_do_is_refused() {
        for body in ["", "  ", "[]", "{}", r#"{"sql":" "}"#, r#"{"params":[1]}"#, r#"[{"sql":"SELECT 1"},{"sql":""}]"#]
        {
            let (status, code, message) = refused(body);
            assert_eq!((status, code), (400, "no_queries"), "{body}");
            assert!(message.starts_with("no queries found"));
        }
        assert_eq!(refused(r#"{"sql":"SELECT 1\u0000; DELETE FROM t"}"#).1, "bad_sql");
    }

    #[test]
    fn too_many_statements_are_refused() {
        let body = |n: usize| format!("[{}]", vec![r#"{"sql":"SELECT 1"}"#; n].join(","));
        assert_eq!(parse(&body(3)).expect("within the limit").statements.len(), 3);
        let (status, code, _) = refused(&body(4));
        assert_eq!((status, code), (413, "too_many_statements"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse_request(&Bytes::from(bytes), 3);
        }

        #[test]
        fn any_text_is_kept(content: String) {
            let json = serde_json::to_string(&content).expect("a string");
            proptest::prop_assert_eq!(one(&json).expect("a value"), text(&content));
        }

        #[test]
        fn any_integer_is_kept(n: i64) {
            proptest::prop_assert_eq!(one(&n.to_string()).expect("a value"), Value::Integer(n));
        }

        #[test]
        fn any_finite_real_is_kept(bits: u64) {
            let real = f64::from_bits(bits);
            if real.is_finite() {
                let json = format!("{real:?}");
                proptest::prop_assert_eq!(one(&json).expect("a value"), Value::Real(real));
            }
        }
    }
}
