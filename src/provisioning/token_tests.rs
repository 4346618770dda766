//! Tokens taken apart. Whole tokens, with signatures, are in `tests/provisioning.rs`.

use super::*;
use serde_json::json;

fn token(header: &Value, payload: &[u8]) -> String {
    format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload))
}

fn issuer() -> Issuer {
    serde_json::from_value(json!({ "name": "ci", "url": "https://ci.example.com", "audience": "here" })).expect("an issuer")
}

#[test]
fn claims_are_scalars_as_text() {
    let payload = json!({ "aud": "here", "exp": 2000, "a": "text", "n": 7, "b": true, "z": null, "l": ["x"], "o": { "x": 1 } });
    let text = token(&json!({ "alg": "RS256", "kid": "k" }), payload.to_string().as_bytes());
    let claims =
        Token::parse(&text).expect("a token").claims(&issuer(), DateTime::from_timestamp(1000, 0).expect("a time")).expect("claims");
    let expected = [("a", "text"), ("aud", "here"), ("b", "true"), ("exp", "2000"), ("n", "7")];
    assert_eq!(claims, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn the_leeway_is_thirty_seconds() {
    let at = |payload: Value, now: i64| {
        let text = token(&json!({ "alg": "RS256", "kid": "k" }), payload.to_string().as_bytes());
        Token::parse(&text).expect("a token").claims(&issuer(), DateTime::from_timestamp(now, 0).expect("a time")).map(drop)
    };
    let until = json!({ "aud": "here", "exp": 1000 });
    assert_eq!(at(until.clone(), 1029), Ok(()));
    assert_eq!(at(until, 1030), Err(TokenError::Expired));
    let from = json!({ "aud": "here", "exp": 5000, "nbf": 1000 });
    assert_eq!(at(from.clone(), 970), Ok(()));
    assert_eq!(at(from, 969), Err(TokenError::NotYet { claim: "nbf" }));
    for odd in [json!(1e300), json!(-1e300), json!(i64::MAX), json!(u64::MAX)] {
        assert!(at(json!({ "aud": "here", "exp": odd, "iat": odd }), 1000).is_err(), "no clock says {odd}");
    }
}

#[test]
fn a_signature_of_one_algorithm_is_none_of_another() {
    let text = token(&json!({ "alg": "HS256", "kid": "k" }), b"{}");
    let refusal = Token::parse(&text).expect("a token").algorithm(&issuer());
    assert_eq!(refusal, Err(TokenError::Algorithm { allowed: "RS256".into() }));
}

#[test]
fn deep_and_odd_payloads_are_refused_not_followed() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let header = json!({ "alg": "RS256", "kid": "k" });
    for payload in [deep.as_bytes(), b"[]", b"\"x\"", b"\xff", b"{\"a\":1", b""] {
        assert_eq!(Token::parse(&token(&header, payload)).expect_err("refused"), TokenError::Shape);
    }
    for text in ["", ".", "..", "a.b.c.d", "e30.e30.AA", "\u{e9}.x.y"] {
        assert!(Token::parse(text).is_err(), "{text}");
    }
}
