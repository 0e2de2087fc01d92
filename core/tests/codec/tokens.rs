//! Read tokens.

use crate::make;
use base_ha_core::ids::{ClusterId, Lineage, Seq, StreamId, Term};
use base_ha_core::position::Positions;
use base_ha_core::token::{BadPosition, Token, TokenTooLarge};
use base_ha_core::wire::DecodeError;
use bytes::Bytes;
use proptest::prelude::*;

fn token() -> impl Strategy<Value = Token> {
    let positions = prop::collection::btree_map(
        any::<u128>().prop_map(StreamId),
        make::number().prop_map(Seq),
        0..=Token::STREAMS_MAX,
    );
    (any::<u128>(), make::number(), make::number(), positions).prop_map(|(cluster, lineage, term, positions)| Token {
        cluster: ClusterId(cluster),
        lineage: Lineage(lineage),
        term: Term(term),
        positions,
    })
}

proptest! {
    #[test]
    fn every_token_is_read_back(token in token()) {
        let body = token.encode().expect("few enough streams");
        for n in 0..body.len() {
            prop_assert!(Token::decode(body.slice(..n)).is_err());
        }
        prop_assert_eq!(Token::decode(body), Ok(token));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(token) = Token::decode(bytes.clone()) {
            prop_assert_eq!(token.encode(), Ok(bytes));
        }
    }

    #[test]
    fn arbitrary_texts_never_panic(text in any::<String>()) {
        let _ = Token::parse_bare(&text);
    }
}

fn with_streams(n: usize) -> Token {
    Token {
        lineage: Lineage(u64::MAX),
        term: Term(u64::MAX),
        positions: (0..n).map(|i| (StreamId(u128::MAX - i as u128), Seq(u64::MAX))).collect(),
        ..Token::default()
    }
}

#[test]
fn the_longest_token_fits_into_a_cookie() {
    let body = with_streams(Token::STREAMS_MAX).encode().expect("fits");
    let text = (body.len() + Token::MAC_LENGTH).div_ceil(3) * 4;
    assert!(text <= Token::TEXT_MAX, "{text} characters");
    assert_eq!(with_streams(Token::STREAMS_MAX + 1).encode(), Err(TokenTooLarge { streams: Token::STREAMS_MAX + 1 }));
}

#[test]
fn streams_are_named_once_and_in_order() {
    let two = Token { positions: Positions::from([(StreamId(1), Seq(1)), (StreamId(2), Seq(1))]), ..Token::default() };
    let mut body = two.encode().expect("fits").to_vec();
    let second = body.len() - 17;
    body[second] = 1;
    assert_eq!(Token::decode(Bytes::from(body)), Err(DecodeError::Unordered { what: "streams" }));
}

#[test]
fn a_token_of_another_release_is_named() {
    let mut body = Token::default().encode().expect("fits").to_vec();
    body[0] = 2;
    assert_eq!(Token::decode(Bytes::from(body)), Err(DecodeError::UnknownVersion { got: 2, supported: 1 }));
}

#[test]
fn a_bare_number_is_a_position() {
    assert_eq!(Token::parse_bare("0"), Ok(Some(Seq(0))));
    assert_eq!(Token::parse_bare("0042"), Ok(Some(Seq(42))));
    assert_eq!(Token::parse_bare("18446744073709551615"), Ok(Some(Seq(u64::MAX))));
    assert_eq!(Token::parse_bare("18446744073709551616"), Err(BadPosition::Overflow));
    assert_eq!(Token::parse_bare(&"9".repeat(400)), Err(BadPosition::Overflow));
    assert_eq!(Token::parse_bare(""), Err(BadPosition::Empty));
    for other in ["-1", "+1", "1.0", " 1", "AQAA", "١"] {
        assert_eq!(Token::parse_bare(other), Ok(None), "{other:?}");
    }
}
