//! What `base-ha dev` shows: a live picture on a terminal, plain lines
//! elsewhere.
//!
//! Decides looks only.

use super::super::status::{self, Row};
use super::super::table;
use super::child::Child;
use super::home::Home;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// Notes kept on a terminal.
const NOTES_MAX: usize = 5;

/// What was shown so far.
pub(super) struct Screen {
    live: bool,
    home: String,
    started: Instant,
    /// Lines of the picture on the terminal, to be drawn over.
    height: usize,
    notes: Vec<String>,
    /// On a pipe: what each node's line last said.
    told: Vec<String>,
    /// On a pipe: the writer's process as it was last shown.
    shown: Option<u32>,
}

impl Screen {
    pub(super) fn new(home: &Home) -> Self {
        Self {
            live: io::stdout().is_terminal(),
            home: home.dir().display().to_string(),
            started: Instant::now(),
            height: 0,
            notes: Vec::new(),
            told: Vec::new(),
            shown: None,
        }
    }

    /// Something that happened.
    pub(super) fn note(&mut self, text: &str) {
        let text = format!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64());
        if !self.live {
            super::super::say(&text);
            return;
        }
        self.notes.push(text);
        let surplus = self.notes.len().saturating_sub(NOTES_MAX);
        self.notes.drain(..surplus);
        self.paint_notes();
    }

    /// Draws the picture.
    pub(super) fn draw(&mut self, rows: &[Row], children: &[Child], writer: Option<usize>, born: bool) {
        let lines = picture(rows, children);
        if !self.live {
            self.tell(rows, children, writer, born);
            return;
        }
        let mut text = vec![format!("base-ha: {} nodes, data in {}", children.len(), self.home), String::new()];
        text.extend(lines);
        text.push(String::new());
        if born {
            text.extend(to_copy(children, writer));
        } else {
            text.push("waiting for the first writer ...".into());
        }
        text.push(String::new());
        text.push("Ctrl-C stops all nodes; the data stays for the next run.".into());
        self.paint(&text);
        self.paint_notes();
    }

    /// Draws over the last picture, below which the notes stand.
    fn paint(&mut self, lines: &[String]) {
        let mut out = String::new();
        if self.height > 0 {
            out.push_str(&format!("\x1b[{}A\r\x1b[J", self.height));
        }
        for line in lines {
            out.push_str(&format!("{line}\x1b[K\n"));
        }
        let width = terminal_width();
        self.height = lines.iter().map(|line| rows_of(line, width)).sum();
        emit(&out);
    }

    fn paint_notes(&mut self) {
        // Notes are a part of the picture: they are drawn with it, below it.
        if self.height == 0 || self.notes.is_empty() {
            return;
        }
        let mut out = String::from("\n");
        for note in &self.notes {
            out.push_str(&format!("{note}\x1b[K\n"));
        }
        // Back to below the picture, where the next one starts from.
        let width = terminal_width();
        let rows: usize = self.notes.iter().map(|note| rows_of(note, width)).sum();
        out.push_str(&format!("\x1b[{}A", rows + 1));
        emit(&out);
    }

    /// On a pipe: a line whenever a node's part, term or state changes.
    fn tell(&mut self, rows: &[Row], children: &[Child], writer: Option<usize>, born: bool) {
        self.told.resize(rows.len(), String::new());
        for (n, cells) in status::cells(rows).iter().enumerate() {
            let line = format!("{}: {} term {} {} {}", cells[0], cells[1], cells[2], cells[5], cells[6]);
            let line = if cells[1] == "-" { format!("{}: {}", cells[0], cells[5]) } else { line };
            // The countdown to a restart is not news.
            let news = line.split(", starts again").next().unwrap_or(&line).to_string();
            if self.told[n] != news {
                self.told[n] = news;
                self.note(&line);
            }
        }
        let writes = writer.and_then(|n| children.get(n)).map(Child::pid);
        if born && writes.is_some() && self.shown != writes {
            // The first two hold for as long as it runs; the process to kill is
            // another one each time.
            let known = if self.shown.is_some() { 2 } else { 0 };
            self.shown = writes;
            for line in to_copy(children, writer).iter().skip(known) {
                super::super::say(line);
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live && self.height > 0 {
            emit(&"\n".repeat(self.notes.len() + 1));
        }
    }
}

fn emit(text: &str) {
    let mut out = io::stdout().lock();
    let _a_terminal_that_went_away = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The terminal's columns. It may be resized at any moment: then one picture
/// is drawn askew.
fn terminal_width() -> usize {
    // Some terminals don't know their size and say 0.
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// How many of the terminal's rows a line takes: long ones wrap.
fn rows_of(line: &str, width: usize) -> usize {
    line.chars().count().div_ceil(width).max(1)
}

fn picture(rows: &[Row], children: &[Child]) -> Vec<String> {
    let mut header = status::HEADER.to_vec();
    header.push("PID");
    let mut cells = status::cells(rows);
    for (row, child) in cells.iter_mut().zip(children) {
        row.push(if child.down_for().is_some() { "-".into() } else { child.pid().to_string() });
    }
    table::lines(&header, &cells)
}

/// Three lines to copy: write, read elsewhere, kill the writer.
fn to_copy(children: &[Child], writer: Option<usize>) -> Vec<String> {
    let Some(first) = children.first() else { return Vec::new() };
    let other = children.last().unwrap_or(first);
    let kill = match writer.and_then(|n| children.get(n)) {
        Some(child) => format!("kill -9 {}", child.pid()),
        None => "(there is no writer just now)".into(),
    };
    let sql = "CREATE TABLE IF NOT EXISTS notes(text); INSERT INTO notes VALUES(datetime())";
    vec![
        format!("write           curl {}/query -d '{{\"sql\":\"{sql}\"}}'", first.url()),
        format!("read elsewhere  curl {}/query -d '{{\"sql\":\"SELECT * FROM notes\"}}'", other.url()),
        format!("kill the writer {kill}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_several_rows() {
        assert_eq!((rows_of("", 80), rows_of(&"x".repeat(80), 80), rows_of(&"x".repeat(81), 80)), (1, 1, 2));
    }
}
