//! Columns of text, aligned.
//!
//! Decides widths only.

use std::fmt::Write;

/// Joins rows into lines whose columns are aligned; numbers to the right,
/// texts to the left. Each line ends without blanks.
pub(super) fn lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width_of = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = header.iter().map(|h| width_of(h)).collect();
    for row in rows {
        for (n, cell) in row.iter().enumerate().take(widths.len()) {
            widths[n] = widths[n].max(width_of(cell));
        }
    }
    let numeric: Vec<bool> = (0..header.len())
        .map(|n| !rows.is_empty() && rows.iter().all(|row| row.get(n).is_some_and(|cell| is_number(cell))))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (n, cell) in cells.enumerate().take(widths.len()) {
            let padding = " ".repeat(widths[n].saturating_sub(width_of(cell)));
            let _ = if numeric[n] { write!(out, "{padding}{cell}  ") } else { write!(out, "{cell}{padding}  ") };
        }
        out.trim_end().to_string()
    };
    let mut out = vec![line(&mut header.iter().copied())];
    out.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    out
}

fn is_number(text: &str) -> bool {
    text == "-" || (!text.is_empty() && text.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "100".into()]];
        assert_eq!(lines(&["name", "n"], &rows), ["name    n", "a       1", "long  100"]);
        assert_eq!(lines(&["x"], &[]), ["x"]);
        let ragged = vec![vec!["a".into()], vec!["b".into(), "2".into(), "3".into()]];
        assert_eq!(lines(&["p", "q"], &ragged), ["p  q", "a", "b  2"]);
    }
}
