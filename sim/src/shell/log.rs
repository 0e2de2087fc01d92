//! What nodes log.
//!
//! Decides which lines of a run are kept, and who said them: the host whose
//! turn it is, as turmoil's span tells.

use super::env::lock;
use super::record::Recorder;
use crate::clock::TrueTime;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What nodes said that a run goes by, and who said it.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    errors: Vec<(String, String)>,
    slow: Vec<String>,
}

/// Whether a writer said that it leaves the pin to others for a long time,
/// because of its disk: no status tells that.
fn found_slow(message: &str, fields: &str) -> bool {
    message.starts_with("this writer's disk makes every write slow")
        || message == "stepped down" && fields.contains(" reason=SlowDisk")
}

impl Heard {
    /// Takes the ERROR lines that came since: host and text.
    pub fn take_errors(&self) -> Vec<(String, String)> {
        std::mem::take(&mut lock(&self.0).errors)
    }

    /// Takes the hosts that found since that their disk is slow.
    pub fn take_slow(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0).slow)
    }
}

/// Listens to one thread's run.
pub struct Listener {
    recorder: Recorder,
    heard: Heard,
    now: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names of spans, by id - 1.
    names: Vec<String>,
    /// The spans that are entered.
    inside: Vec<usize>,
}

impl Listener {
    /// Tells `recorder` every line if it records, and `heard` what a run goes by.
    /// `now` is true time at the step's begin, in nanoseconds.
    pub fn new(recorder: Recorder, heard: Heard, now: Arc<AtomicU64>) -> Self {
        Self { recorder, heard, now, state: Mutex::default() }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return metadata.name() == "node" && metadata.target().starts_with("turmoil");
        }
        metadata.target().starts_with("base_ha") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut text = Text::default();
        attributes.record(&mut text);
        let name = text.name.unwrap_or_default();
        let mut state = lock(&self.state);
        // Turmoil makes a span a turn: hosts are few, turns are many.
        let at = match state.names.iter().position(|known| *known == name) {
            Some(at) => at,
            None => {
                state.names.push(name);
                state.names.len() - 1
            }
        };
        Id::from_u64(at as u64 + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let host = {
            let state = lock(&self.state);
            state.inside.last().and_then(|at| state.names.get(*at)).cloned().unwrap_or_default()
        };
        let level = *event.metadata().level();
        self.recorder.line(
            TrueTime(self.now.load(Ordering::Relaxed)),
            &host,
            format_args!("{level} {}{}", text.message, text.fields),
        );
        if level == Level::ERROR {
            lock(&self.heard.0).errors.push((host, format!("{}{}", text.message, text.fields)));
        } else if found_slow(&text.message, &text.fields) {
            lock(&self.heard.0).slow.push(host);
        }
    }

    fn enter(&self, id: &Id) {
        lock(&self.state).inside.push(id.into_u64() as usize - 1);
    }

    fn exit(&self, _: &Id) {
        lock(&self.state).inside.pop();
    }
}

#[derive(Default)]
struct Text {
    name: Option<String>,
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "name" => self.name = Some(value.to_owned()),
            "message" => self.message = value.to_owned(),
            other => {
                let _ = write!(self.fields, " {other}={value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            other => write!(self.fields, " {other}={value:?}"),
        };
    }
}
