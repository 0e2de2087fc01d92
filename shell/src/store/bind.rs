//! A request's parameters and the places they go to.
//!
//! Decides which parameter belongs to which place of which statement. Knows
//! nothing of where the values came from.
//!
//! * A parameter **object** binds by name: the key `x`, `:x`, `@x`, `$x` or
//!   `?x` fits the place `:x`, `@x` or `$x`, and the key `1` the place `?1` or
//!   `$1`.
//! * A parameter **array** binds by number: `?3` and `$3` (which SQLite takes
//!   for a name) are its third value in every statement of the text; each `?`
//!   takes the next value, counted through all statements of the text.
//!
//! SQLite numbers places from 1 to the highest, so `SELECT ?3` has three, and
//! tells a skipped number from a plain `?` to nobody: each wants a value.
//!
//! A place without a value, a value without a place and a name that is there
//! twice are refused: a misspelt name must not become NULL.

use crate::api::Params;
use crate::error::ApiError;
use base_ha_core::changeset::Value;
use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, ValueRef};
use serde_json::json;

/// Binds the parameters of a text that is one statement.
///
/// # Errors
/// 422 `missing_parameter`, `unknown_parameter`, `too_many_parameters` or
/// `duplicate_parameter`; nothing is to be run then.
pub fn bind(statement: &mut impl Places, params: &Params) -> Result<(), ApiError> {
    let mut binder = Binder::new(params)?;
    binder.bind(statement)?;
    binder.finish()
}

/// Binds the parameters of a text that may hold several statements: call
/// [`Binder::bind`] for each in order, then [`Binder::finish`].
#[derive(Debug)]
pub struct Binder<'p> {
    params: &'p Params,
    /// For a list: values that `?` of earlier statements have taken.
    taken: usize,
    /// For a list: the highest place used so far.
    reached: usize,
    /// For names: which were used.
    used: Vec<bool>,
}

impl<'p> Binder<'p> {
    /// Starts before the first statement.
    ///
    /// # Errors
    /// 422 `duplicate_parameter`.
    pub fn new(params: &'p Params) -> Result<Self, ApiError> {
        let used = match params {
            Params::Named(named) => {
                check_names(named)?;
                vec![false; named.len()]
            }
            Params::None | Params::Positional(_) => Vec::new(),
        };
        Ok(Self { params, taken: 0, reached: 0, used })
    }

    /// Binds every place of `statement`.
    ///
    /// # Errors
    /// 422 `missing_parameter`, 413 `too_big`.
    pub fn bind(&mut self, statement: &mut impl Places) -> Result<(), ApiError> {
        let count = statement.parameter_count();
        if count == 0 {
            return Ok(());
        }
        match self.params {
            Params::None => Err(missing(statement.parameter_name(1).unwrap_or("number 1"))),
            Params::Positional(values) => self.bind_list(statement, count, values),
            Params::Named(named) => self.bind_names(statement, count, named),
        }
    }

    /// Checks that every value found a place.
    ///
    /// # Errors
    /// 422 `unknown_parameter` or `too_many_parameters`.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.params {
            Params::None => Ok(()),
            Params::Positional(values) if values.len() <= self.reached => Ok(()),
            Params::Positional(values) => Err(ApiError::new(
                422,
                "too_many_parameters",
                format!("The statement has places for {} parameters, and {} were sent.", self.reached, values.len()),
            )),
            Params::Named(named) => match self.used.iter().position(|used| !used) {
                None => Ok(()),
                Some(n) => Err(ApiError::new(
                    422,
                    "unknown_parameter",
                    format!("The statement has no place for the parameter \"{}\".", named[n].0),
                )
                .with_data(json!({ "parameter": named[n].0 }))),
            },
        }
    }

    fn bind_list(&mut self, statement: &mut impl Places, count: usize, values: &[Value]) -> Result<(), ApiError> {
        let mut anonymous = 0;
        for index in 1..=count {
            let place = match statement.parameter_name(index) {
                Some(name) => match number(name) {
                    Some(place) => place,
                    None => return Err(missing(name)),
                },
                None => {
                    anonymous = index;
                    self.taken + index
                }
            };
            let Some(value) = place.checked_sub(1).and_then(|n| values.get(n)) else {
                return Err(missing(&format!("number {place}")));
            };
            bind_value(statement, index, value)?;
            self.reached = self.reached.max(place);
        }
        self.taken += anonymous;
        Ok(())
    }

    fn bind_names(
        &mut self,
        statement: &mut impl Places,
        count: usize,
        named: &[(String, Value)],
    ) -> Result<(), ApiError> {
        for index in 1..=count {
            let found = match statement.parameter_name(index) {
                Some(name) => match named.iter().position(|(key, _)| bare(key) == &name[1..]) {
                    Some(found) => found,
                    None => return Err(missing(name)),
                },
                // A plain `?`, or a number that was skipped: nothing but its
                // number can name it.
                None => match named.iter().position(|(key, _)| number_of(bare(key)) == Some(index)) {
                    Some(found) => found,
                    None => return Err(missing(&format!("number {index}"))),
                },
            };
            bind_value(statement, index, &named[found].1)?;
            self.used[found] = true;
        }
        Ok(())
    }
}

/// The place in a list that `?3` or `$3` means.
fn number(name: &str) -> Option<usize> {
    number_of(&name[1..])
}

fn number_of(digits: &str) -> Option<usize> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if all { digits.parse().ok() } else { None }
}

/// A key without its sigil.
fn bare(key: &str) -> &str {
    key.strip_prefix([':', '@', '$', '?']).unwrap_or(key)
}

fn check_names(named: &[(String, Value)]) -> Result<(), ApiError> {
    let mut names: Vec<&str> = named.iter().map(|(key, _)| bare(key)).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            Err(ApiError::new(422, "duplicate_parameter", format!("The parameter \"{}\" is there twice.", pair[0]))
                .with_data(json!({ "parameter": pair[0] })))
        }
    }
}

fn missing(place: &str) -> ApiError {
    ApiError::new(422, "missing_parameter", format!("The statement's parameter {place} has no value."))
        .with_data(json!({ "parameter": place }))
}

fn bind_value(statement: &mut impl Places, index: usize, value: &Value) -> Result<(), ApiError> {
    statement.put(index, value)
}

/// A prepared statement as binding sees it: numbered places, some with names.
pub trait Places {
    /// How many there are.
    fn parameter_count(&self) -> usize;
    /// The name of one, from 1, with its sigil.
    fn parameter_name(&self, index: usize) -> Option<&str>;
    /// Puts a value there.
    ///
    /// # Errors
    /// 413 `too_big`.
    fn put(&mut self, index: usize, value: &Value) -> Result<(), ApiError>;
}

impl Places for Statement<'_> {
    fn parameter_count(&self) -> usize {
        Statement::parameter_count(self)
    }

    fn parameter_name(&self, index: usize) -> Option<&str> {
        Statement::parameter_name(self, index)
    }

    fn put(&mut self, index: usize, value: &Value) -> Result<(), ApiError> {
        self.raw_bind_parameter(index, ToSqlOutput::Borrowed(value_ref(value)))
            .map_err(|e| super::sqlerror::api_error(&e))
    }
}

/// The same value as SQLite's.
pub fn value_ref(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Integer(n) => ValueRef::Integer(*n),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(text) => ValueRef::Text(text),
        Value::Blob(blob) => ValueRef::Blob(blob),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rusqlite::Connection;
    use rusqlite::fallible_iterator::FallibleIterator;

    fn list(values: &[i64]) -> Params {
        Params::Positional(values.iter().map(|n| Value::Integer(*n)).collect())
    }

    fn names(values: &[(&str, i64)]) -> Params {
        Params::Named(values.iter().map(|(key, n)| ((*key).to_owned(), Value::Integer(*n))).collect())
    }

    /// The rows of all statements of a text, one after the other.
    fn run(sql: &str, params: &Params) -> Result<Vec<Option<i64>>, &'static str> {
        let connection = Connection::open_in_memory().expect("memory");
        let mut binder = Binder::new(params).map_err(|e| e.code)?;
        let mut batch = rusqlite::Batch::new(&connection, sql);
        let mut found = Vec::new();
        while let Some(mut statement) = batch.next().expect("valid") {
            binder.bind(&mut statement).map_err(|e| e.code)?;
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().expect("runs") {
                for n in 0..columns {
                    found.push(row.get(n).expect("a number"));
                }
            }
        }
        binder.finish().map_err(|e| e.code)?;
        Ok(found)
    }

    fn numbers(values: &[i64]) -> Result<Vec<Option<i64>>, &'static str> {
        Ok(values.iter().map(|n| Some(*n)).collect())
    }

    #[test]
    fn lists_bind_by_place() {
        assert_eq!(run("SELECT ?, ?", &list(&[1, 2])), numbers(&[1, 2]));
        assert_eq!(run("SELECT ?2, ?1", &list(&[1, 2])), numbers(&[2, 1]));
        assert_eq!(run("SELECT ?3", &list(&[1, 2, 3])), numbers(&[3]));
        // SQLite numbers $2 first here, for it takes both for names.
        assert_eq!(run("SELECT $2, $1, $2", &list(&[1, 2])), numbers(&[2, 1, 2]));
    }

    #[test]
    fn names_bind_with_and_without_sigil() {
        assert_eq!(run("SELECT :a, @b, $c", &names(&[("a", 1), ("@b", 2), ("$c", 3)])), numbers(&[1, 2, 3]));
        assert_eq!(run("SELECT :a, @a, $a", &names(&[(":a", 1)])), numbers(&[1, 1, 1]));
        assert_eq!(run("SELECT ?1, $2", &names(&[("1", 1), ("?2", 2)])), numbers(&[1, 2]));
        assert_eq!(run("SELECT ?3", &names(&[("3", 3), ("1", 1), ("2", 2)])), numbers(&[3]));
        assert_eq!(run("SELECT ?, ?2", &names(&[("1", 1), ("2", 2)])), numbers(&[1, 2]));
    }

    #[test]
    fn several_statements_share_the_parameters() {
        assert_eq!(run("SELECT ?; SELECT ?, ?", &list(&[1, 2, 3])), numbers(&[1, 2, 3]));
        assert_eq!(run("SELECT $1; SELECT $1, $2", &list(&[1, 2])), numbers(&[1, 1, 2]));
        assert_eq!(run("SELECT :a; SELECT :b, :a", &names(&[("a", 1), ("b", 2)])), numbers(&[1, 2, 1]));
        assert_eq!(run("SELECT 7; SELECT ?", &list(&[1])), numbers(&[7, 1]));
        assert_eq!(run("SELECT ?; SELECT ?", &list(&[1])), Err("missing_parameter"));
        assert_eq!(run("SELECT ?; SELECT ?", &list(&[1, 2, 3])), Err("too_many_parameters"));
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(run("SELECT ?", &Params::None), Err("missing_parameter"));
        assert_eq!(run("SELECT :a", &Params::None), Err("missing_parameter"));
        assert_eq!(run("SELECT ?, ?", &list(&[1])), Err("missing_parameter"));
        assert_eq!(run("SELECT ?, ?2", &names(&[("2", 2)])), Err("missing_parameter"));
        assert_eq!(run("SELECT ?3", &names(&[("3", 3)])), Err("missing_parameter"));
        assert_eq!(run("SELECT $2", &list(&[1])), Err("missing_parameter"));
        assert_eq!(run("SELECT $0", &list(&[1])), Err("missing_parameter"));
        assert_eq!(run("SELECT :a", &list(&[1])), Err("missing_parameter"));
        assert_eq!(run("SELECT ?", &names(&[("a", 1)])), Err("missing_parameter"));
        assert_eq!(run("SELECT :a", &names(&[("A", 1)])), Err("missing_parameter"));
        assert_eq!(run("SELECT :a", &names(&[("a", 1), ("b", 2)])), Err("unknown_parameter"));
        assert_eq!(run("SELECT 1", &names(&[("b", 2)])), Err("unknown_parameter"));
        assert_eq!(run("SELECT ?", &list(&[1, 2])), Err("too_many_parameters"));
        assert_eq!(run("SELECT 1", &list(&[1])), Err("too_many_parameters"));
        assert_eq!(run("SELECT :a", &names(&[(":a", 1), ("@a", 2)])), Err("duplicate_parameter"));
    }

    #[test]
    fn every_type_arrives_as_itself() {
        let connection = Connection::open_in_memory().expect("memory");
        for (value, kind) in [
            (Value::Null, "null"),
            (Value::Integer(1), "integer"),
            (Value::Real(1.0), "real"),
            (Value::Text(Bytes::from_static(b"\xff")), "text"),
            (Value::Blob(Bytes::from_static(b"x")), "blob"),
        ] {
            let mut statement = connection.prepare("SELECT typeof(?)").expect("valid");
            bind(&mut statement, &Params::Positional(vec![value])).expect("bound");
            let mut rows = statement.raw_query();
            let row = rows.next().expect("runs").expect("a row");
            assert_eq!(row.get::<_, String>(0).expect("text"), kind);
        }
    }
}
