//! Texts from clients and from people: tokens, bodies of SQL, settings.
//!
//! Decides that nothing is believed that was not sealed, that whatever a
//! request changes at the writer a replica holds as well, and that every fault
//! of a setting names it.

use super::replica::Replica;
use base_ha::api::WriteError;
use base_ha::config::Secret;
use base_ha::config::sources::{Given, Sources};
use base_ha::config::validate::settle;
use base_ha::sqljson::parse_request;
use base_ha::token::{Keys, Presented};
use base_ha_core::token::Token;
use bytes::Bytes;

/// A session token: as text that a client presents, and as a body behind a MAC
/// that is right.
///
/// # Panics
/// If a text is believed that was never sealed, or a token changes on its way.
pub fn token(data: &[u8]) {
    let keys = Keys::new(&[Secret::new("a secret of the cluster")], [0; 32]);
    if let Ok(text) = std::str::from_utf8(data) {
        let opened = keys.open(text);
        assert!(!matches!(opened, Ok(Presented::Sealed(_))), "believed, and never sealed: {text:?}");
    }
    if let Ok(token) = Token::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(
            token.encode().expect("few streams").as_ref(),
            data,
            "a token that is not written like this was read"
        );
        let text = keys.seal(&token).expect("few streams");
        assert!(text.len() <= Token::TEXT_MAX, "a token that no cookie holds");
        assert_eq!(keys.open(&text), Ok(Presented::Sealed(token)), "a token changed on its way");
    }
}

/// A body of `POST /query`, run by a writer, its effects applied by a replica.
///
/// # Panics
/// If an error has no code or a wrong status, if a request that was not done
/// changed something, or if writer and replica differ.
pub fn sql_body(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let parsed = match parse_request(&body, 100) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!((400..=422).contains(&error.status), "bad input is the client's: {error:?}");
            assert!(!error.code.is_empty(), "an error without a code: {error:?}");
            return;
        }
    };
    assert!((1..=100).contains(&parsed.statements.len()), "a request of no or too many statements");
    run(parsed);
}

/// Whether it logged something.
fn run(parsed: base_ha::sqljson::Parsed) -> bool {
    let (mut writer, mut replica) = (Replica::filled(), Replica::filled());
    let (before, content) = (writer.position, writer.content);
    let (answer, entry) = writer.write(parsed.statements, parsed.many);
    match answer {
        Some(Ok(answer)) => {
            let json: Result<serde_json::Value, _> = serde_json::from_slice(&answer.body);
            assert!(json.is_ok(), "an answer that is not JSON");
        }
        Some(Err(WriteError::Sql(error))) => {
            assert!((400..=504).contains(&error.status), "an error that is a success: {error:?}");
            assert!(!error.code.is_empty(), "an error without a code: {error:?}");
            assert!(entry.is_none(), "an error, and yet something was logged: {error:?}");
        }
        Some(Err(WriteError::Unknown)) => panic!("nothing is unknown here"),
        Some(Err(WriteError::Refused(refusal, _))) => panic!("this node writes: {refusal}"),
        None => panic!("no answer"),
    }
    let logged = entry.is_some();
    match entry {
        Some(entry) => {
            assert_eq!(writer.position, entry.position(), "what was logged was not committed");
            replica.apply(entry);
        }
        None => assert_eq!((writer.position, writer.content), (before, content), "nothing was logged, and yet"),
    }
    assert_eq!(replica.position, writer.position, "the replica could not apply it");
    assert_eq!(replica.content, writer.content, "writer and replica differ");
    let said = writer.content;
    assert_eq!(writer.recount(), said, "the running content hash is not that of the writer's rows");
    assert_eq!(replica.recount(), said, "the running content hash is not that of the replica's rows");
    logged
}

/// A settings file.
///
/// # Panics
/// If a fault does not name its setting or its mend.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let given = Given { file: Some(("base-ha.toml".into(), text.to_owned())), ..Given::default() };
    let faults = match Sources::gather(given).and_then(|sources| settle(&sources)) {
        Ok(settled) => {
            assert!(settled.config.core.lease >= settled.config.core.heartbeat * 2, "a lease that is too short");
            return;
        }
        Err(faults) => faults,
    };
    assert!(!faults.is_empty(), "refused without a fault");
    for fault in faults {
        assert!(!fault.setting.is_empty() && !fault.problem.is_empty() && !fault.mend.is_empty(), "{fault:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_body_that_writes_reaches_the_replica() {
        let body = Bytes::from_static(br#"{"sql":"INSERT INTO t(a, b) VALUES(?1, ?2)","params":["x",1.5]}"#);
        assert!(run(parse_request(&body, 100).expect("sound")));
    }

    #[test]
    fn of_the_samples_of_settings_some_hold_and_some_do_not() {
        let held = samples::configs().iter().filter(|text| {
            let given = Given { file: Some(("f".into(), (**text).to_owned())), ..Given::default() };
            Sources::gather(given).and_then(|sources| settle(&sources)).is_ok()
        });
        let held = held.count();
        assert!(held > 0 && held < samples::configs().len(), "{held} hold");
    }
}
