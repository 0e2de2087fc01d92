//! Log lines on standard error, each with the node's name, as text or JSON.
//!
//! Decides their form only; what is logged is everybody's own business.

use crate::config::{LogFormat, Logging};
use base_ha_core::ids::NodeId;
use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging; to be called once a process.
pub fn start(logging: &Logging, node: &NodeId) {
    let filter = EnvFilter::try_new(&logging.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that can't be written, for the disk is full or nobody reads
        // any more, is lost. Its own complaint about that would go to the same
        // place, and end the process.
        .log_internal_errors(false)
        .with_ansi(logging.format == LogFormat::Text && std::io::stderr().is_terminal());
    // A second start, as in tests, keeps the first subscriber.
    let _already = match logging.format {
        LogFormat::Text => {
            let inner = format().compact();
            builder.event_format(Named { inner, node: node.clone(), json: false }).try_init()
        }
        LogFormat::Json => {
            let inner = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            let fields = format::JsonFields::new();
            builder.fmt_fields(fields).event_format(Named { inner, node: node.clone(), json: true }).try_init()
        }
    };
}

/// Puts the node's name into what another format writes, unless the event says
/// it itself: in front of a text, as the first field of an object. A span
/// could not do it: tasks and threads do not inherit one.
struct Named<F> {
    inner: F,
    node: NodeId,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().fields().field("node").is_some() {
            return self.inner.format_event(context, writer, event);
        }
        if !self.json {
            write!(writer, "{} ", self.node)?;
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        // A node id is made of letters, digits, dot, dash and underscore: it
        // needs no escaping.
        match line.strip_prefix('{') {
            Some(rest) => write!(writer, "{{\"node\":\"{}\",{rest}", self.node),
            None => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_lines_name_the_node_once() {
        let memory = Memory::default();
        let writer = memory.clone();
        let inner = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
        let node = NodeId::new("base-0").expect("legal");
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(format::JsonFields::new())
            .event_format(Named { inner, node, json: true })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("plain");
            tracing::info!(node = "base-0", term = 7, "with fields");
        });
        let text = String::from_utf8(memory.0.lock().expect("one thread").clone()).expect("text");
        for line in text.lines() {
            assert_eq!(line.matches("\"node\":\"base-0\"").count(), 1, "{line}");
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
        }
        assert_eq!(text.lines().count(), 2);
    }
}
