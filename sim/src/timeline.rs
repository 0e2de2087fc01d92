//! A run to look at: who said what to whom, who was what when, what went wrong.
//!
//! Decides what is worth a line. It is kept only when asked for; as text it has
//! a column a node, as a page (`page.html`) a line a node and an arrow a frame.

use crate::clock::TrueTime;
use crate::plan::Fault;
use serde::Serialize;
use std::fmt::Write;

/// What a frame is, for who looks at it.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// When it left, in microseconds.
    pub at: u64,
    /// From this machine.
    pub from: usize,
    /// To this one.
    pub to: usize,
    /// When it arrives, in microseconds; nothing if it is lost.
    pub arrives: Option<u64>,
    /// The message's name.
    pub kind: &'static str,
    /// Under this term.
    pub term: u64,
    /// What else it says.
    pub detail: String,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its part, as one word.
    pub part: &'static str,
    /// Its term.
    pub term: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What its data contains.
    pub applied: u64,
}

/// Something at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Note {
    /// When, in microseconds.
    pub at: u64,
    /// Of which machine; nothing if of all.
    pub host: Option<usize>,
    /// How it is drawn.
    pub kind: &'static str,
    /// In words.
    pub text: String,
    /// Until when a fault lasts, in microseconds.
    pub until: Option<u64>,
}

/// Everything that was kept of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timeline {
    /// What was run.
    pub title: String,
    /// The machines' names.
    pub hosts: Vec<String>,
    /// Frames, in order of leaving.
    pub said: Vec<Said>,
    /// Changes of standing, by machine, with their moment.
    pub standings: Vec<(u64, usize, Standing)>,
    /// Everything else.
    pub notes: Vec<Note>,
}

fn micros(at: TrueTime) -> u64 {
    at.0 / 1000
}

impl Timeline {
    /// A frame leaves.
    pub fn said(&mut self, at: TrueTime, arrives: Option<TrueTime>, said: Said) {
        self.said.push(Said { at: micros(at), arrives: arrives.map(micros), ..said });
    }

    /// A frame is lost where it should arrive now.
    pub fn cut(&mut self, from: usize, to: usize, at: TrueTime) {
        let lost = self.said.iter_mut().rev().find(|s| (s.from, s.to, s.arrives) == (from, to, Some(micros(at))));
        if let Some(said) = lost {
            said.arrives = None;
        }
    }

    /// A node is this from now on.
    pub fn stands(&mut self, at: TrueTime, host: usize, standing: Standing) {
        let before = self.standings.iter().rev().find(|(_, h, _)| *h == host);
        if before.is_none_or(|(_, _, before)| *before != standing) {
            self.standings.push((micros(at), host, standing));
        }
    }

    /// Something happens to a machine, or to all.
    pub fn note(&mut self, at: TrueTime, host: Option<usize>, kind: &'static str, text: String) {
        self.notes.push(Note { at: micros(at), host, kind, text, until: None });
    }

    /// Something goes wrong, while `writer` writes.
    pub fn fault(&mut self, at: TrueTime, writer: Option<usize>, fault: &Fault) {
        // A plan is plain data: how long and where are read from it by name, so
        // that a new kind of fault is drawn as well.
        let data = serde_json::to_value(fault).unwrap_or_default();
        let fields = data.as_object().and_then(|o| o.values().next());
        let number = |name: &str| fields.and_then(|f| f.get(name)).and_then(serde_json::Value::as_u64);
        let periods = number("period_ms").zip(number("times")).map(|(ms, times)| 2 * ms * times);
        // Of a jump it is how far, not how long.
        let lasts = !matches!(fault, Fault::WallJump { .. });
        let ms = number("ms").or(number("down_ms")).or(periods).filter(|_| lasts);
        let target = fields.and_then(|f| f.get("target"));
        let target = target.and_then(|t| if t == "Writer" { writer } else { t["Host"].as_u64().map(|n| n as usize) });
        let named = number("host").and_then(|host| usize::try_from(host).ok());
        self.notes.push(Note {
            at: micros(at),
            host: target.or(named),
            kind: "fault",
            text: format!("{fault:?}"),
            until: ms.map(|ms| micros(at.plus_ms(ms))),
        });
    }

    /// As text: a line an event, a column a node. What repeats every heartbeat
    /// is left out.
    pub fn text(&self) -> String {
        let mut lines: Vec<(u64, usize, String)> = Vec::new();
        for note in &self.notes {
            let who = note.host.map_or(String::new(), |h| format!("{} ", self.name(h)));
            let until = note.until.map_or(String::new(), |until| format!(" until {}", seconds(until)));
            lines.push((note.at, usize::MAX, format!("{who}{}{until}", note.text)));
        }
        for said in self.said.iter().filter(|said| !matches!(said.kind, "Ping" | "Pong" | "Append" | "Appended")) {
            let fate = said.arrives.map_or("lost".to_owned(), |at| format!("arrives {}", seconds(at)));
            let (from, to) = (self.name(said.from), self.name(said.to));
            lines.push((
                said.at,
                usize::MAX,
                format!("{from} -> {to} {} of term {} {}, {fate}", said.kind, said.term, said.detail),
            ));
        }
        let mut part = vec![("", 0); self.hosts.len()];
        for (n, (at, host, standing)) in self.standings.iter().enumerate() {
            let before = std::mem::replace(&mut part[*host], (standing.part, standing.term));
            let text = if before == part[*host] {
                String::new()
            } else {
                format!("{} is {}", self.name(*host), standing.part)
            };
            lines.push((*at, n, text));
        }
        lines.sort_by_key(|(at, n, _)| (*at, *n));
        let mut cells = vec!["-".to_owned(); self.hosts.len()];
        let mut out = format!("{}\n{:>12}", self.title, "");
        for host in &self.hosts {
            let _ = write!(out, " | {host:<18}");
        }
        out.push('\n');
        for (at, n, text) in lines {
            if let Some((_, host, standing)) = self.standings.get(n) {
                cells[*host] = format!(
                    "{:<9} {:>3} {:>4}",
                    standing.part.chars().take(9).collect::<String>(),
                    standing.term,
                    standing.commit
                );
            }
            if text.is_empty() {
                continue;
            }
            let _ = write!(out, "{:>12}", seconds(at));
            for cell in &cells {
                let _ = write!(out, " | {cell:<18}");
            }
            let _ = writeln!(out, " | {text}");
        }
        out.push_str("columns: part, term, commit index\n");
        out
    }

    /// As a page of its own, for a browser.
    ///
    /// # Errors
    /// None that plain data has.
    pub fn html(&self) -> Result<String, serde_json::Error> {
        // Text comes from nodes: it must not end the script.
        let data = serde_json::to_string(self)?.replace("</", "<\\/");
        Ok(include_str!("timeline/page.html").replace("\"@DATA@\"", &data))
    }

    fn name(&self, host: usize) -> &str {
        self.hosts.get(host).map_or("?", String::as_str)
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}s", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Target;

    fn timeline() -> Timeline {
        let mut line = Timeline { hosts: vec!["n0".into(), "n1".into()], ..Timeline::default() };
        let follower = Standing { part: "Follower", term: 1, commit: 0, applied: 0 };
        line.stands(TrueTime(1_000), 0, follower.clone());
        line.stands(TrueTime(2_000), 0, follower.clone());
        line.stands(TrueTime(3_000), 0, Standing { part: "Writer", term: 2, ..follower });
        let vote = Said { at: 0, from: 0, to: 1, arrives: None, kind: "Vote", term: 2, detail: "</script>".into() };
        line.said(TrueTime(2_500_000), Some(TrueTime(2_900_000)), vote);
        line.fault(TrueTime(5_000), Some(1), &Fault::Isolate { target: Target::Writer, ms: 7 });
        line
    }

    #[test]
    fn what_changes_is_kept_once() {
        assert_eq!(timeline().standings.len(), 2);
    }

    #[test]
    fn a_fault_knows_how_long_it_lasts_and_where() {
        let mut line = timeline();
        assert_eq!((line.notes[0].host, line.notes[0].until), (Some(1), Some(5 + 7000)));
        line.fault(TrueTime(0), None, &Fault::Trim { host: 1 });
        assert_eq!((line.notes[1].host, line.notes[1].until), (Some(1), None));
    }

    #[test]
    fn a_frame_that_is_cut_is_lost() {
        let mut line = timeline();
        line.cut(0, 1, TrueTime(1));
        assert!(line.said[0].arrives.is_some());
        line.cut(0, 1, TrueTime(2_900_000));
        assert!(line.said[0].arrives.is_none());
    }

    #[test]
    fn text_has_a_column_a_node_and_a_page_cannot_be_broken_out_of() {
        let text = timeline().text();
        assert!(text.contains("n0 is Writer") && text.contains("Vote of term 2"), "{text}");
        assert!(
            text.lines().all(|line| line.is_empty() || line.starts_with("columns") || line.contains(" | ")),
            "{text}"
        );
        let page = timeline().html().expect("plain data");
        assert!(page.contains("\"Writer\"") && !page.contains("@DATA@"));
        assert_eq!(page.matches("</script>").count(), 1);
    }
}
