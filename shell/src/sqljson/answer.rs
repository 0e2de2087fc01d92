//! An answer's body: rows in, JSON out.
//!
//! Decides the shape of results and their two limits. Writes straight from
//! SQLite's column memory into one buffer.

use crate::error::ApiError;
use crate::store::sqlerror;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rusqlite::types::ValueRef;

/// Writes the body of an answer, result by result.
///
/// Order of calls: for each statement [`ResultWriter::begin`], then
/// [`ResultWriter::row`] for each row; or [`ResultWriter::written`] once.
/// Then [`ResultWriter::finish`].
#[derive(Debug)]
pub struct ResultWriter {
    buffer: Vec<u8>,
    /// The request was an array.
    many: bool,
    /// Results begun.
    results: usize,
    /// Where the last result starts in `buffer`.
    last: usize,
    /// Rows of the result that is open; `None` if none is.
    rows: Option<usize>,
    rows_max: usize,
    bytes_max: usize,
}

/// How an answer with several results starts.
const RESULTS: &[u8] = b"{\"results\":[";

impl ResultWriter {
    /// An empty answer. `many` if the request was an array; `rows_max` bounds
    /// each result, `bytes_max` the whole answer.
    pub fn new(many: bool, rows_max: usize, bytes_max: usize) -> Self {
        let mut buffer = Vec::with_capacity(256.min(bytes_max));
        if many {
            buffer.extend_from_slice(RESULTS);
        }
        Self { buffer, many, results: 0, last: 0, rows: None, rows_max, bytes_max }
    }

    /// Starts the result of the next statement.
    pub fn begin<'a>(&mut self, columns: impl IntoIterator<Item = &'a str>) {
        self.end_result();
        if self.results > 0 {
            self.buffer.push(b',');
        }
        self.results += 1;
        self.last = self.buffer.len();
        self.buffer.extend_from_slice(b"{\"columns\":[");
        for (n, column) in columns.into_iter().enumerate() {
            if n > 0 {
                self.buffer.push(b',');
            }
            write_string(&mut self.buffer, column);
        }
        self.buffer.extend_from_slice(b"],\"rows\":[");
        self.rows = Some(0);
    }

    /// Adds a row to the result that was begun last.
    ///
    /// # Errors
    /// 413 `too_many_rows` or `answer_too_large`; what SQLite says when it
    /// can't hand out a value.
    ///
    /// # Panics
    /// If no result was begun.
    pub fn row(&mut self, row: &rusqlite::Row<'_>) -> Result<(), ApiError> {
        self.open_row()?;
        let count = row.as_ref().column_count();
        for n in 0..count {
            if n > 0 {
                self.buffer.push(b',');
            }
            write_value(&mut self.buffer, row.get_ref(n).map_err(|e| sqlerror::api_error(&e))?);
            self.check_size()?;
        }
        self.buffer.push(b']');
        Ok(())
    }

    /// Adds a row that is not SQLite's; otherwise as [`ResultWriter::row`].
    ///
    /// # Errors
    /// 413 `too_many_rows` or `answer_too_large`.
    ///
    /// # Panics
    /// If no result was begun.
    pub fn values<'a>(&mut self, values: impl IntoIterator<Item = ValueRef<'a>>) -> Result<(), ApiError> {
        self.open_row()?;
        for (n, item) in values.into_iter().enumerate() {
            if n > 0 {
                self.buffer.push(b',');
            }
            write_value(&mut self.buffer, item);
            self.check_size()?;
        }
        self.buffer.push(b']');
        Ok(())
    }

    /// The whole result of a statement that returns no columns.
    pub fn written(&mut self, rows_affected: i64, last_insert_id: i64) {
        self.begin(["rows_affected", "last_insert_id"]);
        self.buffer.push(b'[');
        integer(&mut self.buffer, rows_affected);
        self.buffer.push(b',');
        integer(&mut self.buffer, last_insert_id);
        self.buffer.push(b']');
        self.rows = Some(1);
    }

    /// How many results were begun.
    pub fn results(&self) -> usize {
        self.results
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no result was begun.
    pub fn is_empty(&self) -> bool {
        self.results == 0
    }

    /// The body.
    ///
    /// # Panics
    /// If an answer that is no array has no result: a request without a
    /// statement is refused before it is run.
    pub fn finish(mut self) -> Bytes {
        self.end_result();
        if self.many {
            self.buffer.extend_from_slice(b"]}");
            return Bytes::from(self.buffer);
        }
        assert!(self.results > 0, "an answer without a result");
        if self.results == 1 {
            return Bytes::from(self.buffer);
        }
        // One object whose text held several statements: all results, and the
        // last one's members beside them.
        let last = &self.buffer[self.last + 1..];
        let mut whole = Vec::with_capacity(RESULTS.len() + self.buffer.len() + 2 + last.len());
        whole.extend_from_slice(RESULTS);
        whole.extend_from_slice(&self.buffer);
        whole.extend_from_slice(b"],");
        whole.extend_from_slice(last);
        Bytes::from(whole)
    }

    fn end_result(&mut self) {
        if self.rows.take().is_some() {
            self.buffer.extend_from_slice(b"]}");
        }
    }

    fn open_row(&mut self) -> Result<(), ApiError> {
        let rows = self.rows.as_mut().expect("a row follows begin");
        if *rows == self.rows_max {
            return Err(ApiError::new(
                413,
                "too_many_rows",
                format!(
                    "The result has more than {} rows; nothing was changed. Page through it with LIMIT and a key, or aggregate.",
                    self.rows_max
                ),
            ));
        }
        if *rows > 0 {
            self.buffer.push(b',');
        }
        *rows += 1;
        self.buffer.push(b'[');
        Ok(())
    }

    fn check_size(&self) -> Result<(), ApiError> {
        if self.buffer.len() <= self.bytes_max {
            return Ok(());
        }
        Err(ApiError::new(
            413,
            "answer_too_large",
            format!(
                "The answer is larger than {} bytes; nothing was changed. Ask for fewer rows or columns.",
                self.bytes_max
            ),
        ))
    }
}

/// Writes a value.
pub(crate) fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Integer(n) => integer(out, n),
        ValueRef::Real(real) => real_number(out, real),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => write_string(out, text),
            Err(_) => tagged(out, b"{\"$text_base64\":\"", text),
        },
        ValueRef::Blob(blob) => tagged(out, b"{\"$blob\":\"", blob),
    }
}

fn integer(out: &mut Vec<u8>, n: i64) {
    serde_json::to_writer(out, &n).expect("an integer goes into memory");
}

/// Writes a text as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string goes into memory");
}

fn real_number(out: &mut Vec<u8>, real: f64) {
    if real.is_finite() {
        // Shortest form that reads back as the same bits; it always has a
        // fraction or an exponent, so that it stays a real.
        serde_json::to_writer(out, &real).expect("a number goes into memory");
    } else if real.is_nan() {
        // SQLite makes every NaN a NULL before anybody sees it.
        out.extend_from_slice(b"null");
    } else if real > 0.0 {
        out.extend_from_slice(b"{\"$real\":\"inf\"}");
    } else {
        out.extend_from_slice(b"{\"$real\":\"-inf\"}");
    }
}

fn tagged(out: &mut Vec<u8>, prefix: &[u8], bytes: &[u8]) {
    out.extend_from_slice(prefix);
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room is exactly what base64 needs");
    out.truncate(start + written);
    out.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Params;
    use crate::sqljson::parse_request;
    use base_ha_core::changeset::Value;

    fn written(item: ValueRef<'_>) -> String {
        let mut out = Vec::new();
        write_value(&mut out, item);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn body(writer: ResultWriter) -> String {
        String::from_utf8(writer.finish().to_vec()).expect("JSON is UTF-8")
    }

    #[test]
    fn values_have_one_spelling() {
        for (item, json) in [
            (ValueRef::Null, "null"),
            (ValueRef::Integer(i64::MIN), "-9223372036854775808"),
            (ValueRef::Integer(i64::MAX), "9223372036854775807"),
            (ValueRef::Real(1.0), "1.0"),
            (ValueRef::Real(-0.0), "-0.0"),
            (ValueRef::Real(0.1), "0.1"),
            (ValueRef::Real(f64::INFINITY), r#"{"$real":"inf"}"#),
            (ValueRef::Real(f64::NEG_INFINITY), r#"{"$real":"-inf"}"#),
            (ValueRef::Text(b"a\"\\\n\x01\xc3\xa9"), "\"a\\\"\\\\\\n\\u0001é\""),
            (ValueRef::Text(b"\xff"), r#"{"$text_base64":"/w=="}"#),
            (ValueRef::Blob(b""), r#"{"$blob":""}"#),
            (ValueRef::Blob(&[0, 255, 128, 7]), r#"{"$blob":"AP+ABw=="}"#),
        ] {
            assert_eq!(written(item), json);
        }
    }

    #[test]
    fn shapes() {
        let mut one = ResultWriter::new(false, 10, 1000);
        one.begin(["a", "b\""]);
        one.values([ValueRef::Integer(1), ValueRef::Null]).expect("fits");
        one.values([ValueRef::Integer(2), ValueRef::Text(b"x")]).expect("fits");
        assert_eq!(body(one), r#"{"columns":["a","b\""],"rows":[[1,null],[2,"x"]]}"#);

        let mut write = ResultWriter::new(false, 10, 1000);
        write.written(2, -7);
        assert_eq!(body(write), r#"{"columns":["rows_affected","last_insert_id"],"rows":[[2,-7]]}"#);

        let mut many = ResultWriter::new(true, 10, 1000);
        many.begin(["a"]);
        many.begin(["b"]);
        many.values([ValueRef::Integer(1)]).expect("fits");
        assert_eq!(body(many), r#"{"results":[{"columns":["a"],"rows":[]},{"columns":["b"],"rows":[[1]]}]}"#);

        let mut several = ResultWriter::new(false, 10, 1000);
        several.written(1, 1);
        several.begin(["b"]);
        several.values([ValueRef::Integer(1)]).expect("fits");
        assert_eq!(several.results(), 2);
        assert_eq!(
            body(several),
            concat!(
                r#"{"results":[{"columns":["rows_affected","last_insert_id"],"rows":[[1,1]]},"#,
                r#"{"columns":["b"],"rows":[[1]]}],"columns":["b"],"rows":[[1]]}"#
            )
        );
    }

    #[test]
    fn limits_are_exact() {
        let mut rows = ResultWriter::new(false, 2, 1000);
        rows.begin(["a"]);
        rows.values([ValueRef::Null]).expect("fits");
        rows.values([ValueRef::Null]).expect("fits");
        let error = rows.values([ValueRef::Null]).expect_err("one too many");
        assert_eq!((error.status, error.code), (413, "too_many_rows"));

        let mut bytes = ResultWriter::new(false, 2, 100);
        bytes.begin(["a"]);
        let error = bytes.values([ValueRef::Blob(&[0; 100])]).expect_err("too large");
        assert_eq!((error.status, error.code), (413, "answer_too_large"));
    }

    /// Through SQLite and back: what was sent is what is read.
    fn round_trip(value: &Value) -> Value {
        let connection = rusqlite::Connection::open_in_memory().expect("memory");
        let mut statement = connection.prepare("SELECT ?1").expect("valid");
        crate::store::bind::bind(&mut statement, &Params::Positional(vec![value.clone()])).expect("bound");
        let mut writer = ResultWriter::new(false, 1, 1 << 20);
        writer.begin(["x"]);
        let mut rows = statement.raw_query();
        writer.row(rows.next().expect("runs").expect("a row")).expect("fits");
        let text = body(writer);
        let json =
            text.strip_prefix(r#"{"columns":["x"],"rows":[["#).and_then(|t| t.strip_suffix("]]}")).expect("shape");
        let request = format!("{{\"sql\":\"SELECT ?\",\"params\":[{json}]}}");
        match parse_request(&Bytes::from(request), 1).expect("reads back").statements.remove(0).params {
            Params::Positional(mut values) => values.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_survive_sqlite_and_json() {
        let matrix = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Real(-0.0),
            Value::Real(f64::MIN_POSITIVE),
            Value::Real(5e-324),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text(Bytes::from_static(b"a\0b")),
            Value::Text(Bytes::from_static(b"\xed\xa0\x80")),
            Value::Blob(Bytes::from_static(b"\0\xff")),
            Value::Blob(Bytes::new()),
            Value::Text(Bytes::new()),
        ];
        for value in matrix {
            assert_eq!(round_trip(&value), value);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_finite_real_survives(bits: u64) {
            let real = f64::from_bits(bits);
            if real.is_finite() {
                let json = written(ValueRef::Real(real));
                proptest::prop_assert!(json.contains(['.', 'e']), "{} reads as an integer", json);
                proptest::prop_assert_eq!(json.parse::<f64>().expect("a number").to_bits(), bits);
            }
        }

        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let text = Value::Text(bytes.clone());
            proptest::prop_assert_eq!(round_trip(&text), text);
            let blob = Value::Blob(bytes);
            proptest::prop_assert_eq!(round_trip(&blob), blob);
        }
    }
}
