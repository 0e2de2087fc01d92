//! SQL values as JSON, both ways, without losing a bit.
//!
//! Decides how a request's body is read ([`parse_request`]) and how an answer
//! is written ([`ResultWriter`]). Knows nothing of HTTP, and never runs SQL.
//!
//! # Values
//!
//! | SQLite | JSON | in a request also |
//! |---|---|---|
//! | NULL | `null` | |
//! | INTEGER | a number without fraction and exponent | `true` is 1, `false` is 0 |
//! | REAL | a number with fraction or exponent, shortest form that reads back as the same double (`1.0`, `-0.0`, `1e300`) | |
//! | REAL ±infinity | `{"$real":"inf"}`, `{"$real":"-inf"}` | `{"$real":"1e3"}`: any decimal |
//! | TEXT | a string | |
//! | TEXT that is not UTF-8 | `{"$text_base64":"…"}` | |
//! | BLOB | `{"$blob":"…"}`, standard base64 with padding | |
//!
//! An integer outside -2^63..2^63-1 is refused with 422 rather than rounded,
//! and so are NaN (SQLite would store NULL), a decimal that overflows a
//! double, and any other object or array: JSON that is meant as text is sent
//! as a string.
//!
//! # Request
//!
//! `{"sql":"…","params":{…}|[…]}`, or an array of such objects, which is one
//! transaction. `params` may be missing or `null`. Unknown and repeated fields
//! are refused by name. How parameters find their places is `store::bind`'s
//! matter.
//!
//! # Answer
//!
//! One statement: `{"columns":[…],"rows":[[…],…]}`. A statement that returns
//! no columns (a write without `RETURNING`, DDL) answers
//! `{"columns":["rows_affected","last_insert_id"],"rows":[[n,id]]}`.
//! An array: `{"results":[{"columns":…,"rows":…},…]}`, one result for each
//! statement, in order. If the text of a body that is one object holds several
//! statements, the answer has `results` for all of them and, beside it,
//! `columns` and `rows` of the last, so that whoever sent an object always
//! finds those two.

mod answer;
mod request;

pub use answer::ResultWriter;
pub(crate) use answer::{write_string, write_value};
pub use request::{Parsed, parse_request};
