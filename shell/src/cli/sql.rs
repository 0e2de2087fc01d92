//! `base-ha sql`: a small shell over `POST /query`.
//!
//! Decides how statements are gathered from lines and how results look. The
//! session's position is kept, so that it reads its own writes at any node.

use super::client::{Answer, Client};
use super::table;
use serde_json::{Value, json};
use std::ffi::CString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Aligned columns.
    Table,
    /// The answer as it came.
    Json,
}

/// One session with one node.
struct Session<'a, W> {
    client: &'a Client,
    mode: Mode,
    /// The position seen so far, sent along with every request.
    position: Option<String>,
    out: W,
    failed: bool,
}

/// What a line asks of the shell.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Sql(&'a str),
    Tables,
    Schema(Option<&'a str>),
    Mode(&'a str),
    Help,
    Quit,
    Unknown(&'a str),
}

const HELP: &str = "\
A statement ends with a semicolon and may span lines.
.tables            tables and views
.schema [TABLE]    how they were created
.mode table|json   how results look
.quit              end (so does end-of-file)";

/// Runs `statements`, or what standard input holds if there are none.
pub(super) fn run(client: &Client, mode: Mode, statements: &[String]) -> ExitCode {
    let mut session = Session { client, mode, position: None, out: io::stdout().lock(), failed: false };
    let result = match statements {
        [] => session.read(io::stdin().lock(), io::stdin().is_terminal()),
        given => given.iter().try_for_each(|sql| session.execute(sql)),
    };
    match result {
        Ok(()) if !session.failed => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        // The reader of the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => super::fail(&error.to_string()),
    }
}

impl<W: Write> Session<'_, W> {
    fn read(&mut self, mut input: impl BufRead, person: bool) -> io::Result<()> {
        if person {
            writeln!(self.out, "connected to {}; .help for help, .quit to end", self.client.url())?;
        }
        let mut pending = String::new();
        loop {
            if person {
                write!(self.out, "{}", if pending.is_empty() { "base> " } else { " ...> " })?;
                self.out.flush()?;
            }
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                break;
            }
            if pending.is_empty() {
                match understand(&line) {
                    Line::Sql(text) => {
                        if text.trim().is_empty() {
                            continue;
                        }
                    }
                    Line::Quit => return Ok(()),
                    order => {
                        self.order(order)?;
                        continue;
                    }
                }
            }
            pending.push_str(&line);
            if is_complete(&pending) {
                self.execute(&std::mem::take(&mut pending))?;
            }
        }
        // The last statement of a file may lack its semicolon.
        if !pending.trim().is_empty() { self.execute(&pending) } else { Ok(()) }
    }

    fn order(&mut self, order: Line<'_>) -> io::Result<()> {
        let own = "name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_ha\\_%' ESCAPE '\\'";
        match order {
            Line::Tables => self.execute(&format!(
                "SELECT name, type FROM sqlite_schema WHERE type IN ('table','view') AND {own} ORDER BY name"
            )),
            Line::Schema(None) => self
                .schema(&format!("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND {own} ORDER BY rowid"), &[]),
            Line::Schema(Some(table)) => self.schema(
                "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name = ?1 ORDER BY rowid",
                &[table],
            ),
            Line::Mode("json") => {
                self.mode = Mode::Json;
                Ok(())
            }
            Line::Mode("table") => {
                self.mode = Mode::Table;
                Ok(())
            }
            Line::Mode(other) => {
                self.complain(&format!("there is no mode {other:?}: use table or json"));
                Ok(())
            }
            Line::Help => writeln!(self.out, "{HELP}"),
            Line::Unknown(word) => {
                self.complain(&format!("{word} is not known: .help lists what is"));
                Ok(())
            }
            Line::Sql(_) | Line::Quit => Ok(()),
        }
    }

    /// Prints one statement a line, without a header.
    fn schema(&mut self, sql: &str, params: &[&str]) -> io::Result<()> {
        let Some(answer) = self.ask(&json!({"sql": sql, "params": params})) else { return Ok(()) };
        for row in answer.json()["rows"].as_array().into_iter().flatten() {
            writeln!(self.out, "{};", row[0].as_str().unwrap_or_default())?;
        }
        Ok(())
    }

    fn execute(&mut self, sql: &str) -> io::Result<()> {
        let Some(answer) = self.ask(&json!({"sql": sql.trim()})) else { return Ok(()) };
        if self.mode == Mode::Json {
            self.out.write_all(&answer.body)?;
            return writeln!(self.out);
        }
        let body = answer.json();
        match body["results"].as_array() {
            Some(results) => results.iter().try_for_each(|result| self.show(result)),
            None => self.show(&body),
        }
    }

    /// Sends one request; tells what is wrong on standard error.
    fn ask(&mut self, body: &Value) -> Option<Answer> {
        let bytes = body.to_string();
        let mut headers = vec![("Content-Type", "application/json")];
        if let Some(position) = &self.position {
            headers.push(("X-Base-Txseq", position));
        }
        let answer = match self.client.request("POST", "/query", &headers, bytes.as_bytes()) {
            Ok(answer) => answer,
            Err(error) => {
                self.complain(&error.to_string());
                return None;
            }
        };
        if let Some(position) = answer.header("x-base-txseq") {
            self.position = Some(position.to_string());
        }
        if answer.status == 200 {
            return Some(answer);
        }
        self.complain(&super::error_text(&answer));
        None
    }

    fn complain(&mut self, text: &str) {
        // What was printed so far comes first when both go to one terminal.
        let _ = self.out.flush();
        super::complain(&format!("error: {text}"));
        self.failed = true;
    }

    fn show(&mut self, result: &Value) -> io::Result<()> {
        let columns: Vec<&str> = result["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if columns == ["rows_affected", "last_insert_id"] {
            let affected = result["rows"][0][0].as_i64().unwrap_or_default();
            return writeln!(self.out, "ok, {affected} {}", if affected == 1 { "row" } else { "rows" });
        }
        if columns.is_empty() {
            return writeln!(self.out, "ok");
        }
        let rows: Vec<Vec<String>> = result["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| row.as_array().into_iter().flatten().map(cell).collect())
            .collect();
        for line in table::lines(&columns, &rows) {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out, "({} {})", rows.len(), if rows.len() == 1 { "row" } else { "rows" })
    }
}

/// A value as a person reads it; what is neither text nor number stays JSON.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn understand(line: &str) -> Line<'_> {
    let text = line.trim();
    if !text.starts_with('.') {
        return Line::Sql(line);
    }
    let mut words = text.split_whitespace();
    match (words.next().unwrap_or_default(), words.next()) {
        (".tables", _) => Line::Tables,
        (".schema", table) => Line::Schema(table),
        (".mode", mode) => Line::Mode(mode.unwrap_or_default()),
        (".help", _) => Line::Help,
        (".quit" | ".exit", _) => Line::Quit,
        (other, _) => Line::Unknown(other),
    }
}

/// Whether the text ends with a complete statement, by SQLite's own rules: a
/// semicolon within a string, comment or trigger body does not count.
fn is_complete(sql: &str) -> bool {
    let Ok(text) = CString::new(sql) else { return true };
    // SAFETY: the text ends with NUL, lives through the call and is only read.
    unsafe { rusqlite::ffi::sqlite3_complete(text.as_ptr()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_sqlite_says() {
        assert!(is_complete("SELECT 1;") && is_complete("SELECT 1; -- done\n"));
        assert!(!is_complete("SELECT 1") && !is_complete("SELECT ';") && !is_complete("/* ; "));
        let trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES(1);";
        assert!(!is_complete(trigger));
        assert!(is_complete(&format!("{trigger} END;")));
    }

    #[test]
    fn orders_begin_with_a_dot() {
        assert_eq!(understand(".tables\n"), Line::Tables);
        assert_eq!(understand(" .schema t"), Line::Schema(Some("t")));
        assert_eq!(understand(".exit"), Line::Quit);
        assert_eq!(understand(".drop"), Line::Unknown(".drop"));
        assert_eq!(understand("SELECT .5;"), Line::Sql("SELECT .5;"));
    }

    #[test]
    fn results_are_aligned() {
        let client = Client::new("http://127.0.0.1:1").expect("legal");
        let mut session =
            Session { client: &client, mode: Mode::Table, position: None, out: Vec::new(), failed: false };
        let result = json!({"columns": ["id", "text"], "rows": [[1, "a"], [10, null]]});
        session.show(&result).expect("memory");
        session.show(&json!({"columns": ["rows_affected", "last_insert_id"], "rows": [[1, 7]]})).expect("memory");
        let text = String::from_utf8(session.out).expect("text");
        assert_eq!(text, "id  text\n 1  a\n10  NULL\n(2 rows)\nok, 1 row\n");
    }
}
