//! The optional TOML file: flat keys of the settings table, one a line.
//!
//! Decides which keys and types are legal and on which line each stands.
//! What a value means is `validate`'s business.

use super::settings::{SETTINGS, nearest};
use super::sources::{Fault, Origin, Raw};
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Reads the text of a settings file.
///
/// # Errors
/// Every [`Fault`] found: bad TOML, unknown keys, values that are not texts,
/// numbers, booleans or lists of texts.
pub fn parse(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Raw>, Vec<Fault>> {
    let shown = path.display().to_string();
    let fault = |what: &str, at: usize, value: Option<String>, problem: String, mend: String| Fault {
        setting: what.into(),
        origin: Origin::File { path: shown.clone(), line: line_of(text, at) },
        value,
        problem,
        mend,
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let problem = format!("this is not TOML: {}", error.message());
            return Err(vec![fault("the file", at, None, problem, "write one `key = \"value\"` a line".into())]);
        }
    };
    let mut values = BTreeMap::new();
    let mut faults = Vec::new();
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        let at = key.span().start;
        let Some(setting) = SETTINGS.iter().find(|s| s.key() == name) else {
            let mend = match nearest(name, SETTINGS.iter().map(|s| s.key())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`base-ha serve --help` lists the settings; a file key is the flag with _ for -".into(),
            };
            faults.push(fault(name, at, None, "there is no such setting".into(), mend));
            continue;
        };
        match scalar(value.get_ref()) {
            Some(text) => {
                let origin = fault("", at, None, String::new(), String::new()).origin;
                values.insert(setting.name, Raw { text, origin });
            }
            None => faults.push(fault(
                name,
                at,
                None,
                "its value has the wrong type".into(),
                format!("write {name} = \"{}\"", setting.value),
            )),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

/// The text of a value that a flag could carry as well.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_)
                    | DeValue::Table(_) => None,
                })
                .collect();
            Some(texts?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<&'static str, Raw>, Vec<Fault>> {
        parse(Path::new("base.toml"), text)
    }

    #[test]
    fn values_know_their_line() {
        let values = read("# a node\nhttp = \"127.0.0.1:1\"\n\npeers = [\"http://a:1\", \"http://b:1\"]\nmax_rows = 10\nwitness = true\n")
            .expect("legal");
        assert_eq!(values["peers"].text, "http://a:1,http://b:1");
        assert_eq!(values["peers"].origin, Origin::File { path: "base.toml".into(), line: 4 });
        assert_eq!(values["max-rows"].text, "10");
        assert_eq!(values["witness"].text, "true");
    }

    #[test]
    fn unknown_keys_are_errors_with_the_nearest_name() {
        let faults = read("http = \"127.0.0.1:1\"\nheartbeet = \"1s\"\n").expect_err("a misspelt key");
        let text = faults[0].to_string();
        assert!(text.contains("base.toml line 2") && text.contains("did you mean `heartbeat`?"), "{text}");
    }

    #[test]
    fn wrong_types_and_bad_toml_are_errors() {
        assert!(read("[http]\nport = 1\n").is_err());
        assert!(read("peers = [1, 2]\n").is_err());
        let faults = read("http = \"a\"\nhttp = \n").expect_err("not TOML");
        assert!(faults[0].to_string().contains("not TOML"), "{}", faults[0]);
    }
}
