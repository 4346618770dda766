//! Which keys of a set are used, and for which signatures.

use super::*;
use serde_json::{Value, json};

#[path = "../../tests/provisioning/signer.rs"]
mod signer;
use signer::Signer;

const ALL: [Algorithm; 7] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

fn set(keys: &[Value]) -> Result<KeySet, &'static str> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn each_algorithm_takes_its_own_signatures_and_no_others() {
    let signers = [("r", Signer::rsa()), ("p", Signer::p256()), ("q", Signer::p384()), ("e", Signer::ed25519())];
    let keys = set(&signers.iter().map(|(name, signer)| signer.jwk(name)).collect::<Vec<_>>()).expect("a set");
    let own = |name: &str, algorithm: Algorithm| match name {
        "r" => matches!(algorithm, Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 | Algorithm::PS256),
        "p" => algorithm == Algorithm::ES256,
        "q" => algorithm == Algorithm::ES384,
        _ => algorithm == Algorithm::EdDSA,
    };
    for (name, signer) in &signers {
        for made_by in ALL.into_iter().filter(|algorithm| own(name, *algorithm)) {
            let signature = signer.sign(made_by.as_str(), b"message");
            for checked_by in ALL {
                let verified = keys.verifies(name, checked_by, b"message", &signature);
                assert_eq!(verified, made_by == checked_by, "{name} {made_by:?} {checked_by:?}");
                assert!(!keys.verifies(name, checked_by, b"another", &signature));
                assert!(!keys.verifies("another", checked_by, b"message", &signature));
                assert!(!keys.verifies(name, checked_by, b"message", b""));
            }
        }
    }
}

#[test]
fn what_is_not_for_checking_signatures_is_passed_over() {
    let signer = Signer::p256();
    let with = |name: &str, value: Value| {
        let mut key = signer.jwk("one");
        key[name] = value;
        set(&[key])
    };
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("kid", json!(null)),
        ("kty", json!("oct")),
        ("kty", json!("RSA")),
        ("crv", json!("P-384")),
        ("crv", json!("secp256k1")),
        ("x", json!("AA")),
        ("x", json!("not base64!")),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name} {value}");
    }
    let signature = signer.sign("ES256", b"message");
    let fits = |keys: Result<KeySet, _>| keys.expect("a set").verifies("one", Algorithm::ES256, b"message", &signature);
    assert!(fits(with("key_ops", json!(["verify"]))) && fits(with("alg", json!("ES256"))));
    assert!(!fits(with("alg", json!("ES384"))), "a key that names its algorithm is for no other");
    assert!(set(&[]).is_err() && KeySet::parse(b"{}").is_err() && KeySet::parse(b"<html>").is_err());
    let short = json!({ "kty": "RSA", "kid": "s", "e": "AQAB", "n": signer::encode([0xff_u8; 128]) });
    assert!(set(&[short]).is_err(), "RSA below 2048 bits");
    let others = [json!({ "kty": "oct" }), json!("x"), signer.jwk("one")];
    assert!(fits(set(&others)), "one odd key spoils no set");
}
